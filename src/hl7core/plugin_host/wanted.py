"""What the settings say about plugins: which should run, in which order, and with which table.

Nothing here imports or runs a plugin.  A plugin whose table is wrong is not wanted, and ``problems`` says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from pydantic import BaseModel

from hl7core.contract import PluginSettings
from hl7core.errors import SettingsError
from hl7core.plugin_host.discovery import Record
from hl7core.settings.reading import Settings
from hl7core.settings.validation import nearest, validate_table

__all__ = ["Wanted"]

_REQUIRED: Final = "required"


class _Required(BaseModel):
    required: bool


class Wanted:
    """Compares a snapshot of the settings with the installed plugins, ``records`` by name."""

    def __init__(self, records: Mapping[str, Record], store: str) -> None:
        self._records = records
        self._only: frozenset[str] | None = None
        self._bundled_only = False
        self._held = store

    def follow(self, records: Mapping[str, Record]) -> None:
        """Go by ``records`` from now on: what is installed has changed."""
        self._records = records

    def leave_out_others(self) -> None:
        """Want bundled plugins alone, whatever the settings say."""
        self._bundled_only = True

    def left_out(self, settings: Settings) -> tuple[str, ...]:
        """Return the plugins that ``settings`` enable and that are left out because they are not bundled."""
        found: list[str] = []
        for name, record in self._records.items() if self._bundled_only else ():
            with suppress(SettingsError):  # told by ``problems``
                if not record.bundled and self.enabled(record, settings):
                    found.append(name)
        return tuple(found)

    def restrict(self, names: Sequence[str]) -> None:
        """Want no plugin but ``names``, whatever the settings say."""
        self._only = frozenset(names)

    def hold(self, name: str) -> None:
        """Want the plugin ``name`` whatever the settings say: it is the store of record."""
        self._held = name

    def order(self, settings: Settings) -> tuple[str, ...]:
        """Return every installed plugin: first those with a table in ``settings``, in the order of the tables."""
        tables = [name for name in settings.plugins if name in self._records]
        return (*tables, *(name for name in self._records if name not in tables))

    def wants(self, record: Record, settings: Settings) -> bool:
        """Return whether the plugin is to run: ``settings`` enable it, and nothing leaves it out.

        Raises SettingsError if ``enabled`` in its table is not a boolean.
        """
        left_out = self._bundled_only and not record.bundled
        chosen = self._only is None or record.name in self._only
        return chosen and not left_out and self.enabled(record, settings)

    def enabled(self, record: Record, settings: Settings) -> bool:
        """Return whether ``settings`` enable the plugin; a store is enabled by being named.  Raises SettingsError."""
        switch = self._switch(record, settings)
        enabled = record.default_enabled if switch is None else switch
        return enabled or record.name in (settings.core.store, self._held)

    def _switch(self, record: Record, settings: Settings) -> bool | None:
        """Return what ``enabled`` in the plugin's table says, None if nothing.  Raises SettingsError."""
        table = settings.plugins.get(record.name, {})
        if "enabled" not in table:
            return None
        only, key = {"enabled": table["enabled"]}, f"plugins.{record.name}"
        return validate_table(PluginSettings, key, only, settings.environment, settings.origins).enabled

    def table(self, record: Record, settings: Settings) -> PluginSettings:
        """Return the plugin's table, validated with its model.  Raises SettingsError."""
        key = f"plugins.{record.name}"
        table = {**settings.plugins.get(record.name, {}), "enabled": True}
        if _REQUIRED not in record.model.model_fields:
            table.pop(_REQUIRED, None)
        raw = {name: text for name, text in settings.environment.items() if name != f"{key}.enabled"}
        return validate_table(record.model, key, table, raw, settings.origins)

    def required(self, record: Record, settings: Settings) -> bool | None:
        """Return what ``required`` in the plugin's table says, None if it is not there.  Raises SettingsError."""
        value = settings.plugins.get(record.name, {}).get(_REQUIRED)
        if value is None or _REQUIRED in record.model.model_fields:  # then it is the plugin's own
            return None
        table = {_REQUIRED: value}
        return validate_table(
            _Required, f"plugins.{record.name}", table, settings.environment, settings.origins
        ).required

    def problems(self, settings: Settings) -> tuple[str, ...]:
        """Return a sentence for each thing wrong with ``settings``, as far as is known without importing a plugin."""
        found: list[str] = []
        named = {f"plugins.{name}": name for name in settings.plugins} | {"core.store": settings.core.store}
        for key, name in named.items():
            if name not in self._records:
                found.append(f"{key}: no plugin {name} is installed{nearest(name, self._records)}")
        for record in self._records.values():
            try:
                if self._switch(record, settings) is False and record.name == settings.core.store:
                    found.append(_store_switched_off(record.name, settings))
                self.required(record, settings)
            except SettingsError as error:
                found += error.problems
        return tuple(found)


def _store_switched_off(store: str, settings: Settings) -> str:
    key = f"plugins.{store}.enabled"
    origin = settings.origins.get(key, "")
    return (
        f"{key}: must not be false while {store} is the store of record, so it stays enabled; name another store in"
        f" core.store first{f' (set in {origin})' if origin else ''}"
    )
