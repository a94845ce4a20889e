"""The memory budget: what all open sessions may hold together.

Each connection reports what its open sessions hold, except for the first few kilobytes: ``max_connections`` bounds
those, and small messages need no accounting.  When the total exceeds the budget, the connections that hold most evict
their oldest data; each session that loses some says so, and each eviction is counted.
"""

from __future__ import annotations

import heapq
from functools import lru_cache
from typing import Final

from hl7core.model.session import Session
from hl7core.wire.connection import Connection, DecoderOptions, Half

__all__ = ["ELEMENT", "EXCHANGE", "PER_PIECE", "UNREPORTED", "ConnectionMemory", "HeldBytes", "MemoryBudget"]

UNREPORTED: Final = 4096
"""What a connection holds up to this many bytes is not reported; more is, and again each time it changes by as many."""
ELEMENT: Final = 640
"""Roughly how many bytes an element takes besides its content, with the message that it may carry."""
EXCHANGE: Final = 640
"""Roughly how many bytes an exchange takes besides its elements."""

PER_PIECE: Final = 256
"""Roughly how many bytes Python takes for a held piece besides its data; a peer may send single bytes."""


class HeldBytes:
    """Bytes held, by direction: ``of`` has an entry for each direction that holds any, ``total`` is their sum."""

    def __init__(self) -> None:
        self.of: dict[Half, int] = {}
        self.total = 0

    def set(self, half: Half, size: int) -> None:
        """Record that ``half`` now holds ``size`` bytes."""
        self.total += size - self.of.get(half, 0)
        if size:
            self.of[half] = size
        else:
            self.of.pop(half, None)

    def largest(self) -> list[Half]:
        """Return the tenth of the directions that hold most, largest first."""
        return heapq.nlargest(len(self.of) // 10 + 1, self.of, key=self.of.__getitem__)


class MemoryBudget:
    """What the open sessions of all connections hold, and the ``limit`` in bytes.

    ``counters["crowded"]`` counts the evictions.
    """

    __slots__ = ("_held", "counters", "limit")

    def __init__(self, limit: int, counters: dict[str, int]) -> None:
        self._held = HeldBytes()
        self.limit = limit
        self.counters = counters

    @property
    def held(self) -> int:
        """How many bytes are held."""
        return self._held.total

    def set_held(self, connection: Connection, held: int) -> None:
        """Record that ``connection`` now holds ``held`` bytes."""
        self._held.set(connection.halves[0], held)

    def reclaim(self) -> list[Session]:
        """Evict the oldest data where most is held until a sixteenth of the budget is free; return what ended."""
        ended: list[Session] = []
        held = self._held
        goal = self.limit - self.limit // 16  # so that many bytes arrive before the next search for the largest
        while held.total > goal and held.of:
            for half in held.largest():
                connection = half.connection.outer or half.connection
                if connection.tracker is None:
                    held.set(half, 0)
                else:
                    ended += connection.tracker.evict_to(max(0, held.of.get(half, 0) - (held.total - goal)))
                if held.total <= goal:
                    break
        return ended


class ConnectionMemory:
    """What the open sessions of one connection hold: ``held`` bytes, at most ``limit``.

    Whoever changes ``held`` calls ``report`` afterwards, unless ``held`` stays between ``low`` and ``high``.
    """

    __slots__ = ("_budget", "_connection", "_reported", "held", "high", "limit", "low")

    def __init__(self, budget: MemoryBudget, connection: Connection) -> None:
        self._budget = budget
        self._connection = connection
        self._reported = 0
        self.limit = connection_limit(connection.options)
        self.held = 0
        self.low = -1
        self.high = UNREPORTED

    def report(self) -> None:
        """Report ``held`` to the budget."""
        size = self.held if self.held > UNREPORTED else 0
        if size != self._reported:
            self._reported = size
            self.low, self.high = size - UNREPORTED, size + UNREPORTED
            self._budget.set_held(self._connection, size)

    def add(self, size: int) -> None:
        """Add ``size`` bytes (negative: remove them) and report."""
        self.held += size
        self.report()

    def has_room(self, size: int) -> bool:
        """Return whether ``size`` more bytes fit in the budget."""
        return self._budget.held + size <= self._budget.limit

    def reclaim(self) -> list[Session]:
        """Evict what exceeds the budget, on whichever connections hold most; return the sessions that this ended."""
        connection = self._connection.outer or self._connection
        if self._budget.held <= self._budget.limit or connection.crowded:  # crowded: it is being evicted as a whole
            return []
        return self._budget.reclaim()

    def count_eviction(self) -> None:
        """Count one eviction."""
        self._budget.counters["crowded"] += 1


@lru_cache(4)
def connection_limit(options: DecoderOptions) -> int:
    """Return how many bytes the open sessions of one connection may hold: a quarter of all, and always one message."""
    return max(options.reassembly_bytes // 4, options.max_message + EXCHANGE + ELEMENT)
