"""Streams: from the segments of a connection to its frames, and from those to its sessions.

It keeps what waits behind a hole within bounds, holds a connection's first bytes back until they tell its framing, and
knows when which byte was captured.  What a connection is, and when it ends, is the decoder's business.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Final

from hl7core.model.session import Ending, Session
from hl7core.wire.connection import DECIDED, IGNORED, SECOND, UNDECIDED, Connection, DecoderOptions, Half, MessageSeen
from hl7core.wire.detect import HELD_BYTES, TLS, UNKNOWN, WAIT, Verdict, builtin, choose, encrypted
from hl7core.wire.encrypted import UNREAD, Encrypted
from hl7core.wire.exchanges import Exchanges
from hl7core.wire.framing import Dialect
from hl7core.wire.mllp import MllpFramer
from hl7core.wire.pins import pinned
from hl7core.wire.reassembly import MAX_HELD_PIECES, Piece
from hl7core.wire.tls.keylog import KeyLog
from hl7core.wire.tls.records import TlsFramer, tls_score
from hl7core.wire.turns import Turns
from hl7core.wire.usual import Make, Usual

__all__ = ["Streams"]

_STX: Final = b"\x02"
_PROOF: Final = 64
HELD_PER_STREAM: Final = 4 << 20
"""More bytes than this (a large TCP window) do not wait behind a hole: it is given up as a gap."""
ACKED_HOLE_NS: Final = 1 * SECOND
"""The receiver has what the capture lacks: so long it may still turn up, packets being stored out of order.  So long
too waits an answer for what it answers, and the first segment of a connection joined midway for an earlier one."""
ONE_SIDED_HOLE_NS: Final = 10 * SECOND
"""The same where the receiver's packets are not captured, so that nothing tells whether it will be sent again."""

_AGAIN: Final = (b"\x0bMSH", b"\x17\x03\x03")
_TLS: Final = Dialect("tls", lambda _first, _second: 0, TlsFramer, turns=False)


class Streams:
    """What is held of all connections between their segments and their sessions.

    ``holes`` are the halves that wait for missing bytes; ``finished`` those whose last byte has been delivered, for the
    decoder to look at; ``timers`` a heap of (packet time, connection key) at which silence may end a session;
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
        self.configure(options, dialects)
        self.counters = counters
        self.messages: list[MessageSeen] = []
        self.holes: dict[Half, None] = {}  # in the order in which they began to wait
        self.finished: list[Half] = []
        self.timers: list[tuple[int, bytes]] = []
        self.recent: list[Usual] = []
        self._held_bytes = 0
        self._undecided: dict[Connection, None] = {}
        self._waiting_bytes = 0
        self._open: dict[Half, None] = {}
        self._open_bytes = 0

    def configure(self, options: DecoderOptions, dialects: Sequence[Dialect]) -> None:
        """Take other options for the connections that begin from now on."""
        self.options = options
        self._dialects = (*dialects, *builtin(options))
        self._named = {dialect.name: dialect for dialect in reversed(self._dialects)}
        self._openers = bytes({0x05, options.start_marker})
        self.again = tuple(dict.fromkeys([*_AGAIN, *(start for dialect in dialects for start in dialect.again)]))

    def insert(self, half: Half, seq: int, data: bytes, now: int, out: list[Session], ack: int = -1) -> None:
        """Take a segment that is not simply the next one; ``ack`` is the acknowledgement that it carries."""
        if half.origin < 0:
            half.begin(seq, loose=True)
        before = half.held_bytes
        pieces = half.push(seq, data, now, ack)
        self._held_bytes += half.held_bytes - before
        if half.held:
            self.holes[half] = None
            if half.held_bytes > HELD_PER_STREAM or len(half.held) > MAX_HELD_PIECES:
                pieces = [*pieces, *self._given_up(half)]
            elif self._held_bytes > self.options.reassembly_bytes:
                self.counters["crowded"] += 1
                for largest in heapq.nlargest(len(self.holes) // 10 + 1, self.holes, key=_held_bytes):
                    self._pieces(largest, self._given_up(largest), out)
        elif before:
            self.holes.pop(half, None)
        if pieces:
            half.acked = False
            self._pieces(half, pieces, out)
            if half.peer.held:
                self._caught_up(half.connection, out)

    def _given_up(self, half: Half) -> list[Piece]:
        before = half.held_bytes
        return self._moved(half, before, half.give_up())

    def _let_go(self, half: Half, out: list[Session]) -> None:
        """``half`` waits no longer for what it lacks, or for what the other side was to say first."""
        peer = half.peer
        if half.lacks or half.loose or peer.loose:
            half = half if half.lacks or half.loose else peer
            self._pieces(half, self._given_up(half), out)
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
            before = peer.held_bytes
            self._pieces(peer, self._moved(peer, before, peer.miss(missing, time_ns)), out)
        else:
            peer.absent = True

    def _moved(self, half: Half, before: int, pieces: list[Piece]) -> list[Piece]:
        """Keep the books of a half that held ``before`` bytes."""
        self._held_bytes += half.held_bytes - before
        half.acked = False
        if not half.held:
            self.holes.pop(half, None)
        return pieces

    def _caught_up(self, connection: Connection, out: list[Session]) -> None:
        """Deliver what waited for the other side to come first."""
        moved = True
        while moved:
            moved = False
            for half in connection.halves:
                if half.held and not half.lacks and not half.loose and half.ready(half.held[0][3]):
                    before = half.held_bytes
                    self._pieces(half, self._moved(half, before, half.drain()), out)
                    moved = True

    def unhold(self, half: Half) -> None:
        """Forget what waits."""
        self._held_bytes -= half.held_bytes
        half.held.clear()
        half.held_bytes = 0
        if half.open_bytes:
            self._open_bytes -= half.open_bytes
            half.open_bytes = 0
            self._open.pop(half, None)
        self.holes.pop(half, None)

    def acknowledged(self, half: Half, ack: int, now: int, out: list[Session]) -> None:
        """Look what the connection of ``half`` waits for; ``ack``, which came from it, tells what its receiver has."""
        other = half.peer
        if other.held and other.lacks and other.offset_of(ack) >= other.held[0][0]:
            other.acked = True
        if other.held or half.held:
            self._look_after(half.connection, now, out)

    def _look_after(self, connection: Connection, now: int, out: list[Session]) -> None:
        """Deliver what need not wait any longer."""
        self._caught_up(connection, out)
        while True:
            overdue = [h for h in connection.halves if h.held and self._overdue(h, now)]
            if not overdue:
                return
            # One of two that wait for each other has waited in vain: the one that lacks bytes, else the older.
            half = min(overdue, key=lambda h: (h.loose, not h.lacks, h.hole_since))
            self._let_go(half, out)
            self._caught_up(connection, out)

    def _overdue(self, half: Half, now: int) -> bool:
        waited = now - half.hole_since
        if half.loose or not half.lacks:
            return waited >= ACKED_HOLE_NS
        if half.acked or half.peer.held:
            return waited >= ACKED_HOLE_NS and (half.acked or self._answered(half))
        return waited >= ONE_SIDED_HOLE_NS and half.peer.origin < 0

    def _answered(self, half: Half) -> bool:
        """Say whether an answer that waits acknowledges what ``half`` lacks."""
        _, _, _, ack = half.peer.held[-1]  # nobody takes an acknowledgement back
        return ack >= 0 and half.offset_of(ack) >= half.held[0][0]

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
                    half.marks.clear()
            else:
                self.still_pending(half, last.offset + len(last.raw) + last.missing, now)
            if not connection.timer_ns:
                self.arm(connection)
        elif not pending:
            half.pending = True
            half.mark(half.offset - len(data), now)
        if pending or half.pending:
            self._weigh(half)

    def _weigh(self, half: Half) -> None:
        """Keep the books of what the framers hold; if it is too much, the tenth that hold most are to go."""
        size = half.framer.pending if half.pending and half.framer is not None else 0
        self._open_bytes += size - half.open_bytes
        half.open_bytes = size
        if size:
            self._open[half] = None
        else:
            self._open.pop(half, None)
        if self._open_bytes > self.options.reassembly_bytes:
            for largest in heapq.nlargest(len(self._open) // 10 + 1, self._open, key=_open_bytes):
                self._open_bytes -= largest.open_bytes
                largest.open_bytes = 0
                del self._open[largest]
                largest.connection.crowded = True
                self.finished.append(largest)

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
        half.last_ns = max(half.last_ns, half.marks[-1][1] if half.marks else 0) or now
        out.extend(connection.tracker.take(half, half.framer.skip(missing)))
        half.pending = False
        half.marks.clear()
        half.last_ns = now

    def give_up_stale(self, now: int, out: list[Session]) -> None:
        """Deliver what has waited for long enough, on connections on which nothing else comes."""
        for half in list(self.holes):
            if half.held and now - half.hole_since >= ACKED_HOLE_NS:
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

    def forget_recent(self) -> None:
        """Let the sessions go that were told last."""
        for usual in self.recent:
            usual.forget()
        self.recent.clear()

    # Detection.

    def _hold_back(self, half: Half, piece: Piece, out: list[Session]) -> None:
        """Keep the first bytes until they tell the framing."""
        connection = half.connection
        if connection.state == IGNORED:
            return
        size = len(piece.data) + 64
        connection.waiting.append((half, piece))
        connection.waiting_bytes += size
        self._undecided[connection] = None
        self._waiting_bytes += size
        self.decide(connection, out, final=connection.waiting_bytes > 4 * HELD_BYTES)
        while self._waiting_bytes > self.options.reassembly_bytes and self._undecided:
            self.counters["crowded"] += 1
            self.decide(next(iter(self._undecided)), out, final=True)

    def decide(self, connection: Connection, out: list[Session], *, final: bool) -> None:
        """Choose the framing if the first bytes tell it (``final``: they must), and deliver what was held back."""
        first, second = (
            b"".join(piece.data for held, piece in connection.waiting if held is half) for half in connection.halves
        )
        verdict = self._verdict(connection, first, second, final=final)
        if verdict is WAIT and not final:
            return
        self._undecided.pop(connection, None)
        self._waiting_bytes -= connection.waiting_bytes
        waiting, connection.waiting, connection.waiting_bytes = connection.waiting, [], 0
        if verdict is TLS:
            self.counters["tls"] += 1
            connection.protocol = "tls"
            if self._has_keys:
                verdict = _TLS
            else:
                self.encrypted.note(connection.ends, UNREAD)
        if not isinstance(verdict, Dialect):
            connection.state = IGNORED
            self.counters["ignored"] += 1
            for half in connection.halves:
                self.unhold(half)
            return
        dialect = verdict
        connection.state = DECIDED
        connection.protocol = dialect.name
        seen = self.messages if self.options.watch_messages else None
        exchanges = Exchanges(connection, seen, self.recent, self._make)
        connection.tracker = Turns(connection, seen) if dialect.turns else exchanges
        if dialect is _TLS:
            from hl7core.wire.tls.unwrap import Unwrapped  # only who has keys pays for it

            connection.tracker = Unwrapped(connection, self)
        ends = [half.offset for half in connection.halves]
        for half in connection.halves:
            # The bytes that were held back are delivered now, as if they came now.
            half.offset -= sum(len(piece.data) + piece.missing for held, piece in waiting if held is half)
            half.framer = dialect.make(self.options.max_message, half.offset)
        if isinstance(connection.halves[0].framer, MllpFramer) and seen is None and not dialect.turns:
            connection.usual = exchanges.usual
        told = (
            _STX in first
            or _STX in second
            or (self.options.protocols and pinned(self.options.protocols, connection.ends))
        )
        if dialect.name in ("lis01", "plain") and not told:
            connection.unproven = (connection.halves[0], b"")
        for half, piece in waiting:
            half.offset += len(piece.data) + piece.missing
            if piece.missing:
                self._gap(half, piece.missing, piece.time_ns, out)
            else:
                self.deliver(half, piece.data, piece.time_ns, out)
        for half, end in zip(connection.halves, ends, strict=True):
            half.offset = end

    def _verdict(self, connection: Connection, first: bytes, second: bytes, *, final: bool) -> Verdict:
        """Say what a connection speaks: what the user says of its places, else what its first bytes tell."""
        pins = connection.options.protocols
        if pins:
            dialect = self._named.get(pinned(pins, connection.ends))
            if dialect is not None:
                if not first and not second:
                    return UNKNOWN if final else WAIT
                return encrypted(first[:HELD_BYTES], second[:HELD_BYTES], final=final) or dialect
        return choose(self._dialects, first, second, final=final, openers=self._openers)

    def is_encrypted(self, data: bytes) -> bool:
        """Say whether a connection that begins with ``data`` is TLS beyond doubt, and nobody has its keys."""
        return not self._has_keys and tls_score(data[:HELD_BYTES]) > 1

    def _prove(self, half: Half, data: bytes, out: list[Session]) -> None:
        """Control bytes alone do not tell LIS01 from the plain variant: the first frame does.

        Where it tells of the other dialect than was chosen, the framers are changed between two frames.
        """
        connection, unproven = half.connection, half.connection.unproven
        assert unproven is not None  # noqa: S101 - asked by the callers, stated for the type checker
        known = unproven[1]
        if known and unproven[0] is not half:
            return
        text = known + data if known else data[data.find(_STX) :] if _STX in data else b""
        if not text:
            return
        verdict = choose(self._dialects, b"\x05" + text, b"\x06", final=False)
        if verdict is WAIT and len(text) < _PROOF:
            connection.unproven = (half, text)
            return
        connection.unproven = None
        if not isinstance(verdict, Dialect) or not verdict.turns or verdict.name == connection.protocol:
            return
        if half.peer.framer is None or half.peer.framer.pending:
            return
        connection.protocol = verdict.name
        half.peer.framer = verdict.make(self.options.max_message, half.peer.offset)
        half.framer = verdict.make(self.options.max_message, half.offset - len(data) - len(known))
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
                self.encrypted.note(connection.ends, UNREAD)
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
        self._pieces(half, half.push(half.next_seq, data, now), out)

    def missed(self, half: Half, count: int, now: int, out: list[Session]) -> None:
        """``count`` bytes of a stream cannot be had."""
        half.miss(count, now)
        self._gap(half, count, now, out)

    def unread(self, connection: Connection, reason: str) -> None:
        """An encrypted connection is let go, for want of what ``reason`` says."""
        self.counters["ignored"] += 1
        self.encrypted.note(connection.ends, reason)

    def close(self, connection: Connection, ending: Ending, out: list[Session]) -> None:
        """End what a connection says: decide if that is open, flush its framers, end its sessions."""
        if connection.state == UNDECIDED:
            self.decide(connection, out, final=True)
        if connection.state == DECIDED and connection.tracker is not None:
            for half in connection.halves:
                if half.framer is not None:
                    frames = half.framer.close()
                    if frames:
                        out.extend(connection.tracker.take(half, frames))
            out.extend(connection.tracker.end(ending))

    def arm(self, connection: Connection) -> None:
        """Note when silence may end a session of the connection."""
        due = connection.tracker.due() if connection.tracker is not None else 0
        connection.timer_ns = due
        if due:
            heapq.heappush(self.timers, (due, connection.keys[0]))


def _open_bytes(half: Half) -> int:
    return half.open_bytes


def _held_bytes(half: Half) -> int:
    return half.held_bytes
