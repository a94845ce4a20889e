"""MLLP sessions: one exchange each, a request and what acknowledges it.

Frames of one connection come in, sessions go out.  Nearly all traffic takes the fast path
(:mod:`hl7core.wire.mllp_sessions.fast_path`): a request in one sound block, then the one acknowledgement that completes
it.  Everything else takes the slow path here: blocks become exchanges, which ``unanswered`` keeps until they end, and
``strays`` puts whatever is no block with the session it belongs to.

The theory, which tests hold:

* An acknowledgement joins the first unanswered request of its connection whose MSH-10 its MSA-2 names, never simply the
  next in order: a late answer would be credited to the wrong message.
* A message with an MSA segment answers; it never opens an exchange.  One that answers nothing is a session of its own.
* When an exchange is complete is decided by :mod:`hl7core.wire.mllp_sessions.acknowledgement`.
* What waits is bounded in bytes.  An exchange that is ended for want of memory is marked, emitted and counted.
"""

from __future__ import annotations

from typing import Final

from hl7core.model.frame import Fault, Frame, FrameKind
from hl7core.model.session import Element, ElementType, Ending, Message, OpenSession, Session
from hl7core.wire.connection import Connection, Half, MessageSeen
from hl7core.wire.memory_budget import ELEMENT, ConnectionMemory, MemoryBudget
from hl7core.wire.mllp_sessions.acknowledgement import POSITIVE, is_accept
from hl7core.wire.mllp_sessions.batch import batch_parts
from hl7core.wire.mllp_sessions.exchange import Exchange
from hl7core.wire.mllp_sessions.fast_path import FastPath, Make, exchange_session, side_of_device
from hl7core.wire.mllp_sessions.strays import Strays
from hl7core.wire.mllp_sessions.unanswered import Unanswered
from hl7core.wire.peek import batch_ids, glance, split_batch

__all__ = ["MllpSessions"]

_BLOCK: Final = FrameKind.BLOCK
_GAP: Final = FrameKind.GAP
_STRAY: Final = FrameKind.STRAY
# Members looked up once: on Python 3.11 an enum's attribute costs as much as a call.
_MESSAGE: Final = ElementType.MESSAGE
_ACK: Final = ElementType.ACK
_NAK: Final = ElementType.NAK
_COMPLETE: Final = Ending.COMPLETE
_EVICTED: Final = Ending.EVICTED
_new = tuple.__new__  # faster than the constructor of a named tuple
_BATCH_OPENS: Final = frozenset(b"FB")


class MllpSessions:
    """The MLLP sessions of one connection.

    ``budget`` bounds what all connections hold.  Messages are added to ``seen`` as they come, unless it is None.
    ``recent`` collects the fast paths that hold their last session at hand, and ``make`` makes what they emit.
    """

    # Most connections never take the slow path, which would be half of their memory: _unanswered and _strays are
    # made when they are needed.
    __slots__ = ("_connection", "_memory", "_seen", "_strays", "_unanswered", "fast_path")

    def __init__(
        self,
        connection: Connection,
        budget: MemoryBudget,
        seen: list[MessageSeen] | None,
        recent: list[FastPath] | None = None,
        make: Make = exchange_session,
    ) -> None:
        self._connection = connection
        self._seen = seen
        self._memory = ConnectionMemory(budget, connection)
        self.fast_path = FastPath(connection, [] if recent is None else recent, make, self._memory)
        self._unanswered: Unanswered | None = None
        self._strays: Strays | None = None

    # The face of a tracker.

    def add_frames(self, half: Half, frames: list[Frame]) -> list[Session]:
        """Take the next frames of one direction; return the sessions that ended or changed."""
        fast_path = self.fast_path
        if fast_path.ready and self._seen is None and len(frames) == 1:
            kind, offset, raw, head, tail, faults, _, complete, _, _ = frames[0]
            if kind is _BLOCK and head == 1 and tail == 2 and complete and not faults:
                end_ns = half.last_ns
                start_ns = half.captured_at(offset) if half.marks else end_ns
                emitted: list[Session] = []
                if fast_path.add_block(half, raw, offset, start_ns, end_ns, emitted):
                    return emitted
        unanswered = self._slow_path()
        for frame in frames:
            if frame.kind is _BLOCK and len(frame.raw) > frame.head + frame.tail:
                end_ns = half.last_ns
                start_ns = half.captured_at(frame.offset) if half.marks else end_ns
                self._add_block(unanswered, half, frame, start_ns, end_ns)
            else:
                self._add_stray(unanswered, half, frame)
        memory = self._memory
        if memory.low <= memory.held <= memory.high:
            return self._emitted(unanswered)
        if memory.held > memory.limit:
            self._shed(unanswered, memory.limit)
        sessions = self._emitted(unanswered)
        memory.report()
        return sessions + memory.reclaim()

    def expire(self, now_ns: int) -> list[Session]:
        """End the exchanges that nobody has answered for as long as the settings allow."""
        if self._is_idle:
            return []
        unanswered, options = self._slow_path(), self._connection.options
        for exchange in unanswered.overdue(now_ns - options.ack_timeout_ns):
            unanswered.end(exchange, _COMPLETE if exchange.complete else Ending.SILENT)
        unanswered.forget_late(now_ns - options.late_ns)
        return self._emitted_and_weighed(unanswered)

    def due(self) -> int:
        """Return when ``expire`` is next worth calling (packet time, unix nanoseconds), 0 for not at all."""
        options, unanswered, request = self._connection.options, self._unanswered, self.fast_path.request
        due = 0 if unanswered is None else unanswered.due(options.ack_timeout_ns, options.late_ns)
        if request is None:
            return due
        own = request.end_ns + options.ack_timeout_ns
        return min(due, own) if due else own

    def end(self, ending: Ending) -> list[Session]:
        """End every open exchange; bytes outside of blocks that joined no session become one of their own."""
        if self._is_idle:
            return []
        unanswered = self._slow_path()
        for exchange in unanswered.open():
            unanswered.end(exchange, _COMPLETE if exchange.complete else ending)
        self._end_strays(unanswered, ending)
        unanswered.clear_late()
        return self._emitted_and_weighed(unanswered)

    def evict_to(self, upto: int) -> list[Session]:
        """End the oldest that wait, until no more than ``upto`` bytes are held; return the sessions that this ended."""
        if self._is_idle:
            return []
        unanswered = self._slow_path()
        self._shed(unanswered, upto)
        sessions = self._emitted(unanswered)
        self._memory.report()
        return sessions

    def open_sessions(self) -> list[OpenSession]:
        """Summarise the exchanges that wait for an answer."""
        if self._is_idle:
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
            for e in self._slow_path().open()
        ]

    # The slow path: a block.

    @property
    def _is_idle(self) -> bool:
        """Whether nothing waits, in the fast path or the slow one, and nothing is late."""
        return self._unanswered is None and self.fast_path.request is None

    def _slow_path(self) -> Unanswered:
        """Return what waits in the slow path, after the request that waited in the fast path has moved there."""
        unanswered = self._unanswered
        if unanswered is None:
            unanswered = self._unanswered = Unanswered(self._memory)
        if self.fast_path.request is not None:
            half, raw, offset, start_ns, end_ns = self.fast_path.hand_over()
            self._add_block(unanswered, half, Frame(_BLOCK, offset, raw, 1, 2), start_ns, end_ns)
            self.fast_path.ready = False
        return unanswered

    def _add_block(self, unanswered: Unanswered, half: Half, frame: Frame, start_ns: int, end_ns: int) -> None:
        """Add a block that has text, its first and last byte captured at these times."""
        _, offset, raw, head, tail, faults, _, whole, _, _ = frame
        text = raw[head : len(raw) - tail]
        seen = glance(text)
        _, control_id, message_type, charset, _, _, code, reply_to = seen
        connection, strays = self._connection, self._strays
        side = half.side
        if connection.device_side < 0:
            connection.assign_roles(side_of_device(side, message_type))
        late = rejoins = False
        if reply_to is None:
            kind = _MESSAGE
            if unanswered.lingers:
                for exchange in unanswered.lingering(side):  # the sender has gone on, so nothing more joins them
                    unanswered.end(exchange, _COMPLETE)
            exchange = self._begin(half, offset, raw, start_ns, end_ns)
            exchange.add_request(seen, whole=whole)
        else:
            kind = _ACK if code in POSITIVE else _NAK
            found, awaited = unanswered.find(side, reply_to, accept=is_accept(code))
            if found is None:
                faults = (*faults, Fault(self.fast_path.fault_of_reply(reply_to), offset))
                exchange = self._begin(half, offset, raw, start_ns, end_ns)
                exchange.ids = (reply_to,)
                exchange.is_reply = True
                exchange.whole = False
            else:
                exchange = found
                if not awaited:
                    faults = (*faults, Fault("duplicate-acknowledgement", offset))
                rejoins = not exchange.is_open
                late = rejoins and not exchange.wants_none
                if unanswered.gaps:
                    unanswered.note_gap(exchange)
                if whole and not exchange.is_reply:
                    exchange.add_acknowledgement(reply_to, code)
                    self.fast_path.note_answer(reply_to, control_id)
                exchange.end_ns = max(exchange.end_ns, end_ns)
        if strays is not None and strays.waiting:
            strays.place_waiting(exchange, half)
        direction = connection.directions[side]
        message = _new(Message, (
            text, direction, connection.protocol, end_ns, control_id, message_type, charset, whole, code, reply_to,
        ))  # fmt: skip
        element = _new(Element, (
            start_ns, direction, kind, offset, raw[:head], b"", raw[-tail:] if tail else b"",
            len(exchange.messages), (0, len(text)), faults, late, 0,
        ))  # fmt: skip
        exchange.weight += len(raw) + ELEMENT
        parts: tuple[str, ...] = ()
        spans = None
        if text[0] in _BATCH_OPENS or b"\rMSH" in text or b"\nMSH" in text:
            spans = split_batch(text)
        if spans:
            parts = self._add_batch(exchange, half, frame, text, spans, element, message)
        else:
            exchange.elements.append(element)
            exchange.messages.append(message)
        if self._seen is not None:
            self._seen.append(self._message_seen(exchange, half, message, parts))
        if not whole:
            exchange.whole = False
            exchange.gapped = exchange.gapped or any(fault.code == "gap" for fault in faults)
        unanswered.latest[side] = exchange
        if rejoins:
            exchange.complete = True
            unanswered.rejoin(exchange)
        elif not exchange.complete:
            if exchange.is_open:
                unanswered.touch(exchange)
            else:
                unanswered.add(exchange)
        elif exchange.half is not half and (exchange.owed or (strays and strays.commits[exchange.half.side])):
            unanswered.linger(exchange)  # more is known to come
        else:
            unanswered.end(exchange, _COMPLETE)

    def _begin(self, half: Half, offset: int, first: bytes, start_ns: int, end_ns: int) -> Exchange:
        return Exchange(self._connection.session_id(half, offset, first, start_ns), half, start_ns, end_ns)

    def _add_batch(
        self, exchange: Exchange, half: Half, frame: Frame, text: bytes, spans: list[tuple[int, int]],
        element: Element, message: Message,
    ) -> tuple[str, ...]:  # fmt: skip
        """Add the parts of a batch to its exchange; return their control ids."""
        elements, messages = batch_parts(frame, text, spans, element, message, len(exchange.messages))
        exchange.elements += elements
        exchange.messages += messages
        exchange.weight += len(elements) * ELEMENT
        ids = tuple([part.control_id for part in messages])
        if exchange.half is half and not exchange.is_reply:
            exchange.ids = tuple(dict.fromkeys((*exchange.ids, *ids, *batch_ids(text))))
            if len(ids) > 1:
                exchange.owed = set(ids)
        else:
            exchange.owed.difference_update([part.reply_to or "" for part in messages])
        return ids

    def _message_seen(self, exchange: Exchange, half: Half, message: Message, batch: tuple[str, ...]) -> MessageSeen:
        connection = self._connection
        request = None
        if message.reply_to is not None and exchange.half is not half:
            request = exchange.request(message.reply_to)
        source, target = connection.ends[half.side], connection.ends[1 - half.side]
        return MessageSeen(exchange.id, connection.text, source, target, message, request, batch)

    # The slow path: what is no block.

    def _add_stray(self, unanswered: Unanswered, half: Half, frame: Frame) -> None:
        """Add what is no block with text: bytes outside of blocks, an empty block, a commit byte, a gap."""
        if self._strays is None:
            self._strays = Strays(self._connection, unanswered, self.fast_path, self._memory)
        kind = frame.kind
        if kind is _STRAY or kind is _BLOCK:
            if self._strays.add_bytes(half, frame):
                self._end_strays(unanswered, _EVICTED, half)
        elif kind is _GAP:
            self._strays.add_gap(half, frame)
        else:
            completed = self._strays.add_commit(half, frame)
            if completed is not None:
                unanswered.end(completed, _COMPLETE)

    def _end_strays(self, unanswered: Unanswered, ending: Ending, only: Half | None = None) -> None:
        """Put bytes that no block followed with the block before them, else in a session of their own."""
        strays = self._strays
        if strays is None or not strays.waiting:
            return
        for half in self._connection.halves if only is None else (only,):
            taken = strays.take_waiting(half)
            if not taken:
                continue
            last = unanswered.latest[half.side]
            if last is not None and not last.is_open:
                strays.place(last, half, taken)
                continue
            exchange = self._begin(half, taken[0].offset, taken[0].content, taken[0].time_ns, half.last_ns)
            exchange.whole = False
            exchange.is_reply = True
            self._connection.assign_roles(-1)
            strays.place(exchange, half, taken)
            unanswered.end(exchange, ending)

    # What goes out.

    def _shed(self, unanswered: Unanswered, upto: int) -> None:
        """End what waits, the oldest first, until no more than ``upto`` bytes are held."""
        memory = self._memory
        while memory.held > upto:
            exchange = unanswered.oldest()
            if exchange is None:
                self._end_strays(unanswered, _EVICTED)
                return
            if not exchange.complete:
                memory.count_eviction()
            if exchange.is_open:
                unanswered.end(exchange, _COMPLETE if exchange.complete else _EVICTED)
            else:
                unanswered.remove(exchange)

    def _emitted(self, unanswered: Unanswered) -> list[Session]:
        """Return the sessions that have ended or changed, and open the fast path if nothing waits."""
        strays, fast_path = self._strays, self.fast_path
        fast_path.ready = ready = not (unanswered.count or (strays and (strays.waiting or strays.confirms)))
        changed = None if strays is None else strays.amended()
        sessions = [] if changed is None else [changed]
        for exchange in unanswered.ended:
            exchange.is_ended = False
            sessions.append(exchange.session(self._connection))
        if not sessions:
            return sessions
        unanswered.ended.clear()
        for side, latest in enumerate(unanswered.latest):
            if latest is not None and not latest.is_open:  # ten thousand idle connections would hold as many messages
                unanswered.latest[side] = None
        fast_path.keep_last(sessions[-1])
        if ready and not unanswered.late:
            self._unanswered = self._strays = None
        return sessions

    def _emitted_and_weighed(self, unanswered: Unanswered) -> list[Session]:
        sessions = self._emitted(unanswered)
        memory = self._memory
        if not memory.low <= memory.held <= memory.high:
            memory.report()
        return sessions
