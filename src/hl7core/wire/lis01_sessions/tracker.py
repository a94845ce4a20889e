"""LIS01 and plain sessions: one turn of a sender each, from ENQ to EOT.

Its laws: every frame is in one session; what stands outside of one belongs to the turn that follows; a turn without an
end is bounded, and what is let go for that is told, marked and counted.

Contention, busy receiver, receiver interrupt: CLSI LIS01-A2 as vendors' manuals describe it (docs/wire.md lists them).
"""

from __future__ import annotations

import re
from typing import Final

from hl7core.model.frame import Fault, Frame, FrameKind
from hl7core.model.session import Element, ElementType, Ending, OpenSession, Session
from hl7core.wire.connection import Connection, Half, MessageSeen
from hl7core.wire.lis01_sessions.builder import Placed, SessionBuilder
from hl7core.wire.memory_budget import ConnectionMemory, MemoryBudget

__all__ = ["Lis01Sessions"]

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
_RESULT_OR_QUERY: Final = re.compile(
    rb"(?:^|[\r\n])(?:[RQ][^A-Za-z0-9\r\n]|MSH.{0,100}?(?:ORU|OUL|QRY|QBP|SSU))", re.DOTALL
)
MAX_STRAYS: Final = 256
"""So many pieces (of at most 4 KiB) outside any frame wait for the next one; then they begin a session."""
MAX_BYTES: Final = 4 << 20
"""A turn that goes on over so many bytes is let go, where the largest message allowed is not more."""


class Lis01Sessions:
    """The LIS01 or plain sessions of one connection."""

    def __init__(self, connection: Connection, scales: MemoryBudget, seen: list[MessageSeen] | None) -> None:
        self._connection = connection
        self._load = ConnectionMemory(scales, connection)
        self._most = max(MAX_BYTES, connection.options.max_message)
        self._turn: SessionBuilder | None = None
        self._strays: list[Placed] = []
        self._strays_weight = 0
        self._seen = seen
        self._done: list[Session] = []
        self._midway = connection.joined_midstream  # until the first turn has begun

    def take(self, half: Half, frames: list[Frame]) -> list[Session]:
        """Take the next frames of one direction; return the sessions that ended."""
        for frame in frames:
            start_ns = half.captured_at(frame.offset) if half.marks else half.last_ns
            self._place(half, Placed(frame, half.side, start_ns, half.last_ns))
        load = self._load
        load.held = self._held()
        done, self._done = self._done, []
        if not load.low <= load.held <= load.high:
            load.weigh()
            done += load.relieve()
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
        self._load.held = 0
        self._load.weigh()
        done, self._done = self._done, []
        return done

    def let_go(self, upto: int) -> list[Session]:
        """Give up the open turn, or what waits for one, unless no more than ``upto`` bytes are held."""
        if self._load.held <= upto:
            self._load.weigh()
            return []
        self._load.given_up()
        return self.end(Ending.EVICTED)

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

    def _held(self) -> int:
        return self._strays_weight if self._turn is None else self._turn.weight

    def _place(self, half: Half, placed: Placed) -> None:
        kind, side = placed.frame.kind, placed.side
        turn = self._turn
        if turn is None and kind in (FrameKind.STRAY, FrameKind.GAP):
            self._strays.append(placed)  # they belong to the turn that follows
            self._strays_weight += placed.weight
            if len(self._strays) >= MAX_STRAYS:
                self._begin(half, placed)
            return
        if turn is not None and kind is FrameKind.ENQ and turn.under_way:
            self._close(turn, Ending.SILENT)  # the sender began anew and never said EOT, or that was not captured
            turn = None
        if turn is None:
            turn = self._begin(half, placed)
        elif turn.size > self._most or turn.weight > self._load.most:
            self._load.given_up()
            self._close(turn, Ending.EVICTED)
            turn = self._begin(half, placed)
        turn.add(placed)
        if kind in _BODY:
            turn.say(placed)
        elif kind is FrameKind.ENQ:
            before = turn.placed[-2] if len(turn.placed) > 1 else None
            if before is not None and before.frame.kind is FrameKind.ENQ and before.side != side and not before.faults:
                placed.faults += (Fault("contention", placed.frame.offset),)
            turn.sender = side
        elif kind is FrameKind.EOT:
            if side != turn.sender and turn.waiting is not None:  # receiver interrupt: it counts as ACK
                placed.faults += (Fault("receiver-interrupt", placed.frame.offset),)
                turn.interrupt()
            else:
                self._close(turn, Ending.COMPLETE)
        elif kind is FrameKind.GAP:
            turn.miss(placed)
        elif side != turn.sender and kind is FrameKind.ACK:
            turn.accept()
        elif side != turn.sender and kind is FrameKind.NAK:
            refused = turn.refuse()
            if not refused and len(turn.placed) > 1 and turn.placed[-2].frame.kind is FrameKind.ENQ:
                placed.faults += (Fault("busy", placed.frame.offset),)  # not now, ask again

    def _begin(self, half: Half, placed: Placed) -> SessionBuilder:
        frame = placed.frame
        session_id = self._connection.session_id(half, frame.offset, frame.raw, placed.time_ns)
        self._turn = turn = SessionBuilder(self._connection, self._seen, session_id, placed, self._strays)
        self._strays = []
        self._strays_weight = 0
        if self._midway and frame.kind is not FrameKind.ENQ:  # it began before the capture did
            turn.gapped = True
        self._midway = False
        return turn

    def _close(self, turn: SessionBuilder, ending: Ending) -> None:
        turn.end(complete=ending is Ending.COMPLETE)
        complete = ending is Ending.COMPLETE and not turn.gapped
        if ending is Ending.EVICTED:
            last = turn.placed[-1]
            last.faults += (Fault("evicted", last.frame.end),)
        elif turn.gapped:
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

    def _element(self, placed: Placed) -> Element:
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
