"""Framing: bytes in, frames out.  No socket, no clock, no callback.

A framer reads ONE direction of one connection.  It never raises because of what it reads: hl7core only listens, so a
malformed frame is kept, with its faults.  Nothing is thrown away: joined, the ``raw`` of the frames IS the stream,
where a GAP frame stands for bytes that were never captured.  However packets cut the stream, the same bytes, skips and
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
        """How many bytes are held that no frame contains yet; 0 between frames."""

    def feed(self, data: bytes) -> list[Frame]:
        """Read the next bytes in stream order; return the frames that they complete."""

    def skip(self, count: int) -> list[Frame]:
        """Skip ``count`` bytes that were never captured: end the open frame, return a GAP frame, and resynchronize."""

    def settle(self) -> list[Frame]:
        """The peer spoke, or silence fell: what could be a whole frame is one; return it."""

    def close(self) -> list[Frame]:
        """The stream has ended: return what is left, as it is."""


class Dialect(NamedTuple):
    """A framing that detection may choose.

    ``name`` is the protocol as sessions name it.  ``score(opener, acceptor)`` receives the first bytes of both
    directions, at most 4 KiB each, and returns how likely the connection speaks this dialect: 0 no, 1 cannot tell yet,
    2 likely, 3 certain.  ``make(max_message, offset)`` returns a new framer for one direction; ``max_message`` is the
    largest message in bytes, ``offset`` the stream offset of the first byte that the framer will read.  ``turns`` is
    true if the two sides take turns and a session runs from ENQ, or its first frame, to EOT (LIS01); false if a session
    is one BLOCK and the BLOCK that acknowledges it (HL7 in other marks than MLLP's): then ENQ, EOT and DATA have no
    meaning.  A connection that was ignored is examined again, by all dialects, at a segment that begins with one of
    ``again``.
    """

    name: str
    score: Callable[[bytes, bytes], int]
    make: Callable[[int, int], Framer]
    turns: bool
    again: tuple[bytes, ...] = ()
