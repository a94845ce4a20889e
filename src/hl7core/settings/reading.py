"""Settings: files and environment in, one frozen snapshot out.  The only import of dynaconf.

Nothing is half read: ``read`` returns a whole, valid :class:`Settings` or raises SettingsError and changes nothing.  A
settings file is data: dynaconf merges what we hand it, and is given no file name to look for.  Left to find files
itself it would run a ``dynaconf_hooks.py`` that lies beside them, search the parent folders, take ``[`` in a path for a
pattern, and follow ``dynaconf_include``; and it types the environment's text before we know which field it is for.

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
    """What is in force: a snapshot that nobody can change.

    ``plugins`` has the raw table of each plugin (validated by the registry with the plugin's model), ``environment``
    the raw text of what the environment gave; both may hold secrets, so neither is shown by ``repr``.  ``path`` is the
    settings file in force, ``root`` its folder (else the working folder), ``origins`` where each value came from by
    dotted key (absent: the default), ``notices`` what a person should know about the files.
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
    """Return the settings file in force, absolute, or None if there is none.

    ``explicit`` is what ``--settings`` named; then ``HL7CORE_SETTINGS``, the working folder, the user's and the
    system's config folder.  Raises SettingsError if a file that was named does not exist.
    """
    for named, by in ((explicit, "--settings"), (os.environ.get("HL7CORE_SETTINGS"), "HL7CORE_SETTINGS")):
        if named:
            path = Path(named).expanduser().absolute()
            if not path.is_file():
                raise SettingsError(f"{by}: there is no settings file {path}")
            return path
    from platformdirs import user_config_dir

    folders = (Path.cwd(), Path(user_config_dir("hl7core")), Path("/etc/hl7core"))
    return next((path for folder in folders if _is_file(path := folder / "settings.toml")), None)


def read(path: Path | None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings at ``path`` (None: no file), the files beside it and the environment.

    ``overrides`` are values of the command line by dotted key.  Raises SettingsError naming every wrong value.
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
    """Say which of ``keys`` cannot be changed in the settings file, as something stronger sets them."""
    own = (str(settings.path), str(settings.path.parent / ".secrets.toml")) if settings.path is not None else ()
    return tuple(
        f"{key}: is set in {origin}, which outranks the settings file; change it there"
        for key in keys
        if (origin := settings.origins.get(key, "")) and origin not in own
    )


def _merge(layers: list[Table]) -> Table:
    """Let dynaconf merge the layers, the strongest last."""
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
    """Hide the variables that steer dynaconf itself, if there are any: they are not ours to obey."""
    old_names = ("SETTINGS_MODULE", "PROJECT_ROOT")  # dynaconf still obeys these two and warns
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
    """Turn dynaconf's boxes into plain dicts and lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _load(file: Path, problems: list[str], *, required: bool) -> Table | None:
    try:
        with file.open("rb") as opened:
            data = opened.read(_LARGEST + 1)
    except FileNotFoundError:
        if required:
            problems.append(f"{file}: there is no such file")
        return None
    except OSError as error:
        problems.append(f"{file}: cannot be read: {error.strerror or type(error).__name__}")
        return None
    if len(data) > _LARGEST:
        problems.append(f"{file}: is larger than {_LARGEST} bytes")
        return None
    newline = b"\n"
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        problems.append(f"{file}: line {data.count(newline, 0, error.start) + 1} is not UTF-8 text")
    except RecursionError:
        problems.append(f"{file}: is nested too deeply")
    except ValueError as error:  # the message may quote the file: only the place is taken from it
        place = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        where = f"line {place[1]}, column {place[2]}" if place else f"the end (line {data.count(newline) + 1})"
        problems.append(f"{file}: not valid TOML at {where}")
    return None


def _normal(data: Table, origin: str, problems: list[str]) -> Table:
    """Keep ``core`` and ``plugins`` with table and option names in lower case; say what else is there."""
    made: Table = {}
    for key, value in _lowered(data, "", origin, problems).items():
        if key.startswith("dynaconf"):
            problems.append(f"{key}: no such table: keys that steer dynaconf are not followed (set in {origin})")
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
            problems.append(f"{prefix}{lower}: is given twice (set in {origin})")
        if prefix and lower.startswith("dynaconf"):
            problems.append(f"{prefix}{lower}: no such setting: keys that steer dynaconf are not followed")
        made[lower] = value
    return made


def _environment(problems: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the raw text by dotted key, and the name of the variable that gave it."""
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
            problems.append(f"{name}: names a table, which cannot be set as a whole; name one option, as in {example}")
            continue
        if any(part.startswith("dynaconf") for part in parts):
            problems.append(f"{name}: no such setting: keys that steer dynaconf are not followed")
            continue
        key = ".".join(parts)
        if key in names:
            problems.append(f"{key}: is given twice (set in {names[key]} and {name})")
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
                problems.append(f"{key}: part of it is set as a whole (set in {names[key]})")
                break
            table = inner
        else:
            if isinstance(table.get(parts[-1]), dict):
                problems.append(f"{key}: is set as a whole, and in parts (set in {names[key]})")
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
        return [f"{file} holds secrets and others may read it (mode {mode:04o}): chmod 600 it"]
    return []


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a folder that we may not look into has nothing for us
        return False
