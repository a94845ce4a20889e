"""What is no block, and the session that it joins: bytes outside of blocks, commit bytes, gaps.

White space joins the block before it, other bytes the block behind them; what no block follows becomes a session of its
own.  A gap belongs to the exchange that may have been answered in it.  What comes after its session was emitted joins
that session as long as it is at hand; the session is then emitted again.  So every byte is in exactly one session,
which tests check.
"""

from __future__ import annotations

from typing import Final

from hl7core.model.frame import Frame, FrameKind
from hl7core.model.session import Element, ElementType, Session
from hl7core.wire.connection import Connection, Half
from hl7core.wire.memory_budget import ELEMENT, ConnectionMemory
from hl7core.wire.mllp_sessions.exchange import Exchange, end_of
from hl7core.wire.mllp_sessions.fast_path import FastPath
from hl7core.wire.mllp_sessions.unanswered import MAX_REVISIONS, Unanswered

__all__ = ["Strays"]

_COMMIT: Final = FrameKind.ACK
_MAX_WAITING: Final = 256
"""At most so many pieces (of up to 4 KiB) outside of blocks wait for the next block of their side."""


class Strays:
    """The strays of one connection.

    ``waiting`` counts the pieces that wait for a block.  ``commits`` says of each side whether it has confirmed a
    block, as in MLLP release 2; ``confirms`` whether either has.
    """

    __slots__ = (
        "_added", "_connection", "_end_ns", "_ends", "_ends_of", "_fast_path", "_memory", "_unanswered", "_waiting",
        "commits", "confirms", "waiting",
    )  # fmt: skip

    def __init__(
        self, connection: Connection, unanswered: Unanswered, fast_path: FastPath, memory: ConnectionMemory
    ) -> None:
        self._connection = connection
        self._unanswered = unanswered
        self._fast_path = fast_path
        self._memory = memory
        self._waiting: tuple[list[Element], list[Element]] = ([], [])
        self.commits = [False, False]
        self.confirms = False
        self.waiting = 0
        # What has joined the last session since it was emitted, and when the last byte of that came.
        self._added: list[Element] = []
        self._end_ns = 0
        self._ends = (0, 0)  # where the bytes of either direction end in it
        self._ends_of = ("", 0)  # and of which session id and revision that was found

    # What comes.

    def add_bytes(self, half: Half, frame: Frame) -> bool:
        """Add bytes outside of any block; return whether too many wait for one now."""
        element = self._element(half, frame, ElementType.OTHER)
        last = self._unanswered.latest[half.side]
        blank = not frame.raw.strip()
        if last is not None and blank:
            self.place(last, half, [element])
        elif not blank or not self._join_last(half, element, adjacent=True):
            self._wait(half, element)
        return len(self._waiting[half.side]) >= _MAX_WAITING

    def add_commit(self, half: Half, frame: Frame) -> Exchange | None:
        """Add a commit byte (MLLP release 2): it confirms or refuses the arrival of a block, and is no acknowledgement.

        Return the exchange that it completes: one whose answer was still to be confirmed.
        """
        self.commits[half.side] = self.confirms = True
        element = self._element(half, frame, ElementType.ACK if frame.kind is _COMMIT else ElementType.NAK)
        peer = self._unanswered.latest[1 - half.side]
        if peer is not None:
            self.place(peer, half, [element])
            if peer.half is half and peer.complete and not peer.owed and peer.is_open:
                return peer
        elif not self._join_last(half, element, adjacent=False):
            self._wait(half, element)
        return None

    def add_gap(self, half: Half, frame: Frame) -> None:
        """Add bytes that were never captured: they may have answered whatever waits for that direction."""
        element = self._element(half, frame, ElementType.OTHER)
        unanswered = self._unanswered
        own = unanswered.latest[half.side]
        if own is not None and own.is_open:
            unanswered.note_gap(own)
        first = unanswered.add_gap(half.side)
        if own is not None and own.is_open and own.gapped:
            first = own  # it was cut by the gap itself, or by one before
        if first is None:
            self._wait(half, element)
        else:
            self.place(first, half, [element])

    # Where it goes.

    def place(self, exchange: Exchange, half: Half, elements: list[Element]) -> None:
        """Put elements of ``half`` into an exchange that is at hand."""
        direction = self._connection.directions[half.side]  # not settled yet when they came
        exchange.elements.extend([element._replace(direction=direction) for element in elements])
        exchange.weight += sum([_weight(element) for element in elements])
        exchange.end_ns = max(exchange.end_ns, half.last_ns)
        self._unanswered.touch(exchange)

    def place_waiting(self, exchange: Exchange, half: Half) -> None:
        """Put what waited for a block of ``half`` into the exchange of that block."""
        self.place(exchange, half, self.take_waiting(half))

    def take_waiting(self, half: Half) -> list[Element]:
        """Return what waits for a block of ``half``, and wait for it no longer."""
        waiting = self._waiting[half.side]
        taken = waiting[:]
        waiting.clear()
        self.waiting -= len(taken)
        self._memory.held -= sum([_weight(element) for element in taken])
        return taken

    def _wait(self, half: Half, element: Element) -> None:
        self._waiting[half.side].append(element)
        self.waiting += 1
        self._memory.held += _weight(element)

    # The session that was emitted last.

    def amended(self) -> Session | None:
        """Return the last session with what has joined it since it was emitted, or None if nothing has."""
        session = self._fast_path.last if self._added else None
        if session is None:
            return None
        added, self._added = self._added, []
        if self._ends_of == (session.id, session.revision):
            self._ends_of = (session.id, session.revision + 1)
        end_ns, self._end_ns = self._end_ns, 0
        return session._replace(
            elements=(*session.elements, *added), end_ns=max(session.end_ns, end_ns), revision=session.revision + 1
        )

    def _join_last(self, half: Half, element: Element, *, adjacent: bool) -> bool:
        """Put an element into the session that was emitted last; return whether it could join.

        ``adjacent``: only if it stands right behind what the session has.
        """
        session = self._fast_path.last
        if session is None or session.revision >= MAX_REVISIONS:
            return False
        side = half.side
        if adjacent and self._ends_in(session)[side] != element.offset:
            return False
        late = self._unanswered.late.get(session.id)
        element = element._replace(late=True)
        if late is not None:
            self.place(late, half, [element])
            self._unanswered.rejoin(late)
            return True
        self._added.append(element)
        self._end_ns = max(self._end_ns, half.last_ns)
        if self._ends_of == (session.id, session.revision):
            first, second = self._ends
            self._ends = (first, end_of(element)) if side else (end_of(element), second)
        return True

    def _ends_in(self, session: Session) -> tuple[int, int]:
        """Return where its bytes of either direction end, with what has been added."""
        if self._ends_of != (session.id, session.revision):
            self._ends_of = (session.id, session.revision)
            ends = {element.direction: end_of(element) for element in (*session.elements, *self._added)}
            first, second = self._connection.directions
            self._ends = (ends.get(first, -1), ends.get(second, -1))
        return self._ends

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


def _weight(element: Element) -> int:
    return len(element.content) + ELEMENT
