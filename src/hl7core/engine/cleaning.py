"""A cleanup that reports its progress to whoever waits for it.

If the caller gives up waiting, the cleanup goes on; it ends when it is done or when the engine stops.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from hl7core.engine.news import News
from hl7core.engine.runtime import EngineRuntime
from hl7core.model.cleanup import CleanupReport
from hl7core.model.events import CleanupProgress

__all__ = ["clean"]

_running: Final[set[asyncio.Task[list[CleanupReport]]]] = set()  # the event loop keeps no reference to a task


async def clean(
    runtime: EngineRuntime,
    news: News,
    *,
    dry_run: bool,
    confirmed: bool,
    progress: Callable[[CleanupProgress], Awaitable[None]],
) -> list[CleanupReport]:
    """Run every plugin's cleanup and return the reports; ``progress`` is awaited with each CleanupProgress."""
    follower = news.follow(asyncio.get_running_loop())
    cleaning = asyncio.create_task(runtime.cleanup(dry_run=dry_run, confirmed=confirmed))
    _running.add(cleaning)
    cleaning.add_done_callback(_running.discard)
    cleaning.add_done_callback(lambda _: news.unfollow(follower))
    try:
        async for item in follower:
            if isinstance(item, CleanupProgress):
                await progress(item)
    finally:
        news.unfollow(follower)
    return await cleaning
