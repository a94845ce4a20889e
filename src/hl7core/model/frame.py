"""What a framing finds in one direction of a connection."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

__all__ = ["Fault", "Frame", "FrameKind"]


class FrameKind(StrEnum):
    """The kinds of frame."""

    BLOCK = "block"
    """An MLLP block: VT text FS CR."""
    DATA = "data"
    """A LIS01 frame (STX n text ETX|ETB c c CR LF), or a plain one (STX text CR LF)."""
    ENQ = "enq"
    ACK = "ack"
    """The control byte ACK; inside MLLP the commit byte (VT ACK FS CR)."""
    NAK = "nak"
    """The control byte NAK; inside MLLP the negative commit (VT NAK FS CR)."""
    EOT = "eot"
    STRAY = "stray"
    """Bytes outside any frame."""
    GAP = "gap"
    """Bytes that the capture does not hold; ``missing`` says how many, ``raw`` is empty."""


class Fault(NamedTuple):
    """A deviation from the framing's rules: ``code`` is a short stable name, ``offset`` counts bytes in the stream."""

    code: str
    offset: int


class Frame(NamedTuple):
    """The smallest unit of a framing.

    ``offset`` is that of its first byte in its stream.  ``raw`` is every byte of it; the text it carries is
    ``raw[head:len(raw) - tail]``, what stands around it belongs to the framing.  ``last`` is false for a LIS01 frame
    that ends in ETB: its text goes on in the next.  ``complete`` is false if its end was never seen.
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
        """The offset right behind its last byte."""
        return self.offset + len(self.raw) + self.missing
