"""``hl7core plugins``: what is installed, what runs, and the switch."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from hl7core.cli import exits
from hl7core.cli.common import engine_client, load_settings
from hl7core.cli.text import colourful
from hl7core.errors import Hl7coreError, PluginError
from hl7core.registry import PluginInfo, PluginState, Registry
from hl7core.settings_file import change

__all__ = ["command"]


@click.group("plugins", epilog="\b\nExamples:\n  hl7core plugins list\n  hl7core plugins enable journal")
def command() -> None:
    """List, inspect, enable and disable plugins."""


@command.command("list", epilog="\b\nExamples:\n  hl7core plugins list\n  hl7core plugins list --json")
@click.option("--json", "as_json", is_flag=True, help="A JSON object a line.")
@click.pass_obj
def list_(settings_path: str | None, as_json: bool) -> None:
    """List the plugins that are installed: state, version, where each is from, and its last error.

    The states are those of a running engine; without one, those that an engine would begin with.
    """
    rows = _rows(settings_path)
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("plugin", "state", "version", "from"):
        table.add_column(heading, no_wrap=True)
    table.add_column("hooks")
    table.add_column("error", style="red")
    colours = {"enabled": "green", "disabled": "dim", "failed": "red", "hanging": "yellow", "quarantined": "red"}
    for row in rows:
        state = str(row["state"])
        hooks = ", ".join(
            hook for hook in row["hooks"] if not hook.startswith(("register_", "configure", "start", "stop"))
        )
        table.add_row(
            row["name"], f"[{colours.get(state, 'white')}]{state}[/]", row["version"],
            "hl7core" if row["bundled"] else row["distribution"], hooks, row["error"],
        )  # fmt: skip
    Console(no_color=not colourful(sys.stdout), soft_wrap=not sys.stdout.isatty()).print(table)


@command.command("info", epilog="\b\nExamples:\n  hl7core plugins info json_store")
@click.argument("name")
@click.pass_obj
def info(settings_path: str | None, name: str) -> int:
    """Show one plugin: its hooks, its settings and how it stands.  The plugin is imported."""
    registry = Registry(load_settings(settings_path))
    registry.info(name)
    problem = ""
    try:
        registry.load(name)
    except Hl7coreError as error:
        problem = str(error)
    row = next((row for row in _rows(settings_path) if row["name"] == name), _row(registry.info(name)))
    loaded = registry.info(name)
    click.echo(f"{click.style(name, bold=True)}  {row['state']}  {row['distribution']} {row['version']}")
    if problem or row["error"]:
        click.echo(f"  error     {problem or row['error']}")
    if problem:
        return exits.ERROR
    model = registry.model(name)
    if model.__doc__:
        click.echo(f"  {' '.join(model.__doc__.split())}")
    click.echo(f"  hooks     {', '.join(loaded.hooks) or 'none'}")
    click.echo(f"  imported  in {loaded.import_ms:.0f} ms")
    values = registry.settings_of(name)
    click.echo(f"  settings  [plugins.{name}]")
    for key, field in model.model_fields.items():
        shown = getattr(values, key, field.default)
        click.echo(f"    {key} = {shown!r}  {click.style(field.description or '', dim=True)}")
    return exits.OK


@command.command("enable", epilog="\b\nExamples:\n  hl7core plugins enable journal")
@click.argument("name")
@click.pass_obj
def enable(settings_path: str | None, name: str) -> None:
    """Switch a plugin on, in settings.toml; a running engine follows within a second."""
    _switch(settings_path, name, on=True)


@command.command("disable", epilog="\b\nExamples:\n  hl7core plugins disable journal")
@click.argument("name")
@click.pass_obj
def disable(settings_path: str | None, name: str) -> None:
    """Switch a plugin off, in settings.toml; a running engine follows within a second."""
    _switch(settings_path, name, on=False)


def _switch(settings_path: str | None, name: str, *, on: bool) -> None:
    settings = load_settings(settings_path)
    registry = Registry(settings)
    registry.info(name)
    if on:
        registry.load(name)  # better refused here than in the engine
    elif settings.core.store == name:
        raise PluginError(f"{name} is the store of record: name another in [core] store first")
    path = settings.path or Path.cwd() / "settings.toml"
    change(path, {f"plugins.{name}.enabled": on})
    click.echo(f"{name} {'enabled' if on else 'disabled'} in {path}")


def _rows(settings_path: str | None) -> list[dict[str, Any]]:
    settings = load_settings(settings_path)
    client = engine_client(settings)
    if client is not None:
        with client:
            rows: list[dict[str, Any]] = client.call("plugins")
            return rows
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
