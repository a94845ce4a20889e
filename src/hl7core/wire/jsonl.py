"""Decoding straight to lines of JSON: what ``read -o jsonl`` prints, without a Session in between where none is needed.

The law: a line is what ``session_to_json`` writes of the session that a plain Decoder returns (a test holds them to
it).  Only the usual exchange has a writer of its own here, since nearly all lines are that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from json.encoder import encode_basestring as _quote
from typing import Any, Final

from hl7core.model.packet import PacketBatch
from hl7core.model.schema import DECIMALS, TO_ESCAPE, session_to_json
from hl7core.model.session import Ending, Session
from hl7core.wire.connection import Connection, DecoderOptions, Half
from hl7core.wire.decoder import ALL, Decoder
from hl7core.wire.framing.framer import Dialect
from hl7core.wire.mllp_sessions.acknowledgement import POSITIVE
from hl7core.wire.mllp_sessions.fast_path import FastExchange, Make, exchange_session
from hl7core.wire.native import FastJsonLine

__all__ = ["JsonlDecoder", "ShardDecoder", "exchange_line"]

_PLACE_BITS: Final = 40
_TOGETHER: Final = 2
"""What was open of so many batches ends together."""
# What JSON escapes in plain ASCII text: to replace these three beats to look at each character.
_B: Final = b"\\"
_BB: Final = b"\\\\"
_Q: Final = b'"'
_BQ: Final = b'\\"'
_R: Final = b"\r"
_BR: Final = b"\\r"


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
    """Return the line of a usual exchange."""
    connection, request, answer = told
    asking, asked, asked_offset, asked_ns, asked_end_ns, control_id, asked_type, asked_charset, asked_plain = request
    half, raw, offset, start_ns, end_ns, own_id, own_type, charset, plain, code = answer
    question, reply = asked[1:-2], raw[1:-2]
    if (
        asked_charset or charset or not question.isascii() or not reply.isascii()
        or not (asked_plain or len(question.translate(None, TO_ESCAPE)) == len(question))
        or not (plain or len(reply.translate(None, TO_ESCAPE)) == len(reply))
    ):  # fmt: skip
        return session_to_json(exchange_session(told), saved=False)
    constant = connection.constant[asking.side]
    if not constant:
        constant = _constant(connection, asking, half)
        first, second = connection.constant
        connection.constant = (first, constant) if asking.side else (constant, second)
    head, there, back, info, own_info = constant
    start_ms, micros = divmod(asked_ns // 1000, 1000)
    moment = f"{start_ms}{DECIMALS[micros]}"
    last = moment if asked_end_ns == asked_ns else _fine(asked_end_ns)
    end_ms, micros = divmod(end_ns // 1000, 1000)
    own_last = f"{end_ms}{DECIMALS[micros]}"
    own = own_last if start_ns == end_ns else _fine(start_ns)
    if end_ns < asked_end_ns:
        end_ms = asked_end_ns // 1_000_000
    verdict = f',"ackCode":"{code}"' if code else ""  # no header and no MSA here has anything that JSON escapes
    before = (
        f'{{"sessionId":"{connection.session_id(asking, asked_offset, asked, asked_ns)}","startTime":{start_ms}'
        f',"endTime":{end_ms}{head}{moment}{there}{asked_offset}'
        f',"message":0}},{{"id":"1","timestamp":{own}{back}'
        f'{"ack" if code in POSITIVE else "nak"}","offset":{offset},"message":1}}],"messages":["'
    )
    behind = (
        f'{info}"{control_id}","messageType":"{asked_type}","sha256":"{sha256(question).hexdigest()}"'
        f',"length":{len(question)},"complete":true,"timestamp":{last}{own_info}"{own_id}"'
        f',"messageType":"{own_type}","sha256":"{sha256(reply).hexdigest()}","length":{len(reply)}'
        f',"complete":true,"timestamp":{own_last},"replyTo":"{control_id}"'
        f"{verdict}}}]}}"
    )
    return b"".join((
        before.encode(),
        question.replace(_B, _BB).replace(_Q, _BQ).replace(_R, _BR),
        b'","',
        reply.replace(_B, _BB).replace(_Q, _BQ).replace(_R, _BR),
        behind.encode(),
    ))  # fmt: skip


def _fine(time_ns: int) -> str:
    millis, micros = divmod(time_ns // 1000, 1000)
    return f"{millis}{DECIMALS[micros]}"


def _constant(connection: Connection, asking: Half, half: Half) -> tuple[str, ...]:
    """Return what stands between the changing parts of all lines of a connection and direction."""
    device, lis, sensor = connection.device, connection.lis, connection.options.sensor
    there, back = (connection.directions[one.side].value for one in (asking, half))
    head = (
        f',"deviceIP":"{device.address}","lisIP":"{lis.address}","devicePort":{device.port},"lisPort":{lis.port}'
        f',"protocol":"mllp","connection":"{connection.text}"{f""","sensor":{_quote(sensor)}""" if sensor else ""}'
        ',"ending":"complete","isComplete":true,"elements":[{"id":"0","timestamp":'
    )
    return (
        head,
        f',"direction":"{there}","type":"message","offset":',
        f',"direction":"{back}","type":"',
        f'"],"messageInfo":[{{"encoding":"utf-8","direction":"{there}","protocol":"mllp","controlId":',
        f'}},{{"encoding":"utf-8","direction":"{back}","protocol":"mllp","controlId":',
    )


_make: Final[Make] = exchange_line if FastJsonLine is None else FastJsonLine(exchange_line)
