"""Framing: bytes in, frames out.  No socket, no clock, no callback.

A framer reads ONE direction of one connection.  It never raises over what it reads: we only listen, so a malformed
frame is a finding, kept with its faults.  Nothing is thrown away: joined, the ``raw`` of its frames IS the stream
(a GAP frame stands for bytes that were never captured), and however the packets cut it, the same bytes, skips and
settles give the same frames.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, NamedTuple, Protocol

from hl7core.model.frame import Frame

__all__ = ["Dialect", "Framer"]


class Framer(Protocol):
    """Reads one direction of one connection."""

    name: ClassVar[str]
    """The protocol as sessions name it: ``mllp``, ``lis01``, ``plain``, or a dialect's own."""

    @property
    def pending(self) -> int:
        """How many bytes are held that no frame has taken yet; 0 between frames."""

    def feed(self, data: bytes) -> list[Frame]:
        """Take the next bytes in stream order; return the frames that they complete."""

    def skip(self, count: int) -> list[Frame]:
        """``count`` bytes were never captured: give up the open frame, report the gap and resynchronise."""

    def settle(self) -> list[Frame]:
        """The peer spoke, or silence fell: what could be a whole frame is one (the plain variant needs it)."""

    def close(self) -> list[Frame]:
        """The stream is over: return what was left open, as it stands."""


class Dialect(NamedTuple):
    """A framing that detection may choose.

    ``score`` is shown the first bytes of both directions (the opener's first; each at most 4 KiB) and answers how sure
    it is that the connection speaks this dialect: 0 no, 1 cannot tell yet, 2 likely, 3 certain.  ``make`` returns a
    fresh framer for one direction, given the largest message in bytes and the offset of its first byte in the stream.
    ``turns`` is true if sessions run from ENQ to EOT (LIS01), false if each block and its answer are one (MLLP).
    A connection that was let go is looked at again, by all dialects, at a segment that begins with one of ``again``.
    """

    name: str
    score: Callable[[bytes, bytes], int]
    make: Callable[[int, int], Framer]
    turns: bool
    again: tuple[bytes, ...] = ()
