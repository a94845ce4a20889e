"""``hl7core run``: the engine as a service runs it, until it is stopped."""

from __future__ import annotations

import logging

import click

from hl7core.cli.load_settings import load_settings, safe_mode_option

__all__ = ["command"]

_EPILOG = """\b
Examples:
  hl7core run                                  with ./settings.toml
  hl7core run --safe-mode                      without third-party plugins
  hl7core --settings /etc/hl7core/settings.toml run
"""


@click.command("run", epilog=_EPILOG)
@safe_mode_option
@click.pass_obj
def command(settings_path: str | None, safe_mode: bool) -> int:
    """Run the engine with all enabled plugins until it is stopped (SIGTERM or Ctrl-C).

    A change to the settings file takes effect at once.  Other commands use the running engine.
    """
    from hl7core.cli.run_engine import announce_safe_mode, run_engine
    from hl7core.engine.engine import Engine

    settings = load_settings(settings_path)
    logging.getLogger("hl7core").setLevel(min(logging.getLogger().level, logging.INFO))
    if settings.path is None:
        click.echo(f"no settings file found, using defaults; sessions are saved in {settings.output_folder}", err=True)
    engine = Engine(settings, safe_mode=safe_mode)
    announce_safe_mode(engine)
    return run_engine(engine)
