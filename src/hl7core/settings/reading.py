"""Reading the settings: files and environment in, one frozen snapshot out.  The only import of dynaconf.

``read`` returns complete, valid :class:`Settings`, or raises SettingsError and changes nothing.  A settings file is
data: dynaconf merges the tables that we give it, and never gets a file name.  If it looked for files itself it would
run a ``dynaconf_hooks.py`` beside them, search the parent folders, treat ``[`` in a path as a pattern, and follow
``dynaconf_include``; it would also convert the environment's text before the type of its field is known.

Precedence: overrides (the command line), environment, ``{name}.local.toml``, ``.secrets.toml``, ``{name}.toml``,
defaults.
"""

from __future__ import annotations

import os
import re
import stat
import threading
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hl7core.errors import SettingsError
from hl7core.settings.model import CoreSettings
from hl7core.settings.validation import nearest, validate_table

__all__ = ["Settings", "find", "read", "shadowed"]

_PREFIX = "HL7CORE_"
_TABLES = ("core", "plugins")
_LARGEST = 1_048_576
_COMMAND_LINE = "the command line"
_lock = threading.Lock()

Table = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings in force, an immutable snapshot.

    ``plugins`` has the raw table of each plugin, which the registry validates with the plugin's model.  By dotted key,
    ``environment`` has the raw text of values from the environment, and ``origins`` where each value came from (absent:
    the default).  These may hold secrets, so ``repr`` leaves them out.  ``path`` is the settings file, ``root`` its
    folder (without a file: the working folder), and ``notices`` are sentences for the user about the files.
    """

    core: CoreSettings = field(default_factory=CoreSettings)
    plugins: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    path: Path | None = None
    root: Path = field(default_factory=Path.cwd)
    origins: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    notices: tuple[str, ...] = ()

    @property
    def output_folder(self) -> Path:
        """The data folder, absolute."""
        return Path(os.path.normpath(self.root / Path(self.core.output_folder).expanduser()))


def find(explicit: str | None = None) -> Path | None:
    """Return the absolute path of the settings file in force, or None if there is none.

    The first of these counts: ``explicit`` (from ``--settings``), ``HL7CORE_SETTINGS``, the working folder, the user's
    config folder, the system's.  Raises SettingsError if a file named by the first two does not exist.
    """
    for named, by in ((explicit, "--settings"), (os.environ.get("HL7CORE_SETTINGS"), "HL7CORE_SETTINGS")):
        if named:
            path = Path(named).expanduser().absolute()
            if not path.is_file():
                raise SettingsError(f"{by}: settings file {path} not found")
            return path
    from platformdirs import user_config_dir

    folders = (Path.cwd(), Path(user_config_dir("hl7core")), Path("/etc/hl7core"))
    return next((path for folder in folders if _is_file(path := folder / "settings.toml")), None)


def read(path: Path | None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Return the settings from ``path`` (None: no file), the files beside it, and the environment.

    ``overrides`` are the command line's values by dotted key.  Raises SettingsError, which names every wrong value.
    """
    path = path.absolute() if path is not None else None
    problems: list[str] = []
    notices: list[str] = []
    layers: list[tuple[str, Table]] = []
    if path is not None:
        for file in (path, path.parent / ".secrets.toml", path.with_suffix(".local.toml")):
            text = _load(file, problems, required=file == path)
            if text is not None:
                layers.append((str(file), _normal(text, str(file), problems)))
                if file.name == ".secrets.toml":
                    notices += _exposed(file)
    environment, names = _environment(problems)
    layers.append(("", _nested(environment, names, problems)))
    layers.append((_COMMAND_LINE, _nested(overrides or {}, dict.fromkeys(overrides or {}, _COMMAND_LINE), problems)))
    origins: dict[str, str] = {}
    for origin, layer in layers:
        for key in _leaves(layer):
            origins[key] = origin or names[key]
    if problems:
        raise SettingsError(*dict.fromkeys(problems))
    merged = _merge([layer for _, layer in layers])
    raw = {key: text for key, text in environment.items() if origins.get(key) == names[key]}
    core = validate_table(CoreSettings, "core", merged.get("core", {}), raw, origins)
    return Settings(
        core=core,
        plugins=MappingProxyType({name: MappingProxyType(table) for name, table in merged.get("plugins", {}).items()}),
        path=path,
        root=path.parent if path is not None else Path.cwd(),
        origins=MappingProxyType(origins),
        environment=MappingProxyType(raw),
        notices=tuple(notices),
    )


def shadowed(settings: Settings, keys: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a sentence for each of ``keys`` that the settings file cannot change, because something overrides it."""
    own = (str(settings.path), str(settings.path.parent / ".secrets.toml")) if settings.path is not None else ()
    return tuple(
        f"{key}: is set in {origin}, which overrides the settings file; change it there"
        for key in keys
        if (origin := settings.origins.get(key, "")) and origin not in own
    )


def _merge(layers: list[Table]) -> Table:
    """Merge the layers with dynaconf; a later layer overrides an earlier one."""
    with _lock, _without_dynaconf_variables():
        from dynaconf import Dynaconf

        loaded = Dynaconf(
            settings_files=[],
            core_loaders=[],
            loaders=[],
            envvar_prefix=None,
            environments=False,
            merge_enabled=True,
            auto_cast=False,
            load_dotenv=False,
        )
        for layer in layers:
            if layer:
                loaded.update(layer, merge=True, dotted_lookup=False, validate=False)
        whole = loaded.as_dict()
    return {key: _plain(whole[key.upper()]) for key in _TABLES if key.upper() in whole}


@contextmanager
def _without_dynaconf_variables() -> Iterator[None]:
    """Hide any environment variables that configure dynaconf itself: hl7core does not follow them."""
    old_names = ("SETTINGS_MODULE", "PROJECT_ROOT")  # dynaconf still follows these two, with a warning
    hidden = {
        name: value
        for name, value in list(os.environ.items())
        if name.endswith("_FOR_DYNACONF") or name.startswith("DYNACONF_") or name in old_names
    }
    for name in hidden:
        os.environ.pop(name, None)
    try:
        yield
    finally:
        os.environ.update(hidden)


def _plain(value: Any) -> Any:
    """Convert dynaconf's boxes to plain dicts and lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _load(file: Path, problems: list[str], *, required: bool) -> Table | None:
    try:
        with file.open("rb") as opened:
            data = opened.read(_LARGEST + 1)
    except FileNotFoundError:
        if required:
            problems.append(f"{file}: file not found")
        return None
    except OSError as error:
        problems.append(f"{file}: cannot be read: {error.strerror or type(error).__name__}")
        return None
    if len(data) > _LARGEST:
        problems.append(f"{file}: larger than {_LARGEST} bytes, the most a settings file may have")
        return None
    newline = b"\n"
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        problems.append(f"{file}: line {data.count(newline, 0, error.start) + 1} is not UTF-8 text")
    except RecursionError:
        problems.append(f"{file}: nested too deeply")
    except ValueError as error:  # the message may quote the file, so only the position is taken from it
        place = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        where = f"line {place[1]}, column {place[2]}" if place else f"the end (line {data.count(newline) + 1})"
        problems.append(f"{file}: not valid TOML at {where}")
    return None


def _normal(data: Table, origin: str, problems: list[str]) -> Table:
    """Return ``core`` and ``plugins``, names of tables and options in lower case; anything else is a problem."""
    made: Table = {}
    for key, value in _lowered(data, "", origin, problems).items():
        if key.startswith("dynaconf"):
            problems.append(f"{key}: no such table: keys that configure dynaconf are not allowed (set in {origin})")
        elif key not in _TABLES:
            problems.append(f"{key}: no such table{nearest(key, _TABLES)} (set in {origin})")
        elif not isinstance(value, dict):
            problems.append(f"{key}: must be a table (set in {origin})")
        elif key == "core":
            made[key] = _lowered(value, "core.", origin, problems)
        else:
            made[key] = {}
            for name, table in _lowered(value, "plugins.", origin, problems).items():
                if isinstance(table, dict):
                    made[key][name] = _lowered(table, f"plugins.{name}.", origin, problems)
                else:
                    problems.append(
                        f"plugins.{name}: must be a table, [plugins.{name}] with enabled = true or false"
                        f" (set in {origin})"
                    )
    return made


def _lowered(table: Table, prefix: str, origin: str, problems: list[str]) -> Table:
    made: Table = {}
    for key, value in table.items():
        lower = key.lower()
        if lower in made:
            problems.append(f"{prefix}{lower}: is set twice (in {origin})")
        if prefix and lower.startswith("dynaconf"):
            problems.append(f"{prefix}{lower}: no such setting: keys that configure dynaconf are not allowed")
        made[lower] = value
    return made


def _environment(problems: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the raw text by dotted key, and by the same key the name of the variable that set it."""
    values: dict[str, str] = {}
    names: dict[str, str] = {}
    for name, value in sorted(os.environ.items()):
        parts = name.removeprefix(_PREFIX).lower().split("__")
        if not name.startswith(_PREFIX) or parts[0] not in _TABLES:
            continue
        example = f"{_PREFIX}CORE__STORE=json_store"
        if parts[0] == "plugins":
            plugin = parts[1].upper() if len(parts) > 1 and parts[1] else "NAME"
            example = f"{_PREFIX}PLUGINS__{plugin}__ENABLED=false"
        if len(parts) < (2 if parts[0] == "core" else 3) or not all(parts):
            problems.append(f"{name}: names a whole table; set one option at a time, for example {example}")
            continue
        if any(part.startswith("dynaconf") for part in parts):
            problems.append(f"{name}: no such setting: keys that configure dynaconf are not allowed")
            continue
        key = ".".join(parts)
        if key in names:
            problems.append(f"{key}: is set twice (in {names[key]} and {name})")
        values[key], names[key] = value, name
    return values, names


def _nested(values: Mapping[str, Any], names: Mapping[str, str], problems: list[str]) -> Table:
    made: Table = {}
    for key, value in values.items():
        parts = key.split(".")
        if parts[0] not in _TABLES or len(parts) < (2 if parts[0] == "core" else 3):
            problems.append(f"{key}: no such setting (set in {names[key]})")
            continue
        table = made
        for part in parts[:-1]:
            inner = table.setdefault(part, {})
            if not isinstance(inner, dict):
                problems.append(f"{key}: a table that it belongs to is set to a single value (set in {names[key]})")
                break
            table = inner
        else:
            if isinstance(table.get(parts[-1]), dict):
                problems.append(f"{key}: is set both as one value and option by option (set in {names[key]})")
            table[parts[-1]] = value
    return made


def _leaves(table: Table, prefix: str = "") -> Iterator[str]:
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        elif not isinstance(value, dict):
            yield f"{prefix}{key}"


def _exposed(file: Path) -> list[str]:
    mode = stat.S_IMODE(file.stat().st_mode)
    if mode & 0o077:
        return [f"{file} holds secrets, but other users can read it (mode {mode:04o}); run chmod 600 on it"]
    return []


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a folder that we may not read counts as empty
        return False
