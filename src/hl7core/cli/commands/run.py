"""``hl7core run``: what the service runs."""

from __future__ import annotations

import logging

import click

from hl7core.cli.common import load_settings

__all__ = ["command"]

_EPILOG = """\b
Examples:
  hl7core run                                  as settings.toml says
  hl7core --settings /etc/hl7core/settings.toml run
"""


@click.command("run", epilog=_EPILOG)
@click.pass_obj
def command(settings_path: str | None) -> int:
    """Run the engine with all enabled plugins, as the settings say, until it is stopped (SIGTERM or Ctrl-C).

    A changed settings file counts at once.  Other commands reach the running engine.
    """
    from hl7core.cli.run_engine import run_engine
    from hl7core.engine.engine import Engine

    settings = load_settings(settings_path)
    logging.getLogger("hl7core").setLevel(min(logging.getLogger().level, logging.INFO))
    if settings.path is None:
        click.echo(f"no settings file: the defaults are in force, sessions go to {settings.output_folder}", err=True)
    return run_engine(Engine(settings))
