"""The roster: which plugins there are, which of them the settings want, and with what settings.

Its law: nothing here runs, and asking never imports a plugin, unless what is asked (``model``, ``secret_keys``) cannot
be known without.  What the settings say wrongly is told by ``problems``, and wants nothing.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Sequence

import pluggy

from hl7core import hookspecs
from hl7core.contract import PluginSettings
from hl7core.errors import PluginError, SettingsError
from hl7core.plugin_host.discovery import PluginInfo, Record, discover
from hl7core.plugin_host.loading import Loader
from hl7core.settings.model import nearest, secret_keys, validate_table
from hl7core.settings.reading import Settings

__all__ = ["Roster"]


class Roster:
    """Knows the plugins; all of it may be called from any thread.  ``pm`` is for the dispatch alone."""

    def __init__(self, settings: Settings, entry_points: Iterable[importlib.metadata.EntryPoint] | None = None) -> None:
        self.settings = settings
        self.pm = pluggy.PluginManager(hookspecs.PROJECT)
        self._loader = Loader(self.pm)
        self._records, self._unused = discover(entry_points)
        self._only: frozenset[str] | None = None
        self._held = settings.core.store

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

    # Who is wanted whatever the settings say.

    def load_only(self, names: Sequence[str]) -> None:
        """Leave all plugins but ``names`` disabled, whatever the settings say (call it before ``start``)."""
        self._only = frozenset(names)

    def hold(self, name: str) -> None:
        """Keep ``name`` in service whatever the settings say: it is the store of record."""
        self._held = name

    # Inside.

    def _record(self, name: str) -> Record:
        record = self._records.get(name)
        if record is None:
            raise PluginError(f"there is no plugin {name}{nearest(name, self._records)}")
        return record

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
