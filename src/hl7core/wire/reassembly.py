"""Reassembly: the TCP segments of one direction, in any order and repetition, become its stream.

The stream is a run of pieces in order: bytes, or a gap (bytes that were never captured).  What arrived first wins
where segments overlap.  Sequence numbers are compared modulo 2^32 (RFC 9293 section 3.4).  A segment ahead of the
stream waits until what is missing arrives, or until it is known that it will not: that decision is the decoder's,
because it takes the other direction's acknowledgements and the time.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final, NamedTuple

__all__ = ["MAX_HELD_PIECES", "Piece", "Stream"]

_MASK: Final = 0xFFFFFFFF
_HALF: Final = 0x80000000
MAX_HELD_PIECES: Final = 8192
"""More segments than this do not wait in one direction: what is missing is then given up as a gap."""
_WILD: Final = 1 << 30
"""A segment further ahead than any TCP window (RFC 7323: 2^30) belongs to no stream we know."""


class Piece(NamedTuple):
    """The next bytes of a stream, captured at ``time_ns`` (unix nanoseconds), or ``missing`` bytes never captured."""

    data: bytes
    time_ns: int
    missing: int = 0


class Stream:
    """The ordered bytes of one direction.

    ``offset`` counts the bytes delivered so far, gaps included; ``origin`` is the sequence number of offset 0, and
    ``next_seq`` that of the byte at ``offset``.
    """

    __slots__ = ("fin_offset", "held", "held_bytes", "hole_since", "next_seq", "offset", "origin")

    def __init__(self, origin: int) -> None:
        self.origin = origin
        self.next_seq = origin
        self.offset = 0
        self.held: list[tuple[int, bytes, int]] = []  # (offset, bytes, time), sorted, never overlapping
        self.held_bytes = 0
        self.hole_since = 0
        self.fin_offset = -1

    def offset_of(self, seq: int) -> int:
        """Return the stream offset of sequence number ``seq``, negative if it lies before the stream."""
        ahead = (seq - self.next_seq) & _MASK
        return self.offset + (ahead - 0x100000000 if ahead >= _HALF else ahead)

    def seq_of(self, offset: int) -> int:
        """Return the absolute sequence number (modulo 2^32) of the byte at ``offset``."""
        return (self.origin + offset) & _MASK

    def begin(self, seq: int) -> None:
        """Go on at ``seq``, whatever came before."""
        self.origin = (seq - self.offset) & _MASK
        self.next_seq = seq

    def push(self, seq: int, data: bytes, time_ns: int) -> list[Piece]:
        """Take a segment's payload; return what can now be delivered."""
        start = self.offset_of(seq)
        if start < self.offset:  # repeated, a keep-alive's old byte (RFC 1122 section 4.2.3.6), or an overlap
            if start + len(data) <= self.offset:
                return []
            data = data[self.offset - start :]
            start = self.offset
        if start - self.offset >= _WILD:
            return []
        if start > self.offset:
            self._hold(start, data, time_ns)
            return []
        if not self.held:
            self._advance(len(data))
            return [Piece(data, time_ns)]
        self._hold(start, data, time_ns)
        return self._drain()

    def give_up(self) -> list[Piece]:
        """Declare what is missing before the first waiting segment a gap; return it and what can then be delivered."""
        if not self.held:
            return []
        start, _, time_ns = self.held[0]
        missing = start - self.offset
        if not missing:
            return self._drain()
        self._advance(missing)
        return [Piece(b"", time_ns, missing), *self._drain()]

    def finish(self, seq: int) -> None:
        """Note that the stream ends before sequence number ``seq`` (a FIN came)."""
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

    def _hold(self, start: int, data: bytes, time_ns: int) -> None:
        held = self.held
        if not held:
            self.hole_since = time_ns
        end = start + len(data)
        if not held or start >= held[-1][0] + len(held[-1][1]):  # the usual case: behind everything that waits
            held.append((start, data, time_ns))
            self.held_bytes += len(data)
            return
        at = bisect_left(held, start, key=_start)
        if at and held[at - 1][0] + len(held[at - 1][1]) > start:
            at -= 1
        fresh: list[tuple[int, bytes, int]] = []
        cursor = start
        upto = at
        while upto < len(held) and held[upto][0] < end:
            piece_start, piece, _ = held[upto]
            if cursor < piece_start:
                fresh.append((cursor, data[cursor - start : piece_start - start], time_ns))
            fresh.append(held[upto])
            cursor = max(cursor, piece_start + len(piece))
            upto += 1
        if cursor < end:
            fresh.append((cursor, data[cursor - start :], time_ns))
        self.held_bytes += sum(len(piece) for _, piece, _ in fresh) - sum(len(piece) for _, piece, _ in held[at:upto])
        held[at:upto] = fresh

    def _drain(self) -> list[Piece]:
        held = self.held
        pieces: list[Piece] = []
        taken = 0
        for start, data, time_ns in held:
            if start != self.offset:
                self.hole_since = time_ns
                break
            pieces.append(Piece(data, time_ns))
            self._advance(len(data))
            self.held_bytes -= len(data)
            taken += 1
        del held[:taken]
        return pieces


def _start(held: tuple[int, bytes, int]) -> int:
    return held[0]
