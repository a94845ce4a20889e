"""News: the one place where events and ended sessions go out, to plugins and to followers of the engine.

It never waits: each plugin has a bounded queue of its own (in dispatch), and so has each follower; items that do not
fit are counted and reported as one ``Resync``.  A notice is reported once, and once more when it is resolved.
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
    """Receives events and ended sessions on an event loop: ``async for item in follower``, until ``close``."""

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
            self._notify()

    def close(self) -> None:
        """End the iteration once the queued items were read; called from any thread."""
        with self._lock:
            self._closed = True
        self._notify()

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
        """Wait for the next item, and return it with all that are queued behind it; empty at the end."""
        try:
            found = [await anext(self)]
        except StopAsyncIteration:
            return []
        with self._lock:
            found += self._queue
            self._queue.clear()
        return found

    def _notify(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake.set)


class News:
    """Tells plugins and followers; keeps the current notices."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch
        self._lock = Lock()
        self._followers: tuple[Follower, ...] = ()
        self._notices: dict[str, str] = {}
        self._closed = False

    @property
    def notices(self) -> tuple[tuple[str, str], ...]:
        """The current notices: key and text."""
        with self._lock:
            return tuple(self._notices.items())

    def follow(self, loop: asyncio.AbstractEventLoop, limit: int = _FOLLOWER_QUEUE) -> Follower:
        """Return a new follower whose iteration runs on ``loop``; at most ``limit`` items wait for it."""
        follower = Follower(loop, limit)
        with self._lock:
            self._followers = (*self._followers, follower)
            closed = self._closed
        if closed:
            self.unfollow(follower)
        return follower

    def unfollow(self, follower: Follower) -> None:
        """Send ``follower`` nothing more, and close it."""
        with self._lock:
            self._followers = tuple(other for other in self._followers if other is not follower)
        follower.close()

    def close(self) -> None:
        """End all followers, also those that are added later."""
        with self._lock:
            self._closed = True
        for follower in self._followers:
            self.unfollow(follower)

    def event(self, event: Event) -> None:
        """Send ``event`` to all."""
        self._dispatch.event(event)
        for follower in self._followers:
            follower.tell(event)

    def sessions(self, sessions: list[Session]) -> None:
        """Send sessions that ended, or that a late acknowledgement changed."""
        for session in sessions:
            self._dispatch.session_complete(session)
        if sessions:
            for follower in self._followers:
                follower.tell(*sessions)  # all in one call: waking a follower may let another thread run first

    def opened(self, sessions: list[OpenSession]) -> None:
        """Send open sessions that have changed."""
        for session in sessions:
            self.event(SessionUpdated(session))

    def dropped(self, source: str, count: int, total: int) -> None:
        """Report packets that were dropped because decoding does not keep up."""
        logger.warning("%d packets of %s were dropped: decoding does not keep up", count, source)
        self.event(PacketsDropped("intake", source, count, total))

    def lost(self, ids: Sequence[str]) -> None:
        """Log sessions that were dropped unsaved because too many were waiting to be saved."""
        logger.error("too many sessions are waiting to be saved; dropped unsaved: %s", ", ".join(ids))

    def notice(self, key: str, text: str) -> None:
        """Raise the notice ``key``, unless it stands with the same text already."""
        with self._lock:
            if self._notices.get(key) == text:
                return
            self._notices[key] = text
        logger.warning("%s", text)
        self.event(NoticeRaised(key, text))

    def resolve(self, key: str, text: str) -> None:
        """Withdraw the notice ``key``, reporting ``text``; does nothing if it does not stand."""
        with self._lock:
            if self._notices.pop(key, None) is None:
                return
        logger.info("%s", text)
        self.event(NoticeRaised(key, text, resolved=True))
