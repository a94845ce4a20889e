"""``hl7core settings``: shows, checks, finds and creates the settings."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel, SecretStr

from hl7core.cli import exit_codes
from hl7core.cli.load_settings import load_settings
from hl7core.errors import Hl7coreError, SettingsError
from hl7core.plugin_host.registry import Registry
from hl7core.settings import reading
from hl7core.settings.file import change, template
from hl7core.settings.model import CoreSettings

__all__ = ["command"]


@click.group("settings", epilog="\b\nExamples:\n  hl7core settings show --origin\n  hl7core settings check")
def command() -> None:
    """Show, check, find and create the settings."""


@command.command("path", epilog="\b\nExamples:\n  hl7core settings path")
@click.pass_obj
def path(settings_path: str | None) -> int:
    """Print the path of the settings file in use."""
    found = reading.find(settings_path)
    if found is None:
        click.echo("no settings file found; the defaults are used", err=True)
        return exit_codes.NOTHING
    click.echo(str(found))
    return exit_codes.OK


@command.command("show", epilog="\b\nExamples:\n  hl7core settings show\n  hl7core settings show --origin")
@click.option("--origin", is_flag=True, help="Show where each value comes from.")
@click.pass_obj
def show(settings_path: str | None, origin: bool) -> int:
    """Print every setting with its value in force.  Secrets are masked."""
    settings = load_settings(settings_path)
    registry = Registry(settings)
    tables: list[tuple[str, BaseModel]] = [("core", settings.core)]
    problems = list(registry.problems())
    for name in sorted(registry.names()):
        if not registry.wanted(name):
            continue
        try:
            registry.load(name)
        except Hl7coreError as error:
            problems.append(f"plugins.{name}: {error}")
            continue
        validated = registry.settings_of(name)
        if validated is not None:
            tables.append((f"plugins.{name}", validated))
    for table, values in tables:
        click.echo(f"[{table}]")
        for key in type(values).model_fields:
            where = f"  # {settings.origins.get(f'{table}.{key}', 'default')}" if origin else ""
            click.echo(f"{key} = {_toml(getattr(values, key))}{where}")
        click.echo()
    for problem in problems:
        click.echo(f"hl7core: {problem}", err=True)
    return exit_codes.SETTINGS if problems else exit_codes.OK


@command.command(
    "check", epilog="\b\nExamples:\n  hl7core settings check\n  hl7core --settings new.toml settings check"
)
@click.pass_obj
def check(settings_path: str | None) -> int:
    """Check the settings, and name each value that is not valid."""
    found = reading.find(settings_path)
    problems: list[str] = []
    try:
        settings = reading.read(found)
    except SettingsError as error:
        problems += error.problems
    else:
        registry = Registry(settings)
        problems += registry.problems()
        for name in registry.names():
            if registry.wanted(name):
                try:
                    registry.load(name)
                except SettingsError as error:
                    problems += error.problems
                except Hl7coreError as error:
                    problems.append(f"plugins.{name}: {error}")
        if settings.core.protocols:
            from hl7core.cli.dialects import enabled_dialects, pin_problems

            problems += pin_problems(settings, enabled_dialects(settings, lambda _text: None))  # reported above
        for notice in settings.notices:
            click.echo(f"note: {notice}", err=True)
    for problem in dict.fromkeys(problems):
        click.echo(problem, err=True)
    if problems:
        return exit_codes.SETTINGS
    click.echo(f"{found or 'no settings file, the defaults'}: valid")
    return exit_codes.OK


@command.command(
    "init",
    short_help="Write a commented settings file and a data folder.",
    epilog="\b\nExamples:\n  hl7core settings init\n  hl7core settings init --data-folder /var/lib/hl7core",
)
@click.option("--file", "file", metavar="FILE", help="Write to FILE; default: settings.toml in your config folder.")
@click.option("--data-folder", metavar="FOLDER", help="Store sessions in FOLDER; default: your data folder.")
def init(file: str | None, data_folder: str | None) -> None:
    """Write a commented settings file and create a private data folder, outside any project."""
    from platformdirs import user_config_dir, user_data_dir

    target = Path(file) if file else Path(user_config_dir("hl7core")) / "settings.toml"
    if target.exists():
        raise SettingsError(f"{target} already exists and was not changed; give another --file")
    folder = Path(data_folder) if data_folder else Path(user_data_dir("hl7core"))
    target.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    target.write_text(shipped(), encoding="utf-8")
    change(target, {"core.output_folder": str(folder.absolute())})
    click.echo(f"settings  {target}\ndata      {folder.absolute()} (mode 0700)")


def shipped() -> str:
    """Return the commented settings file, with every bundled plugin at its defaults."""
    registry = Registry(reading.Settings(core=CoreSettings()))
    return template({name: registry.model(name) for name in registry.names() if registry.info(name).bundled})


def _toml(value: Any) -> str:
    if isinstance(value, SecretStr):
        return '"********"' if value.get_secret_value() else '""'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value)


if __name__ == "__main__":  # python -m hl7core.cli.commands.settings > settings.toml: writes the shipped file
    sys.stdout.write(shipped())
