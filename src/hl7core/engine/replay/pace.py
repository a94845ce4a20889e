"""The pace of a replay: as fast as the engine keeps up, or as fast as the packets were captured.

Nothing here sleeps; the caller waits as long as it is told to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from hl7core.model.packet import PacketBatch

__all__ = ["Pace", "sliced"]

_TOGETHER: Final = 0.005
"""Packets that are due within so many seconds are handed on together."""
_SECOND: Final = 1e9


class Pace:
    """The packets' own pace: ``split`` cuts a batch into parts, and says how long to wait before each.

    The first packet of a file is due at once (``restart``).  ``monotonic`` gives seconds.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._first_ns: int | None = None
        self._began = 0.0

    def restart(self) -> None:
        """Another file begins; its packets may be from another year."""
        self._first_ns = None

    def delay(self, seconds: float) -> None:
        """Everything is due so many seconds later, because the replay was held up."""
        self._began += seconds

    def split(self, batch: PacketBatch) -> Iterator[tuple[float, PacketBatch]]:
        """Yield how many seconds to wait, and then which packets are due; a packet from the past is due at once."""
        times = batch.times
        if self._first_ns is None:
            self._first_ns, self._began = times[0], self._monotonic()
        start = 0
        while start < batch.count:
            due = self._due(times[start])
            until = max(due, self._monotonic()) + _TOGETHER
            end = start + 1
            while end < batch.count and self._due(times[end]) <= until:
                end += 1
            yield max(0.0, due - self._monotonic()), sliced(batch, start, end)
            start = end

    def _due(self, time_ns: int) -> float:
        return self._began + (time_ns - (self._first_ns or 0)) / _SECOND


def sliced(batch: PacketBatch, start: int, end: int) -> PacketBatch:
    """Return the packets ``start`` to ``end`` (exclusive) of ``batch``, in the same buffer."""
    if start == 0 and end >= batch.count:
        return batch
    return batch._replace(
        starts=batch.starts[start:end],
        ends=batch.ends[start:end],
        times=batch.times[start:end],
        wire_lengths=batch.wire_lengths[start:end],
        number=batch.number + start,
        skipped=batch.skipped if start == 0 else 0,
    )
