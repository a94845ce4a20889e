"""The exchanges of one connection that may still be answered, found by the id that an acknowledgement names.

An exchange is *open* until its session ends: it *asks*, or it *lingers* (it is complete, and more is known to come).
Afterwards it may be *late*: its session was emitted, but an acknowledgement may still join it.

Tests hold two laws.  An acknowledgement finds the first exchange that waits for it, whatever else waits.  The cost of
each step does not grow with the number of exchanges that wait, even if a peer leaves a hundred thousand requests of one
id unanswered.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from hl7core.model.session import Ending
from hl7core.wire.memory_budget import ConnectionMemory
from hl7core.wire.mllp_sessions.exchange import Exchange

__all__ = ["MAX_REVISIONS", "Unanswered"]

MAX_REVISIONS: Final = 100
"""A session is emitted again at most this often because something joins it; what comes then is a session of its own."""
_COMPLETE: Final = Ending.COMPLETE


class Unanswered:
    """The exchanges that wait, their bytes counted in ``memory``.

    ``count`` exchanges are open, ``lingers`` of them linger; ``gaps`` counts the gaps in which open ones may have been
    answered.  ``latest`` has, for each side, the exchange that its last block went to, until that is emitted; ``ended``
    the exchanges that have ended or changed and are still to be emitted; ``late`` those that are late, by session id.
    """

    __slots__ = (
        "_asking", "_by_id", "_gaps", "_late_by_id", "_lingering", "_memory", "count", "ended", "gaps", "late",
        "latest", "lingers",
    )  # fmt: skip

    def __init__(self, memory: ConnectionMemory) -> None:
        self._memory = memory
        # Those of each side by session id, in the order of their last bytes.
        self._asking: tuple[OrderedDict[str, Exchange], OrderedDict[str, Exchange]] = (OrderedDict(), OrderedDict())
        self._lingering: tuple[OrderedDict[str, Exchange], OrderedDict[str, Exchange]] = (OrderedDict(), OrderedDict())
        self.late: OrderedDict[str, Exchange] = OrderedDict()
        self._by_id = _ById()
        self._late_by_id = _ById()
        self._gaps = [0, 0]  # how often each side's exchanges may have been answered in bytes that were not captured
        self.latest: list[Exchange | None] = [None, None]
        self.ended: list[Exchange] = []
        self.count = 0
        self.gaps = 0
        self.lingers = 0

    # Coming and going.

    def add(self, exchange: Exchange) -> None:
        """Add an exchange, which begins."""
        side = exchange.half.side
        if self.gaps:
            exchange.gaps = self._gaps[side]
        exchange.is_open = True
        self.count += 1
        self._enqueue(exchange, self._asking[side], self._by_id)

    def touch(self, exchange: Exchange) -> None:
        """Note that an exchange has grown by what came just now; one that does not wait is left as it is."""
        if exchange.queue is not None:
            exchange.queue.move_to_end(exchange.id)
            self._memory.held += exchange.weight - exchange.counted
            exchange.counted = exchange.weight

    def linger(self, exchange: Exchange) -> None:
        """Let an exchange that is complete wait for what is known to come."""
        queue = self._lingering[exchange.half.side]
        if exchange.queue is not queue and exchange.queue is not None:
            del exchange.queue[exchange.id]
            queue[exchange.id] = exchange
            exchange.queue = queue
            self.lingers += 1
        self.touch(exchange)

    def end(self, exchange: Exchange, ending: Ending) -> None:
        """End an exchange, to be emitted; it stays as a late one if it may still be answered."""
        if self.gaps:
            self.note_gap(exchange)
        self.remove(exchange)
        self.emit(exchange)
        if ending is _COMPLETE and not exchange.gapped:
            # An error may be answered though no answer was asked for, and a batch message by message.
            if exchange.wants_none or (exchange.owed and exchange.messages[-1].reply_to is not None):
                self._enqueue(exchange, self.late, self._late_by_id)
            return
        if ending is Ending.EVICTED:
            exchange.mark_evicted()
        elif exchange.gapped:
            ending = Ending.GAPPED
        if ending is Ending.SILENT and not exchange.complete and not exchange.is_reply:
            self._enqueue(exchange, self.late, self._late_by_id)
        exchange.ending = ending

    def rejoin(self, exchange: Exchange) -> None:
        """Emit an exchange again, which something has joined after its end."""
        self.touch(exchange)
        if not exchange.is_ended:
            exchange.revision += 1
            self.emit(exchange)
        if exchange.revision >= MAX_REVISIONS:
            self.remove(exchange)

    def emit(self, exchange: Exchange) -> None:
        """Have an exchange emitted, once however much of it has changed."""
        if not exchange.is_ended:
            exchange.is_ended = True
            self.ended.append(exchange)

    def remove(self, exchange: Exchange) -> None:
        """Take out an exchange: it waits no longer."""
        queue = exchange.queue
        if queue is None:
            return
        exchange.queue = None
        del queue[exchange.id]
        self._memory.held -= exchange.counted
        if exchange.is_open:
            exchange.is_open = False
            self.count -= 1
            self._by_id.remove(exchange)
            if self.lingers and queue is self._lingering[exchange.half.side]:
                self.lingers -= 1
        else:
            self._late_by_id.remove(exchange)

    def clear_late(self) -> None:
        """Take out those that are late: nothing more will come."""
        for exchange in list(self.late.values()):
            self.remove(exchange)

    def _enqueue(self, exchange: Exchange, queue: OrderedDict[str, Exchange], by_id: _ById) -> None:
        exchange.queue = queue
        queue[exchange.id] = exchange
        self._memory.held += exchange.weight
        exchange.counted = exchange.weight
        by_id.add(exchange)

    # Finding.

    def find(self, side: int, control_id: str, *, accept: bool) -> tuple[Exchange | None, bool]:
        """Return the exchange that an acknowledgement by ``side`` belongs to, and whether that waits for it.

        ``accept``: it is an accept acknowledgement.  The first that waits for it is found, else the first that it
        concerns; those that are open come before those that are late.
        """
        found, awaited = self._by_id.find(side, control_id, accept=accept)
        if found is None and self.late:
            return self._late_by_id.find(side, control_id, accept=accept)
        return found, awaited

    def lingering(self, side: int) -> list[Exchange]:
        """Return those of ``side`` that linger."""
        queue = self._lingering[side]
        return list(queue.values()) if queue else []

    def open(self) -> list[Exchange]:
        """Return all that are open, in the order in which they began."""
        queues = (*self._asking, *self._lingering)
        return sorted([exchange for queue in queues for exchange in queue.values()], key=_start)

    def oldest(self) -> Exchange | None:
        """Return the one to give up first for want of memory: a late one, else one that lingers, else one that asks."""
        found = next(iter(self.late.values()), None)
        for queues in (self._lingering, self._asking):
            if found is None:
                fronts = [exchange for queue in queues for exchange in _front(queue)]
                found = min(fronts, key=_end, default=None)
        return found

    # Gaps.

    def add_gap(self, side: int) -> Exchange | None:
        """Note that bytes of ``side`` were not captured: they may have answered what the other side asks.

        Return the first exchange that may have been answered.
        """
        asking = self._asking[1 - side]
        if not asking:
            return None
        self._gaps[1 - side] += 1
        self.gaps += 1
        return next(iter(asking.values()))

    def note_gap(self, exchange: Exchange) -> None:
        """Mark an exchange that may have been answered in a gap; to be called before it is complete, or ends."""
        if exchange.is_open and exchange.gaps != self._gaps[exchange.half.side] and not exchange.complete:
            exchange.gapped = True

    # Time, in packet times of unix nanoseconds.

    def due(self, timeout_ns: int, late_ns: int) -> int:
        """Return when the first has waited for ``timeout_ns``, or been late for longer than ``late_ns``; 0: never."""
        times = [e.end_ns + timeout_ns for queue in (*self._asking, *self._lingering) for e in _front(queue)]
        times += [exchange.end_ns + late_ns + 1 for exchange in _front(self.late)]
        return min(times, default=0)

    def overdue(self, limit_ns: int) -> list[Exchange]:
        """Return those that are open and have received nothing since ``limit_ns``."""
        found = []
        for queue in (*self._asking, *self._lingering):
            for exchange in queue.values():
                if exchange.end_ns > limit_ns:
                    break
                found.append(exchange)
        return sorted(found, key=_start)

    def forget_late(self, before_ns: int) -> None:
        """Take out those that are late and have received nothing since before ``before_ns``."""
        while self.late:
            exchange = next(iter(self.late.values()))
            if exchange.end_ns >= before_ns:
                return
            self.remove(exchange)


def _front(queue: OrderedDict[str, Exchange]) -> list[Exchange]:
    return [next(iter(queue.values()))] if queue else []


def _start(exchange: Exchange) -> tuple[int, int]:
    return exchange.start_ns, exchange.elements[0].offset


def _end(exchange: Exchange) -> int:
    return exchange.end_ns


# By id.


class _ById:
    """Exchanges by the ids that may name them.  Most ids belong to one exchange at a time: those take no list."""

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found: dict[str, Exchange | _SameId] = {}

    def add(self, exchange: Exchange) -> None:
        """Add an exchange, which is in no other index."""
        exchange.index = self
        found = self._found
        for control_id in exchange.ids:
            same = found.setdefault(control_id, exchange)
            if same is exchange:
                continue
            if isinstance(same, Exchange):
                same = found[control_id] = _SameId(self, control_id, same)
            same.add(exchange)

    def remove(self, exchange: Exchange) -> None:
        """Take out one that was added."""
        exchange.index = None
        for control_id in exchange.ids:
            same = self._found[control_id]
            if isinstance(same, Exchange) or same.is_last():
                del self._found[control_id]

    def find(self, side: int, control_id: str, *, accept: bool) -> tuple[Exchange | None, bool]:
        """Return the first that waits for an acknowledgement by ``side``, else the first that it concerns."""
        found = self._found.get(control_id)
        if found is None:
            return None, False
        if not isinstance(found, Exchange):
            awaiting = found.first(side, accept=accept)
            return (found.first(side), False) if awaiting is None else (awaiting, True)
        if found.awaits(side, control_id, accept=accept):
            return found, True
        return (found, False) if found.concerns(side) else (None, False)


class _SameId:
    """The exchanges that have one id, in the order in which they began.

    No search looks again at what an earlier one has passed: ``_at`` says, for each side that may answer, where the
    first can be that waits for an accept acknowledgement, for an application acknowledgement, and that is still there.
    """

    __slots__ = ("_at", "_count", "_exchanges", "_id", "_index")

    def __init__(self, index: _ById, control_id: str, first: Exchange) -> None:
        self._index = index
        self._id = control_id
        self._exchanges = [first]
        self._at = [0] * 6
        self._count = 1

    def add(self, exchange: Exchange) -> None:
        self._exchanges.append(exchange)
        self._count += 1

    def is_last(self) -> bool:
        """Note that one of them was taken out, and return whether it was the last."""
        self._count -= 1
        if 2 * self._count < len(self._exchanges):  # do not hold what has gone
            self._exchanges = [exchange for exchange in self._exchanges if exchange.index is self._index]
            self._at = [0] * 6
        return not self._count

    def first(self, side: int, *, accept: bool | None = None) -> Exchange | None:
        """Return the first that waits for an acknowledgement by ``side``, or (None) that one concerns."""
        place = 3 * side + (2 if accept is None else not accept)
        exchanges, at = self._exchanges, self._at[place]
        while at < len(exchanges):
            exchange = exchanges[at]
            if exchange.index is self._index and (
                exchange.concerns(side) if accept is None else exchange.awaits(side, self._id, accept=accept)
            ):
                break
            at += 1
        self._at[place] = at
        return exchanges[at] if at < len(exchanges) else None
