"""``hl7core sessions``: what is stored, through the running engine if there is one."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Protocol

import click

from hl7core.cli import exits
from hl7core.cli.common import engine_client, load_settings
from hl7core.cli.text import colourful, headline, ladder
from hl7core.model.delivery import DeliveryStatus
from hl7core.model.schema import session_to_json
from hl7core.model.session import Session, SessionQuery

__all__ = ["command"]

_PAGE = 500


class _Desk(Protocol):
    """Where sessions are asked for and changed: a running engine, or one of our own for the moment."""

    def sessions(self, query: SessionQuery) -> Iterator[Session]:
        """Yield at most ``query.limit`` sessions."""

    def change(self, do: str, ids: list[str], **more: Any) -> list[str]:
        """Delete, restore, retry, ignore or unignore; return the ids that were found."""


@click.group(
    "sessions", epilog="\b\nExamples:\n  hl7core sessions list --since 2026-11-01\n  hl7core sessions show 0197"
)
def command() -> None:
    """List, show, delete and restore stored sessions."""


@command.command(
    "list",
    epilog="\b\nExamples:\n  hl7core sessions list\n  hl7core sessions list --device 10.0.0.5 --since 2026-11-20\n"
    "  hl7core sessions list --control-id MSG00042",
)
@click.option("--status", type=click.Choice([str(status) for status in DeliveryStatus]), multiple=True)
@click.option("--device", default="", metavar="IP", help="The analyzer's address.")
@click.option("--lis", default="", metavar="IP", help="The LIS's address.")
@click.option("--since", metavar="TIME", help="Begun at or after (2026-11-20, 2026-11-20T08:00; local time).")
@click.option("--until", metavar="TIME", help="Begun before.")
@click.option("--specimen", default="", help="A specimen id in one of its messages.")
@click.option("--patient", default="", help="A patient id in one of its messages.")
@click.option("--control-id", default="", help="The control id of one of its messages.")
@click.option("--finding", default="", help="The code of one of its findings.")
@click.option("--text", default="", help="Text in one of its messages.")
@click.option("-n", "--limit", type=click.IntRange(min=1), help="At most so many, the newest.")
@click.option("-o", "--output", type=click.Choice(("text", "jsonl")), help="Default: text on a terminal, else jsonl.")
@click.pass_obj
def list_(
    settings_path: str | None,
    /,
    limit: int | None,
    output: str | None,
    since: str | None,
    until: str | None,
    status: tuple[str, ...],
    device: str,
    lis: str,
    specimen: str,
    patient: str,
    control_id: str,
    finding: str,
    text: str,
) -> int:
    """List sessions, oldest first; all filters that are given must fit."""
    query = SessionQuery(
        status=tuple(DeliveryStatus(name) for name in status),
        device=device,
        lis=lis,
        since=_time(since, "--since"),
        until=_time(until, "--until"),
        specimen=specimen,
        patient=patient,
        control_id=control_id,
        finding=finding,
        text=text,
    )
    shown = output or ("text" if sys.stdout.isatty() else "jsonl")
    count = 0
    with _desk(settings_path) as desk:
        for session in _all(desk, query, limit):
            count += 1
            if shown == "text":
                click.echo(
                    f"{click.style(session.id[:13], dim=True)} {headline(session, dated=True)}",
                    color=colourful(sys.stdout),
                )
            else:
                sys.stdout.buffer.write(session_to_json(session) + b"\n")
    sys.stdout.buffer.flush()
    if not count:
        click.echo("no session fits", err=True)
        return exits.NOTHING
    return exits.OK


@command.command(
    "show", epilog="\b\nExamples:\n  hl7core sessions show 01978a3c-5b1e\n  hl7core sessions show 01978a3c -o jsonl"
)
@click.argument("session_id", metavar="ID")
@click.option("-o", "--output", type=click.Choice(("text", "jsonl")), default="text")
@click.pass_obj
def show(settings_path: str | None, session_id: str, output: str) -> int:
    """Show one session: the conversation as a ladder, then its messages.  The first letters of its id are enough."""
    with _desk(settings_path) as desk:
        found = _find(desk, session_id)
    if len(found) != 1:
        _ambiguous(session_id, found)
        return exits.NOTHING if not found else exits.ERROR
    if output == "jsonl":
        sys.stdout.buffer.write(session_to_json(found[0]) + b"\n")
        return exits.OK
    for line in ladder(found[0]):
        click.echo(line, color=colourful(sys.stdout))
    return exits.OK


def _changing(name: str, help_: str, done: str) -> None:
    @command.command(
        name, help=help_, epilog=f"\b\nExamples:\n  hl7core sessions {name} 01978a3c-5b1e-7c3d-9a4f-0123456789ab"
    )
    @click.argument("ids", nargs=-1, required=True, metavar="ID...")
    @click.pass_obj
    def change(settings_path: str | None, ids: tuple[str, ...]) -> int:
        with _desk(settings_path) as desk:
            found = desk.change(name, list(ids))
        click.echo(f"{len(found)} {done}")
        missing = [one for one in ids if one not in found]
        for one in missing:
            click.echo(f"no session {one}", err=True)
        if not found:
            return exits.NOTHING
        return exits.PARTIAL if missing else exits.OK


_changing("delete", "Move sessions to the trash.", "moved to the trash")
_changing("restore", "Bring sessions back from the trash.", "restored")
_changing("retry", "Make sessions pending again, with no attempts.", "pending again")
_changing("ignore", "Mark sessions as never to be sent.", "ignored")
_changing("unignore", "Undo ignore.", "no longer ignored")


def _all(desk: _Desk, query: SessionQuery, limit: int | None) -> Iterator[Session]:
    """Page through all sessions that fit, or through the newest ``limit``."""
    if limit is not None:
        newest: list[Session] = []
        after = None
        while len(newest) < limit:
            page = list(
                desk.sessions(query._replace(newest_first=True, limit=min(_PAGE, limit - len(newest)), after=after))
            )
            newest += page
            if not page:
                break
            after = (page[-1].started_at, page[-1].id)
        yield from reversed(newest)
        return
    after = None
    while True:
        page = list(desk.sessions(query._replace(limit=_PAGE, after=after)))
        yield from page
        if len(page) < _PAGE:
            return
        after = (page[-1].started_at, page[-1].id)


def _find(desk: _Desk, prefix: str) -> list[Session]:
    if len(prefix) == 36:
        return list(desk.sessions(SessionQuery(ids=(prefix,), limit=1)))
    return [session for session in _all(desk, SessionQuery(), None) if session.id.startswith(prefix)]


def _ambiguous(prefix: str, found: list[Session]) -> None:
    if not found:
        click.echo(f"no session {prefix}", err=True)
        return
    click.echo(f"{len(found)} sessions begin with {prefix}:", err=True)
    for session in found[:10]:
        click.echo(f"  {session.id}  {headline(session)}", err=True)


def _time(text: str | None, option: str) -> datetime | None:
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        raise click.UsageError(f"{option} takes a time such as 2026-11-20 or 2026-11-20T08:00") from None


class _Remote:
    def __init__(self, client: Any) -> None:
        self._client = client

    def sessions(self, query: SessionQuery) -> Iterator[Session]:
        yield from self._client.sessions(query)

    def change(self, do: str, ids: list[str], **more: Any) -> list[str]:
        found: list[str] = getattr(self._client, do)(ids, **more)
        return found


class _Own:
    """An engine of our own, with the store alone: it takes the folder's lock, so nobody writes beside it."""

    def __init__(self, runner: asyncio.Runner, engine: Any) -> None:
        self._runner = runner
        self._engine = engine

    def sessions(self, query: SessionQuery) -> Iterator[Session]:
        yield from self._runner.run(self._engine.runtime.sessions(query))

    def change(self, do: str, ids: list[str], **more: Any) -> list[str]:
        work: Callable[..., Any] = getattr(self._engine.runtime, do)
        found: list[str] = self._runner.run(work(ids, **more))
        return found


@contextmanager
def _desk(settings_path: str | None) -> Iterator[_Desk]:
    settings = load_settings(settings_path)
    client = engine_client(settings)
    if client is not None:
        with client:
            yield _Remote(client)
        return
    from hl7core.contract import SourceRequest
    from hl7core.engine.engine import Engine

    engine = Engine(settings, only=(settings.core.store,), request=SourceRequest())
    logging.getLogger("hl7core.engine.news").setLevel(logging.ERROR)  # that nothing is captured is no news here
    with asyncio.Runner() as runner:
        runner.run(engine.start())
        try:
            yield _Own(runner, engine)
        finally:
            runner.run(engine.stop())
