"""Telling what becomes of plugins.

Its laws.  Changes are told one at a time and in the order in which they happened, whichever threads they happen on.
Nobody waits for another: who finds somebody telling leaves the change to him.  So no lock is held by who waits, and a
listener may have locks of its own, or bring about the next change.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from hl7core.model.events import PluginChanged

__all__ = ["PluginChanges"]


class PluginChanges:
    """Brings changes to the listeners."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[PluginChanged], None]] = []
        self._waiting: deque[PluginChanged] = deque()
        self._telling = threading.Lock()

    def listen(self, listener: Callable[[PluginChanged], None]) -> None:
        """Tell ``listener`` of every change from now on, on whichever thread that happens."""
        self._listeners.append(listener)

    def add(self, change: PluginChanged) -> None:
        """Take a change; the order of these calls is the order of telling.  Call ``tell`` once you hold no lock."""
        self._waiting.append(change)

    def tell(self) -> None:
        """Tell what is to be told; if somebody does that already, he tells it."""
        while self._waiting and self._telling.acquire(blocking=False):
            try:
                while self._waiting:
                    change = self._waiting.popleft()
                    for listener in self._listeners:
                        listener(change)
            finally:
                self._telling.release()
