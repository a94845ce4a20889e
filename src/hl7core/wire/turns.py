"""LIS01 and plain sessions: one turn of a sender each, from ENQ to EOT.

Its laws: a frame's text belongs to the message once the receiver has acknowledged it (or, where no answer was
captured, once its checksum holds); a refused or repeated frame is kept as an element and left out of the message;
nothing is joined across a gap without saying so.

Frame numbers, repeats, receiver interrupt: CLSI LIS01-A2 as vendors' manuals describe it (docs/wire.md lists them).
"""

from __future__ import annotations

import re
from typing import Final

from hl7core.model.frame import Fault, Frame, FrameKind
from hl7core.model.session import Element, ElementType, Ending, Message, OpenSession, Session
from hl7core.wire.connection import Connection, Half, MessageSeen
from hl7core.wire.peek import glance

__all__ = ["Turns"]

_TYPES: Final = {
    FrameKind.ENQ: ElementType.START,
    FrameKind.ACK: ElementType.ACK,
    FrameKind.NAK: ElementType.NAK,
    FrameKind.EOT: ElementType.END,
    FrameKind.DATA: ElementType.MESSAGE,
    FrameKind.BLOCK: ElementType.MESSAGE,
    FrameKind.STRAY: ElementType.OTHER,
    FrameKind.GAP: ElementType.OTHER,
}
_BODY: Final = frozenset({FrameKind.DATA, FrameKind.BLOCK})
_HEADER: Final = re.compile(rb"[\r\n]*(?:H[^A-Za-z0-9]|MSH[^A-Za-z0-9]|FHS[^A-Za-z0-9]|BHS[^A-Za-z0-9])")
_RESULT_OR_QUERY: Final = re.compile(
    rb"(?:^|[\r\n])(?:[RQ][^A-Za-z0-9\r\n]|MSH.{0,100}?(?:ORU|OUL|QRY|QBP|SSU))", re.DOTALL
)
MAX_ELEMENTS: Final = 100_000
"""A turn without an end is let go after so many elements, as ``evicted``; what follows is the next session."""
MAX_BYTES: Final = 4 << 20
"""The same for its bytes, where the largest message allowed is not more."""
MAX_STRAYS: Final = 256


class _Placed:
    """A frame placed in a session, whose text may yet become part of a message."""

    __slots__ = ("end_ns", "faults", "frame", "index", "side", "span", "time_ns")

    def __init__(self, frame: Frame, side: int, time_ns: int, end_ns: int) -> None:
        self.end_ns = end_ns
        self.frame = frame
        self.side = side
        self.time_ns = time_ns
        self.index: int | None = None
        self.span = (0, 0)
        self.faults = frame.faults


class _Turn:
    """A session in the making."""

    __slots__ = (
        "end_ns", "expected", "gapped", "id", "messages", "owed", "parts", "placed", "sender", "size", "start_ns",
        "waiting", "whole",
    )  # fmt: skip

    def __init__(self, session_id: str, sender: int, start_ns: int) -> None:
        self.id = session_id
        self.sender = sender
        self.start_ns = start_ns
        self.end_ns = start_ns
        self.placed: list[_Placed] = []
        self.messages: list[Message] = []
        self.parts: list[_Placed] = []  # the accepted frames of the message that goes on
        self.waiting: _Placed | None = None  # the frame that no answer has come for
        self.expected: int | None = None  # the number of the next frame
        self.size = 0
        self.owed = False  # the receiver refused a frame, or asked to stop, and nothing has been accepted since
        self.whole = True  # no part of the message that goes on is missing
        self.gapped = False


class Turns:
    """The LIS01 or plain sessions of one connection."""

    def __init__(self, connection: Connection, seen: list[MessageSeen] | None) -> None:
        self._connection = connection
        self._turn: _Turn | None = None
        self._strays: list[_Placed] = []
        self._seen = seen
        self._done: list[Session] = []
        self._midway = connection.midway  # until the first turn has begun

    def take(self, half: Half, frames: list[Frame]) -> list[Session]:
        """Take the next frames of one direction; return the sessions that ended."""
        for frame in frames:
            start_ns = half.captured_at(frame.offset) if half.marks else half.last_ns
            placed = _Placed(frame, half.side, start_ns, half.last_ns)
            self._place(half, placed)
        if not self._done:
            return []
        done, self._done = self._done, []
        return done

    def expire(self, now_ns: int) -> list[Session]:
        """End the turn in which nobody has said a thing for as long as the settings allow."""
        turn = self._turn
        if turn is not None and turn.end_ns + self._connection.options.silence_ns <= now_ns:
            return self.end(Ending.SILENT)
        return []

    def due(self) -> int:
        """Return when ``expire`` is next worth calling, 0 for not at all."""
        return self._turn.end_ns + self._connection.options.silence_ns if self._turn is not None else 0

    def end(self, ending: Ending) -> list[Session]:
        """End the open turn; bytes outside any frame that found none become a session of their own."""
        if self._turn is None and self._strays:
            self._begin(self._connection.halves[self._strays[0].side], self._strays[0])
        if self._turn is not None:
            self._close(self._turn, ending)
        done, self._done = self._done, []
        return done

    def open_sessions(self) -> list[OpenSession]:
        """Summarise the turn that goes on."""
        turn, connection = self._turn, self._connection
        if turn is None:
            return []
        last = turn.placed[-1]
        return [
            OpenSession(
                turn.id,
                turn.start_ns,
                connection.device,
                connection.lis,
                connection.protocol,
                len(turn.placed),
                len(turn.messages),
                _TYPES[last.frame.kind],
                connection.directions[last.side],
                turn.end_ns,
            )
        ]

    def _place(self, half: Half, placed: _Placed) -> None:
        kind, side = placed.frame.kind, placed.side
        turn = self._turn
        if turn is None and kind in (FrameKind.STRAY, FrameKind.GAP):
            self._strays.append(placed)  # they belong to the turn that follows
            if len(self._strays) >= MAX_STRAYS:
                self._begin(half, placed)
            return
        if (
            turn is not None
            and kind is FrameKind.ENQ
            and (turn.parts or turn.waiting or turn.messages or not turn.whole)
        ):
            self._close(turn, Ending.SILENT)  # the sender began anew and never said EOT, or that was not captured
            turn = None
        if turn is None:
            turn = self._begin(half, placed)
        elif len(turn.placed) >= MAX_ELEMENTS or turn.size > max(MAX_BYTES, self._connection.options.max_message):
            self._close(turn, Ending.EVICTED)
            turn = self._begin(half, placed)
        turn.placed.append(placed)
        turn.size += len(placed.frame.raw)
        turn.end_ns = max(turn.end_ns, half.last_ns)
        if kind in _BODY:
            self._resolve(turn)
            turn.sender = side
            turn.waiting = placed
        elif kind is FrameKind.ENQ:
            before = turn.placed[-2] if len(turn.placed) > 1 else None
            if before is not None and before.frame.kind is FrameKind.ENQ and before.side != side and not before.faults:
                placed.faults += (Fault("contention", placed.frame.offset),)
            turn.sender = side
        elif kind is FrameKind.EOT:
            self._eot(turn, placed)
        elif kind is FrameKind.GAP:
            turn.gapped = True
            if side == turn.sender:
                turn.whole = False
                turn.expected = None  # whatever number comes next, nobody skipped one
        elif side != turn.sender and kind is FrameKind.ACK:
            self._accept(turn)
        elif side != turn.sender and kind is FrameKind.NAK:
            if turn.waiting is not None:
                turn.owed = True
                turn.waiting = None
            elif len(turn.placed) > 1 and turn.placed[-2].frame.kind is FrameKind.ENQ:  # not now, ask again
                placed.faults += (Fault("busy", placed.frame.offset),)

    def _begin(self, half: Half, placed: _Placed) -> _Turn:
        frame = placed.frame
        turn = _Turn(
            self._connection.session_id(half, frame.offset, frame.raw, placed.time_ns), placed.side, placed.time_ns
        )
        turn.placed.extend(stray for stray in self._strays if stray is not placed)
        turn.gapped = any(stray.frame.kind is FrameKind.GAP for stray in self._strays)
        if placed in self._strays:
            turn.placed.append(placed)
        self._strays = []
        self._turn = turn
        if self._midway and frame.kind is not FrameKind.ENQ:  # it began before the capture did
            turn.gapped = True
        self._midway = False
        return turn

    def _eot(self, turn: _Turn, placed: _Placed) -> None:
        if placed.side != turn.sender and turn.waiting is not None:  # receiver interrupt: it counts as ACK
            placed.faults += (Fault("receiver-interrupt", placed.frame.offset),)
            self._accept(turn)
            turn.owed = bool(turn.parts)
            return
        self._close(turn, Ending.COMPLETE)

    def _resolve(self, turn: _Turn) -> None:
        """The sender went on and no answer was captured: a frame whose checksum holds counts as accepted."""
        if turn.waiting is not None:
            if _sound(turn.waiting.frame):
                self._accept(turn)
            turn.waiting = None

    def _accept(self, turn: _Turn) -> None:
        placed, turn.waiting = turn.waiting, None
        if placed is None:
            return
        frame = placed.frame
        if frame.number is not None:
            if turn.expected is not None and frame.number == (turn.expected - 1) % 8:
                placed.faults += (Fault("repeated-frame", frame.offset),)
                if turn.parts and not _sound(turn.parts[-1].frame) and _sound(frame):
                    turn.parts[-1] = placed  # its answer was counted wrongly: this is the copy that was meant
                return
            if frame.number != turn.expected and (turn.expected is not None or (frame.number != 1 and not turn.gapped)):
                placed.faults += (Fault("frame-number", frame.offset),)
            turn.expected = (frame.number + 1) % 8
        turn.owed = False
        joins = bool(turn.parts) and not turn.parts[-1].frame.last
        text = frame.text
        alone = frame.number is None and self._connection.protocol != "lis01"  # such a frame is a message
        if turn.parts and not joins and (alone or _HEADER.match(text)):
            self._finish(turn, complete=turn.whole and self._is_hl7(turn))
        if turn.gapped and not turn.parts and not _HEADER.match(text):
            turn.whole = False  # what began the message was not captured
        turn.parts.append(placed)
        if not frame.complete:
            turn.whole = False
        if frame.last and (alone or _ends_message(text, turn)):
            self._finish(turn, complete=turn.whole)

    def _is_hl7(self, turn: _Turn) -> bool:
        """Say whether the message that goes on is HL7, which has no closing record."""
        return turn.parts[0].frame.text.lstrip(b"\r\n")[:3] in (b"MSH", b"FHS", b"BHS")

    def _finish(self, turn: _Turn, *, complete: bool) -> None:
        """Join the accepted frames to a message."""
        parts, turn.parts = turn.parts, []
        turn.whole = True
        at = 0
        texts = []
        for placed in parts:
            text = placed.frame.text
            placed.index, placed.span = len(turn.messages), (at, at + len(text))
            at += len(text)
            texts.append(text)
        text = b"".join(texts)
        seen = glance(text)
        connection = self._connection
        message = Message(
            text,
            connection.directions[turn.sender],
            connection.protocol,
            parts[-1].end_ns,
            seen.control_id,
            seen.message_type,
            seen.charset,
            complete,
            seen.ack_code,
            seen.reply_to,
        )
        if self._seen is not None:
            request = None
            if message.reply_to is not None:
                request = next((m for m in turn.messages if m.control_id == message.reply_to), None)
            self._seen.append(
                MessageSeen(
                    turn.id,
                    connection.text,
                    connection.ends[turn.sender],
                    connection.ends[1 - turn.sender],
                    message,
                    request,
                )
            )
        turn.messages.append(message)

    def _close(self, turn: _Turn, ending: Ending) -> None:
        if turn.waiting is not None:  # no answer came any more: what was sent is kept as part of the message
            turn.whole = turn.whole and _sound(turn.waiting.frame)
            self._accept(turn)
        if turn.parts:
            whole = turn.whole and not turn.owed and turn.parts[-1].frame.last
            self._finish(turn, complete=whole and ending is Ending.COMPLETE)
        complete = ending is Ending.COMPLETE and not turn.gapped
        if turn.gapped and ending is not Ending.EVICTED:
            ending = Ending.GAPPED
        connection = self._connection
        if connection.device_side < 0:
            tells = any(_RESULT_OR_QUERY.search(message.text) for message in turn.messages)
            connection.settle_roles(turn.sender if tells else -1)
        directions = connection.directions
        # Which way a message went is known for certain only now that the roles are.
        sides = {placed.index: placed.side for placed in turn.placed if placed.index is not None}
        self._turn = None
        self._done.append(
            Session(
                turn.id,
                turn.start_ns,
                turn.end_ns,
                connection.device,
                connection.lis,
                tuple([self._element(placed) for placed in turn.placed]),
                tuple([m._replace(direction=directions[sides[i]]) for i, m in enumerate(turn.messages)]),
                complete,
                connection.protocol,
                ending,
                connection.text,
                connection.options.sensor,
            )
        )

    def _element(self, placed: _Placed) -> Element:
        frame = placed.frame
        raw, inside = frame.raw, placed.index is not None
        body = frame.kind in _BODY
        return Element(
            placed.time_ns,
            self._connection.directions[placed.side],
            _TYPES[frame.kind],
            frame.offset,
            raw[: frame.head] if body else b"",
            b"" if inside else (frame.text if body else raw),
            raw[len(raw) - frame.tail :] if body and frame.tail else b"",
            placed.index,
            placed.span,
            placed.faults,
            missing=frame.missing,
        )


def _sound(frame: Frame) -> bool:
    """Say whether a frame is whole, as far as can be told without its answer."""
    return frame.complete and not any(fault.code == "checksum" for fault in frame.faults)


def _ends_message(text: bytes, turn: _Turn) -> bool:
    """Say whether this text, the last so far of its message, ends with the terminator record (L)."""
    body = text.rstrip(b"\r\n")
    start = max(body.rfind(b"\r"), body.rfind(b"\n")) + 1
    if start or len(turn.parts) == 1 or turn.parts[-2].frame.last:
        return body[start : start + 1] == b"L" and not body[start + 1 : start + 2].isalnum()
    # The record began in an earlier frame: only the joined text tells.
    joined = b"".join(placed.frame.text for placed in turn.parts).rstrip(b"\r\n")
    start = max(joined.rfind(b"\r"), joined.rfind(b"\n")) + 1
    return joined[start : start + 1] == b"L" and not joined[start + 1 : start + 2].isalnum()
