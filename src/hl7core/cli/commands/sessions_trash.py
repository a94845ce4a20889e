"""``hl7core sessions delete`` and ``restore``: into the trash and back, or deleted permanently."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import click

from hl7core.cli import exit_codes
from hl7core.cli.output.text import counted
from hl7core.cli.session_access import SessionAccess, open_sessions
from hl7core.engine.control.protocol import millis_of
from hl7core.model.session import SessionQuery

__all__ = ["delete", "restore"]

_PART: Final = 500


@click.command(
    "delete",
    short_help="Move sessions to the trash.",
    epilog="\b\nExamples:\n  hl7core sessions delete 01978a3c-5b1e-7c3d-9a4f-0123456789ab\n"
    "  hl7core sessions delete --for-good 01978a3c-5b1e-7c3d-9a4f-0123456789ab",
)
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.option("--for-good", is_flag=True, help="Delete permanently, without the trash: they cannot be restored.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")
@click.pass_obj
def delete(settings_path: str | None, ids: tuple[str, ...], for_good: bool, yes: bool) -> int:
    """Move sessions to the trash, from which `restore` brings them back, or delete them permanently."""
    if for_good and not yes:
        click.confirm(f"Delete {counted(len(ids), 'session')} permanently?", abort=True, err=True)
    with open_sessions(settings_path) as access:
        found = _change_in_parts(access, "delete", ids, to_trash=not for_good)
    return _report(ids, found, "deleted permanently" if for_good else "moved to the trash", "no session {}")


@click.command(
    "restore",
    short_help="Bring sessions back from the trash.",
    epilog="\b\nExamples:\n  hl7core sessions restore 01978a3c-5b1e-7c3d-9a4f-0123456789ab\n"
    "  hl7core sessions restore --list\n  hl7core sessions restore --last     undo the last cleanup",
)
@click.argument("ids", nargs=-1, metavar="[ID...]")
@click.option("--last", is_flag=True, help="Restore what was moved to the trash last, at one time.")
@click.option("--all", "everything", is_flag=True, help="Restore everything in the trash.")
@click.option("--list", "listing", is_flag=True, help="Only list what is in the trash; restore nothing.")
@click.pass_obj
def restore(settings_path: str | None, ids: tuple[str, ...], last: bool, everything: bool, listing: bool) -> int:
    """Restore sessions from the trash.  A session that has been stored again since stays as it is.

    Their expiry is computed anew, from their first save and the current retention_days.
    """
    if bool(ids) + last + everything + listing != 1:
        raise click.UsageError("give ids, or one of --last, --all and --list")
    with open_sessions(settings_path) as access:
        entries = [] if ids else access.trash()
        if listing:
            return _list_trash(entries)
        latest = entries[-1][1] if entries else None
        wanted = ids or tuple(dict.fromkeys(i for i, when in entries if everything or when == latest))
        if not wanted:
            click.echo("the trash is empty", err=True)
            return exit_codes.NOTHING
        found = _change_in_parts(access, "restore", wanted)
        expired = _expired(access, found)
    if expired:
        click.echo(
            f"{expired} of them have expired: the next cleanup moves them to the trash again. To keep them, raise"
            " core.retention_days, then delete and restore them",
            err=True,
        )
    return _report(wanted, found, "restored", "not restored: {} is not in the trash, or it is stored already")


def _change_in_parts(access: SessionAccess, do: str, ids: Sequence[str], **more: bool) -> list[str]:
    found: list[str] = []
    for at in range(0, len(ids), _PART):
        found += access.change(do, list(ids[at : at + _PART]), **more)
    return found


def _expired(access: SessionAccess, ids: Sequence[str]) -> int:
    now = datetime.now(UTC)
    return sum(
        len(list(access.sessions(SessionQuery(ids=tuple(ids[at : at + _PART]), expired_at=now, limit=_PART))))
        for at in range(0, len(ids), _PART)
    )


def _report(ids: Sequence[str], found: Sequence[str], done: str, missing: str) -> int:
    click.echo(f"{len(found)} {done}")
    known = set(found)
    left = [one for one in ids if one not in known]
    for one in left[:20]:
        click.echo(missing.format(one), err=True)
    if len(left) > 20:
        click.echo(f"and {len(left) - 20} more", err=True)
    if not found:
        return exit_codes.NOTHING
    return exit_codes.PARTIAL if left else exit_codes.OK


def _list_trash(entries: Sequence[tuple[str, datetime]]) -> int:
    for session_id, when in entries:
        if sys.stdout.isatty():
            click.echo(f"{session_id}  deleted {when.astimezone():%Y-%m-%d %H:%M:%S}")
        else:
            click.echo(json.dumps({"sessionId": session_id, "deletedAt": millis_of(when)}))
    if not entries:
        click.echo("the trash is empty", err=True)
        return exit_codes.NOTHING
    return exit_codes.OK
