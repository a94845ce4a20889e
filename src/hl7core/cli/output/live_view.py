"""The live view of a running engine: each session as it ends on stdout, what goes wrong on stderr."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from hl7core.cli.output.formats import Writer, writer_for
from hl7core.cli.output.text import colourful, counted
from hl7core.engine.news import Follower
from hl7core.model.events import CaptureChanged, NoticeRaised, PacketsDropped, PluginChanged, Resync, SettingsChanged
from hl7core.model.session import Session

__all__ = ["show_live", "warning_text"]


async def show_live(follower: Follower, output: str | None) -> None:
    """Show what ``follower`` hears until it is closed.

    Sessions are written in the format ``output``; None: nothing is shown, as the log says it already.
    """
    writer = writer_for(output, sys.stdout.buffer) if output is not None else None
    while items := await follower.several():
        if writer is not None:
            _show(items, writer)
    if writer is not None:
        writer.close()


def _show(items: Sequence[object], writer: Writer) -> None:
    # Each write lets the decoder run, which then gives way only after 5 ms: so one write for all that waits.
    writer.sessions([item for item in items if isinstance(item, Session)])
    for item in items:
        text = "" if isinstance(item, Session) else warning_text(item)
        if text:
            click.echo(click.style(text, fg="yellow"), err=True, color=colourful(sys.stderr))
        elif isinstance(item, CaptureChanged) and item.state == "started":
            click.echo(f"capturing on {item.source}", err=True)


def warning_text(event: object) -> str:
    """Return one sentence about an event that a person should know of, "" for all others."""
    match event:
        case NoticeRaised(text=text, resolved=resolved):
            return f"resolved: {text}" if resolved else text
        case PacketsDropped(where=where, source=source, count=count):
            return f"{counted(count, 'packet')} of {source} lost ({where})"
        case PluginChanged(
            plugin=plugin, state=("failed" | "hanging" | "quarantined" | "suspended") as state, error=error
        ):
            return f"plugin {plugin} is {state}: {error}" if state != "failed" else f"plugin {plugin} failed: {error}"
        case SettingsChanged(problems=problems) if problems:
            return "the changed settings are not valid, the earlier ones stay in force: " + "; ".join(problems)
        case CaptureChanged(source=source, state=state, detail=detail) if detail and state != "failed":
            return f"{source} {state}: {detail}"
        case Resync(missed=missed):
            return f"{missed} lines were left out of this view; no session was lost"
    return ""
