"""Changes of plugins' states, delivered to listeners in the order in which they happened.

Changes are delivered one at a time and in order, whichever threads they come from.  Nobody waits: a thread that finds
another one delivering leaves its change to that one.  So nobody waits with a lock held, and a listener may take locks
of its own or cause the next change.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from hl7core.model.events import PluginChanged

__all__ = ["PluginChanges"]


class PluginChanges:
    """Queues changes and delivers them to the listeners."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[PluginChanged], None]] = []
        self._waiting: deque[PluginChanged] = deque()
        self._delivering = threading.Lock()

    def listen(self, listener: Callable[[PluginChanged], None]) -> None:
        """Call ``listener`` with every change from now on, on whichever thread that happens."""
        self._listeners.append(listener)

    def add(self, change: PluginChanged) -> None:
        """Queue a change; changes are delivered in the order of these calls.  Then, holding no lock, ``deliver``."""
        self._waiting.append(change)

    def deliver(self) -> None:
        """Deliver what is queued; if another thread is delivering, leave it to that one."""
        while self._waiting and self._delivering.acquire(blocking=False):
            try:
                while self._waiting:
                    change = self._waiting.popleft()
                    for listener in self._listeners:
                        listener(change)
            finally:
                self._delivering.release()
