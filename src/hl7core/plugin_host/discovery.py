"""Discovery: which plugins are installed, found by entry point without importing any.

The group ``hl7core`` names every plugin.  Bundled plugins run unless the settings disable them, except those that the
group ``hl7core.off`` names too.  Third-party plugins run only if the settings enable them.

Packages come and go while an engine runs, but Python keeps code that it has imported.  So a look at what is installed
now never changes a plugin whose code is in use: it gets a note instead, which says what a restart would do.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple

from hl7core.contract import PluginSettings
from hl7core.hookspecs import PROJECT

__all__ = ["PluginInfo", "PluginState", "Record", "discover", "installed_stamp", "merged"]

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
    """A plugin as ``plugins list`` shows it; ``hooks``, ``import_ms`` and ``hook_api`` are known once it was loaded.

    ``hook_api`` is the range of hook APIs that the plugin states, "" if it states none.  ``note`` says what else there
    is to know: that another version is installed than the one in use, for example.
    """

    name: str
    state: PluginState
    version: str
    distribution: str
    hooks: tuple[str, ...]
    enabled: bool
    error: str
    bundled: bool
    import_ms: float
    hook_api: str = ""
    note: str = ""


class Package(NamedTuple):
    """An installed distribution; ``build`` is a digest of its description and of its list of files."""

    name: str = ""
    version: str = ""
    build: str = ""

    @classmethod
    def of(cls, dist: importlib.metadata.Distribution | None) -> Package:
        """Read it now: after an upgrade, ``dist`` itself knows nothing any more."""
        if dist is None:
            return cls()
        text = "".join(dist.read_text(name) or "" for name in ("METADATA", "PKG-INFO", "RECORD"))
        described = dist.metadata
        name, version = described["Name"] or "", described["Version"] or ""  # half installed, it has neither yet
        return cls(name, version, hashlib.blake2b(text.encode(), digest_size=16).hexdigest())


@dataclass(slots=True)
class Record:
    """What the registry knows about one plugin; ``tried`` is the table with which it was last enabled.

    ``package`` is the distribution that it comes from, as it was when its code was found, and ``imported`` says that
    this process has imported that code.  ``late``: it was installed after this process began.
    """

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
    package: Package = field(default_factory=Package)
    imported: bool = False
    late: bool = False
    hook_api: str = ""
    note: str = ""

    def info(self, *, enabled: bool) -> PluginInfo:
        """Return what ``plugins list`` shows; ``enabled`` is whether the settings want it."""
        return PluginInfo(
            name=self.name,
            state=self.state,
            version=self.package.version,
            distribution=self.package.name,
            hooks=self.hooks,
            enabled=enabled,
            error=self.error,
            bundled=self.bundled,
            import_ms=self.import_ms,
            hook_api=self.hook_api,
            note=self.note,
        )


def discover(
    entry_points: Iterable[importlib.metadata.EntryPoint] | None = None,
) -> tuple[dict[str, Record], tuple[str, ...]]:
    """Return the plugins by name, bundled ones first, and a sentence for each entry point that is not used."""
    if entry_points is None:
        importlib.invalidate_caches()  # what was installed since the last look is found, and can be imported
        installed = importlib.metadata.entry_points()
        entry_points = (*installed.select(group=GROUP), *installed.select(group=OFF_GROUP))
    points = list(entry_points)
    off = {point.name for point in points if point.group == OFF_GROUP}
    packages: dict[int, Package] = {}
    for point in points:
        if id(point.dist) not in packages:
            packages[id(point.dist)] = Package.of(point.dist)
    found = [(packages[id(point.dist)], point) for point in points if point.group == GROUP]
    records: dict[str, Record] = {}
    problems: list[str] = []
    for package, point in sorted(found, key=lambda pair: (pair[0].name != PROJECT, pair[1].name)):
        known = records.get(point.name)
        if known is not None:
            if point.value != known.entry_point.value:
                problems.append(f"plugins.{point.name}: two packages provide it; {point.value} is not used")
        elif not (point.name.isidentifier() and point.name == point.name.lower()):
            problems.append(
                f"plugins.{point.name}: not used: a plugin's name consists of lower-case letters, digits and _"
            )
        else:
            bundled = package.name == PROJECT
            enabled = bundled and point.name not in off
            records[point.name] = Record(point.name, point, bundled, enabled, package=package)
    return records, tuple(problems)


def merged(known: Mapping[str, Record], found: Mapping[str, Record]) -> dict[str, Record]:
    """Return the plugins after another look: those of ``found``, except that code in use stays and gets a note."""
    made: dict[str, Record] = {}
    for name, new in found.items():
        old = known.get(name)
        same = old is not None and (old.package, old.entry_point.value) == (new.package, new.entry_point.value)
        if old is None or not (same or _in_use(old)):
            made[name], new.late = new, True
            continue
        made[name] = old
        old.note = "" if same else _replaced(old.package, new.package)
    for name, old in known.items():
        if name not in found and _in_use(old):
            made[name] = old
            old.note = f"{_title(old.package)} is not installed any more; its code is in use until the engine restarts"
    return made


def installed_stamp() -> frozenset[tuple[str, int]]:
    """Return what changes whenever a package is installed, upgraded or removed; it costs a fraction of a millisecond.

    It looks at the folders that describe the installed packages, where installers write last.
    """
    seen: set[tuple[str, int]] = set()
    for folder in dict.fromkeys(sys.path):
        with suppress(OSError), os.scandir(folder or ".") as entries:
            for entry in entries:
                if entry.name.endswith((".dist-info", ".egg-info")):
                    with suppress(FileNotFoundError):
                        seen.add((entry.path, entry.stat().st_mtime_ns))
    return frozenset(seen)


def _in_use(record: Record) -> bool:
    """Return whether this process has imported the plugin, or the rest of its package: bundled ones come with us."""
    return record.imported or record.bundled


def _replaced(old: Package, new: Package) -> str:
    """Return that ``new`` is installed in the place of ``old``, whose code is in use."""
    if _title(old) != _title(new):
        return f"{_title(new)} is installed, but {_title(old)} is in use; restart the engine to use what is installed"
    return f"{_title(new)} was installed again; the code loaded before is in use until the engine restarts"


def _title(package: Package) -> str:
    return f"{package.name} {package.version}".strip() or "its package"
