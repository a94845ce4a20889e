"""The watchdog: which calls of plugins are running, and which of them have run for too long.

A call that runs for 5 seconds marks its plugin as hanging, for as long as the call runs: one that returns while the
watchdog checks leaves no mark behind.  At 30 seconds the plugin is quarantined and the call abandoned, unless it is one
that may take long (a store's, a cleanup).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from hl7core.guard import describe
from hl7core.plugin_host.discovery import PluginState
from hl7core.plugin_host.registry import Registry

__all__ = ["HANGING_AFTER", "RunningCall", "Watchdog"]

_log = logging.getLogger(__name__)

HANGING_AFTER: Final = 5.0
QUARANTINE_AFTER: Final = 30.0


@dataclass(slots=True, eq=False)
class RunningCall:
    """A call of ``hook`` of ``plugin``, the object ``owner``.

    ``began`` is the clock's time of its start, 0 while it does not run.  It hangs once it has run for ``hanging_after``
    seconds.  ``unlimited``: it is never quarantined.  ``abandoned``: nobody waits for it any more.
    """

    plugin: str
    hook: str
    owner: object
    unlimited: bool = False
    hanging_after: float = HANGING_AFTER
    began: float = 0.0
    hanging: bool = False
    abandoned: bool = False


class Watchdog:
    """Watches calls, from any thread; ``clock`` gives seconds and never goes back."""

    def __init__(self, registry: Registry, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._registry = registry
        self._calls: dict[int, RunningCall] = {}
        self._listeners: tuple[RunningCall, ...] = ()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def in_service(self, plugin: str, owner: object) -> bool:
        """Return whether that very plugin (not another one of the same name) is registered."""
        return self._registry.pm.get_plugin(plugin) is owner

    def enter(self, call: RunningCall) -> bool:
        """Watch a call from its start; return False, and it must not start, if its plugin is not in service."""
        call.began = self.clock()
        self._calls[id(call)] = call  # before the check: whoever unregisters the plugin then waits for this call
        if self.in_service(call.plugin, call.owner):
            return True
        del self._calls[id(call)]
        return False

    def leave(self, call: RunningCall) -> None:
        """Stop watching a call that has returned."""
        call.began = 0.0
        self._calls.pop(id(call), None)
        self.returned(call)

    def watch_listeners(self, calls: Iterable[RunningCall]) -> None:
        """Watch calls that start and return very often, by their ``began`` alone.

        They replace those of the last time, which are forgotten once they have returned.
        """
        new = tuple(calls)
        self._calls.update((id(call), call) for call in new)
        still_running = []
        for call in self._listeners:
            if call.began:
                still_running.append(call)
            else:
                self._calls.pop(id(call), None)
        self._listeners = (*still_running, *new)

    def returned(self, call: RunningCall) -> None:
        """Record that a call has returned: its plugin no longer hangs, unless another call of it does."""
        if call.hanging and not call.abandoned:
            call.hanging = False
            others = any(other.hanging and other.plugin == call.plugin for other in list(self._calls.values()))
            if not others and self.in_service(call.plugin, call.owner):
                self._registry.set_state(call.plugin, PluginState.ENABLED)

    def busy(self, plugin: str) -> bool:
        """Return whether a call of ``plugin`` is running and not abandoned."""
        return any(call.began and not call.abandoned and call.plugin == plugin for call in list(self._calls.values()))

    def start(self) -> None:
        """Check once a second from now on, on a thread of its own; does nothing if that thread runs already."""
        if self._thread is None:
            with self._lock:
                if self._thread is None and not self._closed.is_set():
                    self._thread = threading.Thread(target=self._run, name="hl7core-watchdog", daemon=True)
                    self._thread.start()

    def check(self) -> None:
        """Check the running calls once: mark what hangs, quarantine what has hung for too long."""
        for call in list(self._calls.values()):
            began = call.began  # read once: the call may return at any moment
            if not began or call.abandoned or not self.in_service(call.plugin, call.owner):
                continue
            age = self.clock() - began
            if age >= QUARANTINE_AFTER and not call.unlimited:
                call.abandoned = True
                text = f"{call.hook} has not returned for {QUARANTINE_AFTER:.0f} seconds"
                self._registry.quarantine(call.plugin, text)
            elif age >= call.hanging_after:
                call.hanging = True
                text = f"{call.hook} has been running for {call.hanging_after:.0f} seconds"
                self._registry.set_state(call.plugin, PluginState.HANGING, text)
                if call.began != began:  # it returned before it was marked, so nobody else removes the mark
                    self.returned(call)

    def close(self) -> None:
        """Stop checking."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(1.0):
            try:
                self.check()
            except Exception as error:  # noqa: BLE001 - a fault of ours must not end the watchdog
                _log.error("checking for plugins that hang failed: %s", describe(error))
