"""Frames: what a framer finds in one direction of a connection."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

__all__ = ["Fault", "Frame", "FrameKind"]


class FrameKind(StrEnum):
    """The kinds of frame.  docs/writing_plugins.md says what each does to a session."""

    BLOCK = "block"
    """A whole message: an MLLP block (VT text FS CR)."""
    DATA = "data"
    """A message or a part of one: a LIS01 frame (STX n text ETX|ETB c c CR LF), or a plain one (STX text CR LF)."""
    ENQ = "enq"
    """The sender opens a session."""
    ACK = "ack"
    """The receiver accepts a frame: the control byte ACK; inside MLLP the commit byte (VT ACK FS CR)."""
    NAK = "nak"
    """The receiver refuses a frame: the control byte NAK; inside MLLP the negative commit (VT NAK FS CR)."""
    EOT = "eot"
    """The sender ends the session."""
    STRAY = "stray"
    """Bytes outside any frame."""
    GAP = "gap"
    """Bytes that were never captured: ``missing`` is their number, ``raw`` is empty."""


class Fault(NamedTuple):
    """A deviation from the framing's rules: ``code`` is a short stable name, ``offset`` a byte offset in the stream."""

    code: str
    offset: int


class Frame(NamedTuple):
    """The smallest unit of a framing.

    ``raw`` holds all its bytes and ``offset`` is the stream offset of the first.  Its text is
    ``raw[head:len(raw) - tail]``; the bytes around that belong to the framing.  ``last`` is false for a LIS01 frame
    that ends in ETB, whose text continues in the next frame.  ``complete`` is false if its end was never seen.
    """

    kind: FrameKind
    offset: int
    raw: bytes
    head: int = 0
    tail: int = 0
    faults: tuple[Fault, ...] = ()
    last: bool = True
    complete: bool = True
    number: int | None = None
    """The frame number of a LIS01 frame, 0 to 7."""
    missing: int = 0

    @property
    def text(self) -> bytes:
        """The text that the frame carries."""
        return self.raw[self.head : len(self.raw) - self.tail]

    @property
    def end(self) -> int:
        """The offset after its last byte."""
        return self.offset + len(self.raw) + self.missing
