"""The registry: which plugins there are, which the settings want, and their lives from enabling to disabling.

A disabled plugin is not imported.  To enable one is to load it, construct it, check it, call ``configure`` and
``start``, and register it, in this order: no other hook is called before ``start`` has returned.  To disable one is to
unregister it, let running calls finish, call ``stop``, and discard it.  Whatever a plugin raises on the way makes that
plugin FAILED and does not affect the others; settings that are wrong change nothing for their plugin.

A plugin's state and whether it answers hooks change in one step, so a plugin that fails the moment it is enabled stays
FAILED.  Each time the set of plugins that answer hooks changes, ``generation`` goes up: whoever calls hooks often
compares that one number.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import pluggy

from hl7core import hookspecs
from hl7core.contract import PluginSettings, Runtime
from hl7core.errors import PluginError, SettingsError
from hl7core.guard import describe, guarded
from hl7core.model.events import PluginChanged
from hl7core.plugin_host.changes import PluginChanges
from hl7core.plugin_host.discovery import PluginInfo, PluginState, Record, discover, merged
from hl7core.plugin_host.loading import Loader
from hl7core.plugin_host.wanted import Wanted
from hl7core.settings.reading import Settings
from hl7core.settings.validation import nearest, secret_keys

__all__ = ["Applied", "PluginInfo", "PluginState", "Registry"]

_log = logging.getLogger(__name__)

LEFT_OUT: Final = "left out of this run by --safe-mode"
START_DEADLINE: Final = 30.0
STOP_DEADLINE: Final = 10.0
NAMED_AFTER: Final = 4.0
"""Seconds after which a plugin is named that configures, starts or stops."""


class Applied(NamedTuple):
    """What new settings did: the plugins that changed, and a sentence for each setting that was refused."""

    changed: tuple[str, ...]
    problems: tuple[str, ...]


class Registry:
    """Knows the plugins and runs their lives.

    The coroutines belong to one event loop and never overlap; everything else may be called from any thread.  ``pm`` is
    for this package alone.  ``entry_points`` are the plugins (None: those installed, followed as they come and go).
    With ``safe_mode``, plugins that are not bundled are left out, whatever the settings say.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        entry_points: Iterable[importlib.metadata.EntryPoint] | None = None,
        safe_mode: bool = False,
    ) -> None:
        self.settings = settings
        self.pm = pluggy.PluginManager(hookspecs.PROJECT)
        self.generation = 0
        self.busy: Callable[[str], bool] = lambda _name: False
        """Returns whether a call of that plugin is running; the dispatch sets it."""
        self.safe_mode = safe_mode
        self._loader = Loader(self.pm)
        self.follows_installed = entry_points is None
        self._records, self._unused = discover(entry_points)
        self._wanted = Wanted(self._records, settings.core.store)
        if safe_mode:
            self._wanted.leave_out_others()
        self._lock = threading.RLock()
        self._one_at_a_time = asyncio.Lock()
        self._runtime: Callable[[str], Runtime] | None = None
        self._changes = PluginChanges()

    # Who is there.

    def names(self) -> tuple[str, ...]:
        """Return every installed plugin: first those with a table in the settings, in the order of the tables."""
        return self._wanted.order(self.settings)

    def info(self, name: str) -> PluginInfo:
        """Return the state of ``name``, without importing it.  Raises PluginError if there is no such plugin."""
        info = self._record(name).info(enabled=self.wanted(name))
        return info._replace(note=LEFT_OUT) if name in self.left_out() and not info.note else info

    def infos(self) -> tuple[PluginInfo, ...]:
        """Return the state of every plugin, sorted by name."""
        return tuple(self.info(name) for name in sorted(self._records))

    def default_enabled(self, name: str) -> bool:
        """Return whether ``name`` runs if the settings do not mention it: most bundled ones do, third-party never."""
        return self._record(name).default_enabled

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
        """Return the dotted keys of the secrets of the plugins loaded so far and of those that ``keys`` belong to.

        The latter are imported if need be.  Raises PluginError if they cannot be.
        """
        for key in keys:
            parts = key.split(".")
            if parts[0] != "plugins" or len(parts) < 3 or parts[1] not in self._records or parts[2:] == ["enabled"]:
                continue  # a plugin that cannot be imported can still be disabled
            self._check_allowed(self._records[parts[1]])
            self.model(parts[1])
        return frozenset().union(*(secret_keys(item.model, f"plugins.{item.name}") for item in self._records.values()))

    # Who is wanted.

    def wanted(self, name: str, settings: Settings | None = None) -> bool:
        """Return whether ``settings`` (default: those in force) want ``name`` to run; a store is wanted by being named.

        A table that is wrong wants nothing; ``problems`` reports it.
        """
        try:
            return self._wanted.wants(self._record(name), settings or self.settings)
        except SettingsError:
            return False

    def required(self, name: str) -> bool | None:
        """Return what ``required`` in the table of ``name`` says, None if nothing.  Raises SettingsError."""
        return self._wanted.required(self._record(name), self.settings)

    def enables_uninstalled(self, name: str) -> bool:
        """Return whether the settings enable ``name``, which is not installed, and require it or do not say."""
        table = self.settings.plugins.get(name, {})
        on, required = (
            str(table.get(key, default)).lower() for key, default in (("enabled", False), ("required", True))
        )
        return name not in self._records and on == "true" and required != "false"

    def reason_not_running(self, name: str) -> str:
        """Return why ``name``, which the settings enable, does not answer hooks, as "has failed: ..."; else ""."""
        record = self._record(name)
        try:
            if not self._wanted.enabled(record, self.settings):
                return ""
            left_out = not self._wanted.wants(record, self.settings)
        except SettingsError:
            left_out = False
        if left_out:
            return "is left out of this run"
        detail = f": {record.error}" if record.error else ""
        if record.state is PluginState.ENABLED and self.pm.has_plugin(name):
            return ""
        if record.state is PluginState.DISABLED:
            return f"does not run{detail}"
        return f"{'has failed' if record.state is PluginState.FAILED else f'is {record.state}'}{detail}"

    def problems(self, settings: Settings | None = None) -> tuple[str, ...]:
        """Return a sentence for each problem with the installed plugins and with ``settings``, importing no plugin."""
        return (*self._unused, *self._wanted.problems(settings or self.settings))

    def load_only(self, names: Sequence[str]) -> None:
        """Leave all plugins but ``names`` disabled, whatever the settings say (call it before ``start``)."""
        self._wanted.restrict(names)

    def hold(self, name: str) -> None:
        """Keep ``name`` running whatever the settings say: it is the store of record."""
        self._wanted.hold(name)

    def left_out(self, settings: Settings | None = None) -> tuple[str, ...]:
        """Return the plugins that ``settings`` (default: those in force) enable and that safe mode leaves out."""
        return self._wanted.left_out(settings or self.settings)

    # What is installed.

    async def rediscover(self) -> None:
        """Look again at what is installed.  A plugin whose code is in use stays as it is, and gets a note."""
        async with self._one_at_a_time:
            await self._rediscover()

    def installed_notes(self) -> Mapping[str, str]:
        """Return a sentence for each distribution that was upgraded or removed while code of it is in use."""
        notes: dict[str, str] = {}
        for record in self._records.values():
            if record.note:
                notes[record.package.name] = record.note
        return notes

    # Their lives.

    def listen(self, listener: Callable[[PluginChanged], None]) -> None:
        """Call ``listener`` with every change of a plugin's state, on whichever thread that happens."""
        self._changes.listen(listener)

    def load(self, name: str) -> object:
        """Import and construct ``name``, check its hooks and its table, and return it; nothing is registered.

        A plugin that runs is returned as it is.  Raises PluginError or SettingsError, and the plugin is FAILED.
        """
        record = self._record(name)
        if record.plugin is not None and self.pm.has_plugin(name):
            return record.plugin
        try:
            plugin = self._loader.load(record)
            record.settings = self._wanted.table(record, self.settings)
        except (PluginError, SettingsError) as error:
            self._enabling_failed(record, error)
            raise
        return plugin

    async def start(self, runtime: Runtime, of: Callable[[str], Runtime] | None = None) -> tuple[str, ...]:
        """Enable every plugin that the settings want; return a sentence for each problem.

        ``of`` returns the runtime for the plugin of that name; without it every plugin gets ``runtime``.
        All are loaded before any starts, so that a plugin may implement the hooks that another one specifies; one that
        could not be loaded for lack of such a hook is tried once more.
        """
        self._runtime = of or (lambda _name: runtime)
        problems = list(self.problems())
        async with self._one_at_a_time:
            wanted = [name for name in self.names() if self.wanted(name)]
            for name in wanted:
                try:
                    await _call(f"{name}: loading", self._loader.load, self._records[name])
                except PluginError as error:
                    _log.debug("plugin %s: first try to load: %s", name, describe(error))
            for name in wanted:
                problems += await self._enable_or_explain(name)
        return tuple(problems)

    async def enable(self, name: str) -> None:
        """Start running ``name``.  Raises PluginError or SettingsError, and the plugin is FAILED."""
        async with self._one_at_a_time:
            await self._enable(name)

    async def disable(self, name: str) -> None:
        """Stop running ``name``: none of its hooks is called any more.

        Calls that are running, and then ``stop``, have 10 seconds each.
        """
        async with self._one_at_a_time:
            await self._disable(name)

    async def retire(self, name: str) -> None:
        """Call the ``stop`` of a plugin that failed while it ran; it stays FAILED."""
        async with self._one_at_a_time:
            record = self._record(name)
            if record.state is PluginState.FAILED:
                await self._discard(record)

    async def stop(self) -> tuple[str, ...]:
        """Stop every plugin, the first started last; return a sentence for each that failed to stop."""
        async with self._one_at_a_time:
            order = [name for name in reversed(self.names()) if self._records[name].plugin is not None]
            problems = [await self._disable(name) for name in order]
        return tuple(problem for problem in problems if problem)

    async def apply(self, settings: Settings) -> Applied:
        """Put ``settings`` into force: enable, disable and configure the plugins that differ.

        What was installed in the meantime counts too.  A wrong setting changes nothing for its plugin and is returned
        as a problem; the rest is applied.
        """
        changed: list[str] = []
        async with self._one_at_a_time:
            await self._rediscover()
            problems = list(self.problems(settings))
            with self._lock:
                self.settings = settings
                self.generation += 1  # the order of the tables may have changed
            for name in self.names():
                record = self._records[name]
                try:
                    wanted = self._wanted.wants(record, settings)
                except SettingsError:  # already among the problems: the plugin stays as it is
                    continue
                try:
                    if await self._apply_to(record, settings, wanted=wanted):
                        changed.append(name)
                except SettingsError as error:
                    problems += error.problems
                except PluginError as error:
                    problems.append(f"plugin {error}")
        return Applied(tuple(changed), tuple(dict.fromkeys(problems)))

    # What the calls of its hooks show.

    def set_state(self, name: str, state: PluginState, error: str = "") -> None:
        """Record that the running plugin ``name`` hangs, or answers again."""
        with self._lock:
            record = self._records[name]
            if self.pm.has_plugin(name) and record.state not in (state, PluginState.SUSPENDED):
                self._enter_state(record, state, error)
        self._changes.deliver()

    def set_error(self, name: str, error: str) -> None:
        """Record and report an error of the running plugin ``name``, whose state does not change."""
        with self._lock:
            record = self._records[name]
            if self.pm.has_plugin(name):
                self._enter_state(record, record.state, error)
        self._changes.deliver()

    def fail(self, name: str, error: str) -> None:
        """Unregister at once a plugin that raised too often; ``retire`` calls its ``stop`` afterwards."""
        self._expel(name, PluginState.FAILED, error)

    def suspend(self, name: str, error: str) -> None:
        """Take a plugin out of service until ``resume``; it stays registered, and no call of it starts meanwhile."""
        with self._lock:
            if not self.pm.has_plugin(name):
                return
            self._enter_state(self._records[name], PluginState.SUSPENDED, error)
        self._warn(name, PluginState.SUSPENDED, error)

    def resume(self, name: str, plugin: object) -> None:
        """Put ``plugin`` back into service, if it is the one of that name and is suspended."""
        with self._lock:
            resumed = self.pm.get_plugin(name) is plugin and self.suspended(name)
            if resumed:
                self._enter_state(self._records[name], PluginState.ENABLED)
        if resumed:
            _log.warning("plugin %s is in service again: its call has returned", name)
            self._changes.deliver()

    def suspended(self, name: str) -> bool:
        """Return whether ``name`` is out of service until a call of it returns."""
        record = self._records.get(name)
        return record is not None and record.state is PluginState.SUSPENDED

    def quarantine(self, name: str, error: str) -> None:
        """Unregister at once a plugin that does not return; its ``stop`` is not called."""
        self._expel(name, PluginState.QUARANTINED, error)

    # Inside.

    async def _rediscover(self) -> None:
        if not self.follows_installed:
            return
        try:
            found, unused = await asyncio.to_thread(discover)
        except Exception as error:  # noqa: BLE001 - a package that is half written, or broken
            _log.warning("what is installed cannot be listed (%s); the plugins stay as they are", describe(error))
            return
        with self._lock:
            self._records, self._unused = merged(self._records, found), unused
            self._wanted.follow(self._records)
            self.generation += 1  # there may be more names

    def _record(self, name: str) -> Record:
        record = self._records.get(name)
        if record is None:
            raise PluginError(f"no plugin {name} is installed{nearest(name, self._records)}")
        return record

    def _check_allowed(self, record: Record) -> None:
        """Raise PluginError if nothing of the plugin may be imported in this run."""
        if self.safe_mode and not record.bundled:
            raise PluginError(f"{record.name}: {LEFT_OUT}; restart without it to use the plugin or change its settings")

    def _enter_state(self, record: Record, state: PluginState, error: str = "") -> None:
        """Record a plugin's state.  Call it with the lock held, and ``_changes.deliver`` once it is released."""
        record.state, record.error = state, error
        self._changes.add(PluginChanged(record.name, state, error))

    def _expel(self, name: str, state: PluginState, error: str) -> None:
        with self._lock:
            expelled = self._unregister(name)
            if expelled:
                self._enter_state(self._records[name], state, error)
        if expelled:
            self._warn(name, state, error)

    def _enabling_failed(self, record: Record, error: PluginError | SettingsError) -> None:
        with self._lock:
            self._enter_state(record, PluginState.FAILED, describe(error))
        self._warn(record.name, PluginState.FAILED, describe(error))

    def _warn(self, name: str, state: PluginState, error: str) -> None:
        _log.warning("plugin %s %s: %s", name, state, error)
        self._changes.deliver()

    async def _apply_to(self, record: Record, settings: Settings, *, wanted: bool) -> bool:
        """Apply ``settings`` to one plugin; return whether anything changed."""
        if not wanted:
            if record.state is PluginState.DISABLED:
                return False
            await self._disable(record.name)
        elif self.pm.has_plugin(record.name):
            return await self._reconfigure(record, settings)
        elif record.state is PluginState.DISABLED or record.tried != settings.plugins.get(record.name, {}):
            await self._enable(record.name)
        else:
            return False
        return True

    async def _enable_or_explain(self, name: str) -> tuple[str, ...]:
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
        self._check_allowed(record)
        if record.started:  # it failed or was quarantined while it ran: start with a new object
            await self._discard(record)
        record.tried = self.settings.plugins.get(name, {})
        try:
            plugin = await _call(f"{name}: loading", self._loader.load, record)
            settings = self._wanted.table(record, self.settings)
            if "configure" in record.hooks:
                await self._named_call(record, "configure", self._loader.hook(plugin, "configure", settings=settings))
            record.settings = settings
            record.started = True
            if "start" in record.hooks and self._runtime is not None:
                start = self._loader.hook(plugin, "start", runtime=self._runtime(name))
                await self._named_call(record, "start", start)
            self._register(record, plugin)
        except (PluginError, SettingsError) as error:
            await self._discard(record)
            self._enabling_failed(record, error)
            raise
        self._changes.deliver()

    async def _disable(self, name: str) -> str:
        """Disable ``name``; return what went wrong, "" if nothing did."""
        record = self._record(name)
        with self._lock:
            self._unregister(name)
        problem = await self._discard(record)
        with self._lock:
            self._enter_state(record, PluginState.DISABLED, problem)
        self._changes.deliver()
        return f"plugin {name}: {problem}" if problem else ""

    async def _discard(self, record: Record) -> str:
        """Let running calls finish, then call ``stop``; return what went wrong, "" if nothing did."""
        plugin, started = record.plugin, record.started
        record.plugin, record.started = None, False
        if plugin is None or not started or record.state in (PluginState.QUARANTINED, PluginState.SUSPENDED):
            return ""
        until = time.monotonic() + STOP_DEADLINE
        while self.busy(record.name) and time.monotonic() < until:
            await asyncio.sleep(0.01)
        try:
            if "stop" in record.hooks:
                stop = self._loader.hook(plugin, "stop")
                await self._named_call(record, "stop", stop, deadline=STOP_DEADLINE)
        except (PluginError, SettingsError) as error:
            problem = f"failed to stop: {describe(error)}"
            _log.warning("plugin %s: %s", record.name, problem)
            return problem
        return ""

    async def _reconfigure(self, record: Record, settings: Settings) -> bool:
        """Give a running plugin its new table, if it differs; return whether it did.

        Raises SettingsError, and the old table stays in force; or PluginError, and the plugin is FAILED.
        """
        try:
            new = self._wanted.table(record, settings)
            if new == record.settings:
                return False
            if "configure" in record.hooks:
                call = self._loader.hook(record.plugin, "configure", settings=new)
                await self._named_call(record, "configure", call)
        except SettingsError as error:
            raise SettingsError(*(f"{text}; the old settings stay in force" for text in error.problems)) from error
        except PluginError as error:
            self.fail(record.name, describe(error))
            await self._discard(record)
            raise
        record.settings = new
        return True

    async def _named_call(
        self, record: Record, hook: str, call: Callable[[], Any], deadline: float | None = None
    ) -> None:
        """Call a hook of a plugin's life, and name the plugin if it takes long."""

        def name() -> None:
            error = f"{hook} has been running for {NAMED_AFTER:.0f} seconds"
            with self._lock:
                self._enter_state(record, record.state, error)
            _log.warning("plugin %s: %s", record.name, error)
            self._changes.deliver()

        timer = asyncio.get_running_loop().call_later(NAMED_AFTER, name)
        try:
            await _call(f"{record.name}: {hook}", call, deadline=deadline)
        finally:
            timer.cancel()
            if record.error.startswith(f"{hook} has been running"):
                with self._lock:
                    self._enter_state(record, record.state)
                self._changes.deliver()

    def _register(self, record: Record, plugin: object) -> None:
        """Let ``plugin`` answer hooks; an error that follows at once waits for the lock, and so finds it enabled."""
        with self._lock:
            try:
                self.pm.register(plugin, name=record.name)
            except Exception as error:
                self._unregister(record.name)
                raise PluginError(f"{record.name}: cannot be registered: {describe(error)}") from error
            self._enter_state(record, PluginState.ENABLED)
            self.generation += 1

    def _unregister(self, name: str) -> bool:
        if not self.pm.has_plugin(name):
            return False
        self.pm.unregister(name=name)
        self.generation += 1
        return True


async def _call(what: str, function: Callable[..., Any], *args: Any, deadline: float | None = None) -> Any:
    """Run plugin code within ``deadline`` seconds (None: START_DEADLINE); raise PluginError or SettingsError."""
    return await guarded(what, function, *args, deadline=START_DEADLINE if deadline is None else deadline)
