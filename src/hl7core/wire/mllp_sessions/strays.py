"""What is no block, and the exchange that it belongs to: bytes outside of blocks, commit bytes, gaps.

Its laws: nothing is lost: white space belongs to the block before it, other bytes to the one behind, and what no block
follows becomes a session of its own.  A gap belongs to what may have been answered in it.
"""

from __future__ import annotations

from typing import Final

from hl7core.model.frame import Frame, FrameKind
from hl7core.model.session import Element, ElementType
from hl7core.wire.connection import Connection, Half
from hl7core.wire.memory_budget import ELEMENT, ConnectionMemory
from hl7core.wire.mllp_sessions.emitter import Emitter
from hl7core.wire.mllp_sessions.exchange import Exchange
from hl7core.wire.mllp_sessions.unanswered import MAX_REVISIONS, Unanswered

__all__ = ["Strays"]

_COMMIT: Final = FrameKind.ACK
MAX_STRAYS: Final = 256
"""So many pieces (of at most 4 KiB) outside any block wait for the next one; then they are a session of their own."""


class Strays:
    """What stands beside the blocks of one connection.

    ``latest`` has the exchange that the last block of each side went to, while it is at hand; ``commits`` says whether
    a side has confirmed a block, as in MLLP release 2, and ``confirms`` whether any has; ``holds`` says how many pieces
    wait for a block.
    """

    __slots__ = ("_connection", "_ended", "_load", "_strays", "_waiting", "commits", "confirms", "holds", "latest")

    def __init__(self, connection: Connection, waiting: Unanswered, ended: Emitter, load: ConnectionMemory) -> None:
        self._connection = connection
        self._waiting = waiting
        self._ended = ended
        self._load = load
        self._strays: tuple[list[Element], list[Element]] = ([], [])
        self.latest: list[Exchange | None] = [None, None]
        self.commits = [False, False]
        self.confirms = False
        self.holds = 0

    def stray(self, half: Half, frame: Frame) -> bool:
        """Take bytes outside of any block; return whether too many wait for one."""
        element = self._element(half, frame, ElementType.OTHER)
        last = self.latest[half.side]
        blank = not frame.raw.strip()
        if last is not None and blank:
            self.place(last, half, [element])
        elif not blank or not self._join_last(half, element, behind=True):
            self._keep(half, element)
        return len(self._strays[half.side]) >= MAX_STRAYS

    def commit(self, half: Half, frame: Frame) -> Exchange | None:
        """MLLP release 2: the receiver confirms (or refuses) a block's arrival; that is no acknowledgement.

        Return the exchange that lacks nothing more: its answer too is confirmed.
        """
        self.commits[half.side] = self.confirms = True
        element = self._element(half, frame, ElementType.ACK if frame.kind is _COMMIT else ElementType.NAK)
        peer = self.latest[1 - half.side]
        if peer is not None:
            self.place(peer, half, [element])
            if peer.half is half and peer.complete and not peer.owed and peer.is_open:
                return peer
        elif not self._join_last(half, element, behind=False):
            self._keep(half, element)
        return None

    def gap(self, half: Half, frame: Frame) -> None:
        """Bytes never captured: whatever waited for that direction may have been answered in them."""
        element = self._element(half, frame, ElementType.OTHER)
        own = self.latest[half.side]
        if own is not None and own.is_open:
            self._waiting.see_gap(own)
        first = self._waiting.gap(half.side)
        if own is not None and own.is_open and own.gapped:
            first = own  # it was cut by the gap itself, or by one before
        if first is None:
            self._keep(half, element)
        else:
            self.place(first, half, [element])

    def place(self, exchange: Exchange, half: Half, elements: list[Element]) -> None:
        """Put elements of ``half`` into an exchange that is at hand."""
        direction = self._connection.directions[half.side]  # not settled yet when they came
        exchange.elements.extend([element._replace(direction=direction) for element in elements])
        exchange.weight += sum([_weight(element) for element in elements])
        exchange.end_ns = max(exchange.end_ns, half.last_ns)
        self._waiting.touch(exchange)

    def join(self, exchange: Exchange, half: Half) -> None:
        """A block of ``half`` has come, of ``exchange``: what waited for it joins that."""
        self.place(exchange, half, self.take(half))

    def take(self, half: Half) -> list[Element]:
        """Return what waits for a block of ``half``, which comes no more."""
        strays = self._strays[half.side]
        taken = strays[:]
        strays.clear()
        self.holds -= len(taken)
        self._load.held -= sum([_weight(element) for element in taken])
        return taken

    def release(self) -> None:
        """What has been told is not held: ten thousand idle connections would hold as many messages."""
        first, second = self.latest
        if first is not None and not first.is_open:
            self.latest[0] = None
        if second is not None and not second.is_open:
            self.latest[1] = None

    def _keep(self, half: Half, element: Element) -> None:
        self._strays[half.side].append(element)
        self.holds += 1
        self._load.held += _weight(element)

    def _join_last(self, half: Half, element: Element, *, behind: bool) -> bool:
        """Put an element into the session that was told last; false if it is not at hand any more."""
        session = self._ended.amendable(element, behind=behind)
        if session is None:
            return False
        late = self._waiting.late(session.id)
        if late is None:
            self._ended.amend(session, element, half.last_ns)
            return True
        self.place(late, half, [element._replace(late=True)])
        if not late.is_ended:
            late.revision += 1
            self._ended.add(late)
        if late.revision >= MAX_REVISIONS:
            self._waiting.remove(late)
        return True

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
