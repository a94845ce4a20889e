"""News: the one place where events and ended sessions go out, to plugins and to who follows the engine.

Telling never waits: plugins have bounded queues of their own (dispatch), and so has each follower; what does not fit is
counted and told as one ``Resync``.  A notice is told once a matter, and once more when the matter is settled.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from threading import Lock
from typing import Final

from hl7core.model.events import Event, NoticeRaised, PacketsDropped, Resync, SessionUpdated
from hl7core.model.session import OpenSession, Session
from hl7core.plugin_host.dispatch import Dispatch

__all__ = ["Follower", "News"]

logger = logging.getLogger(__name__)

_FOLLOWER_QUEUE: Final = 2000


class Follower:
    """Hears events and ended sessions on an event loop: ``async for item in follower``.  Ends with ``close``."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int = _FOLLOWER_QUEUE) -> None:
        self._loop = loop
        self._limit = limit
        self._lock = Lock()
        self._queue: deque[Event | Session] = deque()
        self._missed = 0
        self._closed = False
        self._wake = asyncio.Event()

    def tell(self, *items: Event | Session) -> None:
        """Queue ``items``; called from any thread."""
        with self._lock:
            if self._closed:
                return
            first = not self._queue
            room = self._limit - len(self._queue)
            self._queue.extend(items[:room])
            self._missed += max(0, len(items) - room)
        if first:
            self._alarm()

    def close(self) -> None:
        """End the iteration once what is queued was heard; called from any thread."""
        with self._lock:
            self._closed = True
        self._alarm()

    def __aiter__(self) -> Follower:
        return self

    async def __anext__(self) -> Event | Session:
        while True:
            with self._lock:
                if self._queue:
                    return self._queue.popleft()
                missed, self._missed = self._missed, 0
                closed = self._closed
                self._wake.clear()
            if missed:
                return Resync(missed)
            if closed:
                raise StopAsyncIteration
            await self._wake.wait()

    async def several(self) -> list[Event | Session]:
        """Wait for the next, and return it with all that waits behind it; nothing at the end."""
        try:
            found = [await anext(self)]
        except StopAsyncIteration:
            return []
        with self._lock:
            found += self._queue
            self._queue.clear()
        return found

    def _alarm(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake.set)


class News:
    """Tells plugins and followers; keeps the notices that stand."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch
        self._lock = Lock()
        self._followers: tuple[Follower, ...] = ()
        self._notices: dict[str, str] = {}
        self._closed = False

    @property
    def notices(self) -> tuple[tuple[str, str], ...]:
        """The notices that stand: key and text."""
        with self._lock:
            return tuple(self._notices.items())

    def follow(self, loop: asyncio.AbstractEventLoop, limit: int = _FOLLOWER_QUEUE) -> Follower:
        """Return a new follower, whose iteration runs on ``loop``; for it ``limit`` items may wait."""
        follower = Follower(loop, limit)
        with self._lock:
            self._followers = (*self._followers, follower)
            closed = self._closed
        if closed:
            self.unfollow(follower)
        return follower

    def unfollow(self, follower: Follower) -> None:
        """Tell ``follower`` nothing more."""
        with self._lock:
            self._followers = tuple(other for other in self._followers if other is not follower)
        follower.close()

    def close(self) -> None:
        """End all followers, and those that come later."""
        with self._lock:
            self._closed = True
        for follower in self._followers:
            self.unfollow(follower)

    def event(self, event: Event) -> None:
        """Tell of ``event``."""
        self._dispatch.event(event)
        for follower in self._followers:
            follower.tell(event)

    def sessions(self, sessions: list[Session]) -> None:
        """Tell of sessions that ended, or that a late acknowledgement changed."""
        for session in sessions:
            self._dispatch.session_complete(session)
        if sessions:
            for follower in self._followers:
                follower.tell(*sessions)  # at once: each that wakes one lets another thread run before this one

    def opened(self, sessions: list[OpenSession]) -> None:
        """Tell of sessions that go on and have changed."""
        for session in sessions:
            self.event(SessionUpdated(session))

    def dropped(self, source: str, count: int, total: int) -> None:
        """Tell of packets that were lost because decoding does not keep up."""
        logger.warning("%d packets of %s were dropped: decoding does not keep up", count, source)
        self.event(PacketsDropped("intake", source, count, total))

    def given_up(self, ids: Sequence[str]) -> None:
        """Tell of sessions that were lost because too many waited for the store."""
        logger.error("too many sessions wait for the store; given up unsaved: %s", ", ".join(ids))

    def notice(self, key: str, text: str) -> None:
        """Raise a notice, unless that matter stands with the same text already."""
        with self._lock:
            if self._notices.get(key) == text:
                return
            self._notices[key] = text
        logger.warning("%s", text)
        self.event(NoticeRaised(key, text))

    def settle(self, key: str, text: str) -> None:
        """The matter of a notice is settled; nothing is told if there was none."""
        with self._lock:
            if self._notices.pop(key, None) is None:
                return
        logger.info("%s", text)
        self.event(NoticeRaised(key, text, resolved=True))
