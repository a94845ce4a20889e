"""The plain variant: a start byte, ``STX text CR LF`` for each message, an end byte; the LIS answers with an ACK byte.

There is no frame number, and CR LF may also separate segments.  So CR LF ends a message only if a control byte follows,
the peer answers, silence falls, or the sender closes with FIN.  The marker bytes are settings and count only between
messages.  Some senders put ETX and a checksum before the CR LF, as LIS01 does; they are removed, and the checksum is
verified.
"""

from __future__ import annotations

import re
from typing import ClassVar, Final

from hl7core.model.frame import Fault, Frame, FrameKind
from hl7core.wire.framing.buffer import MAX_MESSAGE, NO, UNKNOWN, YES, Buffered, begins_message, text_faults
from hl7core.wire.framing.lis01 import RESTRICTED, checksum, control_in_text

__all__ = ["PlainFramer"]

_STX: Final = 0x02
_NAK: Final = 0x15
_TRAILER: Final = re.compile(rb"\x03(?:[0-9A-Fa-f]{2})?\Z")
# LF is allowed here: it may separate segments.
_RESTRICTED: Final = RESTRICTED.replace(b"\n", b"")


class PlainFramer(Buffered):
    """Reads one direction of a connection that speaks the plain variant."""

    __slots__ = ("_controls", "_follows", "_not_stray")

    name: ClassVar[str] = "plain"

    def __init__(
        self, start: int = 5, ack: int = 6, end: int = 4, max_message: int = MAX_MESSAGE, offset: int = 0
    ) -> None:
        super().__init__(max_message, offset)
        self._controls = {_NAK: FrameKind.NAK, end: FrameKind.EOT, ack: FrameKind.ACK, start: FrameKind.ENQ}
        self._controls.pop(_STX, None)
        self._follows = bytes({_STX, *self._controls})
        self._not_stray = re.compile(b"[" + re.escape(self._follows) + b"]")

    def feed(self, data: bytes) -> list[Frame]:
        """Read the next bytes in stream order; return the frames that they complete."""
        if len(data) == 1 and not self._buffer and not self._open:
            kind = self._controls.get(data[0])
            if kind is not None:
                offset = self.offset
                self.offset = offset + 1
                return [Frame(kind, offset, data)]
        frames: list[Frame] = []
        self._pour(frames, data)
        return frames

    def break_off(self) -> list[Frame]:
        """The stream ended without a FIN of its sender: return what is left; a final CR LF does not end the message."""
        frames: list[Frame] = []
        self._give_up(frames, "truncated")
        return frames

    def _read(self, frames: list[Frame], *, settled: bool) -> None:
        while self._inside(frames, settled=settled) if self._open else self._outside(frames, settled=settled):
            pass

    def _outside(self, frames: list[Frame], *, settled: bool) -> bool:
        """Move on to the next control byte or message; return False if the bytes held contain none."""
        found = self._not_stray.search(self._buffer, self._seen)
        if not found:
            if settled:
                self._stray(frames, len(self._buffer))
            else:
                self._seen = len(self._buffer)
                self._shed_stray(frames)
            return False
        self._stray(frames, found.start())
        if self._buffer[0] == _STX:
            self._start_frame(1)
        else:
            offset = self.offset
            raw = self._pop(1)
            frames.append(Frame(self._controls[raw[0]], offset, raw))
        return True

    def _inside(self, frames: list[Frame], *, settled: bool) -> bool:
        """Move on to the end of the open message; return False if the bytes held do not contain it."""
        buffer = self._buffer
        size = len(buffer)
        stx = line = -1
        at = self._seen
        while True:
            if stx < at:
                stx = buffer.find(_STX, at)
                stx = size if stx < 0 else stx
            if line < at:
                line = buffer.find(b"\r\n", at)
                line = size if line < 0 else line
            at = min(stx, line)
            if at == size:
                if buffer[-1:] == b"\r":  # LF may follow
                    at -= 1
                break
            if at == stx:
                verdict = begins_message(buffer, at + 1)
                if verdict == YES:
                    self._end_frame(frames, at, 0, [Fault("truncated", self.offset + at)], complete=False)
            else:
                verdict = self._ends(at, settled=settled)
                if verdict == YES:
                    self._end_frame(frames, at, 2, [])
            if verdict == YES:
                return True
            if verdict == UNKNOWN:
                break
            at += 1
        self._seen = at
        self._shed(frames, self._seen)
        return False

    def _ends(self, at: int, *, settled: bool) -> int:
        """Return whether the CR LF at ``at`` ends the message: YES, NO, or UNKNOWN."""
        if at + 2 == len(self._buffer):
            return YES if settled else UNKNOWN
        return YES if self._buffer[at + 2] in self._follows else NO

    def _frame(self, raw: bytes, offset: int, tail: int, faults: list[Fault], *, complete: bool) -> Frame:
        end = len(raw) - tail
        found: list[Fault] = []
        trailer = _TRAILER.search(raw, max(end - 3, 1), end) if complete else None
        if trailer:
            end = trailer.start()
            tail = len(raw) - end
            if len(trailer[0]) == 1:
                found.append(Fault("missing-checksum", offset + end + 1))
            elif int(trailer[0][1:], 16) != checksum(raw[1 : end + 1]):
                found.append(Fault("checksum", offset + end + 1))
        unusual = text_faults(raw[1:end], offset + 1) if end > 1 or complete else []
        unusual += control_in_text(raw[1:end], offset + 1, _RESTRICTED)
        return Frame(FrameKind.DATA, offset, raw, 1, tail, (*unusual, *found, *faults), complete=complete)
