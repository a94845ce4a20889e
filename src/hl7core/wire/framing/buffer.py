"""The buffer that the built-in framers share: the bytes of one direction that no frame contains yet.

Law: decisions depend on the bytes, skips and settles alone, never on where packets cut them.  No byte is examined more
than a fixed number of times.  At most the largest message is held, or 4 KiB outside frames.  Of a text longer than the
largest message that much is kept; the rest is counted as a gap, so that offsets stay right.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final

from hl7core.model.frame import Fault, Frame, FrameKind

__all__ = ["CONTEXT", "MAX_MESSAGE", "NO", "STRAY_LIMIT", "UNKNOWN", "YES", "Buffered", "begins_message", "text_faults"]

MAX_MESSAGE: Final = 16 * 1024 * 1024
"""The default for the largest text that a frame may carry, in bytes."""

STRAY_LIMIT: Final = 4096
"""Bytes outside frames are returned in frames of at most this size."""

NO: Final = 0
YES: Final = 1
UNKNOWN: Final = -1

_PIECE: Final = 4 * 1024
_NOTHING: Final = bytearray()
"""Shared by all framers that hold nothing, and never changed: a framer replaces it by a buffer of its own."""

CONTEXT: Final = 3
"""How many stray bytes are held back, so that a BOM or line end before a message is still seen."""

# The segments that a message or a batch begins with (HL7 v2.5.1, 2.10.3 and 2.15).  The sender chooses the separator:
# any printable character that is not a letter, digit or space.
_OPENINGS: Final = (b"MSH", b"FHS", b"BHS")
_SEPARATORS: Final = frozenset(range(0x21, 0x30)) | frozenset(b":;<=>?@[\\]^_`{|}~")


def begins_message(buffer: bytes | bytearray, at: int) -> int:
    """Return whether MSH, FHS or BHS and a separator are at ``at``: YES, NO, or UNKNOWN if the bytes end too early."""
    head = bytes(buffer[at : at + 4])
    if len(head) == 4:
        return YES if head[:3] in _OPENINGS and head[3] in _SEPARATORS else NO
    return UNKNOWN if any(opening.startswith(head) for opening in _OPENINGS) else NO


def text_faults(text: bytes, offset: int) -> list[Fault]:
    """Return what is unusual about an HL7 text that begins at ``offset`` of its stream.

    Segments end in CR (HL7 v2.5.1, 2.5.1); neither a BOM nor blank lines belong before the first.
    """
    if not text.strip(b"\r\n"):
        return [Fault("empty-block", offset)]
    faults = []
    if text.startswith(b"\xef\xbb\xbf"):
        faults.append(Fault("bom", offset))
    if text.removeprefix(b"\xef\xbb\xbf")[:1] in (b"\r", b"\n"):
        faults.append(Fault("blank-lines", offset))
    newline = text.find(b"\n")
    if newline >= 0:
        faults.append(Fault("lf-separator", offset + newline))
    return faults


class Buffered(ABC):
    """A framer's buffer, and the steps that all framings have in common.

    A framing implements ``_read``, which removes frames from the front of the buffer, and ``_frame``, which makes the
    frame of an open text.
    """

    __slots__ = ("_buffer", "_dropped", "_dropping", "_head", "_max", "_open", "_seen", "offset")

    def __init__(self, max_message: int = MAX_MESSAGE, offset: int = 0) -> None:
        self._max = max(max_message, 1)
        self.offset = offset  # of the first byte held, in its stream
        self._buffer = _NOTHING
        self._seen = 0  # how many of the bytes held need not be examined again
        self._open = False  # the buffer begins with an open frame (otherwise with stray bytes)
        self._head = 0  # the bytes of the open frame before its text
        self._dropping = False  # the open text exceeds the limit; the rest of it is dropped
        self._dropped = 0

    @property
    def pending(self) -> int:
        """How many bytes are held that no frame contains yet; 0 between frames."""
        return len(self._buffer)

    def skip(self, count: int) -> list[Frame]:
        """Skip ``count`` bytes that were never captured: end the open frame, return a GAP frame, and resynchronize."""
        frames: list[Frame] = []
        if count > 0:
            self._give_up(frames, "gap")
            frames.append(Frame(FrameKind.GAP, self.offset, b"", missing=count))
            self.offset += count
        return frames

    def settle(self) -> list[Frame]:
        """The peer spoke, or silence fell: what could be a whole frame is one; return it."""
        frames: list[Frame] = []
        if self._buffer or self._open:
            self._read(frames, settled=True)
        return frames

    def close(self) -> list[Frame]:
        """The stream has ended: return what is left, as it is."""
        frames = self.settle()
        if self._buffer or self._open:
            self._give_up(frames, "truncated")
        return frames

    def _keep(self, data: bytes) -> None:
        """Append ``data`` to the buffer."""
        if self._buffer:
            self._buffer += data
        else:
            self._buffer = bytearray(data)

    def _pour(self, frames: list[Frame], data: bytes) -> None:
        """Append and read the next bytes, piece by piece, so that no search runs far ahead of what is decided."""
        if len(data) <= _PIECE:
            self._keep(data)
            self._read(frames, settled=False)
            return
        for at in range(0, len(data), _PIECE):
            self._keep(data[at : at + _PIECE])
            self._read(frames, settled=False)

    @abstractmethod
    def _read(self, frames: list[Frame], *, settled: bool) -> None:
        """Remove frames from the buffer; ``settled`` says that for now nothing follows its last byte."""

    @abstractmethod
    def _frame(self, raw: bytes, offset: int, tail: int, faults: list[Fault], *, complete: bool) -> Frame:
        """Make the frame of an open text."""

    def _give_up(self, frames: list[Frame], code: str) -> None:
        """End the open frame as incomplete, with the fault ``code``: nothing will follow."""
        held = len(self._buffer)
        if self._open:
            self._end_frame(frames, held, 0, [Fault(code, self.offset + held)], complete=False)
        else:
            self._stray(frames, held)

    def _start_frame(self, head: int) -> None:
        """Note that a frame starts at the front of the buffer, its text after ``head`` bytes."""
        self._open = True
        self._head = self._seen = head

    def _end_frame(
        self, frames: list[Frame], at: int, tail: int, faults: list[Fault], *, complete: bool = True
    ) -> None:
        """End the open text before ``at``; ``tail`` more bytes belong to its frame."""
        end = at + tail
        limit = self._head + self._max
        if not self._dropping and at > limit:
            self._cut(frames)
            end -= limit
        if self._dropping:
            offset = self.offset - self._dropped
            missing = self._dropped + end
            self._discard(end)
            frames.append(Frame(FrameKind.GAP, offset, b"", faults=(Fault("too-long", offset),), missing=missing))
        else:
            offset = self.offset
            frames.append(self._frame(self._pop(end), offset, tail, faults, complete=complete))
        self._open = self._dropping = False
        self._seen = self._dropped = 0

    def _shed(self, frames: list[Frame], decided: int) -> None:
        """Drop what exceeds the limit of the first ``decided`` bytes, which belong to the open frame."""
        if not self._dropping:
            limit = self._head + self._max
            if decided <= limit:
                return
            self._cut(frames)
            decided -= limit
        self._discard(decided)
        self._dropped += decided

    def _cut(self, frames: list[Frame]) -> None:
        """Return as much of the open text as may be kept; what follows will be dropped."""
        offset = self.offset
        raw = self._pop(self._head + self._max)
        frames.append(self._frame(raw, offset, 0, [Fault("too-long", self.offset)], complete=False))
        self._dropping = True

    def _stray(self, frames: list[Frame], count: int) -> None:
        """Return the first ``count`` bytes held as stray: they lie outside any frame."""
        while count > 0:
            offset = self.offset
            raw = self._pop(min(count, STRAY_LIMIT))
            code = "stray-bytes" if raw.strip() else "stray-whitespace"
            frames.append(Frame(FrameKind.STRAY, offset, raw, faults=(Fault(code, offset),)))
            count -= len(raw)

    def _shed_stray(self, frames: list[Frame]) -> None:
        """Return the stray bytes examined so far if they are many; more may follow."""
        while self._seen >= STRAY_LIMIT + CONTEXT:
            self._stray(frames, STRAY_LIMIT)

    def _pop(self, count: int) -> bytes:
        """Remove and return the first ``count`` bytes held."""
        if count == len(self._buffer):
            raw = bytes(self._buffer)
        else:
            with memoryview(self._buffer) as view:
                raw = bytes(view[:count])
        self._discard(count)
        return raw

    def _discard(self, count: int) -> None:
        del self._buffer[:count]
        self.offset += count
        self._seen = max(self._seen - count, 0)
