"""``hl7core sessions``: stored sessions, through the running engine if there is one."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from itertools import islice

import click

from hl7core.cli import exit_codes
from hl7core.cli.commands import sessions_export as export
from hl7core.cli.commands import sessions_import as importing
from hl7core.cli.commands import sessions_trash as trash
from hl7core.cli.filters import with_filters
from hl7core.cli.id_prefix import MANY, find_by_prefix
from hl7core.cli.output.formats import chosen_format, output_option, writer_for
from hl7core.cli.output.text import colourful, headline, ladder, message_head
from hl7core.cli.session_access import SessionAccess, all_sessions, open_sessions
from hl7core.model.delivery import DeliveryStatus
from hl7core.model.session import Session, SessionQuery

__all__ = ["command"]

_TOGETHER = 500  # lines or sessions written, or sessions changed, at once


@click.group(
    "sessions", epilog="\b\nExamples:\n  hl7core sessions list --since 2026-11-01\n  hl7core sessions show 0197"
)
def command() -> None:
    """List, show, export, import, delete, restore, retry and ignore stored sessions."""


@command.command(
    "list",
    short_help="List sessions, oldest first.",
    epilog="\b\nExamples:\n  hl7core sessions list\n  hl7core sessions list --device 10.0.0.5 --since 2026-11-20\n"
    "  hl7core sessions list --control-id MSG00042",
)
@with_filters
@click.option("-n", "--limit", type=click.IntRange(min=1), help="List only the newest N.", metavar="N")
@output_option("list")
@click.pass_obj
def list_(
    settings_path: str | None,
    /,
    query: SessionQuery,
    limit: int | None,
    output: str | None,
) -> int:
    """List stored sessions, oldest first.  A session must match all filters that are given."""
    writer = writer_for(chosen_format(output), sys.stdout.buffer, saved=True)
    count = 0
    with open_sessions(settings_path, or_memory=True) as access:
        found = all_sessions(access, query, limit)
        while part := list(islice(found, _TOGETHER)):
            count += len(part)
            writer.sessions(part)
    writer.close()
    _note(access)
    if not count:
        click.echo("no matching sessions", err=True)
        return exit_codes.NOTHING
    return exit_codes.OK


@command.command(
    "show",
    short_help="Show one session and its messages.",
    epilog="\b\nExamples:\n  hl7core sessions show 01978a3c-5b1e\n  hl7core sessions show 01978a3c -o jsonl\n"
    "  hl7core sessions show 01978a3c | grep -E 'OBX-(3|5)'",
)
@click.argument("session_id", metavar="ID")
@click.option("--raw", is_flag=True, help="Print the messages line by line as captured, not as trees.")
@output_option("show", default="text", text="jsonl: the session as it is stored.")
@click.pass_obj
def show(settings_path: str | None, session_id: str, raw: bool, output: str) -> int:
    """Show one session: the conversation as a ladder, then each message as a tree of named fields.

    The first letters of the ID are enough.
    """
    if raw and output != "text":
        raise click.UsageError("--raw is for -o text; the other formats have the messages as they came")
    with open_sessions(settings_path, or_memory=True) as access:
        found = find_by_prefix(access, session_id)
    _note(access)
    if len(found) != 1:
        _ambiguous(session_id, found)
        return exit_codes.NOTHING if not found else exit_codes.ERROR
    if output != "text":
        writer = writer_for(output, sys.stdout.buffer, saved=True)
        writer.sessions(found)
        writer.close()
        return exit_codes.OK
    lines = _drawn(found[0], raw=raw)
    while part := list(islice(lines, _TOGETHER)):
        click.echo("\n".join(part), color=colourful(sys.stdout))
    return exit_codes.OK


def _note(access: SessionAccess) -> None:
    if access.note:
        click.echo(f"hl7core: {access.note}", err=True)


def _drawn(session: Session, *, raw: bool) -> Iterator[str]:
    from hl7core.cli.output.tree import draw, draw_raw
    from hl7core.hl7.names import MessageNames
    from hl7core.hl7.tree import MessageTree

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    yield from ladder(session)
    for index, message in enumerate(session.messages):
        yield ""
        yield from message_head(session, index)
        tree = MessageTree.of(message)
        yield from draw_raw(tree) if raw else draw(tree, MessageNames.of(tree), width=width)


def _changing(name: str, help_: str, done: str, *, of: DeliveryStatus) -> None:
    example = f"hl7core sessions {name}"

    @command.command(
        name,
        help=f"{help_}  Choose them by their full ids, or by --status.",
        epilog=f"\b\nExamples:\n  {example} 01978a3c-5b1e-7c3d-9a4f-0123456789ab\n  {example} --status {of}",
    )
    @click.argument("ids", nargs=-1, metavar="[ID...]")
    @click.option(
        "--status",
        type=click.Choice([str(status) for status in DeliveryStatus]),
        multiple=True,
        help="All sessions with this status. Repeat for several.",
    )
    @click.pass_obj
    def change(settings_path: str | None, ids: tuple[str, ...], status: tuple[str, ...]) -> int:
        if bool(ids) == bool(status):
            raise click.UsageError("give the ids of sessions, or --status, and not both")
        with open_sessions(settings_path) as access:
            if status:
                wanted = SessionQuery(status=tuple(DeliveryStatus(one) for one in status))
                ids = tuple(session.id for session in all_sessions(access, wanted))
            found: set[str] = set()
            for at in range(0, len(ids), _TOGETHER):
                found.update(access.change(name, list(ids[at : at + _TOGETHER])))
        click.echo(f"{len(found)} {done}")
        missing = [one for one in ids if one not in found]
        for one in missing:
            click.echo(f"no session {one}", err=True)
        if not found:
            return exit_codes.NOTHING
        return exit_codes.PARTIAL if missing else exit_codes.OK


command.add_command(export.command)
command.add_command(importing.command)
command.add_command(trash.delete)
command.add_command(trash.restore)
_changing("retry", "Submit sessions again: set them to pending.", "pending again", of=DeliveryStatus.FAILED)
_changing("ignore", "Never submit these sessions.", "ignored", of=DeliveryStatus.FAILED)
_changing("unignore", "Undo `ignore`.", "no longer ignored", of=DeliveryStatus.IGNORED)


def _ambiguous(prefix: str, found: list[Session]) -> None:
    if not found:
        click.echo(f"no session {prefix}" if len(prefix) == 36 else f"no session begins with {prefix}", err=True)
        return
    many = str(len(found)) if len(found) <= MANY else f"more than {MANY}"
    click.echo(f"{many} sessions begin with {prefix}:", err=True)
    for session in found[:MANY]:
        click.echo(f"  {session.id}  {headline(session, dated=True)}", err=True)
