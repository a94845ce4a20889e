"""A cleanup that somebody waits for, and is told how far it is.

Who gives up waiting does not end it; a cleanup ends when it is done, or with its engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from hl7core.model.cleanup import CleanupReport
from hl7core.model.events import CleanupProgress

if TYPE_CHECKING:
    from hl7core.engine.engine import Engine

__all__ = ["clean"]

_going_on: Final[set[asyncio.Task[list[CleanupReport]]]] = set()  # the event loop holds no task


async def clean(
    engine: Engine, *, dry_run: bool, confirmed: bool, progress: Callable[[CleanupProgress], Awaitable[None]]
) -> list[CleanupReport]:
    """Run every plugin's cleanup in ``engine`` and return the reports; ``progress`` hears how far it is."""
    follower = engine.follow()
    cleaning = asyncio.create_task(engine.runtime.cleanup(dry_run=dry_run, confirmed=confirmed))
    _going_on.add(cleaning)
    cleaning.add_done_callback(_going_on.discard)
    cleaning.add_done_callback(lambda _: engine.news.unfollow(follower))
    try:
        async for item in follower:
            if isinstance(item, CleanupProgress):
                await progress(item)
    finally:
        engine.news.unfollow(follower)
    return await cleaning
