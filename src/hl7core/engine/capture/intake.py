"""The intake: where packets come in, and the one place where they may be lost.

Capture cannot be slowed down, so a live source never waits here: when the intake is full its packets are dropped,
counted and reported, and the next batch of that interface says how many are missing before it.  A finite source (a
file) can wait, so it does, and loses nothing.  Batches and work come out in the order in which they went in.
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
"""What a packet takes beside its bytes: its entries in the lists of a batch."""
_REPORT_EVERY: Final = 1.0
_HOLD_POLL: Final = 0.02


class Arrival(NamedTuple):
    """A batch of packets in the queue: its size in bytes, and whether its source can wait."""

    batch: PacketBatch
    cost: int
    finite: bool


class Intake:
    """A queue of batches and work, bounded in bytes and in batches.

    ``on_drop(source, count, total)`` reports dropped packets, at most once a second per source.  While ``hold`` returns
    true, the packets of finite sources stay in the queue.

    ``dropped`` counts the packets lost because the intake was full, ``discarded`` those that nobody wanted: captured
    while paused, or after the end.
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
        self._missing: dict[tuple[str, str], int] = {}
        self._unreported: dict[str, int] = {}
        self._reported_at: dict[str, float] = {}
        self.dropped = 0
        self.discarded = 0

    @property
    def paused(self) -> bool:
        """Whether packets are discarded (or, from finite sources, kept waiting)."""
        return self._paused

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be decoded."""
        return not self._queue

    def put(self, batch: PacketBatch, source: str, *, finite: bool = False) -> bool:
        """Queue a batch from ``source``; return false if its packets were dropped or discarded."""
        if not batch.count:
            return True
        cost = len(batch.buffer) + _BYTES_PER_PACKET * batch.count
        with self._changed:
            if finite:
                while not self._closed and (self._paused or not self._fits(cost)):
                    self._changed.wait()
            lost = self._closed or self._paused or not self._fits(cost)
            if lost:
                report = self._lose(batch, source)
            else:
                report = self._due(source)
                missing = self._missing.pop((source, batch.interface.name), 0)
                if missing:
                    batch = batch._replace(skipped=batch.skipped + missing)
                self._queue.append(Arrival(batch, cost, finite))
                self._bytes += cost
                self._batches += 1
                self._changed.notify_all()
            total = self.dropped
        if report:
            self._on_drop(source, report, total)
        return not lost

    def put_work(self, work: Callable[[], None]) -> None:
        """Queue ``work`` for the decoder thread, behind everything that is queued already."""
        with self._changed:
            self._queue.append(work)
            self._changed.notify_all()

    def get(self, timeout: float) -> Arrival | Callable[[], None] | None:
        """Return the first item of the queue, or None if there is none within ``timeout`` seconds."""
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
        """Discard packets from now on; finite sources wait."""
        with self._changed:
            self._paused = True

    def resume(self) -> None:
        """Accept packets again."""
        with self._changed:
            self._paused = False
            self._changed.notify_all()

    def mark_gap(self, source: str, interface: str) -> None:
        """Mark that an unknown number of packets of ``interface``, at least one, is missing before its next batch."""
        with self._changed:
            key = (source, interface)
            self._missing[key] = max(1, self._missing.get(key, 0))

    def close(self) -> None:
        """Accept nothing more, and release sources that wait.  What is queued can still be read."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def discard(self) -> int:
        """Drop the queued batches, but not the work; return how many packets that were."""
        with self._changed:
            work: deque[Arrival | Callable[[], None]] = deque(
                item for item in self._queue if not isinstance(item, Arrival)
            )
            lost = sum(item.batch.count for item in self._queue if isinstance(item, Arrival))
            self._queue = work
            self._bytes = self._batches = 0
            self.dropped += lost
            self._changed.notify_all()
        return lost

    def report_drops(self) -> None:
        """Report the drops that were held back by the limit of one report a second, where that second is over."""
        with self._changed:
            due = [(source, self._due(source)) for source in list(self._unreported)]
            total = self.dropped
        for source, count in due:
            if count:
                self._on_drop(source, count, total)

    def _fits(self, cost: int) -> bool:
        if not self._batches:
            return True  # even the largest batch must pass
        return self._batches < self._max_batches and self._bytes + cost <= self._max_bytes

    def _lose(self, batch: PacketBatch, source: str) -> int:
        key = (source, batch.interface.name)
        self._missing[key] = self._missing.get(key, 0) + batch.count + batch.skipped
        if self._paused or self._closed:
            self.discarded += batch.count
            return 0
        self.dropped += batch.count
        self._unreported[source] = self._unreported.get(source, 0) + batch.count
        return self._due(source)

    def _due(self, source: str) -> int:
        """Return how many dropped packets of ``source`` to report now, at most once a second."""
        count = self._unreported.get(source, 0)
        if not count:
            return 0
        now = time.monotonic()
        if now - self._reported_at.get(source, -_REPORT_EVERY) < _REPORT_EVERY:
            return 0
        self._reported_at[source] = now
        del self._unreported[source]
        return count
