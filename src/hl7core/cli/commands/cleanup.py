"""``hl7core cleanup``: delete expired sessions now."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import click

from hl7core.cli import exit_codes
from hl7core.cli.load_settings import load_settings
from hl7core.cli.output.progress import progress_of_cleanup
from hl7core.cli.output.text import counted, size
from hl7core.cli.session_access import open_sessions, plugins_with
from hl7core.engine.control.protocol import event_to_json
from hl7core.model.cleanup import CleanupReport
from hl7core.model.events import CleanupSummary

__all__ = ["command"]

_EPILOG = """\b
Examples:
  hl7core cleanup --dry-run        show what would be deleted
  hl7core cleanup                  move expired sessions to the trash
  hl7core cleanup --yes            even if the clock looks wrong
"""


@click.command("cleanup", epilog=_EPILOG)
@click.option("--dry-run", is_flag=True, help="Report what would be deleted, and delete nothing.")
@click.option("-y", "--yes", "confirmed", is_flag=True, help="Confirm that the clock is right, even if it looks wrong.")
@click.option("-o", "--output", type=click.Choice(("text", "json")), default="text", help="json: an object per plugin.")
@click.pass_obj
def command(settings_path: str | None, dry_run: bool, confirmed: bool, output: str) -> int:
    """Move expired sessions to the trash, and delete those that have been in the trash for trash_days.

    The rules are those of the periodic cleanup: sessions still pending are kept for a grace period, and nothing is
    deleted while the clock looks wrong.  Exit code 1 if the cleanup stopped early, 4 if some sessions could not be
    removed.
    """
    settings = load_settings(settings_path)
    if not settings.core.enable_persistence:
        click.echo("not cleaned up: core.enable_persistence is false, so nothing is saved or deleted", err=True)
        return exit_codes.ERROR
    cleaners = plugins_with(settings, "cleanup", "submit_session")
    # retention in an engine of our own must not start a real cleanup of its own during a dry run.
    overrides = {"plugins.retention.dry_run": True} if dry_run and "retention" in cleaners else {}
    began = datetime.now(UTC)
    with (
        open_sessions(settings_path, plugins=cleaners, overrides=overrides) as access,
        progress_of_cleanup(dry_run=dry_run) as progress,
    ):
        reports = access.clean(dry_run=dry_run, confirmed=confirmed, progress=progress)
    if not reports:
        click.echo("no plugin cleans up; enable one: hl7core plugins enable retention", err=True)
        return exit_codes.ERROR
    for report in reports:
        if output == "json":
            click.echo(json.dumps(event_to_json(CleanupSummary(report, began, datetime.now(UTC)))))
        else:
            for line in _lines(report):
                click.echo(line)
        if report.halted:
            click.echo(f"note: {report.halted}" if report.dry_run else f"not done: {report.halted}", err=True)
    if any(report.halted and not report.dry_run for report in reports):
        return exit_codes.ERROR
    return exit_codes.PARTIAL if any(report.failed for report in reports) else exit_codes.OK


def _lines(report: CleanupReport) -> Iterator[str]:
    would = "would be " if report.dry_run else ""
    yield f"{counted(report.deleted, 'session')} {would}deleted ({size(report.freed)})"
    if report.emptied:
        yield f"{report.emptied} {would}deleted permanently from the trash"
    if report.failed:
        yield f"{report.failed} could not be removed; the log says why"
    for reason, count in report.kept:
        yield f"{count} kept: {reason}"
    yield f"{report.in_trash} in the trash"
