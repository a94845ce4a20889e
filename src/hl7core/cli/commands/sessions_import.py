"""``hl7core sessions import``: from another store, or from files, into the store of record."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hl7core.cli import exits
from hl7core.cli.output.progress import over_time
from hl7core.cli.session_access import open_desk

if TYPE_CHECKING:
    from hl7core.engine.imports import ImportReport

__all__ = ["command"]

_EPILOG = """\b
Examples:
  hl7core sessions import --from json_store          copy them over
  hl7core sessions import --from json_store --move   and empty the JSON store
  hl7core sessions import day.jsonl old/sessions/    what was exported
"""


@click.command("import", short_help="Bring sessions in, from another store or files.", epilog=_EPILOG)
@click.argument("files", nargs=-1, metavar="[FILE]...")
@click.option("--from", "source", metavar="STORE", help="The store that the sessions are to come from.")
@click.option("--move", is_flag=True, help="Delete from STORE what is known to have come over.")
@click.option("--no-progress", is_flag=True, help="No progress bar.")
@click.pass_obj
def command(
    settings_path: str | None, /, files: tuple[str, ...], source: str | None, move: bool, no_progress: bool
) -> int:
    """Bring sessions into the store of record ([core] store), from another store or from files.

    Each session is written as it was, its first save, expiry, status and deliveries untouched, and read back and
    compared before it counts.  What is there already stays, unless the other was saved later; so an import can be
    broken off and begun again.  It goes through the running engine if there is one.
    """
    if bool(source) == bool(files):
        raise click.UsageError("say where the sessions are to come from: --from STORE, or files")
    if move and not source:
        raise click.UsageError("--move is for --from STORE; delete the files yourself")
    report = None
    paths = [str(Path(name).absolute()) for name in files]  # the engine has a working folder of its own
    with (
        open_desk(settings_path, also=source or "") as desk,
        over_time("importing", shown=not no_progress) as step,
    ):
        for report in desk.bring(source=source or "", files=paths, empty=move):
            step(report.found, report.first, report.at, report.last)
    return _told(report, source)


def _told(report: ImportReport | None, source: str | None) -> int:
    if report is None or not (report.found or report.damaged):
        click.echo(f"{source} holds no session" if source else "no session in these files", err=True)
        return exits.NOTHING
    parts = [f"{report.found:,} sessions found", f"{report.copied:,} copied and verified"]
    parts += [f"{report.known:,} were there already"] if report.known else []
    parts += [f"{report.newer:,} are there as saved later and stay"] if report.newer else []
    parts += [f"{report.removed:,} deleted from {source}"] if report.removed else []
    click.echo(", ".join(parts))
    if report.failed:
        click.echo(f"hl7core: {report.failed:,} could not be saved: {report.reason}", err=True)
    if report.damaged:
        click.echo(f"hl7core: {report.damaged:,} entries are no sessions: {report.reason}", err=True)
    if report.failed or report.damaged:
        return exits.PARTIAL
    if source and not report.removed and report.found:
        click.echo(
            f"{source} still has them too. Once you no longer need it: hl7core plugins disable {source}", err=True
        )
    return exits.OK
