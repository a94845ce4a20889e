"""Calling a plugin: each call guarded, timed, and watched while it runs.

A call that raises is logged once a minute for each plugin, hook and kind of error, by kind alone; ten within a minute
in a hook that merely hears news take the plugin out of service.  A call that runs for 5 seconds marks its plugin
hanging; at 30 seconds the plugin is quarantined, unless the call is one that may take long (a store, a cleanup).
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import takewhile
from types import TracebackType
from typing import Any, Final, NamedTuple

import pluggy

from hl7core.discovery import PluginState
from hl7core.errors import PluginError
from hl7core.guard import contained, describe
from hl7core.registry import Registry

__all__ = ["Calls", "HookCost", "Impl", "NotInService"]

_log = logging.getLogger(__name__)
_trace = logging.getLogger("hl7core.hooks")

HANGING_AFTER: Final = 5.0
QUARANTINE_AFTER: Final = 30.0
BUDGET: Final = 10
BUDGET_SECONDS: Final = 60.0


class HookCost(NamedTuple):
    """What the calls of one hook of one plugin have cost so far."""

    plugin: str
    hook: str
    calls: int
    seconds: float
    errors: int


class Impl(NamedTuple):
    """One plugin's implementation of one hook; ``takes`` are those of the hook's arguments that it wants."""

    plugin: str
    hook: str
    function: Callable[..., Any]
    takes: tuple[int, ...]
    owner: object

    @classmethod
    def of(cls, hook: str, found: pluggy.HookImpl, offered: tuple[str, ...]) -> Impl:
        """Take what pluggy knows of it; an argument with a default is given as well, if the hook offers it."""
        more = takewhile(lambda name: name in offered, found.kwargnames)
        takes = tuple(offered.index(name) for name in (*found.argnames, *more))
        return cls(found.plugin_name, hook, found.function, takes, found.plugin)

    def __call__(self, *values: Any) -> Any:
        """Call it with those of ``values`` that it takes."""
        return self.function(*[values[index] for index in self.takes])


@dataclass(slots=True)
class Running:
    """A call that runs (``began`` is 0 while it does not); ``lost`` if nobody waits for it any more.

    It hangs when it has run for more than ``calm`` seconds.
    """

    impl: Impl
    patient: bool
    began: float = 0.0
    calm: float = HANGING_AFTER
    hung: bool = False
    lost: bool = False


@dataclass(slots=True)
class Tally:
    """What the calls of one hook of one plugin have come to."""

    calls: int = 0
    seconds: float = 0.0
    errors: int = 0
    recent: deque[float] = field(default_factory=deque)


class NotInService(PluginError):  # noqa: N818 - named for what is the matter
    """The plugin was taken out of service before it could be called."""


class Watched:
    """The guard around one call: on the watchdog's list while it runs, and out of it only an Exception comes."""

    __slots__ = ("_began", "_calls", "_slot")

    def __init__(self, calls: Calls, impl: Impl, patient: bool, calm: float) -> None:
        self._calls = calls
        self._slot = Running(impl, patient, calm=calm)
        self._began = 0.0

    def __enter__(self) -> None:
        slot, calls = self._slot, self._calls
        slot.began = calls.clock()
        calls.slots[id(slot)] = slot  # ahead of the question: who takes the plugin out of service waits for us
        if not calls.in_service(slot.impl):
            del calls.slots[id(slot)]
            raise NotInService(f"{slot.impl.plugin} is not in service")
        self._began = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        impl = self._slot.impl
        seconds = time.perf_counter() - self._began
        self._calls.done(self._slot, seconds, failed=error is not None)
        if error is not None and not isinstance(error, Exception) and not _is_ours(error):
            raise PluginError(f"{impl.plugin}: {impl.hook}: {describe(error)}") from error


class Calls:
    """Guards every call into a plugin; used from any thread."""

    def __init__(self, registry: Registry, clock: Callable[[], float] = time.monotonic) -> None:
        self._registry = registry
        self.clock = clock
        self.slots: dict[int, Running] = {}
        self._tallies: dict[tuple[str, str], Tally] = {}
        self._told: dict[tuple[str, str, str], tuple[float, int]] = {}
        self._lock = threading.Lock()
        self._listening: list[int] = []
        self._watchdog: threading.Thread | None = None
        self._closed = threading.Event()
        self._tracing = os.environ.get("HL7CORE_TRACE_HOOKS", "") not in ("", "0", "false")

    def running(self, impl: Impl, *, patient: bool = False, calm: float = HANGING_AFTER) -> Watched:
        """Watch and time what happens inside as a call of ``impl``; what it raises is an Exception, whatever it was.

        Raises NotInService if the plugin is not in service (any more).  ``patient``: it may take long.
        ``calm``: for so many seconds it does not even hang.
        """
        self.watch()
        return Watched(self, impl, patient, calm)

    def call(self, impl: Impl, *values: Any, patient: bool = False) -> Any:
        """Call ``impl`` and return its answer; what it raises is an Exception, whatever it was."""
        with self.running(impl, patient=patient):
            return impl(*values)

    def hear(self, impl: Impl, *values: Any) -> None:
        """Call ``impl`` with news: what it raises is told, counted, and over."""
        try:
            self.call(impl, *values)
        except NotInService:
            return
        except Exception as error:  # noqa: BLE001 - a plugin's failure is the plugin's
            self.failed(impl, error, budget=True)

    def listeners(self, impls: Iterable[Impl]) -> tuple[Callable[[Any], None], ...]:
        """Return ``impls`` as functions of one value, guarded as in ``hear`` but made for 100,000 calls a second.

        What was returned before is no longer watched.
        """
        for key in self._listening:
            slot = self.slots.get(key)
            if slot is not None and not slot.began:
                del self.slots[key]
        slots = [Running(impl, patient=False) for impl in impls]
        self.slots.update((id(slot), slot) for slot in slots)
        self._listening = [key for key in (*self._listening, *map(id, slots)) if key in self.slots]
        return tuple(self._listener(slot) for slot in slots)

    def _listener(self, slot: Running) -> Callable[[Any], None]:
        impl = slot.impl
        tally = self.tally(impl)
        plugins, clock, timer, owner, name = self._registry.pm, self.clock, time.perf_counter, impl.owner, impl.plugin
        function = impl.function if impl.takes else _heedless(impl.function)

        def listen(value: Any) -> None:
            slot.began = clock()
            began = timer()
            try:
                if plugins.get_plugin(name) is owner:
                    function(value)
            except BaseException as error:
                if not contained(error):
                    raise
                tally.errors += 1
                self.failed(impl, error, budget=True)
            finally:
                tally.calls += 1
                tally.seconds += timer() - began
                slot.began = 0.0
                if slot.hung:
                    self.returned(slot)

        return listen

    def failed(self, impl: Impl, error: BaseException, *, budget: bool) -> None:
        """Tell of an error, at most once a minute for its kind; with ``budget`` ten of them are too many."""
        now = self.clock()
        kind = (impl.plugin, impl.hook, type(error).__name__)
        text = f"{impl.hook}: {describe(error)}"
        spent = False
        with self._lock:
            told, held = self._told.get(kind, (float("-inf"), 0))
            tell = now - told >= BUDGET_SECONDS
            self._told[kind] = (now, 0) if tell else (told, held + 1)
            if budget:
                recent = self.tally(impl).recent
                recent.append(now)
                while recent and now - recent[0] >= BUDGET_SECONDS:
                    recent.popleft()
                if len(recent) >= BUDGET:
                    recent.clear()
                    spent = True
        if tell:
            more = f" (and {held} more of its kind)" if held else ""
            _log.warning("plugin %s: %s%s", impl.plugin, text, more)
        if not self.in_service(impl):
            return
        if tell:
            self._registry.note(impl.plugin, text)
        if spent:
            self._registry.fail(impl.plugin, f"taken out of service after {BUDGET} errors within a minute; {text}")

    def in_service(self, impl: Impl) -> bool:
        """Say whether that very plugin (not another of its name) is in service."""
        return self._registry.pm.get_plugin(impl.plugin) is impl.owner

    def done(self, slot: Running, seconds: float, *, failed: bool) -> None:
        """Count a call that is over."""
        impl = slot.impl
        tally = self.tally(impl)
        tally.calls += 1
        tally.seconds += seconds
        tally.errors += failed
        self.slots.pop(id(slot), None)
        self.returned(slot)
        if self._tracing:
            _trace.info("%s %s %.1f ms", impl.hook, impl.plugin, seconds * 1000)

    def busy(self, plugin: str) -> bool:
        """Say whether a call of ``plugin`` is running that is still waited for."""
        return any(slot.began and not slot.lost and slot.impl.plugin == plugin for slot in list(self.slots.values()))

    def costs(self) -> tuple[HookCost, ...]:
        """Return what every hook of every plugin has cost so far, the dearest first."""
        found = [
            HookCost(plugin, hook, tally.calls, tally.seconds, tally.errors)
            for (plugin, hook), tally in list(self._tallies.items())
        ]
        return tuple(sorted(found, key=lambda cost: -cost.seconds))

    def watch(self) -> None:
        """Start the watchdog, once there is something to watch."""
        if self._watchdog is None:
            with self._lock:
                if self._watchdog is None and not self._closed.is_set():
                    self._watchdog = threading.Thread(target=self._patrol, name="hl7core-watchdog", daemon=True)
                    self._watchdog.start()

    def look(self) -> None:
        """Look once at what is running: mark what hangs, shut away what has hung too long."""
        now = self.clock()
        for slot in list(self.slots.values()):
            age = now - slot.began if slot.began else 0.0
            name, hook = slot.impl.plugin, slot.impl.hook
            if slot.lost or not self.in_service(slot.impl):
                continue
            if age >= QUARANTINE_AFTER and not slot.patient:
                slot.lost = True
                self._registry.quarantine(name, f"{hook} has not returned for {QUARANTINE_AFTER:.0f} seconds")
            elif age >= slot.calm:
                slot.hung = True
                self._registry.mark(name, PluginState.HANGING, f"{hook} has been running for {slot.calm:.0f} seconds")

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()

    def _patrol(self) -> None:
        while not self._closed.wait(1.0):
            self.look()

    def returned(self, slot: Running) -> None:
        """Note that a call has come back: its plugin hangs no longer, unless another call does."""
        if slot.hung and not slot.lost:
            slot.hung = False
            name = slot.impl.plugin
            others = any(other.hung and other.impl.plugin == name for other in list(self.slots.values()))
            if not others and self.in_service(slot.impl):
                self._registry.mark(name, PluginState.ENABLED)

    def tally(self, impl: Impl) -> Tally:
        """Return the counts of that hook of that plugin."""
        return self._tallies.setdefault((impl.plugin, impl.hook), Tally())


def _heedless(function: Callable[..., Any]) -> Callable[[Any], Any]:
    def call(_value: Any) -> Any:
        return function()

    return call


def _is_ours(error: BaseException) -> bool:
    """Say whether ``error`` came to us and not from the plugin: Ctrl-C, or that our own task is cancelled."""
    if isinstance(error, asyncio.CancelledError):
        try:
            task = asyncio.current_task()
        except RuntimeError:  # no loop here, so nobody could have cancelled us
            return False
        return task is not None and task.cancelling() > 0
    return not contained(error)
