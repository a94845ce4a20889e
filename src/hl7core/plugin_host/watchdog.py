"""The watchdog: which calls of plugins run, and which of them have run for too long.

Its laws.  A call that runs for 5 seconds marks its plugin hanging, and no longer than it runs: a call that comes back
while the watchdog looks leaves no mark behind.  At 30 seconds the plugin is quarantined and the call given up, unless
it is one that may take long (a store, a cleanup).
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

__all__ = ["HANGING_AFTER", "Running", "Watchdog"]

_log = logging.getLogger(__name__)

HANGING_AFTER: Final = 5.0
QUARANTINE_AFTER: Final = 30.0


@dataclass(slots=True, eq=False)
class Running:
    """A call of ``hook`` of ``plugin`` (of that very ``owner``); ``began`` is 0 while it does not run.

    It hangs when it has run for more than ``calm`` seconds; ``patient``: it may, for as long as it likes.  ``lost``:
    nobody waits for it any more.
    """

    plugin: str
    hook: str
    owner: object
    patient: bool = False
    calm: float = HANGING_AFTER
    began: float = 0.0
    hung: bool = False
    lost: bool = False


class Watchdog:
    """Watches calls, from any thread; ``clock`` gives seconds and only goes forward."""

    def __init__(self, registry: Registry, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._registry = registry
        self._slots: dict[int, Running] = {}
        self._kept: tuple[Running, ...] = ()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def in_service(self, plugin: str, owner: object) -> bool:
        """Say whether that very plugin (not another of its name) is in service."""
        return self._registry.pm.get_plugin(plugin) is owner

    def enter(self, slot: Running) -> bool:
        """Watch a call that begins; false, and it must not, if its plugin is not in service (any more)."""
        slot.began = self.clock()
        self._slots[id(slot)] = slot  # ahead of the question: who takes the plugin out of service waits for us
        if self.in_service(slot.plugin, slot.owner):
            return True
        del self._slots[id(slot)]
        return False

    def leave(self, slot: Running) -> None:
        """The call is over."""
        slot.began = 0.0
        self._slots.pop(id(slot), None)
        self.returned(slot)

    def keep(self, slots: Iterable[Running]) -> None:
        """Watch calls that begin and end very often, by their ``began``; those given before are let go of."""
        kept = tuple(slots)
        self._slots.update((id(slot), slot) for slot in kept)
        running = []
        for slot in self._kept:
            if slot.began:
                running.append(slot)
            else:
                self._slots.pop(id(slot), None)
        self._kept = (*running, *kept)

    def returned(self, slot: Running) -> None:
        """Note that a call has come back: its plugin hangs no longer, unless another call does."""
        if slot.hung and not slot.lost:
            slot.hung = False
            others = any(other.hung and other.plugin == slot.plugin for other in list(self._slots.values()))
            if not others and self.in_service(slot.plugin, slot.owner):
                self._registry.mark(slot.plugin, PluginState.ENABLED)

    def busy(self, plugin: str) -> bool:
        """Say whether a call of ``plugin`` is running that is still waited for."""
        return any(slot.began and not slot.lost and slot.plugin == plugin for slot in list(self._slots.values()))

    def watch(self) -> None:
        """Start looking each second, once there is something to watch."""
        if self._thread is None:
            with self._lock:
                if self._thread is None and not self._closed.is_set():
                    self._thread = threading.Thread(target=self._patrol, name="hl7core-watchdog", daemon=True)
                    self._thread.start()

    def look(self) -> None:
        """Look once at what is running: mark what hangs, shut away what has hung too long."""
        for slot in list(self._slots.values()):
            began = slot.began  # read once: the call may end at any moment
            if not began or slot.lost or not self.in_service(slot.plugin, slot.owner):
                continue
            age = self.clock() - began
            if age >= QUARANTINE_AFTER and not slot.patient:
                slot.lost = True
                text = f"{slot.hook} has not returned for {QUARANTINE_AFTER:.0f} seconds"
                self._registry.quarantine(slot.plugin, text)
            elif age >= slot.calm:
                slot.hung = True
                text = f"{slot.hook} has been running for {slot.calm:.0f} seconds"
                self._registry.mark(slot.plugin, PluginState.HANGING, text)
                if slot.began != began:  # it came back before it was marked, so nobody else takes the mark away
                    self.returned(slot)

    def close(self) -> None:
        """Stop looking."""
        self._closed.set()

    def _patrol(self) -> None:
        while not self._closed.wait(1.0):
            try:
                self.look()
            except Exception as error:  # noqa: BLE001 - a fault of ours must not end all watching
                _log.error("looking for plugins that hang broke: %s", describe(error))
