"""TLS records: how they are told from other bytes, and how a stream is cut into them.

A record is ``type version length payload`` (RFC 8446 section 5.1, RFC 5246 section 6.2).  The framer keeps the law of
:mod:`hl7core.wire.framing.framer`; what is no record is stray, and reading goes on at the next bytes that look like
one.
"""

from __future__ import annotations

import re
from typing import ClassVar, Final

from hl7core.model.frame import Fault, Frame, FrameKind
from hl7core.wire.framing.buffer import Buffered

__all__ = ["APPLICATION", "CHANGE_CIPHER", "HANDSHAKE", "HEADER", "MAX_PAYLOAD", "TlsFramer", "tls_score"]

CHANGE_CIPHER: Final = 20
HANDSHAKE: Final = 22
APPLICATION: Final = 23
HEADER: Final = 5
MAX_PAYLOAD: Final = 16384 + 2048
"""TLS 1.2 allows so many encrypted bytes in a record, TLS 1.3 fewer."""

_RECORD: Final = re.compile(rb"[\x14-\x17]\x03[\x00-\x04]")
_OPENINGS: Final = frozenset({0, 1, 2, 4, 8, 11, 12, 13, 14, 15, 16, 20})  # the handshake messages that there are
_NO, _MAYBE, _CERTAIN = 0, 1, 3


def tls_score(data: bytes) -> int:
    """Say whether the first bytes of a direction are TLS: 0 no, 1 perhaps (too few bytes), 3 yes.

    They may begin in the middle of a connection, and of a record: then two records that follow each other tell.
    """
    if not data:
        return _NO
    if 0x14 <= data[0] <= 0x17:
        if len(data) <= HEADER:
            opening = data[:3]
            return _MAYBE if opening[1:2] in (b"", b"\x03") and opening[2:3] in _MINORS else _NO
        if _is_record(data, 0) and _fits(data):
            return _CERTAIN
    for found in _RECORD.finditer(data):
        at = found.start()
        if _is_record(data, at):
            following = at + HEADER + _length(data, at)
            if following + HEADER <= len(data) and _is_record(data, following):
                return _CERTAIN
    return _NO


_MINORS: Final = (b"", *(bytes((minor,)) for minor in range(5)))


def _length(data: bytes | bytearray, at: int) -> int:
    return data[at + 3] << 8 | data[at + 4]


def _is_record(data: bytes | bytearray, at: int) -> bool:
    """Say whether what stands at ``at`` (five bytes at least) may be the header of a record."""
    return bool(_RECORD.match(data, at)) and len(data) >= at + HEADER and 0 < _length(data, at) <= MAX_PAYLOAD


def _fits(data: bytes) -> bool:
    """Say whether the first record's payload is what its type says, and a record follows it, as far as one sees."""
    kind, length = data[0], _length(data, 0)
    if kind == CHANGE_CIPHER and (length != 1 or data[5] != 1):
        return False
    if kind == HANDSHAKE and (length < 4 or (data[5] not in _OPENINGS and length < 40)):
        return False
    if kind == 21 and length != 2 and length < 18:
        return False
    following = HEADER + length
    return following + 3 > len(data) or bool(_RECORD.match(data, following))


class TlsFramer(Buffered):
    """Cuts one direction of a TLS connection into its records: each is a DATA frame."""

    name: ClassVar[str] = "tls"

    def feed(self, data: bytes) -> list[Frame]:
        """Take the next bytes in stream order; return the records that they complete."""
        frames: list[Frame] = []
        self._pour(frames, data)
        return frames

    def _read(self, frames: list[Frame], *, settled: bool) -> None:
        """Take whole records; whoever speaks meanwhile, half a record goes on."""
        buffer = self._buffer
        while len(buffer) >= HEADER:
            if _is_record(buffer, 0):
                size = HEADER + _length(buffer, 0)
                if len(buffer) < size:
                    return
                offset = self.offset
                frames.append(self._frame(self._take(size), offset, 0, [], complete=True))
                continue
            at = max(self._seen, 1)
            while at + HEADER <= len(buffer) and not _is_record(buffer, at):
                found = _RECORD.search(buffer, at + 1)
                at = found.start() if found else len(buffer) - HEADER + 1
            if at + HEADER <= len(buffer):
                self._stray(frames, at)
            else:
                self._seen = len(buffer) - HEADER + 1
                self._shed_stray(frames)
                return

    def _frame(self, raw: bytes, offset: int, tail: int, faults: list[Fault], *, complete: bool) -> Frame:
        return Frame(FrameKind.DATA, offset, raw, HEADER, tail, tuple(faults), complete=complete)
