"""Delivery: the ordered bytes of a connection go through its framers to its tracker, which makes sessions of them.

Bytes and gaps arrive in order.  They are held back until they tell which protocol the connection speaks; from then on
each goes to the framer of its direction at once, and the frames go to the tracker.  What is held, undecided or in
framers, counts toward the memory budget.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import islice
from typing import Final

from hl7core.model.session import Ending, Session
from hl7core.wire.connection import DECIDED, IGNORED, UNDECIDED, Connection, DecoderOptions, Half, MessageSeen
from hl7core.wire.detect import HELD_BYTES, TLS, WAIT, Verdict
from hl7core.wire.encrypted import UNREAD, Encrypted
from hl7core.wire.framing.framer import Dialect
from hl7core.wire.framing.mllp import MllpFramer
from hl7core.wire.framing.plain import PlainFramer
from hl7core.wire.lis01_sessions.tracker import Lis01Sessions
from hl7core.wire.memory_budget import PER_PIECE, HeldBytes, MemoryBudget
from hl7core.wire.mllp_sessions.fast_path import FastPath, Make
from hl7core.wire.mllp_sessions.tracker import MllpSessions
from hl7core.wire.recognition import Recognition
from hl7core.wire.tcp.reassembly import Piece
from hl7core.wire.tls.keylog import KeyLog
from hl7core.wire.tls.records import TlsFramer, tls_score

__all__ = ["Delivery"]

_PER_WAITING: Final = 64
_PER_MARK: Final = 128
_UNREPORTED: Final = 512
"""Framers that hold less are not counted: ``max_connections`` bounds them."""
_MANY_TIMERS: Final = 4096
_TLS: Final = Dialect("tls", lambda _first, _second: 0, TlsFramer, turns=False)


class Delivery:
    """Delivers the bytes of all connections to their sessions.

    For the decoder: ``finished`` are the halves whose last byte was delivered or whose connection must be evicted;
    ``timers`` is a heap of (packet time, connection key) at which silence may end a session; ``recent`` are the fast
    paths that keep their last session until it can no longer change; ``again`` are the beginnings of a segment at which
    an ignored connection is examined again.  ``encrypted`` names the connections that could not be decrypted with
    ``keys``.  ``messages`` collects messages as they complete, if they are watched.
    """

    def __init__(
        self,
        options: DecoderOptions,
        dialects: Sequence[Dialect],
        counters: dict[str, int],
        make: Make,
        keys: KeyLog | None = None,
    ) -> None:
        self._make = make
        self.keys = KeyLog() if keys is None else keys
        self._has_keys = keys is not None
        self.encrypted = Encrypted()
        self.options = options
        self._recognition = Recognition(options, dialects)
        self.again = self._recognition.again
        self.counters = counters
        self.messages: list[MessageSeen] = []
        self.finished: list[Half] = []
        self.timers: list[tuple[int, bytes]] = []
        self.recent: list[FastPath] = []
        self._undecided: dict[Connection, int] = {}  # with the bytes held of each
        self._undecided_bytes = 0
        self._in_framers = HeldBytes()
        self._budget = MemoryBudget(options.reassembly_bytes, counters)
        self._armed: dict[bytes, int] = {}

    def configure(self, options: DecoderOptions, dialects: Sequence[Dialect]) -> None:
        """Use other options for the connections that begin from now on."""
        self.options = options
        self._budget.limit = options.reassembly_bytes
        self._recognition.configure(options, dialects)
        self.again = self._recognition.again

    # Connections whose protocol is known.

    def deliver(self, half: Half, data: bytes, now: int, out: list[Session]) -> None:
        """Feed the next bytes of a stream to its framer, the frames to the tracker; append what ended to ``out``."""
        connection = half.connection
        if connection.unproven is not None:
            self._prove(half, data, out)
        tracker = connection.tracker
        framer = half.framer
        if framer is None or tracker is None:
            return
        if half.peer.pending:
            self.settle_framer(half.peer, out)
        pending = half.pending
        half.last_ns = now
        if pending:
            half.mark(half.offset - len(data), now)
        frames = framer.feed(data)
        if frames:
            out.extend(tracker.add_frames(half, frames))
            last = frames[-1]
            if last.offset + len(last.raw) + last.missing == half.offset:
                if pending:
                    half.pending = False
                    half.marks = ()
            else:
                self.still_pending(half, last.offset + len(last.raw) + last.missing, now)
            if not connection.timer_ns:
                self.arm(connection)
        elif not pending:
            half.pending = True
            half.mark(half.offset - len(data), now)
        if pending or half.pending:
            self._note_pending(half)

    def start_block(self, half: Half, data: bytes, now: int) -> None:
        """Start a block, as ``MllpFramer.start_block`` does; no bytes may be pending on either side."""
        framer = half.framer
        if isinstance(framer, MllpFramer):
            framer.start_block(data)
        half.pending = True
        half.last_ns = now
        half.mark(half.offset - len(data), now)
        self._note_pending(half)

    def finish_block(self, half: Half, size: int) -> None:
        """Drop the block that a framer had started: the fast path has read all ``size`` bytes of it."""
        framer = half.framer
        if isinstance(framer, MllpFramer):
            framer.finish_block(size)
        half.pending = False
        half.marks = ()
        self._note_pending(half)

    def still_pending(self, half: Half, since: int, now: int) -> None:
        """Note that bytes from ``since`` on are still pending, and drop the capture times of earlier ones."""
        half.pending = True
        marks = half.marks
        while len(marks) > 1 and marks[1][0] <= since:
            marks = marks[1:]
        half.marks = marks or ((since, now),)

    def settle_framer(self, half: Half, out: list[Session]) -> None:
        """Settle the framer of ``half``: its peer spoke, or silence fell."""
        tracker = half.connection.tracker
        if half.framer is None or tracker is None:
            return
        frames = half.framer.settle()
        if frames:
            out.extend(tracker.add_frames(half, frames))
            half.pending = half.framer.pending > 0
            if not half.pending:
                half.marks = ()
            self._note_pending(half)

    def gap(self, half: Half, missing: int, now: int, out: list[Session]) -> None:
        """Report a gap: the next ``missing`` bytes of a stream were never captured, as was known at ``now``."""
        connection = half.connection
        if connection.state != DECIDED or half.framer is None or connection.tracker is None:
            self.hold_back(half, Piece(b"", now, missing), out)
            return
        if connection.unproven is not None:  # a frame with a gap proves nothing
            connection.unproven = (half, b"")
        half.last_ns = max(half.last_ns, half.marks[-1][1] if half.marks else 0) or now
        out.extend(connection.tracker.add_frames(half, half.framer.skip(missing)))
        half.pending = False
        half.marks = ()
        half.last_ns = now
        self._note_pending(half)

    def close(self, connection: Connection, ending: Ending, out: list[Session]) -> None:
        """End a connection: decide its protocol if that is open, flush its framers, end its sessions as ``ending``."""
        if connection.state == UNDECIDED:
            self.decide(connection, out, final=True)
        if connection.state == DECIDED and connection.tracker is not None:
            for half in connection.halves:
                framer = half.framer
                if framer is not None:
                    if isinstance(framer, PlainFramer) and not half.finished and ending is not Ending.SILENT:
                        frames = framer.break_off()
                    else:
                        frames = framer.close()
                    if frames:
                        out.extend(connection.tracker.add_frames(half, frames))
            out.extend(connection.tracker.end(ending))
            if connection.fast_path is not None:
                connection.fast_path.forget()
        for half in connection.halves:
            if half in self._in_framers.of:
                self._in_framers.set(half, 0)

    def _note_pending(self, half: Half) -> None:
        """Record what the framer of ``half`` holds; if all framers hold too much, mark the largest for eviction."""
        size = half.framer.pending if half.pending and half.framer is not None else 0
        held = self._in_framers
        if size < _UNREPORTED and half not in held.of:
            return
        held.set(half, size + _PER_MARK * len(half.marks) if size else 0)
        if held.total > self.options.reassembly_bytes:
            for fullest in held.largest():
                held.set(fullest, 0)
                connection = fullest.connection.outer or fullest.connection
                connection.crowded = True
                self.finished.append(connection.halves[0])

    # Time.

    def arm(self, connection: Connection) -> None:
        """Set the timer at which silence may end a session of the connection."""
        due = connection.tracker.due() if connection.tracker is not None else 0
        connection.timer_ns = due
        if not due:
            self._armed.pop(connection.keys[0], None)
            return
        self._armed[connection.keys[0]] = due
        heapq.heappush(self.timers, (due, connection.keys[0]))
        if len(self.timers) > 2 * len(self._armed) + _MANY_TIMERS:  # most belong to closed connections
            self.timers[:] = sorted([(due, key) for key, due in self._armed.items()])

    def drop_recent(self) -> None:
        """Drop the fast paths that keep no session any more."""
        self.recent[:] = [path for path in self.recent if path.holds_last]

    def forget_recent(self) -> None:
        """Release the sessions that the fast paths keep."""
        for path in self.recent:
            path.forget()
        self.recent.clear()

    # Connections whose protocol is not known yet.

    def hold_back(self, half: Half, piece: Piece, out: list[Session]) -> None:
        """Hold back the first bytes of a connection until they tell its protocol."""
        connection = half.connection
        if connection.state == IGNORED:
            return
        size = len(piece.data)
        connection.waiting += ((half, piece),)
        connection.waiting_bytes += size + _PER_WAITING
        self._undecided[connection] = self._undecided.get(connection, 0) + size + PER_PIECE
        self._undecided_bytes += size + PER_PIECE
        self.decide(connection, out, final=connection.waiting_bytes > 4 * HELD_BYTES)
        if self._undecided_bytes > self.options.reassembly_bytes:
            for oldest in list(islice(self._undecided, len(self._undecided) // 10 + 1)):
                if oldest in self._undecided:
                    self.counters["crowded"] += 1
                    self.decide(oldest, out, final=True)

    def decide(self, connection: Connection, out: list[Session], *, final: bool) -> None:
        """Choose the protocol if the first bytes tell it (``final``: they must), and deliver what was held back."""
        verdict: Verdict = self._recognition.verdict(connection, final=final)
        if verdict is WAIT and not final:
            return
        self._undecided_bytes -= self._undecided.pop(connection, 0)
        waiting, connection.waiting, connection.waiting_bytes = connection.waiting, (), 0
        if verdict is TLS:
            self.counters["tls"] += 1
            connection.protocol = "tls"
            if self._has_keys:
                verdict = _TLS
            else:
                self.encrypted.note(connection.keys[0], UNREAD)
        if not isinstance(verdict, Dialect):
            connection.state = IGNORED
            self.counters["ignored"] += 1
            self.drop_held(connection)
            return
        if verdict.name in ("lis01", "plain") and not self._recognition.is_told(connection, waiting):
            connection.unproven = (connection.halves[0], b"")
        ends = [half.offset for half in connection.halves]
        for half, piece in waiting:  # deliver what was held back as if it arrived now
            half.offset -= len(piece.data) + piece.missing
        self._assign(connection, verdict)
        for half, piece in waiting:
            half.offset += len(piece.data) + piece.missing
            if piece.missing:
                self.gap(half, piece.missing, piece.time_ns, out)
            else:
                self.deliver(half, piece.data, piece.time_ns, out)
        for half, end in zip(connection.halves, ends, strict=True):
            half.offset = end

    def _assign(self, connection: Connection, dialect: Dialect) -> None:
        """Give a connection the framers and the tracker of ``dialect``, from the current offsets of its streams."""
        connection.state = DECIDED
        connection.protocol = dialect.name
        seen = self.messages if self.options.watch_messages else None
        for half in connection.halves:
            half.framer = dialect.make(self.options.max_message, half.offset)
        if dialect is _TLS:
            from hl7core.wire.tls.unwrap import Unwrapped  # imported only if there are keys

            connection.tracker = Unwrapped(connection, self)
        elif dialect.turns:
            connection.tracker = Lis01Sessions(connection, self._budget, seen)
        else:
            sessions = MllpSessions(connection, self._budget, seen, self.recent, self._make)
            connection.tracker = sessions
            if isinstance(connection.halves[0].framer, MllpFramer) and seen is None:
                connection.fast_path = sessions.fast_path

    def drop_held(self, connection: Connection) -> None:
        """Drop all data held for a connection."""
        for half in connection.halves:
            if half in self._in_framers.of:
                self._in_framers.set(half, 0)
        self._armed.pop(connection.keys[0], None)

    def is_encrypted(self, data: bytes) -> bool:
        """Return whether a connection that begins with ``data`` is certainly TLS and there are no keys to read it."""
        return not self._has_keys and self._recognition.is_encrypted(data)

    def _prove(self, half: Half, data: bytes, out: list[Session]) -> None:
        """Examine the first frame; if it proves another dialect than the one chosen, replace the framers before it."""
        proof = self._recognition.prove(half, data)
        framer, peer = half.framer, half.peer
        if proof is None or framer is None or peer.framer is None or peer.framer.pending:
            return
        dialect, known = proof
        connection = half.connection
        if known and framer.pending != len(known):
            return
        if not known and connection.tracker is not None:
            out.extend(connection.tracker.add_frames(half, framer.close()))
        connection.protocol = dialect.name
        peer.framer = dialect.make(self.options.max_message, peer.offset)
        half.framer = dialect.make(self.options.max_message, half.offset - len(data) - len(known))
        frames = half.framer.feed(known)
        if frames and connection.tracker is not None:
            out.extend(connection.tracker.add_frames(half, frames))

    def reconsider(self, half: Half, seq: int, head: bytes) -> bool:
        """Examine an ignored connection again, from a segment that begins with one of ``again``.

        ``head`` are the segment's bytes.  Returns False if the connection is encrypted; it then stays ignored, and is
        counted as TLS if that is new.
        """
        connection = half.connection
        if tls_score(head):
            if tls_score(head) > 1:
                connection.protocol = "tls"
                self.counters["tls"] += 1
                self.encrypted.note(connection.keys[0], UNREAD)
            return False
        connection.state = UNDECIDED
        connection.protocol = ""
        self.counters["ignored"] -= 1
        self.drop_held(connection)
        half.start_at(seq)
        half.peer.origin = -1
        return True

    # An inner connection, decrypted: its streams arrive in order, with their gaps.

    def add_bytes(self, half: Half, data: bytes, now: int, out: list[Session]) -> None:
        """Add the next bytes of a stream, captured at ``now``."""
        self.deliver_pieces(half, half.push(half.next_seq, data, now), out)

    def add_gap(self, half: Half, count: int, now: int, out: list[Session]) -> None:
        """Add a gap: the next ``count`` bytes of a stream cannot be decrypted."""
        half.skip(count, now)
        self.gap(half, count, now, out)

    def note_unread(self, connection: Connection, reason: str) -> None:
        """Count a connection as ignored that cannot be decrypted, for the ``reason`` given."""
        self.counters["ignored"] += 1
        self.encrypted.note(connection.keys[0], reason)

    def deliver_pieces(self, half: Half, pieces: list[Piece], out: list[Session]) -> None:
        """Deliver pieces of a stream whose ``offset`` already lies behind all of them."""
        # While each piece is delivered, ``offset`` lies right behind it.
        half.offset -= sum([len(piece.data) + piece.missing for piece in pieces])
        for data, time_ns, missing in pieces:
            half.offset += len(data) + missing
            if missing:
                self.counters["gaps"] += 1
                self.counters["gapBytes"] += missing
                self.gap(half, missing, time_ns, out)
            elif half.connection.state == DECIDED:
                self.deliver(half, data, time_ns, out)
            else:
                self.hold_back(half, Piece(data, time_ns), out)
        if half.fin_offset >= 0 and half.finished:
            self.finished.append(half)
