"""A progress bar over sessions.  How many will come is not known beforehand; the time that they span is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["over_time"]


@contextmanager
def over_time(doing: str, *, shown: bool) -> Iterator[Callable[[int, float, float, float], None]]:
    """Show a bar on a terminal; yields what takes the count so far, and the first, present and last unix seconds."""
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
            bar.update(task, total=span, completed=done, count=f"{count:,} sessions")

        yield step
