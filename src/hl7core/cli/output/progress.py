"""Progress bars on stderr, if it is a terminal.  Each yields the function that moves it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from hl7core.cli.output.text import counted
from hl7core.files import CaptureFile
from hl7core.model.replay import ReplayReport

__all__ = [
    "progress_of_capture",
    "progress_of_cleanup",
    "progress_of_replay",
    "progress_of_sending",
    "progress_over_time",
]


@contextmanager
def progress_of_capture(capture: CaptureFile, name: str, *, shown: bool) -> Iterator[Callable[[], None]]:
    """Show how much of a capture file has been read.  Call the function after each part."""
    if not (shown and sys.stderr.isatty()):
        yield lambda: None
        return
    from rich.console import Console  # only on a terminal
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=capture.size or None)
        yield lambda: bar.update(task, completed=capture.position)


@contextmanager
def progress_of_replay(*, shown: bool) -> Iterator[Callable[[ReplayReport], None]]:
    """Show how far a replay has come.  Call the function with each report.

    If stderr is no terminal, only what the replay waits for is written there, each time that it changes.
    """
    if not (shown and sys.stderr.isatty()):
        said = ""

        def say(report: ReplayReport) -> None:
            nonlocal said
            detail = "the engine is paused" if report.state == "paused" else report.detail
            if report.state in ("waiting", "paused") and detail != said:
                click.echo(f"hl7core: the replay waits: {detail}", err=True)
                said = detail

        yield say
        return
    from rich.console import Console  # only on a terminal
    from rich.markup import escape
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=None)

        def step(report: ReplayReport) -> None:
            detail = f" ({report.detail})" if report.detail else ""
            what = escape(f"{report.state}{detail}: {counted(report.sessions, 'session')}")
            bar.update(task, description=what, total=report.size or None, completed=report.position)

        yield step


@contextmanager
def progress_over_time(doing: str, *, shown: bool) -> Iterator[Callable[[int, float, float, float], None]]:
    """Show progress over sessions: their number is not known in advance, but the time that they span is.

    Call the function with the count so far, and the first, current and last time in unix seconds.
    """
    if not (shown and sys.stderr.isatty()):
        yield lambda _count, _first, _at, _last: None
        return
    from rich.console import Console  # only on a terminal
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(doing, total=None, count="")

        def step(count: int, first: float, at: float, last: float) -> None:
            span = max(last - first, 0.001)
            done = min(max(at - first, 0.0), span)
            bar.update(task, total=span, completed=done, count=counted(count, "session"))

        yield step


@contextmanager
def progress_of_sending(*, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """Show how many sessions were sent.  Call the function with those done and the total."""
    if not (shown and sys.stderr.isatty()):
        yield lambda _done, _total: None
        return
    from rich.console import Console  # only on a terminal
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("sending", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def progress_of_cleanup(*, dry_run: bool) -> Iterator[Callable[[int], None]]:
    """Show how many sessions were deleted, or would be.  Call the function with that count."""
    if not sys.stderr.isatty():
        yield lambda _count: None
        return
    from rich.console import Console  # only on a terminal
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    what = "would be deleted" if dry_run else "deleted"
    columns = (SpinnerColumn(), TextColumn("{task.completed} sessions {task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda count: bar.update(task, completed=count)
