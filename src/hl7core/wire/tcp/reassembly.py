"""Reassembly: the TCP segments of one direction, in any order and repeated at will, become its stream.

A stream is a sequence of pieces: bytes, or a gap (bytes that were never captured).  Where segments overlap, the one
that arrived first wins.  Sequence numbers are compared modulo 2^32 (RFC 9293 section 3.4).

A segment ahead of the stream waits until the missing bytes arrive or are declared a gap.  ``streams`` makes that
decision, because it depends on the other direction's acknowledgements and on time.  Two kinds of segment wait although
no bytes are missing before them: one that is not ``ready``, because it acknowledges bytes of the other direction that
are still to be delivered; and those of a ``loose`` stream, whose first byte is not known yet.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final, NamedTuple

__all__ = ["LOOSE_BYTES", "MAX_HELD_PIECES", "Held", "Piece", "Stream"]

_MASK: Final = 0xFFFFFFFF
_HALF: Final = 0x80000000
MAX_HELD_PIECES: Final = 8192
"""The most segments that may wait in one direction; beyond that the missing bytes become a gap."""
_WILD: Final = 1 << 30
"""A segment further ahead than the largest TCP window (2^30, RFC 7323 section 2.3) does not belong to this stream."""
LOOSE_BYTES: Final = 16 * 1024
"""A loose stream is held back until it has this many bytes, or until the caller gives up waiting.  An earlier segment
that arrives in the meantime (captures store packets out of order) becomes its beginning."""
_LOOSE_PIECES: Final = 16
_BEFORE: Final = 64 * 1024

Held = tuple[int, bytes, int, int]
"""A segment that waits: stream offset, bytes, capture time, acknowledgement number (-1: none)."""
_NOTHING: Final[list[Held]] = []
"""Shared by all streams in which nothing waits, and never changed: a stream replaces it by a list of its own."""


class Piece(NamedTuple):
    """The next bytes of a stream, captured at ``time_ns`` (unix nanoseconds), or ``missing`` bytes never captured."""

    data: bytes
    time_ns: int
    missing: int = 0


class Stream:
    """The ordered bytes of one direction.

    ``offset`` counts the bytes delivered so far, gaps included.  ``origin`` is the sequence number of offset 0, and
    ``next_seq`` that of the byte at ``offset``.  ``held`` are the segments that wait, and ``held_bytes`` counts their
    bytes; the first of them has waited since ``hole_since``.  ``fin_offset`` is where a FIN ends the stream, -1 if none
    was seen.
    """

    __slots__ = ("fin_offset", "held", "held_bytes", "hole_since", "loose", "next_seq", "offset", "origin")

    def __init__(self, origin: int, *, loose: bool = False) -> None:
        self.origin = origin
        self.next_seq = origin
        self.offset = 0
        self.held = _NOTHING  # sorted by offset, without overlaps
        self.held_bytes = 0
        self.hole_since = 0
        self.fin_offset = -1
        self.loose = loose

    def ready(self, ack: int) -> bool:
        """Return whether a segment that acknowledges ``ack`` may be delivered: always, for a stream alone."""
        return True

    def offset_of(self, seq: int) -> int:
        """Return the stream offset of sequence number ``seq``; it is negative before the stream's origin."""
        ahead = (seq - self.next_seq) & _MASK
        return self.offset + (ahead - 0x100000000 if ahead >= _HALF else ahead)

    @property
    def lacks(self) -> bool:
        """Whether bytes are missing before the first segment that waits (otherwise it waits for another reason)."""
        return bool(self.held) and self.held[0][0] != self.offset

    def start_at(self, seq: int, *, loose: bool = False) -> None:
        """Continue at sequence number ``seq``, whatever came before."""
        self.origin = (seq - self.offset) & _MASK
        self.next_seq = seq
        self.loose = loose

    def extend_back(self, count: int) -> None:
        """Move the beginning of a loose stream ``count`` bytes back."""
        self.origin = self.next_seq = (self.next_seq - count) & _MASK
        self.held = [(start + count, data, time_ns, ack) for start, data, time_ns, ack in self.held]
        if self.fin_offset >= 0:
            self.fin_offset += count

    def push(self, seq: int, data: bytes, time_ns: int, ack: int = -1) -> list[Piece]:
        """Add a segment's payload, captured at ``time_ns``; return the pieces that can now be delivered."""
        start = self.offset_of(seq)
        if start < self.offset:
            if self.loose and start >= -_BEFORE:
                self.extend_back(-start)
                start = 0
            else:  # a repeat, the old byte of a keep-alive (RFC 1122 section 4.2.3.6), or an overlap
                if start + len(data) <= self.offset:
                    return []
                data = data[self.offset - start :]
                start = self.offset
        if start - self.offset >= _WILD:
            return []
        if start > self.offset:
            self._hold(start, data, time_ns, ack)
            return self.drain() if self.loose else []
        if not self.held and not self.loose and self.ready(ack):
            self._advance(len(data))
            return [Piece(data, time_ns)]
        self._hold(start, data, time_ns, ack)
        return self.drain()

    def give_up(self) -> list[Piece]:
        """Stop waiting: declare what is missing before the first waiting segment a gap; return the pieces delivered."""
        if not self.held:
            return []
        start, data, time_ns, _ = self.held[0]
        missing = start - self.offset
        if not missing:
            if self.loose:
                self.loose = False
                return self.drain()
            del self.held[0]
            self.held_bytes -= len(data)
            self._advance(len(data))
            return [Piece(data, time_ns), *self.drain()]
        self.loose = False
        return self.skip(missing, time_ns)

    def skip(self, count: int, time_ns: int) -> list[Piece]:
        """Declare the next ``count`` bytes a gap, noticed at ``time_ns``; return it and the pieces it lets through."""
        self._advance(count)
        return [Piece(b"", time_ns, count), *self.drain()]

    def finish(self, seq: int) -> None:
        """Note that a FIN ends the stream before sequence number ``seq``."""
        offset = self.offset_of(seq)
        if self.offset <= offset < self.offset + _WILD:
            self.fin_offset = offset

    @property
    def finished(self) -> bool:
        """Whether all bytes up to the FIN were delivered."""
        return self.fin_offset >= 0 and self.offset >= self.fin_offset

    def _advance(self, count: int) -> None:
        self.offset += count
        self.next_seq = (self.next_seq + count) & _MASK

    def _hold(self, start: int, data: bytes, time_ns: int, ack: int) -> None:
        held = self.held
        if not held:
            self.hole_since = time_ns
            held = self.held = []
        end = start + len(data)
        if not held or start >= held[-1][0] + len(held[-1][1]):  # the common case: behind everything else
            held.append((start, data, time_ns, ack))
            self.held_bytes += len(data)
            return
        at = bisect_left(held, start, key=_start)
        if at and held[at - 1][0] + len(held[at - 1][1]) > start:
            at -= 1
        fresh: list[Held] = []
        cursor = start
        upto = at
        while upto < len(held) and held[upto][0] < end:
            piece_start, piece, _, _ = held[upto]
            if cursor < piece_start:
                fresh.append((cursor, data[cursor - start : piece_start - start], time_ns, ack))
            fresh.append(held[upto])
            cursor = max(cursor, piece_start + len(piece))
            upto += 1
        if cursor < end:
            fresh.append((cursor, data[cursor - start :], time_ns, ack))
        self.held_bytes += sum(len(piece[1]) for piece in fresh) - sum(len(piece[1]) for piece in held[at:upto])
        held[at:upto] = fresh

    def drain(self) -> list[Piece]:
        """Return the waiting pieces that can be delivered now."""
        held = self.held
        if self.loose:
            if self.held_bytes < LOOSE_BYTES and len(held) < _LOOSE_PIECES:
                return []
            self.loose = False
        pieces: list[Piece] = []
        for start, data, time_ns, ack in held:
            if start != self.offset or not self.ready(ack):
                self.hole_since = time_ns
                break
            pieces.append(Piece(data, time_ns))
            self._advance(len(data))
            self.held_bytes -= len(data)
        del held[: len(pieces)]
        return pieces


def _start(held: Held) -> int:
    return held[0]
