"""``hl7core sessions``: what is stored, through the running engine if there is one."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from itertools import islice

import click

from hl7core.cli import exits
from hl7core.cli.commands import sessions_export as export
from hl7core.cli.commands import sessions_import as importing
from hl7core.cli.commands import sessions_trash as trash
from hl7core.cli.filters import filtered
from hl7core.cli.output.formats import chosen_format, output_option, writer_for
from hl7core.cli.output.text import colourful, headline, ladder, message_head
from hl7core.cli.prefix import MANY, begins_with
from hl7core.cli.session_access import all_sessions, open_desk
from hl7core.model.delivery import DeliveryStatus
from hl7core.model.session import Session, SessionQuery

__all__ = ["command"]

_TOGETHER = 500  # lines written, or sessions changed, at once


@click.group(
    "sessions", epilog="\b\nExamples:\n  hl7core sessions list --since 2026-11-01\n  hl7core sessions show 0197"
)
def command() -> None:
    """List, show, export, import, delete and restore stored sessions."""


@command.command(
    "list",
    short_help="List sessions, oldest first.",
    epilog="\b\nExamples:\n  hl7core sessions list\n  hl7core sessions list --device 10.0.0.5 --since 2026-11-20\n"
    "  hl7core sessions list --control-id MSG00042",
)
@filtered
@click.option("-n", "--limit", type=click.IntRange(min=1), help="At most so many, the newest.")
@output_option("list")
@click.pass_obj
def list_(
    settings_path: str | None,
    /,
    query: SessionQuery,
    limit: int | None,
    output: str | None,
) -> int:
    """List sessions, oldest first; all filters that are given must fit."""
    writer = writer_for(chosen_format(output), sys.stdout.buffer, saved=True)
    count = 0
    with open_desk(settings_path) as desk:
        found = all_sessions(desk, query, limit)
        while part := list(islice(found, _TOGETHER)):
            count += len(part)
            writer.sessions(part)
    writer.close()
    if not count:
        click.echo("no session fits", err=True)
        return exits.NOTHING
    return exits.OK


@command.command(
    "show",
    short_help="Show one session: its ladder and its messages.",
    epilog="\b\nExamples:\n  hl7core sessions show 01978a3c-5b1e\n  hl7core sessions show 01978a3c -o jsonl\n"
    "  hl7core sessions show 01978a3c | grep -E 'OBX-(3|5)'",
)
@click.argument("session_id", metavar="ID")
@click.option("--raw", is_flag=True, help="The messages line by line as they came, not taken apart.")
@output_option("show", default="text", text="jsonl: the session as it is stored.")
@click.pass_obj
def show(settings_path: str | None, session_id: str, raw: bool, output: str) -> int:
    """Show one session: the conversation as a ladder, then each of its messages as a tree.

    The first letters of its id are enough.
    """
    if raw and output != "text":
        raise click.UsageError("--raw is for -o text; the other formats have the messages as they came")
    with open_desk(settings_path) as desk:
        found = begins_with(desk, session_id)
    if len(found) != 1:
        _ambiguous(session_id, found)
        return exits.NOTHING if not found else exits.ERROR
    if output != "text":
        writer = writer_for(output, sys.stdout.buffer, saved=True)
        writer.sessions(found)
        writer.close()
        return exits.OK
    lines = _drawn(found[0], raw=raw)
    while part := list(islice(lines, _TOGETHER)):
        click.echo("\n".join(part), color=colourful(sys.stdout))
    return exits.OK


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
        help=f"{help_}  Name them by their ids, or all of a status.",
        epilog=f"\b\nExamples:\n  {example} 01978a3c-5b1e-7c3d-9a4f-0123456789ab\n  {example} --status {of}",
    )
    @click.argument("ids", nargs=-1, metavar="[ID...]")
    @click.option(
        "--status",
        type=click.Choice([str(status) for status in DeliveryStatus]),
        multiple=True,
        help="All sessions that stand so.",
    )
    @click.pass_obj
    def change(settings_path: str | None, ids: tuple[str, ...], status: tuple[str, ...]) -> int:
        if bool(ids) == bool(status):
            raise click.UsageError("give either the ids of sessions or a --status")
        with open_desk(settings_path) as desk:
            if status:
                wanted = SessionQuery(status=tuple(DeliveryStatus(one) for one in status))
                ids = tuple(session.id for session in all_sessions(desk, wanted))
            found: set[str] = set()
            for at in range(0, len(ids), _TOGETHER):
                found.update(desk.change(name, list(ids[at : at + _TOGETHER])))
        click.echo(f"{len(found)} {done}")
        missing = [one for one in ids if one not in found]
        for one in missing:
            click.echo(f"no session {one}", err=True)
        if not found:
            return exits.NOTHING
        return exits.PARTIAL if missing else exits.OK


command.add_command(export.command)
command.add_command(importing.command)
command.add_command(trash.delete)
command.add_command(trash.restore)
_changing("retry", "Make sessions pending again, with no attempts.", "pending again", of=DeliveryStatus.FAILED)
_changing("ignore", "Mark sessions as never to be sent.", "ignored", of=DeliveryStatus.FAILED)
_changing("unignore", "Undo ignore.", "no longer ignored", of=DeliveryStatus.IGNORED)


def _ambiguous(prefix: str, found: list[Session]) -> None:
    if not found:
        click.echo(f"no session {prefix}" if len(prefix) == 36 else f"no session begins with {prefix}", err=True)
        return
    many = str(len(found)) if len(found) <= MANY else f"more than {MANY}"
    click.echo(f"{many} sessions begin with {prefix}:", err=True)
    for session in found[:MANY]:
        click.echo(f"  {session.id}  {headline(session, dated=True)}", err=True)
