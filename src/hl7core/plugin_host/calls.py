"""Calling a plugin: each call guarded, timed, and watched while it runs.

A call that raises is logged once a minute for each plugin, hook and kind of error, by kind alone; ten within a minute
in a hook that merely hears news take the plugin out of service.
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

from hl7core.errors import PluginError
from hl7core.guard import contained, describe
from hl7core.plugin_host.registry import Registry
from hl7core.plugin_host.watchdog import HANGING_AFTER, Running, Watchdog

__all__ = ["Calls", "HookCost", "Impl", "NotInService"]

_log = logging.getLogger(__name__)
_trace = logging.getLogger("hl7core.hooks")

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

    __slots__ = ("_began", "_calls", "_impl", "_slot")

    def __init__(self, calls: Calls, impl: Impl, patient: bool, calm: float) -> None:
        self._calls = calls
        self._impl = impl
        self._slot = Running(impl.plugin, impl.hook, impl.owner, patient, calm)
        self._began = 0.0

    def __enter__(self) -> None:
        if not self._calls.watchdog.enter(self._slot):
            raise NotInService(f"{self._impl.plugin} is not in service")
        self._began = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        impl = self._impl
        seconds = time.perf_counter() - self._began
        self._calls.watchdog.leave(self._slot)
        self._calls.done(impl, seconds, failed=error is not None)
        if error is not None and not isinstance(error, Exception) and not _is_ours(error):
            raise PluginError(f"{impl.plugin}: {impl.hook}: {describe(error)}") from error


class Calls:
    """Guards every call into a plugin; used from any thread."""

    def __init__(self, registry: Registry, clock: Callable[[], float] = time.monotonic) -> None:
        self._registry = registry
        self.watchdog = Watchdog(registry, clock)
        self._tallies: dict[tuple[str, str], Tally] = {}
        self._told: dict[tuple[str, str, str], tuple[float, int]] = {}
        self._lock = threading.Lock()
        self._tracing = os.environ.get("HL7CORE_TRACE_HOOKS", "") not in ("", "0", "false")

    def running(self, impl: Impl, *, patient: bool = False, calm: float = HANGING_AFTER) -> Watched:
        """Watch and time what happens inside as a call of ``impl``; what it raises is an Exception, whatever it was.

        Raises NotInService if the plugin is not in service (any more).  ``patient``: it may take long.
        ``calm``: for so many seconds it does not even hang.
        """
        self.watchdog.watch()
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
        work = [(impl, Running(impl.plugin, impl.hook, impl.owner)) for impl in impls]
        self.watchdog.keep(slot for _, slot in work)
        return tuple(self._listener(impl, slot) for impl, slot in work)

    def _listener(self, impl: Impl, slot: Running) -> Callable[[Any], None]:
        tally, watchdog = self.tally(impl), self.watchdog
        plugins, clock, timer, owner, name = (
            self._registry.pm,
            watchdog.clock,
            time.perf_counter,
            impl.owner,
            impl.plugin,
        )
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
                    watchdog.returned(slot)

        return listen

    def failed(self, impl: Impl, error: BaseException, *, budget: bool) -> None:
        """Tell of an error, at most once a minute for its kind; with ``budget`` ten of them are too many."""
        now = self.watchdog.clock()
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
        if not self.watchdog.in_service(impl.plugin, impl.owner):
            return
        if tell:
            self._registry.note(impl.plugin, text)
        if spent:
            self._registry.fail(impl.plugin, f"taken out of service after {BUDGET} errors within a minute; {text}")

    def done(self, impl: Impl, seconds: float, *, failed: bool) -> None:
        """Count a call that is over."""
        tally = self.tally(impl)
        tally.calls += 1
        tally.seconds += seconds
        tally.errors += failed
        if self._tracing:
            _trace.info("%s %s %.1f ms", impl.hook, impl.plugin, seconds * 1000)

    def costs(self) -> tuple[HookCost, ...]:
        """Return what every hook of every plugin has cost so far, the dearest first."""
        found = [
            HookCost(plugin, hook, tally.calls, tally.seconds, tally.errors)
            for (plugin, hook), tally in list(self._tallies.items())
        ]
        return tuple(sorted(found, key=lambda cost: -cost.seconds))

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
