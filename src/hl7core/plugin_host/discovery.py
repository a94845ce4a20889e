"""Discovery: which plugins are installed, found by entry point without importing any.

The group ``hl7core`` names every plugin.  Bundled plugins run unless the settings disable them, except those that the
group ``hl7core.off`` names too.  Third-party plugins run only if the settings enable them.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple

from hl7core.contract import PluginSettings
from hl7core.hookspecs import PROJECT

__all__ = ["PluginInfo", "PluginState", "Record", "discover"]

GROUP: Final = "hl7core"
OFF_GROUP: Final = "hl7core.off"


class PluginState(StrEnum):
    """The state of a plugin."""

    DISABLED = "disabled"
    ENABLED = "enabled"
    FAILED = "failed"
    HANGING = "hanging"
    QUARANTINED = "quarantined"
    SUSPENDED = "suspended"
    """Out of service until its call returns."""


class PluginInfo(NamedTuple):
    """A plugin as ``plugins list`` shows it; ``hooks`` and ``import_ms`` are known once it has been loaded."""

    name: str
    state: PluginState
    version: str
    distribution: str
    hooks: tuple[str, ...]
    enabled: bool
    error: str
    bundled: bool
    import_ms: float


@dataclass(slots=True)
class Record:
    """What the registry knows about one plugin; ``tried`` is the table with which it was last enabled."""

    name: str
    entry_point: importlib.metadata.EntryPoint
    bundled: bool
    default_enabled: bool
    state: PluginState = PluginState.DISABLED
    error: str = ""
    plugin: object | None = None
    model: type[PluginSettings] = PluginSettings
    settings: PluginSettings | None = None
    hooks: tuple[str, ...] = ()
    import_ms: float = 0.0
    started: bool = False
    tried: Mapping[str, Any] = field(default_factory=dict)

    def info(self, *, enabled: bool) -> PluginInfo:
        """Return what ``plugins list`` shows; ``enabled`` is whether the settings want it."""
        dist = self.entry_point.dist
        return PluginInfo(
            name=self.name,
            state=self.state,
            version=dist.version if dist is not None else "",
            distribution=dist.name if dist is not None else "",
            hooks=self.hooks,
            enabled=enabled,
            error=self.error,
            bundled=self.bundled,
            import_ms=self.import_ms,
        )


def discover(
    entry_points: Iterable[importlib.metadata.EntryPoint] | None = None,
) -> tuple[dict[str, Record], tuple[str, ...]]:
    """Return the plugins by name, bundled ones first, and a sentence for each entry point that is not used."""
    if entry_points is None:
        installed = importlib.metadata.entry_points()
        entry_points = (*installed.select(group=GROUP), *installed.select(group=OFF_GROUP))
    points = list(entry_points)
    off = {point.name for point in points if point.group == OFF_GROUP}
    records: dict[str, Record] = {}
    problems: list[str] = []
    for point in sorted(points, key=lambda point: (not _bundled(point), point.name)):
        if point.group != GROUP:
            continue
        known = records.get(point.name)
        if known is not None:
            if point.value != known.entry_point.value:
                problems.append(f"plugins.{point.name}: two packages provide it; {point.value} is not used")
        elif not (point.name.isidentifier() and point.name == point.name.lower()):
            problems.append(
                f"plugins.{point.name}: not used: a plugin's name consists of lower-case letters, digits and _"
            )
        else:
            bundled = _bundled(point)
            records[point.name] = Record(point.name, point, bundled, bundled and point.name not in off)
    return records, tuple(problems)


def _bundled(point: importlib.metadata.EntryPoint) -> bool:
    return point.dist is not None and point.dist.name == PROJECT
