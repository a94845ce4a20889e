"""Calls of plugins: each guarded, traced, and watched while it runs.

An error is logged once a minute for each plugin, hook and type of error, by its type alone.  Ten errors within a minute
in a hook that has an error budget (news, framers, ``diagnose``) take the plugin out of service.  So do calls in the
hooks that decoding waits for, if those that took over 0.1 seconds add up to 30 seconds within a minute.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Final

from hl7core.errors import PluginError
from hl7core.guard import contained, describe, progress_of, watched_progress
from hl7core.plugin_host.hook_table import Impl
from hl7core.plugin_host.registry import Registry
from hl7core.plugin_host.watchdog import HANGING_AFTER, Limit, RunningCall, Watchdog

__all__ = ["Calls", "NotInService"]

_log = logging.getLogger(__name__)
_trace = logging.getLogger("hl7core.hooks")

BUDGET: Final = 10
BUDGET_SECONDS: Final = 60.0
SLOW: Final = 0.1
SLOW_SECONDS: Final = 30.0
DECODING_HOOKS: Final = frozenset({"on_packet", "register_framers"})
"""The hooks that decoding waits for; ``register_framers`` stands for the framers that it returned."""


class NotInService(PluginError):  # noqa: N818 - named for the state of the plugin
    """The plugin was taken out of service before it could be called."""


class GuardedCall:
    """A context manager around one call: the watchdog watches it, and nothing but an Exception leaves it."""

    __slots__ = ("_began", "_calls", "_impl", "_outer", "_progress", "running")

    def __init__(self, calls: Calls, impl: Impl, limit: Limit, hanging_after: float) -> None:
        self._calls = calls
        self._impl = impl
        self.running = RunningCall(impl.plugin, impl.hook, impl.owner, limit, hanging_after)
        self._began = 0.0
        self._progress: AbstractContextManager[None] | None = None
        self._outer: Callable[[], None] | None = None

    def __enter__(self) -> None:
        if not self._calls.watchdog.enter(self.running):
            raise NotInService(f"{self._impl.plugin} is not in service")
        self._outer = progress_of()
        self._progress = watched_progress(self._got_on)
        self._progress.__enter__()
        self._began = time.perf_counter()

    def _got_on(self) -> None:
        self.running.progress = self._calls.watchdog.clock()
        if self._outer is not None:  # a call in the middle of another: both get on
            self._outer()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        impl = self._impl
        seconds = time.perf_counter() - self._began
        if self._progress is not None:
            self._progress.__exit__(kind, error, trace)
        self._calls.watchdog.leave(self.running)
        self._calls.trace(impl, seconds)
        if error is not None and not isinstance(error, Exception) and not _meant_for_us(error):
            raise PluginError(f"{impl.plugin}: {impl.hook}: {describe(error)}") from error


class Calls:
    """Guards every call of a plugin; used from any thread."""

    def __init__(self, registry: Registry, clock: Callable[[], float] = time.monotonic) -> None:
        self._registry = registry
        self.watchdog = Watchdog(registry, clock)
        self._recent: dict[tuple[str, str], deque[float]] = {}
        self._reported: dict[tuple[str, str, str], tuple[float, int]] = {}
        self._slow: dict[str, deque[tuple[float, float]]] = {}
        self._lock = threading.Lock()
        self._tracing = os.environ.get("HL7CORE_TRACE_HOOKS", "") not in ("", "0", "false")

    def guard(
        self, impl: Impl, *, limit: Limit = Limit.QUARANTINE, hanging_after: float = HANGING_AFTER
    ) -> GuardedCall:
        """Return a context manager for a call of ``impl``; whatever the call raises leaves it as an Exception.

        Raises NotInService if the plugin is not, or no longer, in service.  ``limit``: what happens if it shows no
        progress for too long.  ``hanging_after``: for so many seconds it does not count as hanging.
        """
        self.watchdog.start()
        return GuardedCall(self, impl, limit, hanging_after)

    def call(self, impl: Impl, *values: Any, limit: Limit = Limit.QUARANTINE) -> Any:
        """Call ``impl`` and return its answer; whatever it raises is raised as an Exception."""
        with self.guard(impl, limit=limit):
            return impl(*values)

    def notify(self, impl: Impl, *values: Any) -> None:
        """Call ``impl`` with news: what it raises is reported and counted, and not raised."""
        try:
            self.call(impl, *values)
        except NotInService:
            return
        except Exception as error:  # noqa: BLE001 - a plugin's failure is the plugin's
            self.report(impl, error, budget=True)

    def listeners(self, impls: Iterable[Impl]) -> tuple[tuple[Callable[[Iterable[Any]], None], RunningCall], ...]:
        """Return ``impls`` as functions of many values, guarded as in ``notify`` but made for 100,000 calls a second.

        Each comes with the call by which it is watched; the functions returned earlier no longer are.
        """
        work = [(impl, RunningCall(impl.plugin, impl.hook, impl.owner)) for impl in impls]
        self.watchdog.watch_listeners(running for _, running in work)
        return tuple((self._listener(impl, running), running) for impl, running in work)

    def _listener(self, impl: Impl, running: RunningCall) -> Callable[[Iterable[Any]], None]:
        watchdog, plugins, clock = self.watchdog, self._registry.pm, self.watchdog.clock
        owner, name = impl.owner, impl.plugin
        function = impl.function if impl.takes else _ignoring_its_argument(impl.function)

        def listen(values: Iterable[Any]) -> None:
            for value in values:
                if running.abandoned or plugins.get_plugin(name) is not owner:
                    return
                running.began = began = clock()
                try:
                    function(value)
                except BaseException as error:
                    if not contained(error):
                        raise
                    self.report(impl, error, budget=True)
                finally:
                    running.began = 0.0
                    if running.hanging:
                        watchdog.returned(running)
                    if clock() - began > SLOW:
                        self.add_slow(impl, clock() - began)

        return listen

    def suspended(self, plugin: str) -> bool:
        """Return whether ``plugin`` is out of service until a call of it returns."""
        return self._registry.suspended(plugin)

    def report(self, impl: Impl, error: BaseException, *, budget: bool) -> None:
        """Log an error, at most once a minute for its type; with ``budget``, ten in a minute fail the plugin."""
        now = self.watchdog.clock()
        kind = (impl.plugin, impl.hook, type(error).__name__)
        text = f"{impl.hook}: {describe(error)}"
        spent = False
        with self._lock:
            last, held = self._reported.get(kind, (float("-inf"), 0))
            due = now - last >= BUDGET_SECONDS
            self._reported[kind] = (now, 0) if due else (last, held + 1)
            if budget:
                recent = self._recent.setdefault(kind[:2], deque())
                recent.append(now)
                while recent and now - recent[0] >= BUDGET_SECONDS:
                    recent.popleft()
                if len(recent) >= BUDGET:
                    recent.clear()
                    spent = True
        if due:
            more = f" (and {held} more like it since the last report)" if held else ""
            _log.warning("plugin %s: %s%s", impl.plugin, text, more)
        if not self.watchdog.in_service(impl.plugin, impl.owner):
            return
        if due:
            self._registry.set_error(impl.plugin, text)
        if spent:
            self._registry.fail(impl.plugin, f"taken out of service after {BUDGET} errors within a minute; {text}")

    def add_slow(self, impl: Impl, seconds: float) -> None:
        """Count the time of a slow call that decoding waited for; half of a minute takes the plugin out of service."""
        now = self.watchdog.clock()
        with self._lock:
            recent = self._slow.setdefault(impl.plugin, deque())
            recent.append((now, seconds))
            while recent and now - recent[0][0] >= BUDGET_SECONDS:
                recent.popleft()
            spent = sum(took for _, took in recent)
            if spent < SLOW_SECONDS:
                return
            recent.clear()
        if self.watchdog.in_service(impl.plugin, impl.owner):
            self._registry.fail(
                impl.plugin,
                f"taken out of service: decoding waited {spent:.0f} seconds within a minute for {impl.hook}",
            )

    def trace(self, impl: Impl, seconds: float) -> None:
        """Log a call that took ``seconds``, if HL7CORE_TRACE_HOOKS asks for it."""
        if seconds > SLOW and impl.hook in DECODING_HOOKS:
            self.add_slow(impl, seconds)
        if self._tracing:
            _trace.info("%s %s %.1f ms", impl.hook, impl.plugin, seconds * 1000)


def _ignoring_its_argument(function: Callable[..., Any]) -> Callable[[Any], Any]:
    def call(_value: Any) -> Any:
        return function()

    return call


def _meant_for_us(error: BaseException) -> bool:
    """Return whether ``error`` is not the plugin's: Ctrl-C, or our own task was cancelled."""
    if isinstance(error, asyncio.CancelledError):
        try:
            task = asyncio.current_task()
        except RuntimeError:  # no loop here, so nobody can have cancelled us
            return False
        return task is not None and task.cancelling() > 0
    return not contained(error)
