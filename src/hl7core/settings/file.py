"""Writing the settings file: changes made by the program go into the file that people edit.

A change keeps comments and order.  The new text is checked by reading it back, then replaces the file atomically.
Secrets go to ``.secrets.toml`` (mode 0600) and are removed from ``settings.toml``.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import textwrap
import tomllib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, SecretStr

from hl7core.atomic_file import replace_atomically
from hl7core.errors import SettingsError
from hl7core.settings.model import CoreSettings
from hl7core.settings.validation import is_secret

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

__all__ = ["change", "replace_file", "template"]


def change(path: Path, changes: Mapping[str, Any], *, secrets: Collection[str] = ()) -> None:
    """Write ``changes`` ({"core.retention_days": 14}; None removes a key) into the settings file ``path``.

    A value that is a SecretStr, or whose key is in ``secrets``, goes to ``.secrets.toml`` instead.  Values are not
    validated: ``read`` does that.  Raises SettingsError, changing nothing.
    """
    plain: dict[str, Any] = {}
    hidden: dict[str, Any] = {}
    for key, value in changes.items():
        parts = key.split(".")
        if parts[0] not in ("core", "plugins") or len(parts) < (2 if parts[0] == "core" else 3) or not all(parts):
            raise SettingsError(f"{key}: no such setting")
        if isinstance(value, SecretStr) or key in secrets:
            hidden[key] = value.get_secret_value() if isinstance(value, SecretStr) else value
            plain[key] = None
        else:
            plain[key] = value
    with _locked(path.parent):
        main = _edited(path, plain)
        secret = _edited(path.parent / ".secrets.toml", hidden) if hidden else None
        if secret is not None:  # first, so that a secret is always in at least one of the files
            replace_file(path.parent / ".secrets.toml", secret.encode(), mode=0o600)
        if main is not None:
            replace_file(path, main.encode())


def template(models: Mapping[str, type[BaseModel]]) -> str:
    """Return ``settings.toml`` as shipped: every setting with its description, commented out, at its default."""
    lines = [
        "# Settings of hl7core.  Every setting is listed with its default; remove the # to change it.",
        "# Environment variables override this file: HL7CORE_CORE__STORE, HL7CORE_PLUGINS__REST_DESTINATION__ENDPOINT.",
        "# Put secrets in .secrets.toml beside this file (chmod 600), in the same tables.",
        "",
        *_section("core", CoreSettings),
    ]
    for name in sorted(models):
        lines += ["", *_section(f"plugins.{name}", models[name])]
    return "\n".join(lines) + "\n"


def _section(name: str, model: type[BaseModel]) -> Iterator[str]:
    yield f"[{name}]"
    for key, field in model.model_fields.items():
        text = " ".join((field.description or "").split())
        secret = is_secret(model, (key,))
        if secret:
            text = f"{text} A secret: set it in .secrets.toml.".strip()
        yield from textwrap.wrap(text, 118, initial_indent="# ", subsequent_indent="# ")
        default = "" if secret else field.get_default(call_default_factory=True)
        yield f"# {key} = {_toml(key, default)}" if not field.is_required() else f"# {key} =     (must be given)"


def _toml(key: str, value: Any) -> str:
    if key.endswith("_marker") and isinstance(value, int):
        return f"0x{value:02x}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, dict | list | tuple):
        return "{}" if isinstance(value, dict) else "[]"  # the defaults in the shipped models are empty
    return json.dumps("" if value is None else str(value), ensure_ascii=False)


def _edited(path: Path, changes: Mapping[str, Any]) -> str | None:
    """Return the text of ``path`` with ``changes`` made, or None if it stays the same."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        before = path.read_text("utf-8-sig") if path.exists() else ""
        document = tomlkit.parse(before)
        for key, value in changes.items():
            _put(document, key, value)
        text = tomlkit.dumps(document)
        checked = tomllib.loads(text)
    except (TOMLKitError, ValueError, RecursionError):
        raise SettingsError(f"{path}: not valid TOML, so it cannot be changed; fix it first") from None
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    for key, value in changes.items():
        if _lookup(checked, key.split(".")) != value:
            raise SettingsError(f"{key}: cannot be written to {path}; change it there by hand")
    return None if text == before else text


def _put(document: TOMLDocument, key: str, value: Any) -> None:
    import tomlkit

    *tables, option = key.split(".")
    table: Any = document
    for depth, part in enumerate(tables):
        name = _spelled(table, part)
        if name not in table:
            if value is None:
                return
            table[name] = tomlkit.table(is_super_table=depth < len(tables) - 1)
        table = table[name]
        if not isinstance(table, Mapping):
            raise SettingsError(f"{'.'.join(tables[: depth + 1])}: must be a table; fix the settings file first")
    name = _spelled(table, option)
    if value is None:
        table.pop(name, None)
    else:
        table[name] = value


def _spelled(table: Mapping[str, Any], key: str) -> str:
    """Return ``key`` as the file spells it: the case of names does not matter."""
    return next((name for name in table if name.lower() == key), key)


def _lookup(data: Any, parts: list[str]) -> Any:
    for part in parts:
        if not isinstance(data, Mapping):
            return None
        data = data.get(_spelled(data, part))
    return data


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock that keeps other processes from changing the settings in ``folder``."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise SettingsError(f"{folder}: cannot be opened: {error.strerror}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def replace_file(path: Path, content: bytes, *, mode: int | None = None, new_mode: int = 0o644) -> None:
    """Replace the content of ``path`` atomically.  A symbolic link stays one: the file it points to is replaced.

    ``mode`` None keeps the mode of the file; one that does not exist yet gets ``new_mode``.  Raises SettingsError.
    """
    target = Path(os.path.realpath(path))
    try:
        if mode is None:
            mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else new_mode
        replace_atomically(target, content, mode=mode)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be written: {error.strerror}") from None
