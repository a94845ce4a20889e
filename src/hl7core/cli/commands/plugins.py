"""``hl7core plugins``: lists, shows, enables and disables plugins."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from functools import partial
from pathlib import Path
from textwrap import wrap
from typing import Any

import click
from pydantic import SecretStr

from hl7core.cli import exit_codes
from hl7core.cli.commands import plugins_new as new
from hl7core.cli.load_settings import load_settings
from hl7core.cli.output.text import colourful, columns
from hl7core.cli.session_access import engine_client
from hl7core.errors import Hl7coreError, PluginError
from hl7core.hookspecs import HOOK_API
from hl7core.plugin_host.registry import PluginInfo, PluginState, Registry
from hl7core.settings.file import change
from hl7core.settings.reading import Settings

__all__ = ["command"]

_FOLLOWS = 5.0
"""For how many seconds a running engine may take to follow a change of the settings."""
_WIDE = 130
"""The hooks are shown if the terminal has at least so many columns."""


@click.group(
    "plugins",
    epilog="\b\nExamples:\n  hl7core plugins list\n  hl7core plugins new ward_bell\n  hl7core plugins enable journal",
)
def command() -> None:
    """List, inspect, enable and disable plugins, or start a new one."""


@command.command(
    "list",
    short_help="List the installed plugins.",
    epilog="\b\nExamples:\n  hl7core plugins list\n  hl7core plugins list -o jsonl",
)
@click.option(
    "-o",
    "--output",
    type=click.Choice(("text", "jsonl")),
    default="text",
    show_default=True,
    help="jsonl: one JSON object per plugin, each on a line.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as -o jsonl.")
@click.pass_obj
def list_(settings_path: str | None, output: str, as_json: bool) -> None:
    """List the installed plugins: state, version, origin, what each does, and its last error.

    The states are those of the running engine.  If none runs, they are those that an engine would start with.
    """
    rows = _rows(settings_path)
    if as_json or output == "jsonl":
        for row in rows:
            click.echo(json.dumps(row))
        return
    _table(rows, load_settings(settings_path).core.store)


_ROLES = {
    "persist_session": "stores sessions",
    "submit_session": "forwards sessions",
    "open_source": "supplies packets",
    "cleanup": "cleans up",
    "diagnose": "finds faults",
    "register_framers": "adds a dialect",
    "before_persist": "changes what is stored",
    "on_packet": "observes packets",
    "on_session_complete": "observes sessions",
    "on_event": "observes events",
}
_COLOURS = {
    "enabled": "green",
    "disabled": "dim",
    "failed": "red",
    "hanging": "yellow",
    "quarantined": "red",
    "suspended": "red",
}
_PIPED = 400
"""How wide a table is where no terminal limits it."""
_LIFE = ("register_", "configure", "start", "stop")


def _table(rows: list[dict[str, Any]], record: str) -> None:
    """Print one line per plugin: what it does and, if the terminal is wide enough, by which hooks."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(
        color_system="auto" if colourful(sys.stdout) else None,
        soft_wrap=not sys.stdout.isatty(),
        highlight=False,
        width=None if sys.stdout.isatty() else _PIPED,
    )
    wide = not sys.stdout.isatty() or console.width >= _WIDE
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("plugin", "state", "version", "from"):
        table.add_column(heading, no_wrap=True)
    table.add_column("does", no_wrap=wide)
    if wide:
        table.add_column("hooks")
    if any(row["error"] for row in rows):
        table.add_column("error", style="red")
    if any(row["note"] for row in rows):
        table.add_column("note", style="yellow")
    for row in rows:
        state = str(row["state"])
        does = [role for hook, role in _ROLES.items() if hook in row["hooks"]]
        if row["name"] == record:
            does[:1] = ["stores new sessions"]
        cells: list[str | Text] = [
            row["name"],
            Text(state, style=_COLOURS.get(state, "")),
            row["version"],
            "hl7core" if row["bundled"] else row["distribution"],
            ", ".join(does) or Text("?" if state == "disabled" else "", style="dim"),
        ]
        if wide:
            cells.append(Text(", ".join(hook for hook in row["hooks"] if not hook.startswith(_LIFE)), style="dim"))
        cells += [Text(row[column]) for column in ("error", "note") if any(other[column] for other in rows)]
        table.add_row(*cells)
    console.print(table)
    if any(row["state"] == "disabled" and not row["hooks"] for row in rows) and sys.stdout.isatty():
        console.print(
            Text("? not imported while disabled; `hl7core plugins info NAME` shows what it does", style="dim")
        )


@command.command("info", epilog="\b\nExamples:\n  hl7core plugins info json_store")
@click.argument("name")
@click.pass_obj
def info(settings_path: str | None, name: str) -> int:
    """Show one plugin: what it does, its state, hooks and settings.  The plugin is imported."""
    registry = Registry(load_settings(settings_path))
    registry.info(name)
    problem, plugin = "", None
    try:
        plugin = registry.load(name)
    except Hl7coreError as error:
        problem = str(error)
    row = next((row for row in _rows(settings_path) if row["name"] == name), _row(registry.info(name)))
    loaded = registry.info(name)
    width = columns(sys.stdout) or 120
    say = partial(click.echo, color=colourful(sys.stdout))
    said = _purpose(plugin) if plugin is not None else ""
    say(f"{click.style(name, bold=True)}  {row['state']}  {row['distribution']} {row['version']}")
    for heading, text in (
        ("does", said),
        ("error", problem or row["error"]),
        ("note", row["note"]),
        ("hook API", _hook_api(loaded)),
        ("hooks", ", ".join(loaded.hooks) if not problem else ""),
        ("imported", f"in {loaded.import_ms:.0f} ms" if not problem else ""),
    ):
        for line in wrap(text, width=width, initial_indent=f"  {heading:<9} ", subsequent_indent=" " * 12):
            say(line)
    if problem:
        return exit_codes.ERROR
    model = registry.model(name)
    values = registry.settings_of(name)
    say(f"  settings  [plugins.{name}]")
    for key, field in model.model_fields.items():
        say(f"    {key} = {_shown(getattr(values, key, field.default))}")
        for line in wrap(field.description or "", width=width, initial_indent=" " * 8, subsequent_indent=" " * 8):
            say(click.style(line, dim=True))
    return exit_codes.OK


def _hook_api(info: PluginInfo) -> str:
    """Return which hook API the plugin needs and which there is."""
    stated = f"needs {info.hook_api}" if info.hook_api else "states no range"
    return f"{stated}; this is {HOOK_API}"


def _purpose(plugin: object) -> str:
    """Return the first paragraph of the docstring of the plugin's module."""
    text = (sys.modules[type(plugin).__module__].__doc__ or "").strip()
    return " ".join(text.split("\n\n")[0].split())


def _shown(value: Any) -> str:
    """Return a value as it stands in the settings file; for a secret, only whether it is set."""
    if isinstance(value, SecretStr):
        return "(set, a secret)" if value.get_secret_value() else '""'
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False, default=str)


command.add_command(new.command)


@command.command(
    "enable",
    short_help="Enable a plugin in settings.toml.",
    epilog="\b\nExamples:\n  hl7core plugins enable journal",
)
@click.argument("name")
@click.pass_obj
def enable(settings_path: str | None, name: str) -> int:
    """Enable a plugin in settings.toml; a running engine follows within a second."""
    return _switch(settings_path, name, on=True)


@command.command(
    "disable",
    short_help="Disable a plugin in settings.toml.",
    epilog="\b\nExamples:\n  hl7core plugins disable journal",
)
@click.argument("name")
@click.pass_obj
def disable(settings_path: str | None, name: str) -> int:
    """Disable a plugin in settings.toml; a running engine follows within a second."""
    return _switch(settings_path, name, on=False)


def _switch(settings_path: str | None, name: str, *, on: bool) -> int:
    settings = load_settings(settings_path)
    registry = Registry(settings)
    if on or name not in settings.plugins:  # what is not installed any more can still be disabled
        registry.info(name)
    if on:
        registry.load(name)  # so that an error is reported here, not in the engine
    elif settings.core.store == name:
        raise PluginError(f"{name} is the store of record; set core.store to another store first")
    path = settings.path or Path.cwd() / "settings.toml"
    change(path, {f"plugins.{name}.enabled": on})
    click.echo(f"{name} {'enabled' if on else 'disabled'} in {path}")
    if on:
        _retry(settings, name)
    return _engine_follows(settings, path, name, on=on)


def _retry(settings: Settings, name: str) -> None:
    """Have a running engine enable a plugin again that is enabled in the settings but out of service there."""
    client = engine_client(settings)
    if client is None:
        return
    with client:
        state = next((row["state"] for row in client.call("plugins") if row["name"] == name), "")
        if state in (PluginState.FAILED, PluginState.QUARANTINED):
            with contextlib.suppress(Hl7coreError):  # what is wrong with it is printed next
                client.call("retry_plugin", name=name)


def _engine_follows(settings: Settings, path: Path, name: str, *, on: bool) -> int:
    """Wait until a running engine has followed, and print what it made of it; return the exit code."""
    client = engine_client(settings)
    if client is None:
        return exit_codes.OK
    with client:
        until = time.monotonic() + _FOLLOWS
        while True:
            row: dict[str, Any] = next((row for row in client.call("plugins") if row["name"] == name), {})
            state, reason = row.get("state", PluginState.DISABLED), row.get("error") or row.get("note", "")
            if on and state == PluginState.DISABLED and row.get("note"):
                click.echo(f"the running engine does not load it: {reason}")
                return exit_codes.OK
            if (state != PluginState.DISABLED) is on:
                break
            if time.monotonic() > until:
                click.echo(f"the running engine has not followed; does it use {path}? See: hl7core plugins list")
                return exit_codes.ERROR
            time.sleep(0.1)
    click.echo(f"the running engine: {state}{f' ({reason})' if reason else ''}")
    return exit_codes.ERROR if state == PluginState.FAILED else exit_codes.OK


def _rows(settings_path: str | None) -> list[dict[str, Any]]:
    settings = load_settings(settings_path)
    client = engine_client(settings)
    if client is not None:
        with client:
            return [{"hook_api": "", "note": "", **row} for row in client.call("plugins")]  # it may be an older engine
    registry = Registry(settings)
    rows = []
    for name in sorted(registry.names()):
        if registry.wanted(name):
            try:
                registry.load(name)
            except Hl7coreError as error:
                rows.append(_row(registry.info(name)) | {"state": "failed", "error": str(error)})
                continue
        row = _row(registry.info(name))
        if registry.wanted(name) and row["state"] == PluginState.DISABLED:
            row["state"] = "enabled"
        rows.append(row)
    return rows


def _row(item: PluginInfo) -> dict[str, Any]:
    return item._asdict() | {"hooks": list(item.hooks), "state": str(item.state)}
