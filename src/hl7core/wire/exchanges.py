"""MLLP sessions: one exchange each, a block and what acknowledges it.

Its laws: an acknowledgement joins the first unanswered request of its connection whose MSH-10 its MSA-2 names, never
the next in order (a late answer would be credited to the wrong message); a message with MSA answers and never opens
an exchange; what fits nothing is kept as a session of its own.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from typing import Final

from hl7core.model.frame import Fault, Frame, FrameKind
from hl7core.model.session import Element, ElementType, Ending, Message, OpenSession, Session
from hl7core.wire.connection import Connection, Half, MessageSeen
from hl7core.wire.exchange import POSITIVE, Exchange
from hl7core.wire.peek import Glance, batch_counts, batch_ids, glance, split_batch
from hl7core.wire.usual import Make, Usual, usual_session

__all__ = ["Exchanges"]

_BLOCK: Final = FrameKind.BLOCK
_GAP: Final = FrameKind.GAP
_STRAY: Final = FrameKind.STRAY
_COMMIT: Final = FrameKind.ACK
# Members looked up once: on Python 3.11 an enum's attribute costs as much as a call.
_MESSAGE: Final = ElementType.MESSAGE
_ACK: Final = ElementType.ACK
_NAK: Final = ElementType.NAK
_COMPLETE: Final = Ending.COMPLETE
_GAPPED: Final = Ending.GAPPED
_BATCH_OPENS: Final = frozenset({b"F", b"B"})
_FROM_DEVICE: Final = ("ORU", "OUL", "QRY", "QBP", "SSU")
_TO_DEVICE: Final = ("ORM", "OML", "OMG")
MAX_OPEN: Final = 1000
"""More unanswered exchanges than this do not wait on one connection: the oldest is let go, as ``evicted``."""
MAX_LATE: Final = 64
MAX_REVISIONS: Final = 100
"""So often a session is told anew because of what joins it; what comes then is a session of its own."""
MAX_STRAYS: Final = 256
"""So many pieces (of at most 4 KiB) outside any block wait for the next one; then they are a session of their own."""


class Exchanges:
    """The MLLP sessions of one connection."""

    def __init__(
        self,
        connection: Connection,
        seen: list[MessageSeen] | None,
        recent: list[Usual] | None = None,
        make: Make = usual_session,
    ) -> None:
        self._connection = connection
        self._open: dict[str, Exchange] = {}  # by session id, oldest first
        self._late: deque[Exchange] = deque(maxlen=MAX_LATE)
        self._done: list[Exchange] = []
        self._strays: tuple[list[Element], list[Element]] = ([], [])
        self._latest: list[Exchange | None] = [None, None]
        self._seen = seen
        self._amended: list[Session] = []
        self._commits = [False, False]  # whether a side has confirmed a block, as in release 2
        self._lingering = False  # whether an exchange is open though it is complete
        self.usual = Usual(connection, [] if recent is None else recent, make)

    def take(self, half: Half, frames: list[Frame]) -> list[Session]:
        """Take the next frames of one direction; return the sessions that ended or changed."""
        usual = self.usual
        if usual.ready and self._seen is None and len(frames) == 1:
            kind, offset, raw, head, tail, faults, _, complete, _, _ = frames[0]
            if kind is _BLOCK and head == 1 and tail == 2 and complete and not faults:
                end_ns = half.last_ns
                taken = usual.block(half, raw, offset, half.captured_at(offset) if half.marks else end_ns, end_ns)
                if taken is not None:
                    return taken
        if usual.half is not None:
            self._give_back()
        for frame in frames:
            kind = frame.kind
            if kind is _BLOCK:
                if len(frame.raw) > frame.head + frame.tail:
                    end_ns = half.last_ns
                    self._block(half, frame, half.captured_at(frame.offset) if half.marks else end_ns, end_ns)
                else:
                    self._stray(half, frame)  # an empty block
            elif kind is _STRAY:
                self._stray(half, frame)
            elif kind is _GAP:
                self._gap(half, frame)
            else:
                self._commit(half, frame)
        return self._told()

    def expire(self, now_ns: int) -> list[Session]:
        """End the exchanges that nobody has answered for as long as the settings allow."""
        self._give_back()
        limit = now_ns - self._connection.options.ack_timeout_ns
        for exchange in [e for e in self._open.values() if e.end_ns <= limit]:
            self._close(exchange, _COMPLETE if exchange.complete else Ending.SILENT)
        oldest = now_ns - self._connection.options.late_ns
        while self._late and self._late[0].end_ns < oldest:
            self._late.popleft()
        return self._told()

    def due(self) -> int:
        """Return when ``expire`` is next worth calling, 0 for not at all."""
        options = self._connection.options
        times = [next(iter(self._open.values())).end_ns + options.ack_timeout_ns] if self._open else []
        if self.usual.half is not None:
            times.append(self.usual.end_ns + options.ack_timeout_ns)
        if self._late:
            times.append(self._late[0].end_ns + options.late_ns + 1)
        return min(times, default=0)

    def end(self, ending: Ending) -> list[Session]:
        """End every open exchange; bytes outside any block that found no session become one of their own."""
        self._give_back()
        for exchange in list(self._open.values()):
            self._close(exchange, _COMPLETE if exchange.complete else ending)
        for half in self._connection.halves:
            self._keep_strays(half, ending)
        self._late.clear()
        return self._told()

    def open_sessions(self) -> list[OpenSession]:
        """Summarise the exchanges that wait for an answer."""
        self._give_back()
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
            for e in self._open.values()
            if e.elements
        ]

    # A block.

    def _give_back(self) -> None:
        """Go on here with the request that waits in the short way, if there is one."""
        if self.usual.half is not None:
            half, raw, offset, start_ns, end_ns = self.usual.give_back()
            self._block(half, Frame(_BLOCK, offset, raw, 1, 2), start_ns, end_ns)
            self.usual.ready = False

    def _told(self) -> list[Session]:
        """Return the sessions that are done, and open the short way if nothing waits."""
        done = self._built() if self._done else []
        if self._amended:
            done += self._amended
            self._amended = []
        self.usual.ready = not (self._open or any(self._strays) or any(self._commits))
        return done

    def _block(self, half: Half, frame: Frame, start_ns: int, end_ns: int) -> None:
        """Take a block with text, its first and last byte captured at these times."""
        _, offset, raw, head, tail, faults, _, whole, _, _ = frame
        text = raw[head : len(raw) - tail]
        seen = glance(text)
        connection = self._connection
        if connection.device_side < 0:
            connection.settle_roles(_device_side(half.side, seen.message_type))
        late = False
        if seen.reply_to is None:
            kind = _MESSAGE
            if self._lingering:
                self._close_lingering(half)
            exchange = self._begin(half, offset, raw, start_ns, end_ns)
            exchange.ask(seen, whole=whole)
        else:
            kind = _ACK if seen.ack_code in POSITIVE else _NAK
            found, late, fault = self._find(half, seen)
            if found is None:
                found = self._begin(half, offset, raw, start_ns, end_ns)
                found.control_id = seen.reply_to
                found.is_reply = True
                found.whole = False
            elif whole and not found.is_reply:
                found.settle(seen.ack_code)
                found.owed.discard(seen.reply_to)
                self.usual.note(seen.reply_to, seen.control_id)
            exchange = found
            if fault:
                faults = (*faults, Fault(fault, offset))
        side = half.side
        if self._strays[side]:
            self._place(exchange, half, *self._strays[side])
            self._strays[side].clear()
        if end_ns > exchange.end_ns:
            exchange.end_ns = end_ns
        spans = None
        if text[:1] in _BATCH_OPENS or b"\rMSH" in text or b"\nMSH" in text:
            spans = split_batch(text)
        if spans:
            parts = self._batch(exchange, half, frame._replace(faults=faults), text, spans, kind, start_ns, late=late)
            message = self._message(half, text, seen, complete=whole)
        else:
            parts = ()
            direction = connection.directions[side]
            message = Message(
                text, direction, connection.protocol, end_ns, seen.control_id, seen.message_type, seen.charset, whole,
                seen.ack_code, seen.reply_to,
            )  # fmt: skip
            messages = exchange.messages
            exchange.elements.append(
                Element(
                    start_ns, direction, kind, offset, raw[:head], b"", raw[len(raw) - tail :] if tail else b"",
                    len(messages), (0, len(text)), faults, late,
                )
            )  # fmt: skip
            messages.append(message)
        if self._seen is not None:
            self._tell(exchange, half, message, parts)
        if not whole:
            exchange.whole = False
            if any(fault.code == "gap" for fault in faults):
                exchange.gapped = True
        self._latest[side] = exchange
        if late:
            exchange.revision += 1
            exchange.complete = True
            if exchange not in self._done:
                self._done.append(exchange)
        elif exchange.complete:
            if exchange.half is not half and (exchange.owed or self._commits[exchange.half.side]):
                self._lingering = True  # more is known to come
            else:
                self._close(exchange, _COMPLETE)

    def _close_lingering(self, half: Half) -> None:
        """The sender goes on: what is complete waits no longer for what else might come."""
        for exchange in [e for e in self._open.values() if e.complete and e.half is half]:
            self._close(exchange, _COMPLETE)
        self._lingering = any(exchange.complete for exchange in self._open.values())

    def _find(self, half: Half, seen: Glance) -> tuple[Exchange | None, bool, str]:
        """Return the exchange that a reply belongs to, whether it comes late, and what is wrong with it."""
        control_id = seen.reply_to or ""
        again: Exchange | None = None
        for exchange in self._open.values():
            if exchange.names(control_id):
                if exchange.half is not half and not exchange.is_reply:
                    if exchange.waits_for(seen.ack_code) or control_id in exchange.owed:
                        return exchange, False, ""
                    again = again or exchange
                elif exchange.half is half and exchange.is_reply:
                    again = again or exchange
        if again is not None:
            return again, False, "duplicate-acknowledgement"
        for exchange in self._late:
            if exchange.half is not half and exchange.names(control_id) and exchange.revision < MAX_REVISIONS:
                awaited = exchange.waits_for(seen.ack_code) or control_id in exchange.owed
                return exchange, True, "" if awaited else "duplicate-acknowledgement"
        return None, False, self.usual.known(control_id) or "unknown-request"

    def _begin(self, half: Half, offset: int, first: bytes, start_ns: int, end_ns: int) -> Exchange:
        if len(self._open) >= MAX_OPEN:
            self._close(next(iter(self._open.values())), Ending.EVICTED)
        exchange = Exchange(self._connection.session_id(half, offset, first, start_ns), half, start_ns, end_ns)
        self._open[exchange.id] = exchange
        return exchange

    def _batch(
        self, exchange: Exchange, half: Half, frame: Frame, text: bytes, spans: list[tuple[int, int]],
        kind: ElementType, start_ns: int, *, late: bool,
    ) -> tuple[str, ...]:  # fmt: skip
        """Put a batch into its exchange: an element for each message and for what stands around; return control ids."""
        raw, offset = frame.raw, frame.offset
        direction = self._connection.directions[half.side]
        faults = [*frame.faults, *batch_counts(text, offset + frame.head)]
        if len(spans) > 1 and not text[: spans[0][0]].strip():
            faults.append(Fault("batch-without-header", offset + frame.head + spans[1][0]))
        pieces: list[tuple[int, int, bool]] = []
        at = 0
        for start, end in spans:
            if start > at:
                pieces.append((at, start, False))
            pieces.append((start, end, True))
            at = end
        if at < len(text):
            pieces.append((at, len(text), False))
        begins = [offset] + [offset + frame.head + start for start, _, _ in pieces[1:]]

        def place(fault: Fault) -> int:  # with the piece that it stands in
            return bisect_right(begins, max(fault.offset, offset)) - 1

        ids = []
        for number, (start, end, is_message) in enumerate(pieces):
            part = text[start:end]
            element = Element(
                start_ns, direction, kind, offset + frame.head + start if number else offset,
                b"" if number else raw[: frame.head],
                b"" if is_message else part,
                raw[len(raw) - frame.tail :] if frame.tail and number == len(pieces) - 1 else b"",
                faults=tuple(f for f in faults if place(f) == number), late=late,
            )  # fmt: skip
            if is_message:
                inner = glance(part)
                ids.append(inner.control_id)
                exchange.owed.discard(inner.reply_to or "")
                element = element._replace(message=len(exchange.messages), span=(0, len(part)))
                exchange.messages.append(self._message(half, part, inner, complete=frame.complete))
            exchange.elements.append(element)
        if exchange.half is half and not exchange.is_reply:
            exchange.batch = (*ids, *batch_ids(text))
            exchange.owed = set(ids) if len(ids) > 1 else set()
        return tuple(ids)

    def _message(self, half: Half, text: bytes, seen: Glance, *, complete: bool) -> Message:
        connection = self._connection
        return Message(
            text, connection.directions[half.side], connection.protocol, half.last_ns, seen.control_id,
            seen.message_type, seen.charset, complete, seen.ack_code, seen.reply_to,
        )  # fmt: skip

    def _tell(self, exchange: Exchange, half: Half, message: Message, batch: tuple[str, ...] = ()) -> None:
        connection = self._connection
        request = None
        if message.reply_to is not None and exchange.half is not half:
            request = next(
                (m for m in exchange.messages if m.reply_to is None and m.control_id == message.reply_to), None
            )
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

    # What is no block.

    def _element(self, half: Half, frame: Frame, kind: ElementType) -> Element:
        return Element(
            half.captured_at(frame.offset),
            self._connection.directions[half.side],
            kind,
            frame.offset,
            content=frame.raw,
            faults=frame.faults,
            missing=frame.missing,
        )

    def _place(self, exchange: Exchange, half: Half, *elements: Element) -> None:
        direction = self._connection.directions[half.side]  # not settled yet when they came
        exchange.elements.extend(element._replace(direction=direction) for element in elements)
        exchange.end_ns = max(exchange.end_ns, half.last_ns)

    def _stray(self, half: Half, frame: Frame) -> None:
        """Bytes outside any block: white space belongs to the block before it, other bytes to the one behind."""
        element = self._element(half, frame, ElementType.OTHER)
        last = self._latest[half.side]
        at_hand = last is not None and (last.id in self._open or last in self._done)
        blank = not frame.raw.strip()
        if last is not None and at_hand and blank:
            self._place(last, half, element)
        elif not blank or not self._amend(half, element, behind=True):
            self._strays[half.side].append(element)
            if len(self._strays[half.side]) >= MAX_STRAYS:
                self._keep_strays(half, Ending.EVICTED)

    def _amend(self, half: Half, element: Element, *, behind: bool) -> bool:
        """Put an element into the session that was told last; false if it is not at hand any more.

        ``behind``: only if the element stands right behind one of that session.
        """
        session = self.usual.last
        if session is None or session.revision >= MAX_REVISIONS:
            return False
        if behind and not any(e.direction is element.direction and _end(e) == element.offset for e in session.elements):
            return False
        element = element._replace(late=True)
        for exchange in self._late:
            if exchange.id == session.id:
                self._place(exchange, half, element)
                exchange.revision += 1
                self._done.append(exchange)
                return True
        others = [told for told in self._amended if told.id != session.id]
        session = session._replace(
            elements=(*session.elements, element),
            end_ns=max(session.end_ns, half.last_ns),
            revision=session.revision + (len(others) == len(self._amended)),
        )
        self._amended = others
        self.usual.keep(session)
        self._amended.append(session)
        return True

    def _keep_strays(self, half: Half, ending: Ending) -> None:
        """Bytes outside any block that no block followed: with the block before them, else a session of their own."""
        strays = self._strays[half.side]
        if not strays:
            return
        last = self._latest[half.side]
        if last is None or last not in self._done:
            last = self._begin(half, strays[0].offset, strays[0].content, strays[0].time_ns, half.last_ns)
            last.whole = False
            last.is_reply = True
            self._connection.settle_roles(-1)
            self._close(last, ending)
        self._place(last, half, *strays)
        strays.clear()

    def _commit(self, half: Half, frame: Frame) -> None:
        """MLLP release 2: the receiver confirms (or refuses) a block's arrival; that is no acknowledgement."""
        kind = ElementType.ACK if frame.kind is _COMMIT else ElementType.NAK
        element = self._element(half, frame, kind)
        peer = self._latest[1 - half.side]
        if peer is not None and (peer.id in self._open or peer in self._done):
            self._place(peer, half, element)
            if peer.half is half and peer.complete and not peer.owed and peer.id in self._open:
                self._close(peer, _COMPLETE)  # the answer too is confirmed
        elif not self._amend(half, element, behind=False):
            self._strays[half.side].append(element)
        self._commits[half.side] = True

    def _gap(self, half: Half, frame: Frame) -> None:
        """Bytes never captured: whatever waited for that direction may have been answered in them."""
        element = self._element(half, frame, ElementType.OTHER)
        own = self._latest[half.side]
        target = own if own is not None and own.id in self._open and own.gapped else None
        for exchange in self._open.values():
            if exchange.half is not half and not exchange.complete:
                exchange.gapped = True
                target = target or exchange
        if target is None:
            self._strays[half.side].append(element)
        else:
            self._place(target, half, element)

    # The end.

    def _close(self, exchange: Exchange, ending: Ending) -> None:
        self._open.pop(exchange.id, None)
        if ending is _COMPLETE and not exchange.gapped:
            self._done.append(exchange)
            if exchange.owed and exchange.messages[-1].reply_to is not None:
                self._late.append(exchange)  # a batch whose messages are acknowledged one by one
            return
        if exchange.gapped and ending is not Ending.EVICTED:
            ending = _GAPPED
        if ending is Ending.SILENT and not exchange.complete and not exchange.is_reply:
            if exchange.needs_accept or exchange.needs_application:
                self._late.append(exchange)
            else:  # it asked for an acknowledgement only on error, and none came
                exchange.complete, ending = True, _COMPLETE
        exchange.ending = ending
        self._done.append(exchange)

    def _built(self) -> list[Session]:
        done, self._done = self._done, []
        latest = self._latest
        for side in (0, 1):  # what has gone out is not held: ten thousand idle connections would hold as many messages
            exchange = latest[side]
            if exchange is not None and exchange.id not in self._open:
                latest[side] = None
        connection = self._connection
        device, lis, sensor = connection.device, connection.lis, connection.options.sensor
        built = [
            Session(
                e.id, e.start_ns, e.end_ns, device, lis, tuple(e.elements), tuple(e.messages), e.complete and e.whole,
                connection.protocol, e.ending, connection.text, sensor, (), (), False, None, None, None, None,
                e.revision,
            )
            for e in done
        ]  # fmt: skip
        if built:
            self.usual.keep(built[-1])
        return built


def _end(element: Element) -> int:
    """Return the offset right behind an element."""
    text = len(element.content) if element.message is None else element.span[1] - element.span[0]
    return element.offset + len(element.before) + text + len(element.after) + element.missing


def _device_side(side: int, message_type: str) -> int:
    """Return which side is the analyzer, as the first message's type tells, or -1."""
    if message_type.startswith(_FROM_DEVICE):
        return side
    return 1 - side if message_type.startswith(_TO_DEVICE) else -1
