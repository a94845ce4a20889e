"""``hl7core sessions delete`` and ``restore``: into the trash and back, or away for good."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import click

from hl7core.cli import exits
from hl7core.cli.session_access import Desk, open_desk
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
@click.option("--for-good", is_flag=True, help="Not to the trash: nothing brings them back.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def delete(settings_path: str | None, ids: tuple[str, ...], for_good: bool, yes: bool) -> int:
    """Move sessions to the trash, from where `restore` brings them back; with --for-good throw them away."""
    if for_good and not yes:
        click.confirm(f"Delete {len(ids)} sessions for good?", abort=True, err=True)
    with open_desk(settings_path) as desk:
        found = _by_parts(desk, "delete", ids, to_trash=not for_good)
    return _told(ids, found, "deleted for good" if for_good else "moved to the trash", "no session {}")


@click.command(
    "restore",
    short_help="Bring sessions back from the trash.",
    epilog="\b\nExamples:\n  hl7core sessions restore 01978a3c-5b1e-7c3d-9a4f-0123456789ab\n"
    "  hl7core sessions restore --list\n  hl7core sessions restore --last     what the last cleanup took",
)
@click.argument("ids", nargs=-1, metavar="[ID...]")
@click.option("--last", is_flag=True, help="All that went to the trash last, in one go.")
@click.option("--all", "everything", is_flag=True, help="All that is in the trash.")
@click.option("--list", "listing", is_flag=True, help="Only list what is in the trash.")
@click.pass_obj
def restore(settings_path: str | None, ids: tuple[str, ...], last: bool, everything: bool, listing: bool) -> int:
    """Bring sessions back from the trash; a session that is stored again meanwhile is left as it is.

    How long they stay is counted anew: from their first save, by the retention_days that are set now.
    """
    if bool(ids) + last + everything + listing != 1:
        raise click.UsageError("name sessions, or give one of --last, --all and --list")
    with open_desk(settings_path) as desk:
        entries = [] if ids else desk.trash()
        if listing:
            return _listed(entries)
        latest = entries[-1][1] if entries else None
        wanted = ids or tuple(dict.fromkeys(i for i, when in entries if everything or when == latest))
        if not wanted:
            click.echo("the trash is empty", err=True)
            return exits.NOTHING
        found = _by_parts(desk, "restore", wanted)
        expired = _expired(desk, found)
    if expired:
        click.echo(
            f"{expired} of them are past their time: the next cleanup moves them to the trash again. To keep them, "
            "raise core.retention_days, delete and restore them again",
            err=True,
        )
    return _told(wanted, found, "restored", "not restored: {} is not in the trash, or is stored already")


def _by_parts(desk: Desk, do: str, ids: Sequence[str], **more: bool) -> list[str]:
    found: list[str] = []
    for at in range(0, len(ids), _PART):
        found += desk.change(do, list(ids[at : at + _PART]), **more)
    return found


def _expired(desk: Desk, ids: Sequence[str]) -> int:
    now = datetime.now(UTC)
    return sum(
        len(list(desk.sessions(SessionQuery(ids=tuple(ids[at : at + _PART]), expired_at=now, limit=_PART))))
        for at in range(0, len(ids), _PART)
    )


def _told(ids: Sequence[str], found: Sequence[str], done: str, missing: str) -> int:
    click.echo(f"{len(found)} {done}")
    known = set(found)
    left = [one for one in ids if one not in known]
    for one in left[:20]:
        click.echo(missing.format(one), err=True)
    if len(left) > 20:
        click.echo(f"and {len(left) - 20} more", err=True)
    if not found:
        return exits.NOTHING
    return exits.PARTIAL if left else exits.OK


def _listed(entries: Sequence[tuple[str, datetime]]) -> int:
    for session_id, when in entries:
        if sys.stdout.isatty():
            click.echo(f"{session_id}  deleted {when.astimezone():%Y-%m-%d %H:%M:%S}")
        else:
            click.echo(json.dumps({"sessionId": session_id, "deletedAt": millis_of(when)}))
    if not entries:
        click.echo("the trash is empty", err=True)
        return exits.NOTHING
    return exits.OK
