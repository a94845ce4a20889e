"""What the framers share: the bytes of one direction that no frame has taken yet.

Its law: what is decided depends on the bytes, skips and settles alone, never on where the packets cut them; no byte is
looked at more than a fixed number of times; what is held is bounded by the largest message, or by 4 KiB outside of
frames.  A text over the largest message is kept up to it, the rest is counted as a gap, so offsets stay right.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final

from hl7core.model.frame import Fault, Frame, FrameKind

__all__ = ["CONTEXT", "MAX_MESSAGE", "NO", "STRAY_LIMIT", "UNKNOWN", "YES", "Buffered", "begins_message", "text_faults"]

MAX_MESSAGE: Final = 16 * 1024 * 1024
"""The largest text that a frame may carry, unless told otherwise."""

STRAY_LIMIT: Final = 4096
"""Bytes outside of frames are reported in pieces of at most this size."""

NO: Final = 0
YES: Final = 1
UNKNOWN: Final = -1

_PIECE: Final = 4 * 1024
_NOTHING: Final = bytearray()
"""What is held between frames.  It stays empty: what holds something has a buffer of its own."""

CONTEXT: Final = 3
"""Stray bytes kept behind a reported piece, so that a BOM or line end before a message is still seen."""

# The segments that a message or a batch of them begins with (HL7 v2.5.1, 2.10.3 and 2.15); the separator is theirs to
# choose, so it may be any printable character that is neither letter, digit nor space.
_OPENINGS: Final = (b"MSH", b"FHS", b"BHS")
_SEPARATORS: Final = frozenset(range(0x21, 0x30)) | frozenset(b":;<=>?@[\\]^_`{|}~")


def begins_message(buffer: bytes | bytearray, at: int) -> int:
    """Say whether MSH, FHS or BHS and a separator stand at ``at``: YES, NO, or UNKNOWN if the bytes end too soon."""
    head = bytes(buffer[at : at + 4])
    if len(head) == 4:
        return YES if head[:3] in _OPENINGS and head[3] in _SEPARATORS else NO
    return UNKNOWN if any(opening.startswith(head) for opening in _OPENINGS) else NO


def text_faults(text: bytes, offset: int) -> list[Fault]:
    """Return what is unusual about an HL7 text that begins at ``offset`` of its stream.

    A segment ends in CR (HL7 v2.5.1, 2.5.1); a BOM or blank lines have no place before the first one.
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
    """Holds what no frame has taken yet.

    A framing fills in ``_read``, which takes what it can off the front of the buffer, and ``_frame``, which makes the
    frame of an open text.
    """

    __slots__ = ("_buffer", "_dropped", "_dropping", "_head", "_max", "_open", "_seen", "offset")

    def __init__(self, max_message: int = MAX_MESSAGE, offset: int = 0) -> None:
        self._max = max(max_message, 1)
        self.offset = offset  # of the first byte held, in its stream
        self._buffer = _NOTHING
        self._seen = 0  # so many of the bytes held need no second look
        self._open = False  # the buffer begins with an open frame (else with stray bytes)
        self._head = 0  # the bytes of the open frame that stand before its text
        self._dropping = False  # the open text is over the limit and no longer kept
        self._dropped = 0

    @property
    def pending(self) -> int:
        """How many bytes are held that no frame has taken yet; 0 between frames."""
        return len(self._buffer)

    def skip(self, count: int) -> list[Frame]:
        """``count`` bytes were never captured: give up the open frame, report the gap and resynchronise."""
        frames: list[Frame] = []
        if count > 0:
            self._give_up(frames, "gap")
            frames.append(Frame(FrameKind.GAP, self.offset, b"", missing=count))
            self.offset += count
        return frames

    def settle(self) -> list[Frame]:
        """The peer spoke, or silence fell: what could be a whole frame is one."""
        frames: list[Frame] = []
        if self._buffer or self._open:
            self._read(frames, settled=True)
        return frames

    def close(self) -> list[Frame]:
        """The stream is over: return what was left open, as it stands."""
        frames = self.settle()
        self._give_up(frames, "truncated")
        return frames

    def _keep(self, data: bytes) -> None:
        """Hold ``data`` behind what is held."""
        if self._buffer:
            self._buffer += data
        else:
            self._buffer = bytearray(data)

    def _pour(self, frames: list[Frame], data: bytes) -> None:
        """Hold the next bytes and read them; piece by piece, so that no search runs far ahead of what is decided."""
        if len(data) <= _PIECE:
            self._keep(data)
            self._read(frames, settled=False)
            return
        for at in range(0, len(data), _PIECE):
            self._keep(data[at : at + _PIECE])
            self._read(frames, settled=False)

    @abstractmethod
    def _read(self, frames: list[Frame], *, settled: bool) -> None:
        """Take frames off the buffer; ``settled``: for now nothing follows its last byte."""

    @abstractmethod
    def _frame(self, raw: bytes, offset: int, tail: int, faults: list[Fault], *, complete: bool) -> Frame:
        """Make the frame of an open text."""

    def _give_up(self, frames: list[Frame], code: str) -> None:
        """Nothing will follow: the open frame stays incomplete."""
        held = len(self._buffer)
        if self._open:
            self._end(frames, held, 0, [Fault(code, self.offset + held)], complete=False)
        else:
            self._stray(frames, held)

    def _begin(self, head: int) -> None:
        """The buffer begins with a frame, its text after ``head`` bytes."""
        self._open = True
        self._head = self._seen = head

    def _end(self, frames: list[Frame], at: int, tail: int, faults: list[Fault], *, complete: bool = True) -> None:
        """The open text ends before ``at``; ``tail`` bytes more belong to its frame."""
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
            frames.append(self._frame(self._take(end), offset, tail, faults, complete=complete))
        self._open = self._dropping = False
        self._seen = self._dropped = 0

    def _shed(self, frames: list[Frame], decided: int) -> None:
        """The first ``decided`` bytes held are frame and text: let go of what is over the limit."""
        if not self._dropping:
            limit = self._head + self._max
            if decided <= limit:
                return
            self._cut(frames)
            decided -= limit
        self._discard(decided)
        self._dropped += decided

    def _cut(self, frames: list[Frame]) -> None:
        """Return as much of the open text as may be kept; drop what follows."""
        offset = self.offset
        raw = self._take(self._head + self._max)
        frames.append(self._frame(raw, offset, 0, [Fault("too-long", self.offset)], complete=False))
        self._dropping = True

    def _stray(self, frames: list[Frame], count: int) -> None:
        """The first ``count`` bytes held lie outside of any frame."""
        while count > 0:
            offset = self.offset
            raw = self._take(min(count, STRAY_LIMIT))
            code = "stray-bytes" if raw.strip() else "stray-whitespace"
            frames.append(Frame(FrameKind.STRAY, offset, raw, faults=(Fault(code, offset),)))
            count -= len(raw)

    def _shed_stray(self, frames: list[Frame]) -> None:
        """The bytes seen so far are stray, and more may follow: report them where they are many."""
        while self._seen >= STRAY_LIMIT + CONTEXT:
            self._stray(frames, STRAY_LIMIT)

    def _take(self, count: int) -> bytes:
        """Take ``count`` bytes off the front."""
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
