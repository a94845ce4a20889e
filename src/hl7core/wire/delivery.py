"""Delivery: the bytes of a connection, in order, go through its framers to its sessions.

Its law: what comes in comes in order, bytes or gaps, and is either held back until it tells what is spoken, or given to
a framer at once.  All that is held, undecided or in framers, is weighed and bounded.
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
_LIGHT: Final = 512
"""So little that a framer holds counts as what a connection costs: ``max_connections`` bounds it."""
_MANY_TIMERS: Final = 4096
_TLS: Final = Dialect("tls", lambda _first, _second: 0, TlsFramer, turns=False)


class Delivery:
    """What is held of all connections between their bytes and their sessions.

    ``finished`` are the halves whose last byte has been delivered, or whose connection is to go for want of room, for
    the decoder to look at; ``timers`` a heap of (packet time, connection key) at which silence may end a session;
    ``recent`` hold their last session at hand, until the decoder lets them go.  ``again`` are the beginnings of a
    segment at which a connection that was let go is looked at again.  ``encrypted`` tells what could not be read for
    want of the keys in ``keys``.
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
        self._undecided: dict[Connection, int] = {}  # and what waits of each weighs
        self._undecided_weight = 0
        self._open = HeldBytes()
        self._scales = MemoryBudget(options.reassembly_bytes, counters)
        self._armed: dict[bytes, int] = {}

    def configure(self, options: DecoderOptions, dialects: Sequence[Dialect]) -> None:
        """Take other options for the connections that begin from now on."""
        self.options = options
        self._scales.most = options.reassembly_bytes
        self._recognition.configure(options, dialects)
        self.again = self._recognition.again

    # What is decided.

    def deliver(self, half: Half, data: bytes, now: int, out: list[Session]) -> None:
        """Hand the next bytes of a stream to its framer, and the frames to the sessions."""
        connection = half.connection
        if connection.unproven is not None:
            self._prove(half, data, out)
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
                    half.marks = ()
            else:
                self.still_pending(half, last.offset + len(last.raw) + last.missing, now)
            if not connection.timer_ns:
                self.arm(connection)
        elif not pending:
            half.pending = True
            half.mark(half.offset - len(data), now)
        if pending or half.pending:
            self._weigh(half)

    def begin(self, half: Half, data: bytes, now: int) -> None:
        """Take the first bytes of a block that goes on, as ``MllpFramer.begin`` does; nothing waits on either side."""
        framer = half.framer
        if isinstance(framer, MllpFramer):
            framer.begin(data)
        half.pending = True
        half.last_ns = now
        half.mark(half.offset - len(data), now)
        self._weigh(half)

    def ended(self, half: Half, size: int) -> None:
        """The block that a direction had begun was taken by other means, ``size`` bytes of it in all."""
        framer = half.framer
        if isinstance(framer, MllpFramer):
            framer.ended(size)
        half.pending = False
        half.marks = ()
        self._weigh(half)

    def still_pending(self, half: Half, since: int, now: int) -> None:
        """Forget when bytes came that frames have taken."""
        half.pending = True
        marks = half.marks
        while len(marks) > 1 and marks[1][0] <= since:
            marks = marks[1:]
        half.marks = marks or ((since, now),)

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
                half.marks = ()
            self._weigh(half)

    def gap(self, half: Half, missing: int, now: int, out: list[Session]) -> None:
        """The next ``missing`` bytes of a stream were never captured, which was known at ``now``."""
        connection = half.connection
        if connection.state != DECIDED or half.framer is None or connection.tracker is None:
            self.hold_back(half, Piece(b"", now, missing), out)
            return
        if connection.unproven is not None:  # of a frame that is cut nothing can be told
            connection.unproven = (half, b"")
        half.last_ns = max(half.last_ns, half.marks[-1][1] if half.marks else 0) or now
        out.extend(connection.tracker.take(half, half.framer.skip(missing)))
        half.pending = False
        half.marks = ()
        half.last_ns = now
        self._weigh(half)

    def close(self, connection: Connection, ending: Ending, out: list[Session]) -> None:
        """End what a connection says: decide if that is open, flush its framers, end its sessions."""
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
                        out.extend(connection.tracker.take(half, frames))
            out.extend(connection.tracker.end(ending))
            if connection.fast_path is not None:
                connection.fast_path.forget()
        for half in connection.halves:
            if half in self._open.of:
                self._open.put(half, 0)

    def _weigh(self, half: Half) -> None:
        """Keep the books of what the framers hold; if it is too much, the tenth that hold most are to go."""
        size = half.framer.pending if half.pending and half.framer is not None else 0
        books = self._open
        if size < _LIGHT and half not in books.of:
            return
        books.put(half, size + _PER_MARK * len(half.marks) if size else 0)
        if books.total > self.options.reassembly_bytes:
            for largest in books.heaviest():
                books.put(largest, 0)
                connection = largest.connection.outer or largest.connection
                connection.crowded = True
                self.finished.append(connection.halves[0])

    # Time.

    def arm(self, connection: Connection) -> None:
        """Note when silence may end a session of the connection."""
        due = connection.tracker.due() if connection.tracker is not None else 0
        connection.timer_ns = due
        if not due:
            self._armed.pop(connection.keys[0], None)
            return
        self._armed[connection.keys[0]] = due
        heapq.heappush(self.timers, (due, connection.keys[0]))
        if len(self.timers) > 2 * len(self._armed) + _MANY_TIMERS:  # most are of connections that are gone
            self.timers[:] = sorted([(due, key) for key, due in self._armed.items()])

    def drop_recent(self) -> None:
        """Let those go that hold no session at hand any more."""
        self.recent[:] = [path for path in self.recent if path.holds_last]

    def forget_recent(self) -> None:
        """Let the sessions go that were told last."""
        for path in self.recent:
            path.forget()
        self.recent.clear()

    # What is not decided yet.

    def hold_back(self, half: Half, piece: Piece, out: list[Session]) -> None:
        """Keep the first bytes until they tell the framing."""
        connection = half.connection
        if connection.state == IGNORED:
            return
        size = len(piece.data)
        connection.waiting += ((half, piece),)
        connection.waiting_bytes += size + _PER_WAITING
        self._undecided[connection] = self._undecided.get(connection, 0) + size + PER_PIECE
        self._undecided_weight += size + PER_PIECE
        self.decide(connection, out, final=connection.waiting_bytes > 4 * HELD_BYTES)
        if self._undecided_weight > self.options.reassembly_bytes:
            for oldest in list(islice(self._undecided, len(self._undecided) // 10 + 1)):
                if oldest in self._undecided:
                    self.counters["crowded"] += 1
                    self.decide(oldest, out, final=True)

    def decide(self, connection: Connection, out: list[Session], *, final: bool) -> None:
        """Choose the framing if the first bytes tell it (``final``: they must), and deliver what was held back."""
        verdict: Verdict = self._recognition.verdict(connection, final=final)
        if verdict is WAIT and not final:
            return
        self._undecided_weight -= self._undecided.pop(connection, 0)
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
            for half in connection.halves:
                self.unhold(half)
            return
        if verdict.name in ("lis01", "plain") and not self._recognition.is_told(connection, waiting):
            connection.unproven = (connection.halves[0], b"")
        ends = [half.offset for half in connection.halves]
        for half, piece in waiting:  # what was held back is delivered now, as if it came now
            half.offset -= len(piece.data) + piece.missing
        self._begin(connection, verdict)
        for half, piece in waiting:
            half.offset += len(piece.data) + piece.missing
            if piece.missing:
                self.gap(half, piece.missing, piece.time_ns, out)
            else:
                self.deliver(half, piece.data, piece.time_ns, out)
        for half, end in zip(connection.halves, ends, strict=True):
            half.offset = end

    def _begin(self, connection: Connection, dialect: Dialect) -> None:
        """Give a connection the framers and the tracker of a dialect, from where its streams stand."""
        connection.state = DECIDED
        connection.protocol = dialect.name
        seen = self.messages if self.options.watch_messages else None
        for half in connection.halves:
            half.framer = dialect.make(self.options.max_message, half.offset)
        if dialect is _TLS:
            from hl7core.wire.tls.unwrap import Unwrapped  # only who has keys pays for it

            connection.tracker = Unwrapped(connection, self)
        elif dialect.turns:
            connection.tracker = Lis01Sessions(connection, self._scales, seen)
        else:
            exchanges = MllpSessions(connection, self._scales, seen, self.recent, self._make)
            connection.tracker = exchanges
            if isinstance(connection.halves[0].framer, MllpFramer) and seen is None:
                connection.fast_path = exchanges.fast_path

    def unhold(self, half: Half) -> None:
        """Forget what is held of a direction."""
        if half in self._open.of:
            self._open.put(half, 0)
        self._armed.pop(half.connection.keys[0], None)

    def is_encrypted(self, data: bytes) -> bool:
        """Say whether a connection that begins with ``data`` is TLS beyond doubt, and nobody has its keys."""
        return not self._has_keys and self._recognition.is_encrypted(data)

    def _prove(self, half: Half, data: bytes, out: list[Session]) -> None:
        """Look at the first frame; where it tells of another dialect than was chosen, change the framers before it."""
        proof = self._recognition.prove(half, data)
        framer, peer = half.framer, half.peer
        if proof is None or framer is None or peer.framer is None or peer.framer.pending:
            return
        dialect, known = proof
        connection = half.connection
        if known and framer.pending != len(known):
            return
        if not known and connection.tracker is not None:
            out.extend(connection.tracker.take(half, framer.close()))
        connection.protocol = dialect.name
        peer.framer = dialect.make(self.options.max_message, peer.offset)
        half.framer = dialect.make(self.options.max_message, half.offset - len(data) - len(known))
        frames = half.framer.feed(known)
        if frames and connection.tracker is not None:
            out.extend(connection.tracker.take(half, frames))

    def look_again(self, half: Half, seq: int, head: bytes) -> bool:
        """A connection that was let go shows a segment that begins with one of ``again``: begin anew from here.

        False: it is encrypted, and nothing begins; if that was not known yet, it is now.
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
        self.unhold(half)
        half.begin(seq)
        half.peer.origin = -1
        return True

    # What comes out of another connection: its two streams lack nothing that is not said.

    def said(self, half: Half, data: bytes, now: int, out: list[Session]) -> None:
        """Take the next bytes of a stream, captured at ``now``."""
        self.pieces(half, half.push(half.next_seq, data, now), out)

    def missed(self, half: Half, count: int, now: int, out: list[Session]) -> None:
        """``count`` bytes of a stream cannot be had."""
        half.miss(count, now)
        self.gap(half, count, now, out)

    def unread(self, connection: Connection, reason: str) -> None:
        """An encrypted connection is let go, for want of what ``reason`` says."""
        self.counters["ignored"] += 1
        self.encrypted.note(connection.keys[0], reason)

    def pieces(self, half: Half, pieces: list[Piece], out: list[Session]) -> None:
        """Take the next pieces of a stream that has moved past all of them."""
        # Delivered one by one, it must stand right behind each in turn.
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
