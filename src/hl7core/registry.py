"""The registry: which plugins run, and with what settings.

Its laws.  A disabled plugin is not imported.  Enabling is load, construct, check, ``configure``, ``start``, register:
no other hook is called before ``start`` has returned.  Disabling is unregister, let running calls end, ``stop``,
discard.  Whatever a plugin raises on the way makes that plugin FAILED and leaves the others alone.  New settings that
are wrong change nothing for their plugin.  Every change of who answers hooks raises ``generation``, so that who calls
hooks often compares one number.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import inspect
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import pluggy

from hl7core import hookspecs
from hl7core.contract import PluginSettings, Runtime
from hl7core.discovery import PluginInfo, PluginState, Record, discover
from hl7core.errors import PluginError, SettingsError
from hl7core.guard import contained, describe, in_thread
from hl7core.loading import Loader
from hl7core.model.events import PluginChanged
from hl7core.settings import Settings
from hl7core.settings_model import nearest, secret_keys, validate_table

__all__ = ["Applied", "PluginInfo", "PluginState", "Registry"]

_log = logging.getLogger(__name__)

START_DEADLINE: Final = 30.0
STOP_DEADLINE: Final = 10.0


class Applied(NamedTuple):
    """What new settings did: the plugins that changed, and a sentence for each thing that was refused."""

    changed: tuple[str, ...]
    problems: tuple[str, ...]


class Registry:
    """Takes plugins through their life.

    The coroutines belong to one event loop and never overlap; ``names``, ``info``, ``mark``, ``fail`` and
    ``quarantine`` may be called from any thread.  ``pm`` is for the dispatch alone.
    """

    def __init__(
        self, settings: Settings, *, entry_points: Iterable[importlib.metadata.EntryPoint] | None = None
    ) -> None:
        self.settings = settings
        self.generation = 0
        self.pm = pluggy.PluginManager(hookspecs.PROJECT)
        self.busy: Callable[[str], bool] = lambda _name: False
        """Whether a call of that plugin is running; the dispatch sets it."""
        self._loader = Loader(self.pm)
        self._records, self._unused = discover(entry_points)
        self._lock = threading.RLock()
        self._turn = asyncio.Lock()
        self._runtime: Callable[[str], Runtime] | None = None
        self._only: frozenset[str] | None = None
        self._held = settings.core.store
        self._listeners: list[Callable[[PluginChanged], None]] = []

    # What there is.

    def names(self) -> tuple[str, ...]:
        """Return every plugin installed: first those with a table in the settings, in its order."""
        tables = [name for name in self.settings.plugins if name in self._records]
        return (*tables, *(name for name in self._records if name not in tables))

    def info(self, name: str) -> PluginInfo:
        """Return how ``name`` stands, without importing it.  Raises PluginError if there is no such plugin."""
        return self._record(name).info(enabled=self.wanted(name))

    def infos(self) -> tuple[PluginInfo, ...]:
        """Return how every plugin stands, by name."""
        return tuple(self.info(name) for name in sorted(self._records))

    def default_enabled(self, name: str) -> bool:
        """Say whether ``name`` runs if the settings say nothing: bundled ones mostly, third-party ones never."""
        return self._record(name).default_enabled

    def wanted(self, name: str, settings: Settings | None = None) -> bool:
        """Say whether the settings want ``name`` to run; the store they name is wanted by being named."""
        try:
            return self._wanted(name, settings or self.settings)
        except SettingsError:  # `problems` tells of it
            return False

    def running(self) -> tuple[str, ...]:
        """Return the plugins that answer hooks now, in the order of the settings."""
        return tuple(name for name in self.names() if self.pm.has_plugin(name))

    def settings_of(self, name: str) -> PluginSettings | None:
        """Return the settings in force for ``name``, None if it was never configured."""
        return self._record(name).settings

    def model(self, name: str) -> type[PluginSettings]:
        """Return the settings model of ``name``, importing the plugin if need be.  Raises PluginError."""
        record = self._record(name)
        self._loader.load(record)
        return record.model

    def secret_keys(self, keys: Iterable[str] = ()) -> frozenset[str]:
        """Return the dotted keys of the secrets of the plugins that were loaded, and of those that ``keys`` name.

        The latter are imported if need be: raises PluginError if they cannot be.
        """
        for key in keys:
            parts = key.split(".")
            if parts[0] == "plugins" and len(parts) > 2 and parts[1] in self._records:
                self.model(parts[1])
        return frozenset().union(*(secret_keys(item.model, f"plugins.{item.name}") for item in self._records.values()))

    def problems(self, settings: Settings | None = None) -> tuple[str, ...]:
        """Say what is wrong with ``settings`` as far as can be told without importing a plugin."""
        settings = settings or self.settings
        found = list(self._unused)
        named = {f"plugins.{name}": name for name in settings.plugins} | {"core.store": settings.core.store}
        for key, name in named.items():
            if name not in self._records:
                found.append(f"{key}: no plugin {name} is installed{nearest(name, self._records)}")
        for name in self._records:
            try:
                self._wanted(name, settings)
            except SettingsError as error:
                found += error.problems
        return tuple(found)

    # The lives of plugins.

    def listen(self, listener: Callable[[PluginChanged], None]) -> None:
        """Tell ``listener`` of every change of a plugin's state, on whichever thread it happens."""
        self._listeners.append(listener)

    def load_only(self, names: Sequence[str]) -> None:
        """Leave all plugins but ``names`` disabled, whatever the settings say (call it before ``start``)."""
        self._only = frozenset(names)

    def hold(self, name: str) -> None:
        """Keep ``name`` in service whatever the settings say: it is the store of record."""
        self._held = name

    def load(self, name: str) -> object:
        """Import and construct ``name``, check its hooks and its table, and return it; nothing is registered.

        Raises PluginError or SettingsError, and the plugin is FAILED.
        """
        record = self._record(name)
        try:
            plugin = self._loader.load(record)
            record.settings = self._validated(record, self.settings)
        except (PluginError, SettingsError) as error:
            self._set(record, PluginState.FAILED, describe(error))
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
                    await self._off(f"{name}: loading", self._loader.load, self._records[name])
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
            if not self.pm.has_plugin(name) or record.state is state:
                return
            record.state, record.error = state, error
        self._tell(record, state, error)

    def note(self, name: str, error: str) -> None:
        """Keep and tell what the plugin in service ``name`` did wrong; its state stays."""
        with self._lock:
            record = self._records[name]
            if not self.pm.has_plugin(name):
                return
            record.error = error
        self._tell(record, record.state, error)

    def fail(self, name: str, error: str) -> None:
        """Take a plugin that raised too often out of service at once; ``retire`` lets it stop afterwards."""
        self._expel(name, PluginState.FAILED, error)

    def quarantine(self, name: str, error: str) -> None:
        """Take a plugin that does not return out of service at once; its ``stop`` is not called."""
        self._expel(name, PluginState.QUARANTINED, error)

    # Inside.

    def _record(self, name: str) -> Record:
        record = self._records.get(name)
        if record is None:
            raise PluginError(f"there is no plugin {name}{nearest(name, self._records)}")
        return record

    def _set(self, record: Record, state: PluginState, error: str = "") -> None:
        with self._lock:
            record.state, record.error = state, error
        if error:
            _log.warning("plugin %s is %s: %s", record.name, state, error)
        self._tell(record, state, error)

    def _tell(self, record: Record, state: PluginState, error: str) -> None:
        """Tell the listeners, without holding the lock: they may have locks of their own."""
        for listener in self._listeners:
            listener(PluginChanged(record.name, state, error))

    def _wanted(self, name: str, settings: Settings) -> bool:
        record = self._record(name)
        if self._only is not None and name not in self._only:
            return False
        table = settings.plugins.get(name, {})
        enabled = record.default_enabled
        if "enabled" in table:
            only, key = {"enabled": table["enabled"]}, f"plugins.{name}"
            enabled = validate_table(PluginSettings, key, only, settings.environment, settings.origins).enabled
        return enabled or name in (settings.core.store, self._held)

    def _validated(self, record: Record, settings: Settings) -> PluginSettings:
        key = f"plugins.{record.name}"
        table = {**settings.plugins.get(record.name, {}), "enabled": True}
        raw = {name: text for name, text in settings.environment.items() if name != f"{key}.enabled"}
        return validate_table(record.model, key, table, raw, settings.origins)

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
            plugin = await self._off(f"{name}: loading", self._loader.load, record)
            settings = self._validated(record, self.settings)
            if "configure" in record.hooks:
                await self._off(f"{name}: configure", self._loader.hook(plugin, "configure", settings=settings))
            record.settings = settings
            record.started = True
            if "start" in record.hooks and self._runtime is not None:
                await self._off(f"{name}: start", self._loader.hook(plugin, "start", runtime=self._runtime(name)))
            with self._lock:
                self.pm.register(plugin, name=name)
                self.generation += 1
        except (PluginError, SettingsError) as error:
            await self._discard(record)
            self._set(record, PluginState.FAILED, describe(error))
            raise
        self._set(record, PluginState.ENABLED)

    async def _disable(self, name: str) -> str:
        record = self._record(name)
        with self._lock:
            self._unregister(name)
        problem = await self._discard(record)
        self._set(record, PluginState.DISABLED, problem)
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
                await self._off(f"{record.name}: stop", self._loader.hook(plugin, "stop"), deadline=STOP_DEADLINE)
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
                await self._off(f"{record.name}: configure", call)
        except SettingsError as error:
            raise SettingsError(*(f"{text}; the old settings stay in force" for text in error.problems)) from error
        except PluginError as error:
            self.fail(record.name, describe(error))
            await self._discard(record)
            raise
        record.settings = new
        return True

    def _expel(self, name: str, state: PluginState, error: str) -> None:
        with self._lock:
            expelled = self._unregister(name)
        if expelled:
            self._set(self._records[name], state, error)

    def _unregister(self, name: str) -> bool:
        if not self.pm.has_plugin(name):
            return False
        self.pm.unregister(name=name)
        self.generation += 1
        return True

    async def _off(self, what: str, function: Callable[..., Any], *args: Any, deadline: float = START_DEADLINE) -> Any:
        """Run plugin code on a thread, and on the loop what is ``async def``, within ``deadline`` seconds.

        Raises PluginError or SettingsError, whatever the plugin raised.
        """
        try:
            async with asyncio.timeout(deadline) as limit:
                answer = await in_thread(function, *args, name=f"hl7core-{what}")
                return await answer if inspect.isawaitable(answer) else answer
        except (PluginError, SettingsError):
            raise
        except BaseException as error:
            if isinstance(error, TimeoutError) and limit.expired():
                raise PluginError(f"{what} took more than {deadline:.0f} seconds") from error
            task = asyncio.current_task()
            ours = isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0
            if ours or not contained(error):
                raise
            raise PluginError(f"{what}: {describe(error)}") from error
