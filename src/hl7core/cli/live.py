"""Running an engine from a command: signals, a view of sessions as they end, and notices on stderr."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Final

import click

from hl7core.cli import exits
from hl7core.cli.output.text import colourful, columns, headline
from hl7core.cli.output.writers import writer_for
from hl7core.cli.tune_gc import settle
from hl7core.engine.engine import Engine
from hl7core.engine.news import Follower
from hl7core.model.events import CaptureChanged, NoticeRaised, PacketsDropped, PluginChanged, Resync, SettingsChanged
from hl7core.model.session import Session

__all__ = ["Limit", "operate", "tell"]

_VIEW_QUEUE: Final = 10_000
"""So many sessions may wait to be shown: what is shown may be all that somebody keeps of them."""


class Limit:
    """When a capture ends by itself: after ``packets`` or ``seconds`` (0: never)."""

    def __init__(self, *, packets: int = 0, seconds: float = 0) -> None:
        self.packets = packets
        self.seconds = seconds


def operate(
    engine: Engine,
    *,
    output: str | None = None,
    limit: Limit | None = None,
    beside: Callable[[Engine], Awaitable[None]] | None = None,
) -> int:
    """Run ``engine`` until it is told to stop, writing sessions as ``output`` says (None: not at all).

    ``beside`` runs along with it and ends it by returning.  Returns the exit code; raises what keeps the engine from
    running.
    """
    try:
        return asyncio.run(_operate(engine, output, limit or Limit(), beside))
    except KeyboardInterrupt:
        return exits.INTERRUPTED


async def _operate(
    engine: Engine, output: str | None, limit: Limit, beside: Callable[[Engine], Awaitable[None]] | None
) -> int:
    loop = asyncio.get_running_loop()
    interrupted = False
    if output is not None and logging.getLogger().level >= logging.WARNING:
        logging.getLogger("hl7core").setLevel(logging.CRITICAL)  # the view tells the same, in fewer words

    def stop(number: int) -> None:
        nonlocal interrupted
        interrupted = number == signal.SIGINT
        engine.request_stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, stop, number)
        except NotImplementedError:  # Windows: an interrupt arrives as KeyboardInterrupt
            break
    follower = engine.follow(_VIEW_QUEUE)
    view = asyncio.create_task(_view(follower, output))
    tasks = [asyncio.create_task(_limited(engine, limit))]
    try:
        await engine.start()
        settle()
        if beside is not None:
            tasks.append(asyncio.create_task(_alongside(engine, beside)))
        await engine.run_until_stopped()
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await engine.stop()
        follower.close()
        await view
    for result in results:
        if isinstance(result, Exception):
            raise result
    if engine.unsaved:
        click.echo(f"hl7core: {len(engine.unsaved)} sessions could not be saved", err=True)
        return exits.PARTIAL
    return exits.INTERRUPTED if interrupted else exits.OK


async def _limited(engine: Engine, limit: Limit) -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + limit.seconds if limit.seconds else None
    while True:
        await asyncio.sleep(0.05)
        if until is not None and loop.time() >= until:
            engine.request_stop()
        if limit.packets and engine.state().packets >= limit.packets:
            engine.request_stop()


async def _alongside(engine: Engine, beside: Callable[[Engine], Awaitable[None]]) -> None:
    try:
        await beside(engine)
    finally:
        engine.request_stop()


async def _view(follower: Follower, output: str | None) -> None:
    writer = writer_for(output, sys.stdout.buffer) if output not in (None, "text") else None
    while items := await follower.several():
        # Each write lets the decoder run, which then gives way only after 5 ms: so one write for all that waits.
        sessions = [item for item in items if isinstance(item, Session)]
        if writer is not None:
            writer.sessions(sessions)
        elif output == "text" and sessions:
            width = columns(sys.stdout)
            lines = "\n".join([headline(session, width=width) for session in sessions])
            click.echo(lines, color=colourful(sys.stdout))
        for item in items if output is not None else ():  # without a view the log tells
            if isinstance(item, Session):
                continue
            sentence = tell(item)
            if sentence:
                click.echo(click.style(sentence, fg="yellow"), err=True, color=colourful(sys.stderr))
    if writer is not None:
        writer.close()


def tell(event: object) -> str:
    """Return an event that a person should know of in one sentence, "" for the others."""
    match event:
        case NoticeRaised(text=text, resolved=resolved):
            return f"settled: {text}" if resolved else text
        case PacketsDropped(where=where, source=source, count=count):
            return f"{count} packets of {source} were lost ({where})"
        case PluginChanged(plugin=plugin, state=("failed" | "hanging" | "quarantined") as state, error=error):
            return f"plugin {plugin} {state}: {error}"
        case SettingsChanged(problems=problems) if problems:
            return "settings refused, the old ones stay in force: " + "; ".join(problems)
        case CaptureChanged(source=source, state=state, detail=detail) if detail and state != "failed":
            return f"{source} {state}: {detail}"
        case Resync(missed=missed):
            return f"{missed} lines were left out of this view; the sessions are safe"
    return ""
