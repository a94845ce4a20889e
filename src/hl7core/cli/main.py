"""The command ``hl7core``: finds its subcommands without importing them, so that ``--help`` is quick."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from typing import Any, Final

import click

from hl7core import __version__
from hl7core.cli import exits
from hl7core.errors import Hl7coreError, PermissionMissing

__all__ = ["cli", "main"]

# name: (module, what it does); the function in the module is called ``command``.
_COMMANDS: Final = {
    "demo": ("demo", "Show hl7core at work: simulated analyzers and a LIS, no root, no network."),
    "run": ("run", "Run the engine with all enabled plugins, as the settings say."),
    "capture": ("capture", "Capture live on one or several interfaces."),
    "read": ("read", "Decode capture files: pcap, pcapng, gzip, a pipe."),
    "sessions": ("sessions", "List, show, export and import stored sessions."),
    "submit": ("submit", "Hand on what is pending, now, and say how the destinations stand."),
    "cleanup": ("cleanup", "Throw away sessions whose time is over, now."),
    "plugins": ("plugins", "List, inspect, enable and disable plugins."),
    "settings": ("settings", "Show, check, find and create the settings."),
    "doctor": ("doctor", "Say whether it can capture, store and submit, and what to do if not."),
    "version": ("version", "Print the version."),
}


class _Commands(click.Group):
    """Subcommands by name, imported when they are run; plugins add theirs by entry point (``hl7core.commands``)."""

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
  hl7core demo                              see it work: no root, no network
  hl7core read day.pcap                     what was said in a capture file
  hl7core read day.pcap -o messages         one JSON line a message
  hl7core capture -i eth0                   listen on an interface
"""


@click.group(cls=_Commands, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="hl7core", message="%(prog)s %(version)s")
@click.option("--settings", "settings_path", metavar="FILE", help="The settings file to use.")
@click.option("-v", "--verbose", count=True, help="Log more (-vv: everything).")
@click.option("-q", "--quiet", is_flag=True, help="Log errors alone.")
@click.pass_context
def cli(ctx: click.Context, settings_path: str | None, verbose: int, quiet: bool) -> None:
    """hl7core: the flight recorder of the lab interface.

    Listens to analyzers and LIS on the wire, rebuilds each HL7 and LIS01 conversation, keeps it, and says what went
    wrong.
    """
    ctx.obj = settings_path
    level = logging.ERROR if quiet else (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(stream=sys.stderr, level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def main() -> None:
    """Run the command line; every failure ends in a sentence on stderr and a documented exit code."""
    code = exits.OK
    try:
        code = cli.main(standalone_mode=False) or exits.OK
    except click.exceptions.Abort:
        code = exits.INTERRUPTED
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except Hl7coreError as error:
        click.echo(f"hl7core: {error}", err=True)
        if isinstance(error, PermissionMissing):
            click.echo(error.remedy, err=True)
        code = exits.exit_code(error)
    except KeyboardInterrupt:
        code = exits.INTERRUPTED
    except BrokenPipeError:  # whoever read our output has seen enough (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = exits.OK
    sys.exit(code)
