"""Streams: from the segments of a connection to its frames, and from those to its sessions.

It keeps what waits behind a hole within bounds, holds a connection's first bytes back until they tell its framing, and
knows when which byte was captured.  What a connection is, and when it ends, is the decoder's business.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Final

from hl7core.model.session import Session
from hl7core.wire.connection import DECIDED, IGNORED, SECOND, UNDECIDED, Connection, DecoderOptions, Half, MessageSeen
from hl7core.wire.detect import HELD_BYTES, WAIT, builtin, choose
from hl7core.wire.exchanges import Exchanges
from hl7core.wire.framing import Dialect
from hl7core.wire.reassembly import MAX_HELD_PIECES, Piece
from hl7core.wire.turns import Turns

__all__ = ["Streams"]

HELD_PER_STREAM: Final = 4 << 20
"""More bytes than this (a large TCP window) do not wait behind a hole: it is given up as a gap."""
ACKED_HOLE_NS: Final = 1 * SECOND
"""The receiver has what the capture lacks: so long it may still turn up, packets being stored out of order."""
ONE_SIDED_HOLE_NS: Final = 10 * SECOND
"""The same where the receiver's packets are not captured, so that nothing tells whether it will be sent again."""


class Streams:
    """What is held of all connections between their segments and their sessions.

    ``holes`` are the halves that wait for missing bytes; ``finished`` those whose last byte has been delivered, for the
    decoder to look at; ``timers`` a heap of (packet time, connection key) at which silence may end a session.
    """

    def __init__(self, options: DecoderOptions, dialects: Sequence[Dialect], counters: dict[str, int]) -> None:
        self.configure(options, dialects)
        self.counters = counters
        self.messages: list[MessageSeen] = []
        self.holes: set[Half] = set()
        self.finished: list[Half] = []
        self.timers: list[tuple[int, bytes]] = []
        self._held_bytes = 0

    def configure(self, options: DecoderOptions, dialects: Sequence[Dialect]) -> None:
        """Take other options for the connections that begin from now on."""
        self.options = options
        self._dialects = (*dialects, *builtin(options))

    def insert(self, half: Half, seq: int, data: bytes, now: int, out: list[Session]) -> None:
        """Take a segment that is not simply the next one."""
        if half.origin < 0:
            half.begin(seq)
        before = half.held_bytes
        pieces = half.push(seq, data, now)
        self._held_bytes += half.held_bytes - before
        if half.held:
            self.holes.add(half)
            if half.held_bytes > HELD_PER_STREAM or len(half.held) > MAX_HELD_PIECES:
                pieces = [*pieces, *self._given_up(half)]
            elif self._held_bytes > self.options.reassembly_bytes:
                largest = max(self.holes, key=lambda other: other.held_bytes)
                self._pieces(largest, self._given_up(largest), out)
        elif before:
            self.holes.discard(half)
        if pieces:
            self._pieces(half, pieces, out)

    def _given_up(self, half: Half) -> list[Piece]:
        before = half.held_bytes
        pieces = half.give_up()
        self._held_bytes += half.held_bytes - before
        if not half.held:
            self.holes.discard(half)
        return pieces

    def unhold(self, half: Half) -> None:
        """Forget what waits."""
        self._held_bytes -= half.held_bytes
        half.held.clear()
        half.held_bytes = 0
        self.holes.discard(half)

    def acknowledged(self, half: Half, ack: int, now: int, out: list[Session]) -> None:
        """Look whether the receiver ``half`` has what the capture lacks of the other direction."""
        other = half.peer
        if other not in self.holes:
            return
        if now - other.hole_since >= ACKED_HOLE_NS and other.offset_of(ack) >= other.held[0][0]:
            self._pieces(other, self._given_up(other), out)

    def _pieces(self, half: Half, pieces: list[Piece], out: list[Session]) -> None:
        # The stream has moved past all of them; delivered one by one, it must stand right behind each in turn.
        half.offset -= sum([len(piece.data) + piece.missing for piece in pieces])
        for data, time_ns, missing in pieces:
            half.offset += len(data) + missing
            if missing:
                self.counters["gaps"] += 1
                self.counters["gapBytes"] += missing
                self._gap(half, missing, time_ns, out)
            elif half.connection.state == DECIDED:
                self.deliver(half, data, time_ns, out)
            else:
                self._hold_back(half, Piece(data, time_ns), out)
        if half.fin_offset >= 0 and half.finished:
            self.finished.append(half)

    def deliver(self, half: Half, data: bytes, now: int, out: list[Session]) -> None:
        """Hand the next bytes of a stream to its framer, and the frames to the sessions."""
        connection = half.connection
        tracker = connection.tracker
        framer = half.framer
        if framer is None or tracker is None:
            return
        if half.peer.pending:
            self.settle(half.peer, out)
        pending = half.pending
        half.last_ns = now
        if pending:
            half.mark(half.offset - len(data), now)
        frames = framer.feed(data)
        if frames:
            out.extend(tracker.take(half, frames))
            last = frames[-1]
            if last.offset + len(last.raw) + last.missing == half.offset:
                if pending:
                    half.pending = False
                    half.marks.clear()
            else:
                self.still_pending(half, last.offset + len(last.raw) + last.missing, now)
            if not connection.timer_ns:
                self.arm(connection)
        elif not pending:
            half.pending = True
            half.mark(half.offset - len(data), now)

    def still_pending(self, half: Half, since: int, now: int) -> None:
        """Forget when bytes came that frames have taken."""
        half.pending = True
        marks = half.marks
        while len(marks) > 1 and marks[1][0] <= since:
            del marks[0]
        if not marks:
            marks.append((since, now))

    def settle(self, half: Half, out: list[Session]) -> None:
        """Tell a framer that the other side spoke, or that silence fell."""
        tracker = half.connection.tracker
        if half.framer is None or tracker is None:
            return
        frames = half.framer.settle()
        if frames:
            out.extend(tracker.take(half, frames))
            half.pending = half.framer.pending > 0
            if not half.pending:
                half.marks.clear()

    def _gap(self, half: Half, missing: int, now: int, out: list[Session]) -> None:
        connection = half.connection
        if connection.state != DECIDED or half.framer is None or connection.tracker is None:
            self._hold_back(half, Piece(b"", now, missing), out)
            return
        half.last_ns = max(half.last_ns, half.marks[-1][1] if half.marks else 0)
        out.extend(connection.tracker.take(half, half.framer.skip(missing)))
        half.pending = False
        half.marks.clear()
        half.last_ns = now

    def give_up_stale(self, now: int, out: list[Session]) -> None:
        """Give up holes of which nobody will tell: one direction alone was captured, and it has gone on for long."""
        for half in [h for h in self.holes if now - h.hole_since >= ONE_SIDED_HOLE_NS]:
            if half.peer.origin < 0:
                self._pieces(half, self._given_up(half), out)

    def flush(self, half: Half, out: list[Session]) -> None:
        """Deliver what waits, whatever is missing in between."""
        while half.held:
            self._pieces(half, self._given_up(half), out)

    # Detection.

    def _hold_back(self, half: Half, piece: Piece, out: list[Session]) -> None:
        """Keep the first bytes until they tell the framing."""
        connection = half.connection
        if connection.state == IGNORED:
            return
        connection.waiting.append((half, piece))
        connection.waiting_bytes += len(piece.data) + 64
        self.decide(connection, out, final=connection.waiting_bytes > 4 * HELD_BYTES)

    def decide(self, connection: Connection, out: list[Session], *, final: bool) -> None:
        """Choose the framing if the first bytes tell it (``final``: they must), and deliver what was held back."""
        first, second = (
            b"".join(piece.data for held, piece in connection.waiting if held is half) for half in connection.halves
        )
        dialect = choose(self._dialects, first, second, final=final)
        if dialect is WAIT and not final:
            return
        waiting, connection.waiting, connection.waiting_bytes = connection.waiting, [], 0
        if not isinstance(dialect, Dialect):
            connection.state = IGNORED
            self.counters["ignored"] += 1
            for half in connection.halves:
                self.unhold(half)
            return
        connection.state = DECIDED
        connection.protocol = dialect.name
        seen = self.messages if self.options.watch_messages else None
        connection.tracker = Turns(connection, seen) if dialect.turns else Exchanges(connection, seen)
        ends = [half.offset for half in connection.halves]
        for half in connection.halves:
            # The bytes that were held back are delivered now, as if they came now.
            half.offset -= sum(len(piece.data) + piece.missing for held, piece in waiting if held is half)
            half.framer = dialect.make(self.options.max_message, half.offset)
        for half, piece in waiting:
            half.offset += len(piece.data) + piece.missing
            if piece.missing:
                self._gap(half, piece.missing, piece.time_ns, out)
            else:
                self.deliver(half, piece.data, piece.time_ns, out)
        for half, end in zip(connection.halves, ends, strict=True):
            half.offset = end

    def look_again(self, half: Half, seq: int) -> None:
        """A connection that was let go shows a block that begins with MSH: begin anew from here."""
        connection = half.connection
        connection.state = UNDECIDED
        self.counters["ignored"] -= 1
        self.unhold(half)
        half.begin(seq)
        half.peer.origin = -1

    def arm(self, connection: Connection) -> None:
        """Note when silence may end a session of the connection."""
        due = connection.tracker.due() if connection.tracker is not None else 0
        connection.timer_ns = due
        if due:
            heapq.heappush(self.timers, (due, connection.keys[0]))
