"""Packets to lines of JSON, as ``read -o jsonl`` prints them.

Each line is what ``session_to_json`` writes of the session that a plain Decoder returns; tests compare the two.  Where
the C extension is installed, it writes the line of an exchange on the fast path without making the Session first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from hl7core.model.packet import PacketBatch
from hl7core.model.schema import session_to_json
from hl7core.model.session import Ending, Session
from hl7core.wire.connection import DecoderOptions, Half
from hl7core.wire.decoder import ALL, Decoder
from hl7core.wire.framing.framer import Dialect
from hl7core.wire.mllp_sessions.fast_path import FastExchange, Make, exchange_session
from hl7core.wire.native import FastJsonLine

__all__ = ["JsonlDecoder", "ShardDecoder", "exchange_line"]

_PLACE_BITS: Final = 40
_TOGETHER: Final = 2
"""At the end of the capture, the connections that began in this many batches are ended together."""


class JsonlDecoder(Decoder):
    """Turns packets into lines of JSON, a session each, without what only a save adds."""

    def __init__(
        self, options: DecoderOptions | None = None, dialects: Sequence[Dialect] = (), share: range = ALL
    ) -> None:
        super().__init__(options, dialects, make=_make, share=share)

    def lines(self, batch: PacketBatch) -> list[bytes]:
        """Take packets; return the lines (no end of line) of the sessions that ended or changed, in that order."""
        return _lines(self.feed(batch))

    def last_lines(self, ending: Ending = Ending.CAPTURE_END) -> Iterator[list[bytes]]:
        """End everything; yield the lines of the sessions that were open, some at a time."""
        return map(_lines, self.ending(ending))


class ShardDecoder(JsonlDecoder):
    """Takes one share of the connections, and says of each line where it belongs among those of the others.

    A place is that of the packet at which the session ended (at the end of the capture: of its connection's first).
    """

    def __init__(self, options: DecoderOptions | None, share: range) -> None:
        super().__init__(options, share=share)
        self._batches = 0
        self._at = 0  # the place of the packet at hand

    def placed(self, batch: PacketBatch) -> tuple[list[int], list[bytes]]:
        """Take packets; return the lines and their places."""
        self._batches += 1
        out: list[Any] = []
        places: list[int] = []
        base = self._batches << _PLACE_BITS
        self._feed(batch, self._watched(self._packets(batch, out, places, base), base, out, places), out)
        return places, _lines(out)

    def last_placed(self, ending: Ending = Ending.CAPTURE_END) -> Iterator[tuple[list[int], list[bytes]]]:
        """End everything; yield the lines of the sessions that were open, and their places, some at a time.

        As many times as any other share that has taken the same batches, each time those of the same part of them.
        """
        open_ones = self.open_connections()
        for upto in range(_TOGETHER, self._batches + _TOGETHER, _TOGETHER):
            out: list[Any] = []
            places: list[int] = []
            while open_ones and open_ones[0].born >> _PLACE_BITS <= upto:
                connection = open_ones.popleft()
                self._close(connection, ending, out)
                places += [connection.born] * (len(out) - len(places))
            yield places, _lines(self._counted(out))
        self.end(ending)

    def _watched(
        self, packets: Iterable[tuple[int, int, int]], base: int, out: list[Any], places: list[int]
    ) -> Iterator[tuple[int, int, int]]:
        """Yield the packets; what is in ``out`` when the next one is asked for came of that one."""
        for packet in packets:
            self._at = at = base + packet[0]
            yield packet
            if len(out) != len(places):
                places += [at] * (len(out) - len(places))

    def _connect(self, key: bytes, seq: int, now: int, out: list[Session]) -> Half | None:
        half = super()._connect(key, seq, now, out)
        if half is not None:
            half.connection.born = self._at
        return half


def _lines(found: Sequence[Any]) -> list[bytes]:
    return [one if one.__class__ is bytes else session_to_json(one, saved=False) for one in found]


def exchange_line(told: FastExchange) -> bytes:
    """Return the line of an exchange that took the fast path."""
    return session_to_json(exchange_session(told), saved=False)


_make: Final[Make] = exchange_line if FastJsonLine is None else FastJsonLine(exchange_line)
