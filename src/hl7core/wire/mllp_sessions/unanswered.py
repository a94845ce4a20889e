"""The exchanges of one connection that wait: for an acknowledgement, for what may follow it, for one that comes late.

Its laws: an acknowledgement finds the first that waits for it, whatever else waits; who has heard nothing for longest
stands first; whatever happens costs the same, be there one that waits or a hundred thousand.

An exchange is *open* until its session ends: it asks, or *lingers* (it is complete, and more is known to come).  Then
it may be *late*: told already, though an acknowledgement may still join it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from hl7core.wire.memory_budget import ConnectionMemory
from hl7core.wire.mllp_sessions.by_id import ById
from hl7core.wire.mllp_sessions.exchange import Exchange

__all__ = ["MAX_REVISIONS", "Unanswered"]

MAX_REVISIONS: Final = 100
"""So often a session is told anew because of what joins it; what comes then is a session of its own."""


class Unanswered:
    """What waits on a connection, weighed by its ``load``: ``count`` exchanges are open, ``lingers`` of them linger.

    ``by_id`` has those that are open; ``gaps`` says how often what waits may have been answered in a gap.
    """

    __slots__ = ("_asking", "_gaps", "_late", "_late_by_id", "_lingering", "_load", "by_id", "count", "gaps", "lingers")

    def __init__(self, load: ConnectionMemory) -> None:
        self._load = load
        # Those of each side by session id, in the order of their last bytes.
        self._asking: tuple[OrderedDict[str, Exchange], OrderedDict[str, Exchange]] = (OrderedDict(), OrderedDict())
        self._lingering: tuple[OrderedDict[str, Exchange], OrderedDict[str, Exchange]] = (OrderedDict(), OrderedDict())
        self._late: OrderedDict[str, Exchange] = OrderedDict()
        self.by_id = ById()
        self._late_by_id: ById | None = None
        self._gaps = [0, 0]  # so often a side's exchanges may have been answered in bytes that were not captured
        self.count = 0
        self.gaps = 0
        self.lingers = 0

    # Coming and going.

    def add(self, exchange: Exchange) -> None:
        """Let an exchange wait, which begins."""
        side = exchange.half.side
        if self.gaps:
            exchange.gaps = self._gaps[side]
        exchange.line = line = self._asking[side]
        line[exchange.id] = exchange
        exchange.is_open = True
        self.count += 1
        self._load.held += exchange.weight
        exchange.weighed = exchange.weight
        self.by_id.add(exchange)

    def touch(self, exchange: Exchange) -> None:
        """An exchange that waits has grown by what came just now."""
        if exchange.line is not None:
            exchange.line.move_to_end(exchange.id)
            self._load.held += exchange.weight - exchange.weighed
            exchange.weighed = exchange.weight

    def linger(self, exchange: Exchange) -> None:
        """Let an exchange that is complete wait for what is known to come."""
        if exchange.line is not None:
            del exchange.line[exchange.id]
        line = self._lingering[exchange.half.side]
        self.lingers += exchange.line is not line
        exchange.line = line
        line[exchange.id] = exchange
        self.touch(exchange)

    def remove(self, exchange: Exchange) -> None:
        """An exchange waits no more."""
        line = exchange.line
        if line is None:
            return
        exchange.line = None
        del line[exchange.id]
        self._load.held -= exchange.weighed
        if exchange.is_open:
            exchange.is_open = False
            self.count -= 1
            self.by_id.remove(exchange)
            if self.lingers and line is self._lingering[exchange.half.side]:
                self.lingers -= 1
        elif self._late_by_id is not None:
            self._late_by_id.remove(exchange)

    def remember(self, exchange: Exchange) -> None:
        """An exchange that waited no more may still be acknowledged late."""
        exchange.line = self._late
        self._late[exchange.id] = exchange
        if self._late_by_id is None:
            self._late_by_id = ById()
        self._late_by_id.add(exchange)
        self._load.held += exchange.weight
        exchange.weighed = exchange.weight

    # Finding.

    def find_late(self, side: int, control_id: str, code: str) -> tuple[Exchange | None, bool]:
        """Return the exchange that a late acknowledgement by ``side`` belongs to, and whether that waits for it."""
        return (None, False) if self._late_by_id is None else self._late_by_id.find(side, control_id, code)

    @property
    def has_late(self) -> bool:
        """Whether any is late."""
        return bool(self._late)

    def late(self, session_id: str) -> Exchange | None:
        """Return the exchange of that id if it is late."""
        return self._late.get(session_id)

    def lingering(self, side: int) -> list[Exchange]:
        """Return those of ``side`` that are complete."""
        line = self._lingering[side]
        return list(line.values()) if line else []

    def open(self) -> list[Exchange]:
        """Return all that are open, in the order in which they began."""
        lines = (*self._asking, *self._lingering)
        return sorted([exchange for line in lines for exchange in line.values()], key=_start)

    def oldest(self) -> Exchange | None:
        """Return the one to let go first for want of room: what loses least by it, and then the oldest.

        So first those that were told already, then those that are complete.
        """
        found = next(iter(self._late.values()), None)
        for lines in (self._lingering, self._asking):
            if found is None:
                fronts = [exchange for line in lines for exchange in _front(line)]
                found = min(fronts, key=_end, default=None)
        return found

    # Gaps.

    def gap(self, side: int) -> Exchange | None:
        """Bytes of ``side`` were not captured: what the other side asks may be answered in them.

        Return the first that may be.
        """
        asking = self._asking[1 - side]
        if not asking:
            return None
        self._gaps[1 - side] += 1
        self.gaps += 1
        return next(iter(asking.values()))

    def see_gap(self, exchange: Exchange) -> None:
        """Note whether an exchange may have been answered in a gap; to be asked before it is complete, or ends."""
        if exchange.is_open and exchange.gaps != self._gaps[exchange.half.side] and not exchange.complete:
            exchange.gapped = True

    # Time, in packet times of unix nanoseconds.

    def due(self, timeout_ns: int, late_ns: int) -> int:
        """Return when the first has waited for ``timeout_ns``, or late for longer than ``late_ns``; 0: never."""
        times = [e.end_ns + timeout_ns for line in (*self._asking, *self._lingering) for e in _front(line)]
        times += [exchange.end_ns + late_ns + 1 for exchange in _front(self._late)]
        return min(times, default=0)

    def overdue(self, limit_ns: int) -> list[Exchange]:
        """Return those that are open and have heard nothing since ``limit_ns``."""
        found = []
        for line in (*self._asking, *self._lingering):
            for exchange in line.values():
                if exchange.end_ns > limit_ns:
                    break
                found.append(exchange)
        return sorted(found, key=_start)

    def forget_late(self, before_ns: int) -> None:
        """Let go of those that are late and have heard nothing since before ``before_ns``."""
        while self._late:
            exchange = next(iter(self._late.values()))
            if exchange.end_ns >= before_ns:
                return
            self.remove(exchange)

    def clear(self) -> None:
        """Let go of those that are late: nothing more will come."""
        for exchange in list(self._late.values()):
            self.remove(exchange)


def _front(line: OrderedDict[str, Exchange]) -> list[Exchange]:
    return [next(iter(line.values()))] if line else []


def _start(exchange: Exchange) -> tuple[int, int]:
    return exchange.start_ns, exchange.elements[0].offset


def _end(exchange: Exchange) -> int:
    return exchange.end_ns
