"""MLLP sessions: one exchange each, a block and what acknowledges it.

Its laws: an acknowledgement joins the first unanswered request of its connection whose MSH-10 its MSA-2 names, never
the next in order (a late answer would be credited to the wrong message); a message with MSA answers and never opens
an exchange; what fits nothing is kept as a session of its own; what waits is bounded in bytes, and what is let go for
that is told, marked and counted.

Frames come in here.  Blocks make exchanges, which ``unanswered`` keeps until they end; what is no block ``strays`` puts
with them; what has ended ``emitter`` makes into sessions.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from hl7core.model.frame import Fault, Frame, FrameKind
from hl7core.model.session import Element, ElementType, Ending, Message, OpenSession, Session
from hl7core.wire.connection import Connection, Half, MessageSeen
from hl7core.wire.memory_budget import ELEMENT, ConnectionMemory, MemoryBudget
from hl7core.wire.mllp_sessions.acknowledgement import POSITIVE
from hl7core.wire.mllp_sessions.batch import batch_parts
from hl7core.wire.mllp_sessions.emitter import Emitter
from hl7core.wire.mllp_sessions.exchange import Exchange, end_of
from hl7core.wire.mllp_sessions.fast_path import FastPath, Make, exchange_session, side_of_device
from hl7core.wire.mllp_sessions.strays import Strays
from hl7core.wire.mllp_sessions.unanswered import MAX_REVISIONS, Unanswered
from hl7core.wire.peek import batch_ids, glance, split_batch

__all__ = ["MllpSessions"]

_BLOCK: Final = FrameKind.BLOCK
_GAP: Final = FrameKind.GAP
_STRAY: Final = FrameKind.STRAY
# Members looked up once: on Python 3.11 an enum's attribute costs as much as a call.
_MESSAGE: Final = ElementType.MESSAGE
_ACK: Final = ElementType.ACK
_NAK: Final = ElementType.NAK
_new = tuple.__new__  # the constructors of named tuples take the arguments apart and put them together again
_COMPLETE: Final = Ending.COMPLETE
_EVICTED: Final = Ending.EVICTED
_BATCH_OPENS: Final = frozenset(b"FB")


class _SlowPath(NamedTuple):
    """What a connection has beside the short way, while it needs it: most never do, and it would be half of them."""

    waiting: Unanswered
    ended: Emitter
    beside: Strays


class MllpSessions:
    """The MLLP sessions of one connection."""

    __slots__ = ("_connection", "_load", "_long", "_seen", "usual")

    def __init__(
        self,
        connection: Connection,
        scales: MemoryBudget,
        seen: list[MessageSeen] | None,
        recent: list[FastPath] | None = None,
        make: Make = exchange_session,
    ) -> None:
        self._connection = connection
        self._seen = seen
        self._load = ConnectionMemory(scales, connection)
        self.usual = FastPath(connection, [] if recent is None else recent, make, self._load)
        self._long: _SlowPath | None = None

    def _slow_path(self) -> _SlowPath:
        if self._long is None:
            waiting, ended = Unanswered(self._load), Emitter(self._connection, self.usual)
            self._long = _SlowPath(waiting, ended, Strays(self._connection, waiting, ended, self._load))
        return self._long

    @property
    def _waiting(self) -> Unanswered:
        return self._slow_path().waiting

    @property
    def _ended(self) -> Emitter:
        return self._slow_path().ended

    @property
    def _beside(self) -> Strays:
        return self._slow_path().beside

    def take(self, half: Half, frames: list[Frame]) -> list[Session]:
        """Take the next frames of one direction; return the sessions that ended or changed."""
        usual = self.usual
        if usual.ready and self._seen is None and len(frames) == 1:
            kind, offset, raw, head, tail, faults, _, complete, _, _ = frames[0]
            if kind is _BLOCK and head == 1 and tail == 2 and complete and not faults:
                end_ns = half.last_ns
                start_ns = half.captured_at(offset) if half.marks else end_ns
                taken: list[Session] = []
                if usual.block(half, raw, offset, start_ns, end_ns, taken):
                    return taken
        if usual.half is not None:
            self._give_back()
        for frame in frames:
            kind = frame.kind
            if kind is _BLOCK and len(frame.raw) > frame.head + frame.tail:
                end_ns = half.last_ns
                self._block(half, frame, half.captured_at(frame.offset) if half.marks else end_ns, end_ns)
            elif kind is _STRAY or kind is _BLOCK:  # an empty block
                if self._beside.stray(half, frame):
                    self._keep_strays(half, _EVICTED)
            elif kind is _GAP:
                self._beside.gap(half, frame)
            else:
                exchange = self._beside.commit(half, frame)
                if exchange is not None:
                    self._close(exchange, _COMPLETE)
        load = self._load
        if not load.low <= load.held <= load.high:
            return self._within_bounds()
        return self._told()

    def expire(self, now_ns: int) -> list[Session]:
        """End the exchanges that nobody has answered for as long as the settings allow."""
        self._give_back()
        if self._long is None:
            return []
        options = self._connection.options
        for exchange in self._waiting.overdue(now_ns - options.ack_timeout_ns):
            self._close(exchange, _COMPLETE if exchange.complete else Ending.SILENT)
        self._waiting.forget_late(now_ns - options.late_ns)
        return self._weighed()

    def due(self) -> int:
        """Return when ``expire`` is next worth calling, 0 for not at all."""
        options = self._connection.options
        due = 0 if self._long is None else self._waiting.due(options.ack_timeout_ns, options.late_ns)
        if self.usual.half is None:
            return due
        own = self.usual.end_ns + options.ack_timeout_ns
        return min(due, own) if due else own

    def end(self, ending: Ending) -> list[Session]:
        """End every open exchange; bytes outside any block that found no session become one of their own."""
        self._give_back()
        if self._long is None:
            return []
        for exchange in self._waiting.open():
            self._close(exchange, _COMPLETE if exchange.complete else ending)
        for half in self._connection.halves:
            self._keep_strays(half, ending)
        self._waiting.clear()
        return self._weighed()

    def let_go(self, upto: int) -> list[Session]:
        """Give up the oldest that waits, until no more than ``upto`` bytes are held; return what that ended."""
        self._give_back()
        if self._long is None:
            return []
        self._shed(upto)
        return self._weighed()

    def open_sessions(self) -> list[OpenSession]:
        """Summarise the exchanges that wait for an answer."""
        self._give_back()
        if self._long is None:
            return []
        connection = self._connection
        return [
            OpenSession(
                e.id,
                e.start_ns,
                connection.device,
                connection.lis,
                connection.protocol,
                len(e.elements),
                len(e.messages),
                e.elements[-1].type,
                e.elements[-1].direction,
                e.end_ns,
            )
            for e in self._waiting.open()
        ]

    # A block.

    def _give_back(self) -> None:
        """Go on here with the request that waits in the short way, if there is one."""
        if self.usual.half is not None:
            half, raw, offset, start_ns, end_ns = self.usual.give_back()
            self._block(half, Frame(_BLOCK, offset, raw, 1, 2), start_ns, end_ns)
            self.usual.ready = False

    def _block(self, half: Half, frame: Frame, start_ns: int, end_ns: int) -> None:
        """Take a block with text, its first and last byte captured at these times."""
        _, offset, raw, head, tail, faults, _, whole, _, _ = frame
        text = raw[head : len(raw) - tail]
        seen = glance(text)
        _, control_id, message_type, charset, _, _, code, reply_to = seen
        connection, waiting, beside = self._connection, self._waiting, self._beside
        side = half.side
        if connection.device_side < 0:
            connection.settle_roles(side_of_device(side, message_type))
        ended = late = False
        if reply_to is None:
            kind = _MESSAGE
            if waiting.lingers:
                for exchange in waiting.lingering(side):  # the sender goes on: they wait no longer for what might come
                    self._close(exchange, _COMPLETE)
            exchange = self._begin(half, offset, raw, start_ns, end_ns)
            exchange.ask(seen, whole=whole)
        else:
            kind = _ACK if code in POSITIVE else _NAK
            found, awaited = waiting.by_id.find(side, reply_to, code)
            if found is None:
                found, awaited = waiting.find_late(side, reply_to, code)
            if found is None:
                fault = self.usual.known(reply_to) or "unknown-request"
                faults = (*faults, Fault(fault, offset))
                found = self._begin(half, offset, raw, start_ns, end_ns)
                found.control_id = reply_to
                found.is_reply = True
                found.whole = False
            else:
                if not awaited:
                    faults = (*faults, Fault("duplicate-acknowledgement", offset))
                ended = not found.is_open
                late = ended and not found.wants_none
                if waiting.gaps:
                    waiting.see_gap(found)
                if whole and not found.is_reply:
                    found.settle(reply_to, code)
                    self.usual.note(reply_to, control_id)
                if end_ns > found.end_ns:
                    found.end_ns = end_ns
            exchange = found
        if beside.holds:
            beside.join(exchange, half)
        spans = None
        if text[0] in _BATCH_OPENS or b"\rMSH" in text or b"\nMSH" in text:
            spans = split_batch(text)
        direction = connection.directions[side]
        message = _new(Message, (
            text, direction, connection.protocol, end_ns, control_id, message_type, charset, whole, code, reply_to,
        ))  # fmt: skip
        messages = exchange.messages
        element = _new(Element, (
            start_ns, direction, kind, offset, raw[:head], b"", raw[-tail:] if tail else b"",
            len(messages), (0, len(text)), faults, late, 0,
        ))  # fmt: skip
        exchange.weight += len(raw) + ELEMENT
        if spans:
            parts = self._batch(exchange, half, frame, text, spans, element, message)
        else:
            parts = ()
            exchange.elements.append(element)
            messages.append(message)
        if self._seen is not None:
            self._tell(exchange, half, message, parts)
        if not whole:
            exchange.whole = False
            if any(fault.code == "gap" for fault in faults):
                exchange.gapped = True
        beside.latest[side] = exchange
        if ended:
            self._rejoin(exchange)
        elif not exchange.complete:
            if exchange.is_open:
                waiting.touch(exchange)
            else:
                waiting.add(exchange)
        elif exchange.half is not half and (exchange.owed or beside.commits[exchange.half.side]):
            waiting.linger(exchange)  # more is known to come
        else:
            self._close(exchange, _COMPLETE)

    def _begin(self, half: Half, offset: int, first: bytes, start_ns: int, end_ns: int) -> Exchange:
        return Exchange(self._connection.session_id(half, offset, first, start_ns), half, start_ns, end_ns)

    def _rejoin(self, exchange: Exchange) -> None:
        """Tell a session again that an acknowledgement has joined late."""
        exchange.revision += 1
        exchange.complete = True
        self._waiting.touch(exchange)
        if exchange.revision >= MAX_REVISIONS:
            self._waiting.remove(exchange)
        self._ended.add(exchange)

    def _batch(
        self, exchange: Exchange, half: Half, frame: Frame, text: bytes, spans: list[tuple[int, int]],
        element: Element, message: Message,
    ) -> tuple[str, ...]:  # fmt: skip
        """Put a batch into its exchange; return its control ids."""
        elements, messages = batch_parts(frame, text, spans, element, message, len(exchange.messages))
        exchange.elements += elements
        exchange.messages += messages
        exchange.weight += len(elements) * ELEMENT
        ids = tuple([part.control_id for part in messages])
        if exchange.half is half and not exchange.is_reply:
            exchange.batch = (*ids, *batch_ids(text))
            if len(ids) > 1:
                exchange.owed = set(ids)
        else:
            exchange.owed.difference_update([part.reply_to or "" for part in messages])
        return ids

    def _tell(self, exchange: Exchange, half: Half, message: Message, batch: tuple[str, ...]) -> None:
        connection = self._connection
        request = None
        if message.reply_to is not None and exchange.half is not half:
            request = exchange.request(message.reply_to)
        assert self._seen is not None  # noqa: S101 - asked by the callers, stated for the type checker
        self._seen.append(
            MessageSeen(
                exchange.id,
                connection.text,
                connection.ends[half.side],
                connection.ends[1 - half.side],
                message,
                request,
                batch,
            )
        )

    # The end.

    def _close(self, exchange: Exchange, ending: Ending) -> None:
        waiting = self._waiting
        if waiting.gaps:
            waiting.see_gap(exchange)
        waiting.remove(exchange)
        exchange.is_ended = True
        self._ended.exchanges.append(exchange)
        if ending is _COMPLETE and not exchange.gapped:
            if exchange.wants_none or (exchange.owed and exchange.messages[-1].reply_to is not None):
                waiting.remember(exchange)  # an error may be answered; a batch may be acknowledged message by message
            return
        if ending is _EVICTED:
            _mark(exchange)
        elif exchange.gapped:
            ending = Ending.GAPPED
        if ending is Ending.SILENT and not exchange.complete and not exchange.is_reply:
            waiting.remember(exchange)
        exchange.ending = ending

    def _keep_strays(self, half: Half, ending: Ending) -> None:
        """Bytes outside any block that no block followed: with the block before them, else a session of their own."""
        strays = self._beside.take(half)
        if not strays:
            return
        last = self._beside.latest[half.side]
        if last is None or last.is_open:
            last = self._begin(half, strays[0].offset, strays[0].content, strays[0].time_ns, half.last_ns)
            last.whole = False
            last.is_reply = True
            self._connection.settle_roles(-1)
            self._beside.place(last, half, strays)
            self._close(last, ending)
        else:
            self._beside.place(last, half, strays)

    def _shed(self, upto: int) -> None:
        """Give up what waits, the oldest first, until no more than ``upto`` bytes are held."""
        load, waiting = self._load, self._waiting
        while load.held > upto:
            exchange = waiting.oldest()
            if exchange is None:
                for half in self._connection.halves:
                    self._keep_strays(half, _EVICTED)
                return
            if not exchange.complete:
                load.given_up()
            if exchange.is_open:
                self._close(exchange, _COMPLETE if exchange.complete else _EVICTED)
            else:
                waiting.remove(exchange)

    def _told(self) -> list[Session]:
        """Return the sessions that are done, and open the short way if nothing waits."""
        waiting, ended, beside = self._slow_path()
        self.usual.ready = ready = not (waiting.count or beside.holds or beside.confirms)
        if not ended.exchanges and not ended.added:
            return []
        beside.release()
        told = ended.sessions()
        if ready and not waiting.has_late:
            self._long = None
        return told

    def _within_bounds(self) -> list[Session]:
        """Weigh what waits, let go of what is too much, here and over all connections; return what has ended."""
        load = self._load
        if load.held > load.most:
            self._shed(load.most)
        return self._weighed() + load.relieve()

    def _weighed(self) -> list[Session]:
        """Weigh what waits; return the sessions that are done."""
        told = self._told()
        self._load.weigh()
        return told


def _mark(exchange: Exchange) -> None:
    """Note on its last element where an exchange was let go."""
    element = exchange.elements[-1]
    exchange.elements[-1] = element._replace(faults=(*element.faults, Fault("evicted", end_of(element))))
