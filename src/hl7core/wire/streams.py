"""Streams: the segments of all connections, in any order, become streams in order; what waits is decided on here.

Its law: a segment waits for the bytes before it, and for what it acknowledges, so that no answer comes before what it
answers.  What the receiver has, or has answered, and the capture lacks, is a gap after a second; what it has not will
be sent again, and is waited for within bounds.  What a connection is, and when it ends, is the decoder's business.
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
"""More bytes than this (a large TCP window) do not wait behind a hole: it is given up as a gap."""
ACKED_HOLE_NS: Final = 1 * SECOND
"""The receiver has what the capture lacks: so long it may still turn up, packets being stored out of order.  So long
too waits an answer for what it answers, and the first segment of a connection joined midstream for an earlier one."""
ONE_SIDED_HOLE_NS: Final = 10 * SECOND
"""The same where the receiver's packets are not captured, so that nothing tells whether it will be sent again."""


class Streams(Delivery):
    """The streams of all connections, and behind them their delivery.

    ``holes`` are the halves of which segments wait.
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
        # By the second of packet time, those that need a look then; and when each of them does.
        self._looks: dict[int, dict[Half, None]] = {}
        self._look_at: dict[Half, int] = {}

    def insert(self, half: Half, seq: int, data: bytes, now: int, out: list[Session], ack: int = -1) -> None:
        """Take a segment that is not simply the next one; ``ack`` is the acknowledgement that it carries.

        ``acknowledged`` is to be told behind it.
        """
        if half.origin < 0:
            half.begin(seq, loose=True)
        waited = bool(half.held)
        pieces = half.push(seq, data, now, ack)
        if half.held:
            self._weigh_held(half)
            if half.held_bytes > HELD_PER_STREAM or len(half.held) > MAX_HELD_PIECES:
                pieces = [*pieces, *self._given_up(half)]
            elif self._held.total > self.options.reassembly_bytes:
                self.counters["crowded"] += 1
                for largest in self._held.heaviest():
                    self.pieces(largest, self._given_up(largest), out)
                    if largest.held and (due := self._due(largest)):
                        self._note_look(largest, due)
        elif waited:
            self._weigh_held(half)
        if pieces:
            half.acked = False
            self.pieces(half, pieces, out)
            if half.peer.held:
                self._caught_up(half.connection, out)

    def acknowledged(self, half: Half, ack: int, now: int, out: list[Session]) -> None:
        """Look what the connection of ``half`` waits for; ``ack``, which came from it, tells what its receiver has."""
        other = half.peer
        if other.held and other.lacks and other.offset_of(ack) >= other.held[0][0]:
            other.acked = True
        if other.held or half.held:
            self._look_after(half.connection, now, out)

    def give_up_stale(self, now: int, out: list[Session]) -> None:
        """Deliver what has waited for long enough, on connections on which nothing else comes."""
        due = [second for second in self._looks if second <= now // SECOND]
        for second in sorted(due):
            for half in list(self._looks.pop(second, ())):  # the look before may have settled this one
                if self._look_at.get(half) == second:
                    del self._look_at[half]
                    self._look_after(half.connection, now, out)

    def flush(self, connection: Connection, out: list[Session]) -> None:
        """Deliver what waits, whatever is missing in between."""
        first, second = connection.halves
        while first.held or second.held:
            self._caught_up(connection, out)
            waiting = [half for half in connection.halves if half.held]
            if waiting:
                half = min(waiting, key=lambda h: (not h.lacks and not h.loose, h.hole_since))
                self._let_go(half, out)

    def unhold(self, half: Half) -> None:
        """Forget what is held of a direction."""
        super().unhold(half)
        half.held.clear()
        half.held_bytes = 0
        self._weigh_held(half)

    # What waits.

    def _weigh_held(self, half: Half) -> None:
        """Keep the books of what waits of a half, which may be nothing."""
        if half.held:
            self._held.put(half, half.held_bytes + PER_PIECE * len(half.held))
        elif half in self.holes:
            self._held.put(half, 0)
            second = self._look_at.pop(half, -1)
            if second >= 0:
                self._forget_look(half, second)

    def _given_up(self, half: Half) -> list[Piece]:
        return self._moved(half, half.give_up())

    def _moved(self, half: Half, pieces: list[Piece]) -> list[Piece]:
        """Keep the books of a half that has gone on."""
        self._weigh_held(half)
        half.acked = False
        return pieces

    def _let_go(self, half: Half, out: list[Session]) -> None:
        """``half`` waits no longer for what it lacks, or for what the other side was to say first."""
        peer = half.peer
        if half.lacks or half.loose or peer.loose:
            half = half if half.lacks or half.loose else peer
            self.pieces(half, self._given_up(half), out)
            return
        # What the first that waits acknowledges was said and never captured.
        _, _, time_ns, ack = half.held[0]
        upto = peer.offset_of(ack)
        if peer.held:
            upto = min(upto, peer.held[0][0])
        if peer.fin_offset >= 0:
            upto = min(upto, peer.fin_offset)
        missing = upto - peer.offset
        if 0 < missing <= HELD_PER_STREAM:
            self.pieces(peer, self._moved(peer, peer.miss(missing, time_ns)), out)
        else:
            peer.absent = True

    def _caught_up(self, connection: Connection, out: list[Session]) -> None:
        """Deliver what waited for the other side to come first."""
        moved = True
        while moved:
            moved = False
            for half in connection.halves:
                if half.held and not half.lacks and not half.loose and half.ready(half.held[0][3]):
                    self.pieces(half, self._moved(half, half.drain()), out)
                    moved = True

    def _look_after(self, connection: Connection, now: int, out: list[Session]) -> None:
        """Deliver what need not wait any longer, and note when what waits on needs a look if nothing else comes."""
        self._caught_up(connection, out)
        while True:
            overdue = []
            for half in connection.halves:
                if half.held and (due := self._due(half)):
                    if due <= now:
                        overdue.append(half)
                    else:
                        self._note_look(half, due)
            if not overdue:
                return
            # One of two that wait for each other has waited in vain: the one that lacks bytes, else the older.
            half = min(overdue, key=lambda h: (h.loose, not h.lacks, h.hole_since))
            self._let_go(half, out)
            self._caught_up(connection, out)

    # Time.

    def _due(self, half: Half) -> int:
        """Return when a half that waits has waited for long enough, as things are; 0 for never."""
        if half.loose or not half.lacks:
            return half.hole_since + ACKED_HOLE_NS
        if half.acked or half.peer.held:
            return half.hole_since + ACKED_HOLE_NS if half.acked or self._answered(half) else 0
        return half.hole_since + ONE_SIDED_HOLE_NS if half.peer.origin < 0 else 0

    def _answered(self, half: Half) -> bool:
        """Say whether an answer that waits acknowledges what ``half`` lacks."""
        _, _, _, ack = half.peer.held[-1]  # nobody takes an acknowledgement back
        return ack >= 0 and half.offset_of(ack) >= half.held[0][0]

    def _note_look(self, half: Half, due: int) -> None:
        second = due // SECOND
        known = self._look_at.get(half, -1)
        if 0 <= known <= second:
            return  # a look that comes too early finds out when the next is due
        if known >= 0:
            self._forget_look(half, known)
        self._look_at[half] = second
        looks = self._looks.get(second)
        if looks is None:
            looks = self._looks[second] = {}
        looks[half] = None

    def _forget_look(self, half: Half, second: int) -> None:
        looks = self._looks.get(second)
        if looks is not None:
            looks.pop(half, None)
            if not looks:
                del self._looks[second]
