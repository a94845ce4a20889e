"""LIS01 and plain sessions: a session runs from one sender's ENQ to its EOT.

Every frame belongs to exactly one session.  Bytes and gaps between sessions belong to the session that follows.  A
session that never ends is cut at a size limit; the session then says that it was evicted, and the cut is counted.

The tracker decides where sessions begin and end; ``builder`` joins the frames of one session to its messages.

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
"""The most pieces (of at most 4 KiB) outside frames that wait for the next session; beyond that they begin one."""
MAX_BYTES: Final = 4 << 20
"""The longest open session in bytes, unless the largest message allowed is longer; beyond that it is evicted."""


class Lis01Sessions:
    """Tracks the LIS01 or plain sessions of one connection."""

    def __init__(self, connection: Connection, budget: MemoryBudget, seen: list[MessageSeen] | None) -> None:
        self._connection = connection
        self._memory = ConnectionMemory(budget, connection)
        self._max_bytes = max(MAX_BYTES, connection.options.max_message)
        self._builder: SessionBuilder | None = None
        self._strays: list[Placed] = []
        self._stray_bytes = 0
        self._seen = seen
        self._done: list[Session] = []
        self._joined_midstream = connection.joined_midstream  # until the first session begins

    def add_frames(self, half: Half, frames: list[Frame]) -> list[Session]:
        """Add the next frames of one direction; return the sessions that ended."""
        for frame in frames:
            start_ns = half.captured_at(frame.offset) if half.marks else half.last_ns
            self._add(half, Placed(frame, half.side, start_ns, half.last_ns))
        memory = self._memory
        memory.held = self._held()
        done, self._done = self._done, []
        if not memory.low <= memory.held <= memory.high:
            memory.report()
            done += memory.reclaim()
        return done

    def expire(self, now_ns: int) -> list[Session]:
        """End the open session if it has been silent for longer than the settings allow."""
        builder = self._builder
        if builder is not None and builder.end_ns + self._connection.options.silence_ns <= now_ns:
            return self.end(Ending.SILENT)
        return []

    def due(self) -> int:
        """Return when ``expire`` must be called next (unix nanoseconds), 0 for never."""
        return self._builder.end_ns + self._connection.options.silence_ns if self._builder is not None else 0

    def end(self, ending: Ending) -> list[Session]:
        """End the open session; bytes outside frames that wait for a session become one of their own."""
        if self._builder is None and self._strays:
            self._begin_session(self._connection.halves[self._strays[0].side], self._strays[0])
        if self._builder is not None:
            self._end_session(self._builder, ending)
        self._memory.held = 0
        self._memory.report()
        done, self._done = self._done, []
        return done

    def evict_to(self, upto: int) -> list[Session]:
        """Evict the open session, or what waits for one, unless no more than ``upto`` bytes are held."""
        if self._memory.held <= upto:
            self._memory.report()
            return []
        self._memory.count_eviction()
        return self.end(Ending.EVICTED)

    def open_sessions(self) -> list[OpenSession]:
        """Return a summary of the open session, if there is one."""
        builder, connection = self._builder, self._connection
        if builder is None:
            return []
        last = builder.placed[-1]
        return [
            OpenSession(
                builder.id,
                builder.start_ns,
                connection.device,
                connection.lis,
                connection.protocol,
                len(builder.placed),
                len(builder.messages),
                _TYPES[last.frame.kind],
                connection.directions[last.side],
                builder.end_ns,
            )
        ]

    def _held(self) -> int:
        return self._stray_bytes if self._builder is None else self._builder.held_bytes

    def _add(self, half: Half, placed: Placed) -> None:
        kind, side = placed.frame.kind, placed.side
        builder = self._builder
        if builder is None and kind in (FrameKind.STRAY, FrameKind.GAP):
            self._strays.append(placed)  # they belong to the session that follows
            self._stray_bytes += placed.size
            if len(self._strays) >= MAX_STRAYS:
                self._begin_session(half, placed)
            return
        if builder is not None and kind is FrameKind.ENQ and builder.under_way:
            self._end_session(builder, Ending.SILENT)  # a new ENQ without an EOT, or with one that was not captured
            builder = None
        if builder is None:
            builder = self._begin_session(half, placed)
        elif builder.size > self._max_bytes or builder.held_bytes > self._memory.limit:
            self._memory.count_eviction()
            self._end_session(builder, Ending.EVICTED)
            builder = self._begin_session(half, placed)
        builder.add(placed)
        if kind in _BODY:
            builder.add_text(placed)
        elif kind is FrameKind.ENQ:
            before = builder.placed[-2] if len(builder.placed) > 1 else None
            if before is not None and before.frame.kind is FrameKind.ENQ and before.side != side and not before.faults:
                placed.faults += (Fault("contention", placed.frame.offset),)
            builder.sender = side
        elif kind is FrameKind.EOT:
            if side != builder.sender and builder.waiting is not None:  # receiver interrupt: counts as ACK
                placed.faults += (Fault("receiver-interrupt", placed.frame.offset),)
                builder.accept_and_interrupt()
            else:
                self._end_session(builder, Ending.COMPLETE)
        elif kind is FrameKind.GAP:
            builder.add_gap(placed)
        elif side != builder.sender and kind is FrameKind.ACK:
            builder.accept()
        elif side != builder.sender and kind is FrameKind.NAK:
            refused = builder.refuse()
            if not refused and len(builder.placed) > 1 and builder.placed[-2].frame.kind is FrameKind.ENQ:
                placed.faults += (
                    Fault("busy", placed.frame.offset),
                )  # the receiver is busy: the sender will ask again

    def _begin_session(self, half: Half, placed: Placed) -> SessionBuilder:
        frame = placed.frame
        session_id = self._connection.session_id(half, frame.offset, frame.raw, placed.time_ns)
        self._builder = builder = SessionBuilder(self._connection, self._seen, session_id, placed, self._strays)
        self._strays = []
        self._stray_bytes = 0
        if self._joined_midstream and frame.kind is not FrameKind.ENQ:  # the session began before the capture
            builder.gapped = True
        self._joined_midstream = False
        return builder

    def _end_session(self, builder: SessionBuilder, ending: Ending) -> None:
        builder.finish(complete=ending is Ending.COMPLETE)
        complete = ending is Ending.COMPLETE and not builder.gapped
        if ending is Ending.EVICTED:
            last = builder.placed[-1]
            last.faults += (Fault("evicted", last.frame.end),)
        elif builder.gapped:
            ending = Ending.GAPPED
        connection = self._connection
        if connection.device_side < 0:
            tells = any(_RESULT_OR_QUERY.search(message.text) for message in builder.messages)
            connection.assign_roles(builder.sender if tells else -1)
        directions = connection.directions
        # The direction of a message is certain only now that the roles are assigned.
        sides = {placed.index: placed.side for placed in builder.placed if placed.index is not None}
        self._builder = None
        self._done.append(
            Session(
                builder.id,
                builder.start_ns,
                builder.end_ns,
                connection.device,
                connection.lis,
                tuple([self._element(placed) for placed in builder.placed]),
                tuple([m._replace(direction=directions[sides[i]]) for i, m in enumerate(builder.messages)]),
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
