"""What waits in sessions that go on, weighed over all connections.

Its law: all that is held is on the scales, but for a connection's first few kilobytes, which count as what a connection
costs (``max_connections`` bounds those, and small messages cost no weighing).  Where it is too much, the connections
that hold most give up their oldest, each marked and counted.
"""

from __future__ import annotations

import heapq
from functools import lru_cache
from typing import Final

from hl7core.model.session import Session
from hl7core.wire.connection import Connection, DecoderOptions, Half

__all__ = ["ELEMENT", "EXCHANGE", "LIGHT", "PER_PIECE", "ConnectionMemory", "HeldBytes", "MemoryBudget"]

LIGHT: Final = 4096
"""What a connection holds is weighed if it is more than so many bytes, and again once it changes by as many."""
ELEMENT: Final = 640
"""What an element takes besides its bytes, about, with the message that it may carry."""
EXCHANGE: Final = 640
"""What an exchange takes besides its elements, about."""


PER_PIECE: Final = 256
"""What Python takes for a piece that is held, beside its bytes: a peer may send them one by one."""


class HeldBytes:
    """``of`` has the weight of each direction that holds something, ``total`` that of all."""

    def __init__(self) -> None:
        self.of: dict[Half, int] = {}
        self.total = 0

    def put(self, half: Half, weight: int) -> None:
        """Note what ``half`` holds now; 0 for nothing."""
        self.total += weight - self.of.get(half, 0)
        if weight:
            self.of[half] = weight
        else:
            self.of.pop(half, None)

    def heaviest(self) -> list[Half]:
        """Return the tenth that hold most, heaviest first."""
        return heapq.nlargest(len(self.of) // 10 + 1, self.of, key=self.of.__getitem__)


class MemoryBudget:
    """All that waits, in bytes; ``most`` is what may.

    ``counters`` has ``crowded``, which counts what was given up.
    """

    __slots__ = ("_weights", "counters", "most")

    def __init__(self, most: int, counters: dict[str, int]) -> None:
        self._weights = HeldBytes()
        self.most = most
        self.counters = counters

    @property
    def held(self) -> int:
        """How many bytes wait."""
        return self._weights.total

    def weigh(self, connection: Connection, held: int) -> None:
        """Take note of what a connection holds now."""
        self._weights.put(connection.halves[0], held)

    def relieve(self) -> list[Session]:
        """Let go of the oldest where most is held, until a sixteenth is free again; return what that ended."""
        told: list[Session] = []
        weights = self._weights
        goal = self.most - self.most // 16  # the search is earned by the bytes that come before the next one
        while weights.total > goal and weights.of:
            for half in weights.heaviest():
                connection = half.connection.outer or half.connection
                if connection.tracker is None:
                    weights.put(half, 0)
                else:
                    told += connection.tracker.let_go(max(0, weights.of.get(half, 0) - (weights.total - goal)))
                if weights.total <= goal:
                    break
        return told


class ConnectionMemory:
    """What one connection holds: ``held`` bytes, and whoever changes that calls ``weigh`` in the end.

    It need not while ``held`` lies between ``low`` and ``high``.  ``most`` is what may be held: a quarter of all, and
    always one message.
    """

    __slots__ = ("_connection", "_scales", "_weighed", "held", "high", "low", "most")

    def __init__(self, scales: MemoryBudget, connection: Connection) -> None:
        self._scales = scales
        self._connection = connection
        self._weighed = 0
        self.most = share(connection.options)
        self.held = 0
        self.low = -1
        self.high = LIGHT

    def weigh(self) -> None:
        """Put what is held on the scales."""
        weight = self.held if self.held > LIGHT else 0
        if weight != self._weighed:
            self._weighed = weight
            self.low, self.high = weight - LIGHT, weight + LIGHT
            self._scales.weigh(self._connection, weight)

    def add(self, size: int) -> None:
        """Take ``size`` bytes more, or less."""
        self.held += size
        self.weigh()

    def has_room(self, size: int) -> bool:
        """Say whether ``size`` bytes more are within the bound over all connections."""
        return self._scales.held + size <= self._scales.most

    def relieve(self) -> list[Session]:
        """Let go of what is too much over all connections; return what that ended."""
        connection = self._connection.outer or self._connection
        if self._scales.held <= self._scales.most or connection.crowded:  # crowded: all of it goes now
            return []
        return self._scales.relieve()

    def given_up(self) -> None:
        """Count something that was given up for want of room."""
        self._scales.counters["crowded"] += 1


@lru_cache(4)
def share(options: DecoderOptions) -> int:
    """Return how many bytes of sessions that go on a connection may hold."""
    return max(options.reassembly_bytes // 4, options.max_message + EXCHANGE + ELEMENT)
