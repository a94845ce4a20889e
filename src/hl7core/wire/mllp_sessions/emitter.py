"""Exchanges that have ended, made into sessions; and what joins the session that was told last.

Its law: what ends or changes is told once each take, whole, however much of it came.
"""

from __future__ import annotations

from hl7core.model.session import Element, Session
from hl7core.wire.connection import Connection
from hl7core.wire.mllp_sessions.exchange import Exchange, end_of
from hl7core.wire.mllp_sessions.fast_path import FastPath
from hl7core.wire.mllp_sessions.unanswered import MAX_REVISIONS

__all__ = ["Emitter"]

_new = tuple.__new__  # the constructors of named tuples take the arguments apart and put them together again


class Emitter:
    """What one connection has to tell: ``exchanges``, and what was ``added`` to the session that was told last."""

    __slots__ = ("_connection", "_end_ns", "_ends", "_ends_of", "_usual", "added", "exchanges")

    def __init__(self, connection: Connection, usual: FastPath) -> None:
        self._connection = connection
        self._usual = usual
        self.exchanges: list[Exchange] = []
        self.added: list[Element] = []
        self._end_ns = 0
        self._ends = (0, 0)  # where the bytes of either direction end
        self._ends_of = ("", 0)  # in the session of this id and revision

    def add(self, exchange: Exchange) -> None:
        """Let an exchange be told, which has ended or has changed since."""
        if not exchange.is_ended:
            exchange.is_ended = True
            self.exchanges.append(exchange)

    def amendable(self, element: Element, *, behind: bool) -> Session | None:
        """Return the session that was told last, if it is at hand and ``element`` may join it.

        ``behind``: only if the element stands right behind what it has.
        """
        session = self._usual.last
        if session is None or session.revision >= MAX_REVISIONS:
            return None
        if not behind:
            return session
        side = self._connection.directions.index(element.direction)
        return session if self._end_in(session)[side] == element.offset else None

    def amend(self, session: Session, element: Element, end_ns: int) -> None:
        """Add ``element`` to ``session``, which was told last; its last byte came at ``end_ns``."""
        self.added.append(element._replace(late=True))
        self._end_ns = max(self._end_ns, end_ns)
        if self._ends_of == (session.id, session.revision):
            first, second = self._ends
            end = end_of(element)
            self._ends = (end, second) if element.direction is self._connection.directions[0] else (first, end)

    def _end_in(self, session: Session) -> tuple[int, int]:
        """Return where its bytes of either direction end, with what has been added."""
        if self._ends_of != (session.id, session.revision):
            self._ends_of = (session.id, session.revision)
            ends = {element.direction: end_of(element) for element in (*session.elements, *self.added)}
            first, second = self._connection.directions
            self._ends = (ends.get(first, -1), ends.get(second, -1))
        return self._ends

    def sessions(self) -> list[Session]:
        """Return what there is to tell."""
        exchanges, self.exchanges = self.exchanges, []
        connection = self._connection
        protocol, text, sensor = connection.protocol, connection.text, connection.options.sensor
        side = 1 if connection.device_side == 1 else 0
        device, lis = connection.ends[side], connection.ends[1 - side]
        told: list[Session] = []
        for e in exchanges:
            e.is_ended = False
            told.append(_new(Session, (
                e.id, e.start_ns, e.end_ns, device, lis, tuple(e.elements), tuple(e.messages), e.complete and e.whole,
                protocol, e.ending, text, sensor, (), (), False, None, None, None, None, e.revision,
            )))  # fmt: skip
        changed = self._amended() if self.added else None
        if told:
            self._usual.keep(told[-1])
        elif changed is not None:
            self._usual.keep(changed)
        return told if changed is None else [*told, changed]

    def _amended(self) -> Session | None:
        """Return the session that was told last with what has been added to it."""
        added, self.added = self.added, []
        session = self._usual.last
        if session is None:
            return None
        if self._ends_of == (session.id, session.revision):
            self._ends_of = (session.id, session.revision + 1)
        end_ns, self._end_ns = self._end_ns, 0
        return session._replace(
            elements=(*session.elements, *added), end_ns=max(session.end_ns, end_ns), revision=session.revision + 1
        )
