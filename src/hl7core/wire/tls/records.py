"""TLS records: recognized among other bytes, and cut out of a stream.

A record is ``type version length payload`` (RFC 8446 section 5.1, RFC 5246 section 6.2).  The framer keeps the rules of
:mod:`hl7core.wire.framing.framer`: bytes that are not a record are stray, and reading continues at the next bytes that
look like one.
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
"""The largest encrypted payload of a record in TLS 1.2 (RFC 5246 section 6.2.3); TLS 1.3 allows less."""

_RECORD: Final = re.compile(rb"[\x14-\x17]\x03[\x00-\x04]")
# The handshake message types (RFC 8446 section 4, RFC 5246 section 7.4).
_OPENINGS: Final = frozenset({0, 1, 2, 4, 8, 11, 12, 13, 14, 15, 16, 20})
_NO, _MAYBE, _CERTAIN = 0, 1, 3


def tls_score(data: bytes) -> int:
    """Return whether the first bytes of a direction are TLS: 0 no, 1 too few bytes to tell, 3 yes.

    If the capture began within a connection, or within a record, two consecutive records are the proof.
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
    """Return whether a record header, of five bytes, may be at ``at``."""
    return bool(_RECORD.match(data, at)) and len(data) >= at + HEADER and 0 < _length(data, at) <= MAX_PAYLOAD


def _fits(data: bytes) -> bool:
    """Return whether the first record's payload fits its type and a record follows, as far as the bytes go."""
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
    """Cuts one direction of a TLS connection into records; each is a DATA frame."""

    name: ClassVar[str] = "tls"

    def feed(self, data: bytes) -> list[Frame]:
        """Read the next bytes in stream order; return the records that they complete."""
        frames: list[Frame] = []
        self._pour(frames, data)
        return frames

    def _read(self, frames: list[Frame], *, settled: bool) -> None:
        """Cut off whole records; an incomplete record stays open even if the peer speaks."""
        buffer = self._buffer
        while len(buffer) >= HEADER:
            if _is_record(buffer, 0):
                size = HEADER + _length(buffer, 0)
                if len(buffer) < size:
                    return
                offset = self.offset
                frames.append(self._frame(self._pop(size), offset, 0, [], complete=True))
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
