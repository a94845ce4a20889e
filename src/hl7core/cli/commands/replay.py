"""``hl7core replay``: capture files through the running engine and its plugins."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from hl7core.cli import exit_codes
from hl7core.cli.load_settings import load_settings
from hl7core.cli.output.progress import progress_of_replay
from hl7core.cli.output.text import counted
from hl7core.cli.session_access import engine_client
from hl7core.model.replay import ReplayReport

if TYPE_CHECKING:
    from hl7core.engine.control.client import ControlClient

__all__ = ["command"]

_EPILOG = """\b
Examples:
  hl7core replay day.pcap                 as fast as the engine keeps up
  hl7core replay day.pcap --speed 1       at the pace of the capture
  hl7core replay part1.pcap part2.pcap    as one capture, in this order
"""


@click.command("replay", epilog=_EPILOG)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--speed",
    type=click.Choice(("1", "max")),
    default="max",
    show_default=True,
    help="1: at the pace of the packets' times; max: as fast as the engine keeps up.",
)
@click.option("-o", "--output", type=click.Choice(("text", "json")), default="text", help="json: one object.")
@click.option("--no-progress", is_flag=True, help="Show no progress bar.")
@click.pass_obj
def command(settings_path: str | None, /, files: tuple[str, ...], speed: str, output: str, no_progress: bool) -> int:
    """Replay capture files in the running engine: its plugins see the packets and sessions as if they came live.

    Sessions keep the times of their packets.  Those that are stored already are counted, and neither saved nor
    submitted again.  Live capture goes on meanwhile.  The engine reads the files itself, so its user needs access to
    them.  Ctrl-C stops the replay: what was decoded is kept.
    """
    if "-" in files:
        raise click.UsageError("the engine cannot read your standard input; save the packets in a file first")
    settings = load_settings(settings_path)
    client = engine_client(settings)
    if client is None:
        click.echo(f"hl7core: no engine runs on {settings.output_folder}. Start one: hl7core run", err=True)
        click.echo("To save the sessions without an engine: hl7core read FILE --store", err=True)
        return exit_codes.ERROR
    report = ReplayReport()
    paths = [str(Path(name).absolute()) for name in files]  # the engine may run in another working folder
    with client, _interruptible(client) as interrupted, progress_of_replay(shown=not no_progress) as step:
        for report in client.replay(paths, speed=speed):
            step(report)
    if output == "json":
        click.echo(json.dumps(_as_json(report)))
    elif report.packets or not report.problems:
        click.echo(_summary(report))
    for line in _notes(report):
        click.echo(f"hl7core: {line}", err=True)
    return _exit_code(report, interrupted=bool(interrupted))


@contextmanager
def _interruptible(client: ControlClient) -> Iterator[list[int]]:
    """Make Ctrl-C stop the replay, so that its final report still comes; the second one ends the command at once."""
    interrupted: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        interrupted.append(number)
        signal.signal(signal.SIGINT, before)
        client.interrupt()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def _as_json(report: ReplayReport) -> dict[str, Any]:
    return {
        "stopped": report.state == "stopped",
        "packets": report.packets,
        "sessions": report.sessions,
        "saved": report.saved,
        "alreadyThere": report.known,
        "waiting": report.waiting,
        "lost": report.lost,
        "notSaved": report.unsaved,
        "cutShort": report.dropped,
        "problems": [{"file": file, "error": text} for file, text in report.problems],
    }


def _summary(report: ReplayReport) -> str:
    parts = [f"{counted(report.sessions, 'session')} in {counted(report.packets, 'packet')}"]
    parts += [f"{report.saved:,} saved"] if report.saved or report.sessions > report.known + report.unsaved else []
    parts += [f"{report.known:,} already there"] if report.known else []
    return ", ".join(parts)


def _notes(report: ReplayReport) -> Iterator[str]:
    """Yield what else a person must know."""
    for file, text in report.problems:
        yield text
        if Path(file).is_file() and os.access(file, os.R_OK) and ("permission denied" in text or "no such" in text):
            yield f"{file}: you can read it, but the engine runs as another user or sees other folders"
    if report.encrypted:
        yield report.encrypted
    if report.unsaved:
        yield f"{counted(report.unsaved, 'session')} not saved: core.enable_persistence is false"
    if report.waiting:
        reason = f" ({report.detail})" if report.detail else ""
        yield f"{counted(report.waiting, 'session')} not saved yet{reason}; the engine keeps trying"
    if report.lost:
        yield f"{counted(report.lost, 'session')} lost: too many were waiting to be saved"
    if report.state == "stopped":
        dropped = f", except {counted(report.dropped, 'conversation')} cut short by this" if report.dropped else ""
        yield f"stopped before the end; what was decoded is kept{dropped}"
        yield "replay the files again to get the rest; what is stored is skipped"
    elif not report.sessions and report.packets:
        yield (
            f"no HL7 or LIS01 conversation in {counted(report.packets, 'packet')}"
            f" ({counted(report.connections, 'connection')} with data)"
        )


def _exit_code(report: ReplayReport, *, interrupted: bool) -> int:
    if report.state == "stopped":
        return exit_codes.INTERRUPTED if interrupted else exit_codes.ERROR
    if report.problems and not report.packets:
        return exit_codes.ERROR
    if report.problems or report.waiting or report.lost:
        return exit_codes.PARTIAL
    return exit_codes.OK if report.sessions else exit_codes.NOTHING
