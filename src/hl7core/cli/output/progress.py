"""A progress bar over sessions.  Their number is not known in advance, but the time that they span is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress_over_time"]


@contextmanager
def progress_over_time(doing: str, *, shown: bool) -> Iterator[Callable[[int, float, float, float], None]]:
    """Show a bar on a terminal.  Yields a function to call with the count so far, and the first, current and last time.

    Times are unix seconds.
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
            bar.update(task, total=span, completed=done, count=f"{count:,} sessions")

        yield step
