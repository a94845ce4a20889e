"""``hl7core cleanup``: throw away what has expired, now."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import click

from hl7core.cli import exits
from hl7core.cli.common import load_settings
from hl7core.cli.output.text import size
from hl7core.cli.session_access import open_desk, plugins_with
from hl7core.engine.control.protocol import event_to_json
from hl7core.model.cleanup import CleanupReport
from hl7core.model.events import CleanupSummary

__all__ = ["command"]

_EPILOG = """\b
Examples:
  hl7core cleanup --dry-run        what would go
  hl7core cleanup                  throw it away: to the trash first
  hl7core cleanup --yes            though the clock looks wrong: it is right
"""


@click.command("cleanup", epilog=_EPILOG)
@click.option("--dry-run", is_flag=True, help="Say what would go, and delete nothing.")
@click.option("-y", "--yes", "confirmed", is_flag=True, help="The clock is right: do it, whatever it looks like.")
@click.option("-o", "--output", type=click.Choice(("text", "json")), default="text", help="json: one object a plugin.")
@click.pass_obj
def command(settings_path: str | None, dry_run: bool, confirmed: bool, output: str) -> int:
    """Move sessions whose time is over to the trash, and empty the trash of what has waited there long enough.

    In the running engine if there is one; a changed clock, and what is still to be sent, are heeded as ever.
    Exit code 1 if the cleanup did not come to its end, 4 if some sessions could not be removed.
    """
    settings = load_settings(settings_path)
    if not settings.core.enable_persistence:
        click.echo("nothing is cleaned up while core.enable_persistence is false", err=True)
        return exits.ERROR
    cleaners = plugins_with(settings, "cleanup", "submit_session")
    # An engine of our own must not begin a cleanup by itself while it shows what one would do.
    overrides = {"plugins.retention.dry_run": True} if dry_run and "retention" in cleaners else {}
    began = datetime.now(UTC)
    with (
        open_desk(settings_path, plugins=cleaners, overrides=overrides) as desk,
        _progress(dry_run=dry_run) as progress,
    ):
        reports = desk.clean(dry_run=dry_run, confirmed=confirmed, progress=progress)
    if not reports:
        click.echo("no cleanup was run: is the plugin retention enabled? (`hl7core plugins list`)", err=True)
        return exits.ERROR
    for report in reports:
        if output == "json":
            click.echo(json.dumps(event_to_json(CleanupSummary(report, began, datetime.now(UTC)))))
        else:
            for line in _lines(report):
                click.echo(line)
        if report.halted:
            click.echo(f"note: {report.halted}" if report.dry_run else f"not done: {report.halted}", err=True)
    if any(report.halted and not report.dry_run for report in reports):
        return exits.ERROR
    return exits.PARTIAL if any(report.failed for report in reports) else exits.OK


def _lines(report: CleanupReport) -> Iterator[str]:
    would = "would be " if report.dry_run else ""
    yield f"{report.deleted} sessions {would}deleted ({size(report.freed)})"
    if report.emptied:
        yield f"{report.emptied} in the trash {would or 'were '}thrown away for good"
    if report.failed:
        yield f"{report.failed} could not be removed; the log says why"
    for reason, count in report.kept:
        yield f"{count} kept: {reason}"
    yield f"{report.in_trash} in the trash"


@contextmanager
def _progress(*, dry_run: bool) -> Iterator[Callable[[int], None]]:
    if not sys.stderr.isatty():
        yield lambda _count: None
        return
    from rich.console import Console  # only on a terminal
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    what = "would be deleted" if dry_run else "deleted"
    columns = (SpinnerColumn(), TextColumn("{task.completed} sessions {task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda count: bar.update(task, completed=count)
