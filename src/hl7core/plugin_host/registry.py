"""The registry: the lives of plugins, from enabling to disabling.

Its laws.  A disabled plugin is not imported.  Enabling is load, construct, check, ``configure``, ``start``, register:
no other hook is called before ``start`` has returned.  Disabling is unregister, let running calls end, ``stop``,
discard.  Whatever a plugin raises on the way makes that plugin FAILED and leaves the others alone.  New settings that
are wrong change nothing for their plugin.  Whether a plugin answers hooks and what its state says change in one step,
so that a plugin which fails the moment it is enabled stays FAILED.  Every change of who answers hooks raises
``generation``, so that who calls hooks often compares one number.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from hl7core.contract import Runtime
from hl7core.errors import PluginError, SettingsError
from hl7core.guard import describe, guarded
from hl7core.model.events import PluginChanged
from hl7core.plugin_host.changes import PluginChanges
from hl7core.plugin_host.discovery import PluginInfo, PluginState, Record
from hl7core.plugin_host.roster import Roster
from hl7core.settings.reading import Settings

__all__ = ["Applied", "PluginInfo", "PluginState", "Registry"]

_log = logging.getLogger(__name__)

START_DEADLINE: Final = 30.0
STOP_DEADLINE: Final = 10.0


class Applied(NamedTuple):
    """What new settings did: the plugins that changed, and a sentence for each thing that was refused."""

    changed: tuple[str, ...]
    problems: tuple[str, ...]


class Registry(Roster):
    """Takes plugins through their life.

    The coroutines belong to one event loop and never overlap; all else may be called from any thread.
    """

    def __init__(
        self, settings: Settings, *, entry_points: Iterable[importlib.metadata.EntryPoint] | None = None
    ) -> None:
        super().__init__(settings, entry_points)
        self.generation = 0
        self.busy: Callable[[str], bool] = lambda _name: False
        """Whether a call of that plugin is running; the dispatch sets it."""
        self._lock = threading.RLock()
        self._turn = asyncio.Lock()
        self._runtime: Callable[[str], Runtime] | None = None
        self._changes = PluginChanges()

    # The lives of plugins.

    def listen(self, listener: Callable[[PluginChanged], None]) -> None:
        """Tell ``listener`` of every change of a plugin's state, on whichever thread that happens."""
        self._changes.listen(listener)

    def load(self, name: str) -> object:
        """Import and construct ``name``, check its hooks and its table, and return it; nothing is registered.

        One that runs is returned as it is.  Raises PluginError or SettingsError, and the plugin is FAILED.
        """
        record = self._record(name)
        if record.plugin is not None and self.pm.has_plugin(name):
            return record.plugin
        try:
            plugin = self._loader.load(record)
            record.settings = self._validated(record, self.settings)
        except (PluginError, SettingsError) as error:
            self._refused(record, error)
            raise
        return plugin

    async def start(self, runtime: Runtime, of: Callable[[str], Runtime] | None = None) -> tuple[str, ...]:
        """Enable every plugin that the settings want; return a sentence for each thing that is wrong.

        ``of`` returns the runtime for the plugin of that name; without it all are given the same.
        All are loaded before any starts, so that a plugin may implement the hooks that another specifies; one that
        could not be loaded for want of such a hook is tried once more.
        """
        self._runtime = of or (lambda _name: runtime)
        problems = list(self.problems())
        async with self._turn:
            wanted = [name for name in self.names() if self.wanted(name)]
            for name in wanted:
                try:
                    await _within(f"{name}: loading", self._loader.load, self._records[name])
                except PluginError as error:
                    _log.debug("plugin %s: first try to load: %s", name, describe(error))
            for name in wanted:
                problems += await self._tried(name)
        return tuple(problems)

    async def enable(self, name: str) -> None:
        """Make ``name`` run.  Raises PluginError or SettingsError, and the plugin is FAILED."""
        async with self._turn:
            await self._enable(name)

    async def disable(self, name: str) -> None:
        """End ``name``: no hook of it is called any more; running calls and its ``stop`` have 10 seconds each."""
        async with self._turn:
            await self._disable(name)

    async def retire(self, name: str) -> None:
        """Run the ``stop`` of a plugin that failed while it ran; it stays FAILED."""
        async with self._turn:
            record = self._record(name)
            if record.state is PluginState.FAILED:
                await self._discard(record)

    async def stop(self) -> tuple[str, ...]:
        """End every plugin, the first started last; return a sentence for each that did not end well."""
        async with self._turn:
            order = [name for name in reversed(self.names()) if self._records[name].plugin is not None]
            problems = [await self._disable(name) for name in order]
        return tuple(problem for problem in problems if problem)

    async def apply(self, settings: Settings) -> Applied:
        """Go over to ``settings``: enable, disable and configure what differs.

        What is wrong changes nothing for its plugin and is returned as a problem; the rest is applied.
        """
        changed: list[str] = []
        problems = list(self.problems(settings))
        async with self._turn:
            with self._lock:
                self.settings = settings
                self.generation += 1  # the order of the tables may be another
            for name in self.names():
                try:
                    wanted = self._wanted(name, settings)
                except SettingsError:  # `problems` has it already: the plugin stays as it is
                    continue
                try:
                    if await self._brought(self._records[name], settings, wanted=wanted):
                        changed.append(name)
                except SettingsError as error:
                    problems += error.problems
                except PluginError as error:
                    problems.append(f"plugin {error}")
        return Applied(tuple(changed), tuple(dict.fromkeys(problems)))

    # What the dispatch finds out.

    def mark(self, name: str, state: PluginState, error: str = "") -> None:
        """Note that the plugin in service ``name`` hangs, or answers again."""
        with self._lock:
            record = self._records[name]
            if self.pm.has_plugin(name) and record.state is not state:
                self._become(record, state, error)
        self._changes.tell()

    def note(self, name: str, error: str) -> None:
        """Keep and tell what the plugin in service ``name`` did wrong; its state stays."""
        with self._lock:
            record = self._records[name]
            if self.pm.has_plugin(name):
                self._become(record, record.state, error)
        self._changes.tell()

    def fail(self, name: str, error: str) -> None:
        """Take a plugin that raised too often out of service at once; ``retire`` lets it stop afterwards."""
        self._expel(name, PluginState.FAILED, error)

    def quarantine(self, name: str, error: str) -> None:
        """Take a plugin that does not return out of service at once; its ``stop`` is not called."""
        self._expel(name, PluginState.QUARANTINED, error)

    # Inside.

    def _become(self, record: Record, state: PluginState, error: str = "") -> None:
        """Note how a plugin stands; hold the lock, and tell of it when you have let go of that."""
        record.state, record.error = state, error
        self._changes.add(PluginChanged(record.name, state, error))

    def _expel(self, name: str, state: PluginState, error: str) -> None:
        with self._lock:
            expelled = self._unregister(name)
            if expelled:
                self._become(self._records[name], state, error)
        if expelled:
            self._told_apart(name, state, error)

    def _refused(self, record: Record, error: PluginError | SettingsError) -> None:
        """A plugin that is not in service could not be brought into it."""
        with self._lock:
            self._become(record, PluginState.FAILED, describe(error))
        self._told_apart(record.name, PluginState.FAILED, describe(error))

    def _told_apart(self, name: str, state: PluginState, error: str) -> None:
        _log.warning("plugin %s is %s: %s", name, state, error)
        self._changes.tell()

    async def _brought(self, record: Record, settings: Settings, *, wanted: bool) -> bool:
        """Bring one plugin to where ``settings`` want it; say whether anything changed."""
        if not wanted:
            if record.state is PluginState.DISABLED:
                return False
            await self._disable(record.name)
        elif self.pm.has_plugin(record.name):
            return await self._configured(record, settings)
        elif record.state is PluginState.DISABLED or record.tried != settings.plugins.get(record.name, {}):
            await self._enable(record.name)
        else:
            return False
        return True

    async def _tried(self, name: str) -> tuple[str, ...]:
        try:
            await self._enable(name)
        except SettingsError as error:
            return error.problems
        except PluginError as error:
            return (f"plugin {error}",)
        return ()

    async def _enable(self, name: str) -> None:
        record = self._record(name)
        if self.pm.has_plugin(name):
            return
        if record.started:  # it failed, or was shut away, while it ran: it begins anew
            await self._discard(record)
        record.tried = self.settings.plugins.get(name, {})
        try:
            plugin = await _within(f"{name}: loading", self._loader.load, record)
            settings = self._validated(record, self.settings)
            if "configure" in record.hooks:
                await _within(f"{name}: configure", self._loader.hook(plugin, "configure", settings=settings))
            record.settings = settings
            record.started = True
            if "start" in record.hooks and self._runtime is not None:
                await _within(f"{name}: start", self._loader.hook(plugin, "start", runtime=self._runtime(name)))
            self._admit(record, plugin)
        except (PluginError, SettingsError) as error:
            await self._discard(record)
            self._refused(record, error)
            raise
        self._changes.tell()

    async def _disable(self, name: str) -> str:
        record = self._record(name)
        with self._lock:
            self._unregister(name)
        problem = await self._discard(record)
        with self._lock:
            self._become(record, PluginState.DISABLED, problem)
        self._changes.tell()
        return f"plugin {name}: {problem}" if problem else ""

    async def _discard(self, record: Record) -> str:
        """Let running calls end, then ``stop``; return what went wrong."""
        plugin, started = record.plugin, record.started
        record.plugin, record.started = None, False
        if plugin is None or not started or record.state is PluginState.QUARANTINED:
            return ""
        until = time.monotonic() + STOP_DEADLINE
        while self.busy(record.name) and time.monotonic() < until:
            await asyncio.sleep(0.01)
        try:
            if "stop" in record.hooks:
                await _within(f"{record.name}: stop", self._loader.hook(plugin, "stop"), deadline=STOP_DEADLINE)
        except (PluginError, SettingsError) as error:
            problem = f"it did not stop well: {describe(error)}"
            _log.warning("plugin %s: %s", record.name, problem)
            return problem
        return ""

    async def _configured(self, record: Record, settings: Settings) -> bool:
        """Give a running plugin its new table, if it differs; raise SettingsError and the old one stays."""
        try:
            new = self._validated(record, settings)
            if new == record.settings:
                return False
            if "configure" in record.hooks:
                call = self._loader.hook(record.plugin, "configure", settings=new)
                await _within(f"{record.name}: configure", call)
        except SettingsError as error:
            raise SettingsError(*(f"{text}; the old settings stay in force" for text in error.problems)) from error
        except PluginError as error:
            self.fail(record.name, describe(error))
            await self._discard(record)
            raise
        record.settings = new
        return True

    def _admit(self, record: Record, plugin: object) -> None:
        """Let ``plugin`` answer hooks; what it does wrong from now on waits for the lock, and finds it enabled."""
        with self._lock:
            try:
                self.pm.register(plugin, name=record.name)
            except Exception as error:
                self._unregister(record.name)
                raise PluginError(f"{record.name}: cannot be registered: {describe(error)}") from error
            self._become(record, PluginState.ENABLED)
            self.generation += 1

    def _unregister(self, name: str) -> bool:
        if not self.pm.has_plugin(name):
            return False
        self.pm.unregister(name=name)
        self.generation += 1
        return True


async def _within(what: str, function: Callable[..., Any], *args: Any, deadline: float | None = None) -> Any:
    """Run plugin code that has ``deadline`` seconds, START_DEADLINE if None; raise PluginError or SettingsError."""
    return await guarded(what, function, *args, deadline=START_DEADLINE if deadline is None else deadline)
