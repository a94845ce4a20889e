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
    """Turns packets into lines of JSON, one per session, without the fields that only a save adds.

    ``share`` is the part of all connections to decode, as in Decoder.
    """

    def __init__(
        self, options: DecoderOptions | None = None, dialects: Sequence[Dialect] = (), share: range = ALL
    ) -> None:
        super().__init__(options, dialects, make=_make, share=share)

    def lines(self, batch: PacketBatch) -> list[bytes]:
        """Decode packets; return the lines (without line ends) of the sessions that ended or changed, in that order."""
        return _lines(self.feed(batch))

    def last_lines(self, ending: Ending = Ending.CAPTURE_END) -> Iterator[list[bytes]]:
        """End every session; yield the lines of those that were open, in batches."""
        return map(_lines, self.ending(ending))


class ShardDecoder(JsonlDecoder):
    """Decodes one shard of the connections; gives each line a place, by which the lines of all shards are merged.

    A line's place is that of the packet at which its session ended, and at the end of the capture that of its
    connection's first packet.  Places grow with the packets of the capture.
    """

    def __init__(self, options: DecoderOptions | None, shard: range) -> None:
        super().__init__(options, share=shard)
        self._batches = 0
        self._at = 0  # the place of the current packet

    def placed(self, batch: PacketBatch) -> tuple[list[int], list[bytes]]:
        """Decode packets; return the places and the lines, in the same order."""
        self._batches += 1
        out: list[Any] = []
        places: list[int] = []
        base = self._batches << _PLACE_BITS
        self._feed(batch, self._watched(self._packets(batch, out, places, base), base, out, places), out)
        return places, _lines(out)

    def last_placed(self, ending: Ending = Ending.CAPTURE_END) -> Iterator[tuple[list[int], list[bytes]]]:
        """End every session; yield the places and the lines of those that were open, in batches.

        Shards that decoded the same capture yield equally often, and each time for connections that began in the same
        packets, so that one step of all shards can be merged at a time.
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
        """Yield ``packets``, and give what each of them added to ``out`` its place."""
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


def exchange_line(exchange: FastExchange) -> bytes:
    """Return the line of an exchange that took the fast path."""
    return session_to_json(exchange_session(exchange), saved=False)


_make: Final[Make] = exchange_line if FastJsonLine is None else FastJsonLine(exchange_line)
