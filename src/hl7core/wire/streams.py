"""Streams: the TCP segments of all connections, in any order, become ordered streams.

A segment waits for the bytes before it and for what it acknowledges, so that no answer is delivered before its request.
Bytes that the receiver has acknowledged or answered but the capture lacks become a gap after one second.  Bytes that it
has not acknowledged will be sent again, so they are waited for, within limits on memory.  ``decoder`` decides what
belongs to a connection and when it ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hl7core.model.session import Session
from hl7core.wire.connection import SECOND, Connection, DecoderOptions, Half
from hl7core.wire.delivery import Delivery
from hl7core.wire.framing.framer import Dialect
from hl7core.wire.memory_budget import PER_PIECE, HeldBytes
from hl7core.wire.mllp_sessions.fast_path import Make
from hl7core.wire.tcp.reassembly import MAX_HELD_PIECES, Piece
from hl7core.wire.tls.keylog import KeyLog

__all__ = ["Streams"]

HELD_PER_STREAM: Final = 4 << 20
"""The most bytes that wait behind a hole, about a large TCP window; beyond that the hole becomes a gap."""
ACKED_HOLE_NS: Final = 1 * SECOND
"""How long acknowledged bytes that the capture lacks may still turn up, since captures store packets out of order.  An
answer waits as long for its request, and the first segment of a connection joined midstream for an earlier one."""
ONE_SIDED_HOLE_NS: Final = 10 * SECOND
"""The same if the receiver's packets are not captured, so that nothing tells what it has acknowledged."""


class Streams(Delivery):
    """The streams of all connections, and the delivery of their bytes.

    ``holes`` has an entry for each half in which segments wait.
    """

    def __init__(
        self,
        options: DecoderOptions,
        dialects: Sequence[Dialect],
        counters: dict[str, int],
        make: Make,
        keys: KeyLog | None = None,
    ) -> None:
        super().__init__(options, dialects, counters, make, keys)
        self._held = HeldBytes()
        self.holes = self._held.of
        # The halves to check, by the second of packet time at which each is due; and that second, by half.
        self._checks: dict[int, dict[Half, None]] = {}
        self._check_at: dict[Half, int] = {}

    def insert(self, half: Half, seq: int, data: bytes, now: int, out: list[Session], ack: int = -1) -> None:
        """Add a segment that is not simply the next one; ``ack`` is its acknowledgement number.

        The caller calls ``acknowledged`` afterwards.
        """
        if half.origin < 0:
            half.start_at(seq, loose=True)
        waited = bool(half.held)
        pieces = half.push(seq, data, now, ack)
        if half.held:
            self._note_waiting(half)
            if half.held_bytes > HELD_PER_STREAM or len(half.held) > MAX_HELD_PIECES:
                pieces = [*pieces, *self._skip_hole(half)]
            elif self._held.total > self.options.reassembly_bytes:
                self.counters["crowded"] += 1
                for fullest in self._held.largest():
                    self.deliver_pieces(fullest, self._skip_hole(fullest), out)
                    if fullest.held and (due := self._due(fullest)):
                        self._schedule_check(fullest, due)
        elif waited:
            self._note_waiting(half)
        if pieces:
            half.acked = False
            self.deliver_pieces(half, pieces, out)
            if half.peer.held:
                self._deliver_ready(half.connection, out)

    def acknowledged(self, half: Half, ack: int, now: int, out: list[Session]) -> None:
        """Check what the connection of ``half`` waits for, now that ``half`` has acknowledged ``ack``."""
        other = half.peer
        if other.held and other.lacks and other.offset_of(ack) >= other.held[0][0]:
            other.acked = True
        if other.held or half.held:
            self._check(half.connection, now, out)

    def give_up_stale(self, now: int, out: list[Session]) -> None:
        """Deliver what has waited long enough on connections where nothing else arrives."""
        due = [second for second in self._checks if second <= now // SECOND]
        for second in sorted(due):
            for half in list(self._checks.pop(second, ())):  # the check before may have resolved this one
                if self._check_at.get(half) == second:
                    del self._check_at[half]
                    self._check(half.connection, now, out)

    def flush(self, connection: Connection, out: list[Session]) -> None:
        """Deliver everything that waits, with gaps for what is missing."""
        first, second = connection.halves
        while first.held or second.held:
            self._deliver_ready(connection, out)
            waiting = [half for half in connection.halves if half.held]
            if waiting:
                half = min(waiting, key=lambda h: (not h.lacks and not h.loose, h.hole_since))
                self._stop_waiting(half, out)

    def drop_held(self, half: Half) -> None:
        """Drop all data held for one direction."""
        super().drop_held(half)
        half.held.clear()
        half.held_bytes = 0
        self._note_waiting(half)

    # What waits.

    def _note_waiting(self, half: Half) -> None:
        """Record how many bytes of ``half`` wait."""
        if half.held:
            self._held.set(half, half.held_bytes + PER_PIECE * len(half.held))
        elif half in self.holes:
            self._held.set(half, 0)
            second = self._check_at.pop(half, -1)
            if second >= 0:
                self._cancel_check(half, second)

    def _skip_hole(self, half: Half) -> list[Piece]:
        """Give up waiting for the first hole of ``half``; return the pieces that can be delivered."""
        return self._advanced(half, half.give_up())

    def _advanced(self, half: Half, pieces: list[Piece]) -> list[Piece]:
        """Record that ``half`` has advanced; return ``pieces``."""
        self._note_waiting(half)
        half.acked = False
        return pieces

    def _stop_waiting(self, half: Half, out: list[Session]) -> None:
        """Stop waiting for the bytes that ``half`` lacks, or for those that its peer should have sent first."""
        peer = half.peer
        if half.lacks or half.loose or peer.loose:
            half = half if half.lacks or half.loose else peer
            self.deliver_pieces(half, self._skip_hole(half), out)
            return
        # What the first waiting segment acknowledges was sent but never captured.
        _, _, time_ns, ack = half.held[0]
        upto = peer.offset_of(ack)
        if peer.held:
            upto = min(upto, peer.held[0][0])
        if peer.fin_offset >= 0:
            upto = min(upto, peer.fin_offset)
        missing = upto - peer.offset
        if 0 < missing <= HELD_PER_STREAM:
            self.deliver_pieces(peer, self._advanced(peer, peer.skip(missing, time_ns)), out)
        else:
            peer.absent = True

    def _deliver_ready(self, connection: Connection, out: list[Session]) -> None:
        """Deliver what waited only for the other direction to come first."""
        moved = True
        while moved:
            moved = False
            for half in connection.halves:
                if half.held and not half.lacks and not half.loose and half.ready(half.held[0][3]):
                    self.deliver_pieces(half, self._advanced(half, half.drain()), out)
                    moved = True

    def _check(self, connection: Connection, now: int, out: list[Session]) -> None:
        """Deliver what need not wait any longer, and schedule the next check of what still waits."""
        self._deliver_ready(connection, out)
        while True:
            overdue = []
            for half in connection.halves:
                if half.held and (due := self._due(half)):
                    if due <= now:
                        overdue.append(half)
                    else:
                        self._schedule_check(half, due)
            if not overdue:
                return
            # If both directions wait for each other, end the wait of the one that lacks bytes, else of the older.
            half = min(overdue, key=lambda h: (h.loose, not h.lacks, h.hole_since))
            self._stop_waiting(half, out)
            self._deliver_ready(connection, out)

    # Time.

    def _due(self, half: Half) -> int:
        """Return when ``half`` will have waited long enough, as far as is known now; 0 for never."""
        if half.loose or not half.lacks:
            return half.hole_since + ACKED_HOLE_NS
        if half.acked or half.peer.held:
            return half.hole_since + ACKED_HOLE_NS if half.acked or self._answered(half) else 0
        return half.hole_since + ONE_SIDED_HOLE_NS if half.peer.origin < 0 else 0

    def _answered(self, half: Half) -> bool:
        """Return whether a waiting answer of the peer acknowledges the bytes that ``half`` lacks."""
        _, _, _, ack = half.peer.held[-1]  # the latest acknowledges most
        return ack >= 0 and half.offset_of(ack) >= half.held[0][0]

    def _schedule_check(self, half: Half, due: int) -> None:
        second = due // SECOND
        known = self._check_at.get(half, -1)
        if 0 <= known <= second:
            return  # an early check schedules the next one
        if known >= 0:
            self._cancel_check(half, known)
        self._check_at[half] = second
        checks = self._checks.get(second)
        if checks is None:
            checks = self._checks[second] = {}
        checks[half] = None

    def _cancel_check(self, half: Half, second: int) -> None:
        checks = self._checks.get(second)
        if checks is not None:
            checks.pop(half, None)
            if not checks:
                del self._checks[second]
