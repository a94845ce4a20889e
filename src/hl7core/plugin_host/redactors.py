"""Redactors: the plugins without which nothing may be saved, because they change what is saved (``before_persist``).

A redactor that does not run must not let through what it would have removed.  So a plugin that implements
``before_persist`` is *required* unless its table says ``required = false``.  So is one that cannot be loaded but
implemented that hook when it was last loaded: a file in the data folder remembers.  While a required plugin that the
settings enable does not run, or hangs, nothing is saved; only a person lifts that.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Final, NamedTuple

from hl7core.atomic_file import replace_atomically
from hl7core.errors import SettingsError
from hl7core.guard import describe
from hl7core.plugin_host.registry import Registry

__all__ = ["MissingRedactor", "Redactors"]

_log = logging.getLogger(__name__)

_HOOK: Final = "before_persist"
_MEMORY: Final = "redactors.json"


class MissingRedactor(NamedTuple):
    """A required plugin that does not run, and why."""

    plugin: str
    reason: str

    def __str__(self) -> str:
        """Say what is wrong and how to mend it."""
        return _sentence(self.plugin, self.reason)


class Redactors:
    """Knows which required plugins do not run; ``folder`` is the data folder."""

    def __init__(self, registry: Registry, folder: Path) -> None:
        self._registry = registry
        self._path = folder / _MEMORY
        self._remembered = _read(self._path)  # None: not known
        self._failing: dict[str, str] = {}

    def missing(self) -> MissingRedactor | None:
        """Return a required plugin that the settings enable and that does not run, None if there is none."""
        for name in self._registry.names():
            reason = self._registry.reason_not_running(name)
            if reason and self._required(name):
                return MissingRedactor(name, reason)
        for name in sorted((self._remembered or frozenset()) - {*self._registry.names()}):
            if self._registry.enables_uninstalled(name):
                return MissingRedactor(name, "is not installed")
        return None

    def problem(self) -> str:
        """Return why sessions are not saved, as a sentence with its remedy; "" if no required plugin is the cause."""
        missing = self.missing()
        if missing is not None:
            return str(missing)
        for name, reason in dict(self._failing).items():
            if self._registry.wanted(name) and self._required(name):
                return _sentence(name, f"cannot do its work ({reason})")
        return ""

    def fails(self, name: str, reason: str) -> None:
        """Note that the ``before_persist`` of a required plugin has failed."""
        self._failing[name] = reason

    def works(self, name: str) -> None:
        """Note that the ``before_persist`` of a plugin has worked, and report that it does so again."""
        if self._failing.pop(name, None) is not None:
            self._registry.set_error(name, "")

    def is_required(self, name: str) -> bool:
        """Return whether nothing may be saved without the plugin ``name``."""
        return self._required(name)

    def remember(self) -> None:
        """Note for later starts which of the plugins that are loaded implement ``before_persist``."""
        loaded = {info.name: _HOOK in info.hooks for info in self._registry.infos() if info.hooks}
        now = sorted(name for name in {*(self._remembered or ()), *loaded} if loaded.get(name, True))
        if self._remembered is not None and now == sorted(self._remembered):
            return
        self._remembered = frozenset(now)
        try:
            replace_atomically(self._path, json.dumps({"plugins": now}).encode() + b"\n", mode=0o600)
        except OSError as error:
            _log.warning("%s cannot be written (%s)", self._path, describe(error))

    def _required(self, name: str) -> bool:
        try:
            stated = self._registry.required(name)
        except SettingsError:  # it is among the problems of the settings; until it is mended, nothing is risked
            return True
        if stated is not None:
            return stated
        hooks = self._registry.info(name).hooks
        return _HOOK in hooks if hooks else self._remembered is None or name in self._remembered


def _sentence(plugin: str, reason: str) -> str:
    return (
        f"nothing is saved, because the required plugin {plugin} {reason}. Mend it and run `hl7core plugins enable"
        f" {plugin}`; or save without it: `hl7core plugins disable {plugin}`, or required = false in [plugins.{plugin}]"
    )


def _read(path: Path) -> frozenset[str] | None:
    """Return the remembered names, None if they cannot be read."""
    try:
        return frozenset(map(str, json.loads(path.read_bytes())["plugins"]))
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning(
            "%s cannot be read (%s), so every plugin that does not load counts as required", path, describe(error)
        )
        return None
