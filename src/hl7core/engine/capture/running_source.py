"""One running source: its thread, and how its packets are handed on, exactly once, while another takes its place.

Of two sources that listen at once, each packet is taken from one: from the old one if it was captured before a certain
moment, from the new one if at that moment or later.  What the new one has is held back until the old one has passed on
its last packet, so that the order of packets stays that of their capture.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from itertools import compress
from typing import Final

from hl7core.contract import ListeningSource, PacketSource, SourceStats
from hl7core.errors import SourceError
from hl7core.guard import reason_of
from hl7core.model.packet import PacketBatch

__all__ = ["RunningSource"]

logger = logging.getLogger(__name__)

_ALWAYS: Final = 1 << 63
_SETTLED_NS: Final = 5_000_000_000


class RunningSource:
    """A source of ``plugin`` and its thread.

    ``put`` gets its batches, on that thread.  ``on_ended`` is called, on that thread, when it has ended by itself.
    """

    def __init__(
        self,
        plugin: str,
        source: PacketSource,
        put: Callable[[PacketBatch], None],
        on_ended: Callable[[RunningSource], None],
    ) -> None:
        self.plugin = plugin
        self.source = source
        self.name = source.name
        self.stopping = False
        self.taking_over = False
        self.ended = threading.Event()
        self.error: Exception | None = None
        self.dropped_reported = 0
        self.detail = ""
        self.last_stats = SourceStats()
        self._put = put
        self._on_ended = on_ended
        self._lock = threading.Lock()
        self._from_ns, self._until_ns = 0, _ALWAYS
        self._held: list[PacketBatch] | None = None
        self._thread: threading.Thread | None = None
        self.tells = isinstance(source, ListeningSource)
        """Whether the source says when it listens."""

    @property
    def listening(self) -> bool:
        """Whether the source says that it listens, or cannot say."""
        return not isinstance(self.source, ListeningSource) or bool(self.source.listening)

    def stats(self) -> SourceStats:
        """Return the source's statistics, or the last known ones if it fails."""
        try:
            self.last_stats = self.source.stats()
        except Exception as error:  # noqa: BLE001 - statistics must not end a capture
            logger.debug("source %s has no statistics: %s", self.name, reason_of(error))
        return self.last_stats

    def start(self, *, held: bool = False) -> None:
        """Start the thread; with ``held``, hold back what it captures until ``release``."""
        self._held = [] if held else None
        self._thread = threading.Thread(target=self._run, name=f"hl7core-source-{self.name}", daemon=True)
        self._thread.start()

    def join(self, timeout: float) -> bool:
        """Wait for the thread to end, at most ``timeout`` seconds; return whether it has."""
        if self._thread is not None:
            self._thread.join(timeout)
            return not self._thread.is_alive()
        return True

    def end_at(self, time_ns: int) -> None:
        """Hand on no packet captured at ``time_ns`` (unix nanoseconds) or later."""
        with self._lock:
            self._until_ns = time_ns

    def release(self, from_ns: int) -> None:
        """Hand on what was held back, and what comes, as far as it was captured at ``from_ns`` or later."""
        with self._lock:
            held, self._held = self._held or [], None
            self._from_ns = from_ns
            for batch in held:
                self._hand_on(batch)

    def _emit(self, batch: PacketBatch) -> None:
        with self._lock:
            if self._held is not None:
                self._held.append(batch)
            else:
                self._hand_on(batch)

    def _hand_on(self, batch: PacketBatch) -> None:
        if self._from_ns or self._until_ns != _ALWAYS:
            if self._until_ns == _ALWAYS and batch.times[0] >= self._from_ns + _SETTLED_NS:
                self._from_ns = 0  # no earlier packet comes any more
            within = [self._from_ns <= time_ns < self._until_ns for time_ns in batch.times]
            if not any(within):
                return
            if not all(within):
                batch = _only(batch, within)
        self._put(batch)

    def _run(self) -> None:
        try:
            self.source.run(self._emit)
        except Exception as error:  # noqa: BLE001 - reported by whoever hears that it has ended
            self.error = error
        except BaseException as error:  # noqa: BLE001 - a plugin's SystemExit must not end the engine
            self.error = SourceError(f"source {self.name} ended with {type(error).__name__}")
        self.ended.set()
        self._on_ended(self)


def _only(batch: PacketBatch, within: list[bool]) -> PacketBatch:
    """Return those packets of ``batch`` that are ``within``."""
    first = within.index(True)
    return batch._replace(
        starts=list(compress(batch.starts, within)),
        ends=list(compress(batch.ends, within)),
        times=list(compress(batch.times, within)),
        wire_lengths=list(compress(batch.wire_lengths, within)),
        number=batch.number + first,
    )
