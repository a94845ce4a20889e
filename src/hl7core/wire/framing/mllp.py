"""MLLP: ``VT text FS CR``, and the commit bytes of release 2, ``VT ACK|NAK FS CR``.

A block has no length and no escape (HL7 v2 appendix C; https://www.hl7.eu/refactored/transport01mllp.html), so the
framer decides by what follows.  FS CR ends a block.  FS alone, FS LF or CR FF end it only if what follows proves that
they were meant to.  VT starts a new block only if MSH, FHS or BHS follows.  All else is text.  What is unusual is
recorded as a fault, once for each code.
"""

from __future__ import annotations

import re
from typing import ClassVar, Final

from hl7core.model.frame import Fault, Frame, FrameKind
from hl7core.wire.framing.buffer import MAX_MESSAGE, NO, UNKNOWN, YES, Buffered, begins_message, text_faults

__all__ = ["MllpFramer"]

_VT: Final = 0x0B
_FF: Final = 0x0C
_CR: Final = 0x0D
_LF: Final = 0x0A
_FS: Final = 0x1C
_ACK: Final = b"\x06"
_NAK: Final = b"\x15"
_BLOCK: Final = FrameKind.BLOCK
_LINE_ENDS: Final = frozenset({_CR, _LF})
_LINE_ENDS_BEHIND: Final = 4

# What ends a run of stray bytes: a block, or a message at the start of a line that lacks its VT.
_NEXT: Final = re.compile(
    rb"\x0b|(?:(?<=[\r\n])|(?<=\xef\xbb\xbf))(?:MSH|FHS|BHS)[!-/:-@\[-`{-~]",
)


class MllpFramer(Buffered):
    """Reads one direction of an MLLP connection."""

    __slots__ = ("_framed", "_noted", "_run", "_run_end")

    name: ClassVar[str] = "mllp"

    def __init__(self, max_message: int = MAX_MESSAGE, offset: int = 0) -> None:
        super().__init__(max_message, offset)
        self._framed = True  # the open block began with VT
        self._noted: tuple[Fault, ...] = ()  # of the open text, the first of each code
        self._run = 0  # how many stray line ends were returned in a row, and
        self._run_end = -1  # where they end

    def feed(self, data: bytes) -> list[Frame]:
        """Read the next bytes in stream order; return the frames that they complete."""
        frames: list[Frame] = []
        start = 0
        if not self._buffer and not self._open:
            # Nearly all traffic: one or more whole blocks that hold nothing ambiguous.
            size = len(data)
            if (
                data[:2] == b"\x0bM" and data.find(_FS) == size - 2 and data[-1] == _CR and size - 3 <= self._max
                and _LF not in data and data.rfind(_VT) == 0
            ):  # fmt: skip
                offset = self.offset
                self.offset = offset + size
                return [Frame(_BLOCK, offset, data, 1, 2)]
            while start < size and data[start] == _VT:
                end = data.find(_FS, start + 1)
                if end < 0 or end + 1 == size or data[end + 1] != _CR or end - start - 1 > self._max:
                    break
                if data.find(_VT, start + 1, end) >= 0:
                    break
                frames.append(self._frame(data[start : end + 2], self.offset, 2, [], complete=True))
                self.offset += end + 2 - start
                start = end + 2
            if start == size:
                return frames
            if data[start] == _VT:
                self._keep(data[start : start + 1])
                self._start_frame(1)
                self._framed = True
                start += 1
            if start:
                data = data[start:]
        if self._open and self._goes_on(frames, data):
            return frames
        self._pour(frames, data)
        return frames

    def start_block(self, data: bytes) -> None:
        """Start a block with its first bytes; more will follow.

        No block may be open.  ``data`` begins with VT and M, holds no other VT, FS or FF, and is no longer than the
        largest text.
        """
        self._keep(data)
        self._start_frame(1)
        self._framed = True
        self._seen = len(data) - (data[-1] == _CR)  # FF may follow

    def open_block(self) -> bytes:
        """Return the bytes of the open block if nothing about it is unusual so far, else b""."""
        if self._open and self._framed and not self._dropping and not self._noted:
            return bytes(self._buffer)
        return b""

    def finish_block(self, size: int) -> None:
        """Drop the open block, which was read elsewhere, ``size`` bytes in all; continue behind it."""
        self.offset += size
        self._buffer.clear()
        self._open = False
        self._seen = 0

    def _goes_on(self, frames: list[Frame], data: bytes) -> bool:
        """Add ``data`` to the open block if it holds nothing ambiguous; return False if it does."""
        held = len(self._buffer)
        if self._seen != held or not self._framed or self._dropping or held + len(data) > self._max:
            return False
        if _VT in data or _FF in data:
            return False
        end = data.find(_FS)
        if end < 0:
            self._keep(data)
            self._seen = held + len(data) - (data[-1:] == b"\r")  # FF may follow
            return True
        if end != len(data) - 2 or data[-1] != _CR:
            return False
        if not self._noted and _LF not in data and _LF not in self._buffer and self._buffer[1:2] == b"M":
            raw = bytes(self._buffer) + data
            frames.append(Frame(_BLOCK, self.offset, raw, 1, 2))
            self.offset += len(raw)
            self._buffer.clear()
            self._open = False
            self._seen = 0
            return True
        self._keep(data)
        self._end_frame(frames, held + end, 2, [])
        return True

    def _read(self, frames: list[Frame], *, settled: bool) -> None:
        while self._inside(frames, settled=settled) if self._open else self._outside(frames, settled=settled):
            pass

    def _outside(self, frames: list[Frame], *, settled: bool) -> bool:
        """Move on to the next block; return False if the bytes held do not start one."""
        buffer = self._buffer
        # A few line ends behind a block are returned at once: they cannot become anything else.
        while buffer and buffer[0] in _LINE_ENDS and (self._run < _LINE_ENDS_BEHIND or self._run_end != self.offset):
            self._stray(frames, 1)
        if not buffer:
            return False
        if buffer[0] == _VT:
            self._start_frame(1)
            self._framed = True
            return True
        if self._seen == 0 and begins_message(buffer, 0) == YES:
            self._start_frame(0)
            self._framed = False
            return True
        found = _NEXT.search(buffer, self._seen)
        if found:
            self._stray(frames, found.start())
            self._seen = 0
            return True
        if settled:
            self._stray(frames, len(buffer))
        else:
            self._seen = max(self._seen, len(buffer) - 3)  # "MSH" may still become "MSH|"
            self._shed_stray(frames)
        return False

    def _stray(self, frames: list[Frame], count: int) -> None:
        if count > 0:
            single = count == 1 and self._buffer[0] in _LINE_ENDS
            self._run = (self._run if self._run_end == self.offset else 0) + (1 if single else _LINE_ENDS_BEHIND)
            super()._stray(frames, count)
            self._run_end = self.offset

    def _inside(self, frames: list[Frame], *, settled: bool) -> bool:
        """Move on to the end of the open block; return False if the bytes held do not contain it."""
        buffer = self._buffer
        size = len(buffer)
        fs = vt = ff = -1
        at = self._seen
        while True:
            if fs < at:
                fs = _find(buffer, b"\x1c", at)
            if vt < at:
                vt = _find(buffer, b"\x0b", at)
            if ff < at:
                ff = _find(buffer, b"\r\x0c", at)
            at = min(fs, vt, ff)
            if at == size:
                if buffer[-1:] == b"\r":  # FF may follow
                    at -= 1
                break
            if at == fs:
                verdict = self._ends_at_fs(frames, at, settled=settled)
                if verdict == NO:
                    self._note("fs-in-text", at)
            elif at == vt:
                verdict = self._restarts(frames, at)
                if verdict == NO:
                    self._note("vt-in-text", at)
            else:
                verdict = self._ends_at_ff(frames, at, settled=settled)
            if verdict == YES:
                return True
            if verdict == UNKNOWN:
                break
            at += 1
        if settled and not self._framed:  # without VT and FS, only silence ends it
            end = at if vt == at else size
            self._end_frame(frames, end, 0, [Fault("unframed", self.offset + end)])
            return True
        self._seen = at
        self._shed(frames, self._seen)
        return False

    def _ends_at_fs(self, frames: list[Frame], at: int, *, settled: bool) -> int:
        follows = self._buffer[at + 1 : at + 3]
        if not follows:
            tail, code = 1, "missing-cr"
        elif follows[0] == _CR:
            self._end_frame(frames, at, 2, [])
            return YES
        elif follows[0] == _LF:
            if len(follows) == 2 and follows[1] != _VT:
                return NO
            tail, code = 2, "fs-lf"
            settled = settled or len(follows) == 2
        elif follows[0] == _VT:
            opening = begins_message(self._buffer, at + 2)
            if opening == NO:
                return NO
            tail, code = 1, "missing-cr"
            settled = settled or opening == YES
        else:
            return NO
        if not settled:
            return UNKNOWN
        self._end_frame(frames, at, tail, [Fault(code, self.offset + at)])
        return YES

    def _ends_at_ff(self, frames: list[Frame], at: int, *, settled: bool) -> int:
        follows = self._buffer[at + 2 : at + 3]
        if follows and follows[0] != _VT:
            return NO
        if not follows and not settled:
            return UNKNOWN
        self._end_frame(frames, at, 2, [Fault("ff-end", self.offset + at)])
        return YES

    def _restarts(self, frames: list[Frame], at: int) -> int:
        """Return whether the VT at ``at`` starts a new block: YES (the open one has been ended), NO or UNKNOWN."""
        opening = begins_message(self._buffer, at + 1)
        if opening == YES:
            code = "truncated" if self._framed else "unframed"
            self._end_frame(frames, at, 0, [Fault(code, self.offset + at)], complete=not self._framed)
        return opening

    def _note(self, code: str, at: int) -> None:
        if not self._dropping and all(fault.code != code for fault in self._noted):
            self._noted += (Fault(code, self.offset + at),)

    def _frame(self, raw: bytes, offset: int, tail: int, faults: list[Fault], *, complete: bool) -> Frame:
        if raw[:2] == b"\x0bM" and tail == 2 and not faults and not self._noted and _LF not in raw:
            return Frame(_BLOCK, offset, raw, 1, 2)
        head = 1 if raw[:1] == b"\x0b" else 0
        end = len(raw) - tail
        text = raw[head:end]
        if text in (_ACK, _NAK) and head and complete:
            kind = FrameKind.ACK if text == _ACK else FrameKind.NAK
            return Frame(kind, offset, raw, head, tail, tuple(faults))
        found = [] if head else [Fault("missing-vt", offset)]
        if text or complete:
            found += text_faults(text, offset + head)
        found += [fault for fault in self._noted if fault.offset < offset + end]
        self._noted = ()
        return Frame(_BLOCK, offset, raw, head, tail, (*found, *faults), complete=complete)


def _find(buffer: bytearray, what: bytes, at: int) -> int:
    """Return the index of ``what`` from ``at`` on, or the buffer's length."""
    found = buffer.find(what, at)
    return len(buffer) if found < 0 else found
