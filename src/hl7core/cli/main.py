"""The command ``hl7core``.  Subcommands are imported only when they run, so that ``--help`` is quick."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from typing import Any, Final

import click

from hl7core import __version__
from hl7core.cli import exit_codes
from hl7core.errors import Hl7coreError, PermissionMissing

__all__ = ["cli", "main"]

# name: (module, short help); the command in the module is called ``command``.
_COMMANDS: Final = {
    "demo": ("demo", "See hl7core at work with a simulated lab: no root, no network."),
    "run": ("run", "Run the engine with all enabled plugins, as a service does."),
    "capture": ("capture", "Capture live on one or several interfaces."),
    "read": ("read", "Decode capture files: pcap, pcapng, gzip, or a pipe."),
    "replay": ("replay", "Replay capture files in the running engine, through its plugins."),
    "sessions": ("sessions", "List, show, export and import stored sessions."),
    "submit": ("submit", "Submit pending sessions now, or show the destinations."),
    "cleanup": ("cleanup", "Delete expired sessions now."),
    "plugins": ("plugins", "List, inspect, enable and disable plugins, or start a new one."),
    "settings": ("settings", "Show, check, find and create the settings."),
    "doctor": ("doctor", "Check whether hl7core can capture, store and submit here."),
    "version": ("version", "Print the version of hl7core."),
}


class _Commands(click.Group):
    """Subcommands, imported when they run; plugins add theirs by entry point (``hl7core.commands``)."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*_COMMANDS, *sorted(name for name in _plugin_commands() if name not in _COMMANDS)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _COMMANDS:
            module = importlib.import_module(f"hl7core.cli.commands.{_COMMANDS[cmd_name][0]}")
            command: click.Command = module.command
            return command
        entry_point = _plugin_commands().get(cmd_name)
        if entry_point is None:
            return None
        loaded = entry_point.load()
        return loaded if isinstance(loaded, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, text) for name, (_, text) in _COMMANDS.items()]
        rows += [
            (name, f"(plugin {ep.dist.name})" if ep.dist else "(plugin)") for name, ep in _plugin_commands().items()
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _plugin_commands() -> dict[str, Any]:
    from importlib.metadata import entry_points  # a scan of all that is installed

    return {entry_point.name: entry_point for entry_point in entry_points(group="hl7core.commands")}


_EPILOG: Final = """\b
Examples:
  hl7core demo                              see it at work
  hl7core read day.pcap                     decode a capture file
  hl7core read day.pcap -o messages         one JSON object per message
  hl7core capture -i eth0                   capture on an interface
"""


@click.group(cls=_Commands, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="hl7core", message="%(prog)s %(version)s")
@click.option("--settings", "settings_path", metavar="FILE", help="Use this settings file.")
@click.option("-v", "--verbose", count=True, help="Log more; -vv logs everything.")
@click.option("-q", "--quiet", is_flag=True, help="Log only errors.")
@click.pass_context
def cli(ctx: click.Context, settings_path: str | None, verbose: int, quiet: bool) -> None:
    """hl7core: the flight recorder of the lab interface.

    Captures the traffic between lab analyzers and the LIS, rebuilds each HL7 and LIS01 conversation, stores it, and
    reports what went wrong.
    """
    ctx.obj = settings_path
    level = logging.ERROR if quiet else (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(stream=sys.stderr, level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if os.environ.get("HL7CORE_TRACE_HOOKS"):
        logging.getLogger("hl7core.hooks").setLevel(logging.INFO)


def main() -> None:
    """Run the command line.  Every failure ends with a sentence on stderr and a documented exit code."""
    code = exit_codes.OK
    try:
        code = cli.main(standalone_mode=False) or exit_codes.OK
    except click.exceptions.Abort:
        code = exit_codes.INTERRUPTED
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except Hl7coreError as error:
        click.echo(f"hl7core: {error}", err=True)
        if isinstance(error, PermissionMissing):
            click.echo(error.remedy, err=True)
        code = exit_codes.exit_code(error)
    except KeyboardInterrupt:
        code = exit_codes.INTERRUPTED
    except BrokenPipeError:  # the reader of our output has closed it (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = exit_codes.OK
    sys.exit(code)
