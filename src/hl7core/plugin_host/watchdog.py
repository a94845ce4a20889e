"""The watchdog: which calls of plugins are running, and which of them have run for too long without progress.

A call that shows no progress for 4 seconds marks its plugin as hanging, for as long as that lasts: one that returns
while the watchdog checks leaves no mark behind.  After 29 seconds it is abandoned: whoever waits for it goes on.  Its
``limit`` says what becomes of the plugin then.  With the time between two checks, that is within 5 and 30 seconds.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from hl7core.guard import describe
from hl7core.plugin_host.discovery import PluginState
from hl7core.plugin_host.registry import Registry

__all__ = ["HANGING_AFTER", "Limit", "RunningCall", "Watchdog"]

_log = logging.getLogger(__name__)

HANGING_AFTER: Final = 4.0
ABANDONED_AFTER: Final = 29.0
_CHECK_EVERY: Final = 0.5


class Limit(Enum):
    """What happens to a call that shows no progress for too long."""

    QUARANTINE = "quarantine"
    """It is abandoned, and its plugin is out of service until a person enables it again."""
    SUSPEND = "suspend"
    """It is abandoned, and its plugin is out of service until the call returns."""
    NONE = "none"
    """Its plugin is marked as hanging; the call goes on."""


@dataclass(slots=True, eq=False)
class RunningCall:
    """A call of ``hook`` of ``plugin``, the object ``owner``.

    ``began`` is the clock's time of its start, 0 while it does not run; ``progress`` is when it last got on.  It hangs
    once it has shown no progress for ``hanging_after`` seconds.  ``abandoned``: nobody waits for it any more, as
    ``release`` has told whoever did.
    """

    plugin: str
    hook: str
    owner: object
    limit: Limit = Limit.QUARANTINE
    hanging_after: float = HANGING_AFTER
    began: float = 0.0
    progress: float = 0.0
    hanging: bool = False
    abandoned: bool = False
    release: Callable[[], None] = field(default=lambda: None)

    def quiet_for(self, now: float) -> float:
        """Return for how many seconds it has shown no progress, 0 if it does not run."""
        began = self.began  # read once: the call may return at any moment
        return now - max(began, self.progress) if began else 0.0


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
        self.watch(call)  # before the check: whoever unregisters the plugin then waits for this call
        if self.in_service(call.plugin, call.owner) and not self._registry.suspended(call.plugin):
            return True
        del self._calls[id(call)]
        return False

    def watch(self, call: RunningCall) -> None:
        """Watch a call from its start, whether or not its plugin is still in service."""
        call.began = call.progress = self.clock()
        self._calls[id(call)] = call

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
        """Record that a call has returned or gets on: its plugin no longer hangs, unless another call of it does."""
        if call.abandoned:
            if call.limit is Limit.SUSPEND and not self._others(call, lambda other: other.abandoned):
                self._registry.resume(call.plugin, call.owner)
        elif call.hanging:
            call.hanging = False
            if not self._others(call, lambda other: other.hanging) and self.in_service(call.plugin, call.owner):
                self._registry.set_state(call.plugin, PluginState.ENABLED)

    def _others(self, call: RunningCall, which: Callable[[RunningCall], bool]) -> bool:
        """Return whether other calls of the same plugin object, such as ``which`` selects, are running."""
        return any(
            other is not call and other.began and other.owner is call.owner and which(other)
            for other in list(self._calls.values())
        )

    def busy(self, plugin: str) -> bool:
        """Return whether a call of ``plugin`` is running and not abandoned."""
        return any(call.began and not call.abandoned and call.plugin == plugin for call in list(self._calls.values()))

    def start(self) -> None:
        """Check twice a second from now on, on a thread of its own; does nothing if that thread runs already."""
        if self._thread is None:
            with self._lock:
                if self._thread is None and not self._closed.is_set():
                    self._thread = threading.Thread(target=self._run, name="hl7core-watchdog", daemon=True)
                    self._thread.start()

    def check(self) -> None:
        """Check the running calls once: mark what hangs, abandon what has hung for too long."""
        for call in list(self._calls.values()):
            if call.abandoned:
                continue
            quiet = call.quiet_for(self.clock())
            if quiet >= ABANDONED_AFTER and call.limit is not Limit.NONE:
                self._abandon(call, f"{call.hook} has not returned for {quiet:.0f} seconds")
            elif quiet >= call.hanging_after:
                self._mark(call, f"{call.hook} has been running for {call.hanging_after:.0f} seconds")
            elif call.hanging and call.began:
                self.returned(call)

    def abandon(self, hooks: Iterable[str], seconds: float) -> None:
        """Abandon at once the calls of ``hooks`` that have shown no progress for ``seconds``."""
        wanted = frozenset(hooks)
        for call in list(self._calls.values()):
            quiet = call.quiet_for(self.clock())
            if call.hook in wanted and quiet >= seconds and not call.abandoned:
                self._abandon(call, f"{call.hook} has not returned for {quiet:.0f} seconds")

    def _mark(self, call: RunningCall, text: str) -> None:
        began = call.began
        if not began or not self.in_service(call.plugin, call.owner):
            return
        call.hanging = True
        self._registry.set_state(call.plugin, PluginState.HANGING, text)
        if call.began != began:  # it returned before it was marked, so nobody else removes the mark
            self.returned(call)

    def _abandon(self, call: RunningCall, text: str) -> None:
        began = call.began
        if not began:
            return
        call.abandoned = True
        if self.in_service(call.plugin, call.owner):
            if call.limit is Limit.SUSPEND:
                self._registry.suspend(call.plugin, f"{text}; it is in service again once that returns")
            else:
                self._registry.quarantine(call.plugin, text)
        call.release()
        if call.began != began:  # it returned meanwhile, so nobody else ends the suspension
            self.returned(call)

    def close(self) -> None:
        """Stop checking."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(_CHECK_EVERY):
            try:
                self.check()
            except Exception as error:  # noqa: BLE001 - a fault of ours must not end the watchdog
                _log.error("checking for plugins that hang failed: %s", describe(error))
