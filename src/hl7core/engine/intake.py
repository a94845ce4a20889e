"""The intake: where packets come in, and the one place where they may be lost.

Capture cannot be slowed, so a live source never waits here: when the intake is full its packets are let go, counted,
told of, and the next batch of that interface carries how many are missing right before it.  A finite source (a file)
can wait, so it does, and loses nothing.  What goes out keeps the order in which it came in, orders included.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from threading import Condition
from typing import Final, NamedTuple

from hl7core.model.packet import PacketBatch

__all__ = ["MAX_BATCHES", "MAX_BYTES", "Arrival", "Intake"]

MAX_BYTES: Final = 64 << 20
MAX_BATCHES: Final = 4096
_BYTES_PER_PACKET: Final = 150
"""What a packet costs beside its bytes: its places, times and lengths in the lists of a batch."""
_TELL_EVERY: Final = 1.0
_HOLD_POLL: Final = 0.02


class Arrival(NamedTuple):
    """A batch of packets as it waits: what it costs, and whether its source can wait."""

    batch: PacketBatch
    cost: int
    finite: bool


class Intake:
    """A queue of batches and orders, bounded in bytes and in batches.

    ``on_drop(source, count, total)`` is told of lost packets at most once a second a source.  ``hold`` is asked
    before a finite source's packets are handed out: while it answers true they wait.
    """

    def __init__(
        self,
        *,
        max_bytes: int = MAX_BYTES,
        max_batches: int = MAX_BATCHES,
        on_drop: Callable[[str, int, int], None] = lambda _source, _count, _total: None,
        hold: Callable[[], bool] = lambda: False,
    ) -> None:
        self._max_bytes = max_bytes
        self._max_batches = max_batches
        self._on_drop = on_drop
        self._hold = hold
        self._changed = Condition()
        self._queue: deque[Arrival | Callable[[], None]] = deque()
        self._bytes = 0
        self._batches = 0
        self._paused = False
        self._closed = False
        self._owed: dict[tuple[str, str], int] = {}
        self._untold: dict[str, int] = {}
        self._told_at: dict[str, float] = {}
        self.dropped = 0
        self.let_go = 0

    @property
    def paused(self) -> bool:
        """Whether packets are being let go (or, from finite sources, kept waiting)."""
        return self._paused

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be decoded."""
        return not self._queue

    @property
    def waiting_bytes(self) -> int:
        """What the batches that wait cost."""
        return self._bytes

    def put(self, batch: PacketBatch, source: str, *, finite: bool = False) -> bool:
        """Take a batch from ``source``; false if its packets were let go."""
        if not batch.count:
            return True
        cost = len(batch.buffer) + _BYTES_PER_PACKET * batch.count
        with self._changed:
            if finite:
                while not self._closed and (self._paused or not self._fits(cost)):
                    self._changed.wait()
            lost = self._closed or self._paused or not self._fits(cost)
            if lost:
                tell = self._lose(batch, source)
            else:
                tell = self._due(source)
                missing = self._owed.pop((source, batch.interface.name), 0)
                if missing:
                    batch = batch._replace(skipped=batch.skipped + missing)
                self._queue.append(Arrival(batch, cost, finite))
                self._bytes += cost
                self._batches += 1
                self._changed.notify_all()
            total = self.dropped
        if tell:
            self._on_drop(source, tell, total)
        return not lost

    def order(self, work: Callable[[], None]) -> None:
        """Have ``work`` done by who takes the packets, behind all those that came before."""
        with self._changed:
            self._queue.append(work)
            self._changed.notify_all()

    def get(self, timeout: float) -> Arrival | Callable[[], None] | None:
        """Return what came first; None if nothing came within ``timeout`` seconds."""
        until = time.monotonic() + timeout
        with self._changed:
            while True:
                held = False
                if self._queue:
                    first = self._queue[0]
                    held = isinstance(first, Arrival) and first.finite and not self._closed and self._hold()
                    if not held:
                        self._queue.popleft()
                        if isinstance(first, Arrival):
                            self._bytes -= first.cost
                            self._batches -= 1
                            self._changed.notify_all()
                        return first
                left = until - time.monotonic()
                if left <= 0:
                    return None
                self._changed.wait(min(left, _HOLD_POLL) if held else left)

    def pause(self) -> None:
        """Let packets go from now on; finite sources wait."""
        with self._changed:
            self._paused = True

    def resume(self) -> None:
        """Take packets again."""
        with self._changed:
            self._paused = False
            self._changed.notify_all()

    def mark_gap(self, source: str, interface: str) -> None:
        """An unknown number of packets of ``interface`` is missing before its next batch (at least one)."""
        with self._changed:
            key = (source, interface)
            self._owed[key] = max(1, self._owed.get(key, 0))

    def close(self) -> None:
        """Take nothing more; who waits to put goes on.  What is queued can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def discard(self) -> int:
        """Forget the batches that wait (the orders stay); return how many packets that were."""
        with self._changed:
            orders: deque[Arrival | Callable[[], None]] = deque(
                item for item in self._queue if not isinstance(item, Arrival)
            )
            lost = sum(item.batch.count for item in self._queue if isinstance(item, Arrival))
            self._queue = orders
            self._bytes = self._batches = 0
            self.dropped += lost
            self._changed.notify_all()
        return lost

    def flush_told(self) -> None:
        """Tell of the losses that the rate of one a second has held back so far, where their second is over."""
        with self._changed:
            due = [(source, self._due(source)) for source in list(self._untold)]
            total = self.dropped
        for source, count in due:
            if count:
                self._on_drop(source, count, total)

    def _fits(self, cost: int) -> bool:
        if not self._batches:
            return True  # the largest of batches must pass too, or it would never
        return self._batches < self._max_batches and self._bytes + cost <= self._max_bytes

    def _lose(self, batch: PacketBatch, source: str) -> int:
        key = (source, batch.interface.name)
        self._owed[key] = self._owed.get(key, 0) + batch.count + batch.skipped
        if self._paused or self._closed:
            self.let_go += batch.count
            return 0
        self.dropped += batch.count
        self._untold[source] = self._untold.get(source, 0) + batch.count
        return self._due(source)

    def _due(self, source: str) -> int:
        """Return how many lost packets of ``source`` are to be told now, at most once a second."""
        count = self._untold.get(source, 0)
        if not count:
            return 0
        now = time.monotonic()
        if now - self._told_at.get(source, -_TELL_EVERY) < _TELL_EVERY:
            return 0
        self._told_at[source] = now
        del self._untold[source]
        return count
