"""``hl7core sessions import``: copies sessions from another store, or from exported files, into the store of record."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hl7core.cli import exit_codes
from hl7core.cli.output.progress import progress_over_time
from hl7core.cli.output.text import counted
from hl7core.cli.session_access import open_sessions

if TYPE_CHECKING:
    from hl7core.engine.imports import ImportReport

__all__ = ["command"]

_EPILOG = """\b
Examples:
  hl7core sessions import --from json_store          copy from the JSON store
  hl7core sessions import --from json_store --move   and empty it
  hl7core sessions import day.jsonl old/sessions/    from exported files
"""


@click.command("import", short_help="Import sessions from another store, or from files.", epilog=_EPILOG)
@click.argument("files", nargs=-1, metavar="[FILE]...")
@click.option("--from", "source", metavar="STORE", help="Import from this store.")
@click.option("--move", is_flag=True, help="Delete from STORE each session that was imported and verified.")
@click.option("--no-progress", is_flag=True, help="Show no progress bar.")
@click.pass_obj
def command(
    settings_path: str | None, /, files: tuple[str, ...], source: str | None, move: bool, no_progress: bool
) -> int:
    """Import sessions into the store of record ([core] store), from another store or from files.

    Each session keeps its first save, expiry, status and deliveries.  It is read back and compared before it counts as
    copied.  A session that exists already is replaced only if the imported one was saved later, so an interrupted
    import can be run again.
    """
    if bool(source) == bool(files):
        raise click.UsageError("give either --from STORE or files to import from")
    if move and not source:
        raise click.UsageError("--move needs --from STORE; imported files are not deleted")
    report = None
    paths = [str(Path(name).absolute()) for name in files]  # the engine may run in another working folder
    with (
        open_sessions(settings_path, also_store=source or "") as access,
        progress_over_time("importing", shown=not no_progress) as step,
    ):
        for report in access.import_sessions(source=source or "", files=paths, empty=move):
            step(report.found, report.first, report.at, report.last)
    return _report(report, source)


def _report(report: ImportReport | None, source: str | None) -> int:
    if report is None or not (report.found or report.damaged):
        click.echo(f"{source} has no sessions" if source else "these files have no sessions", err=True)
        return exit_codes.NOTHING
    parts = [f"{counted(report.found, 'session')} found", f"{report.copied:,} copied and verified"]
    parts += [f"{report.known:,} already there"] if report.known else []
    parts += [f"{report.newer:,} kept because they were saved later"] if report.newer else []
    parts += [f"{report.removed:,} deleted from {source}"] if report.removed else []
    click.echo(", ".join(parts))
    if report.failed:
        click.echo(f"hl7core: {report.failed:,} could not be saved: {report.reason}", err=True)
    if report.damaged:
        click.echo(f"hl7core: {counted(report.damaged, 'invalid entry')}: {report.reason}", err=True)
    if report.failed or report.damaged:
        return exit_codes.PARTIAL
    if source and not report.removed and report.found:
        click.echo(
            f"{source} still has these sessions. If you no longer need it: hl7core plugins disable {source}", err=True
        )
    return exit_codes.OK
