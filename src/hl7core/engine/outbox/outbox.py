"""The outbox: hands stored sessions on to every active destination, each with a line of its own.

The law: a session goes out only once it is stored, and counts as submitted only once the destination has acknowledged
it and that can be written down.  Nothing here is lost with the process: what is pending stands with the sessions in the
store, and is found there at the start, each interval and when somebody asks.  Memory holds ids, a bounded number of
them; a session is loaded when its turn comes.  A destination that is slow or dead makes nobody else wait.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from datetime import datetime
from typing import Any, Final

from hl7core.contract import DestinationSettings
from hl7core.engine.news import News
from hl7core.engine.outbox.attempt import Attempts, Ended, Records
from hl7core.engine.outbox.destination import Destination
from hl7core.engine.outbox.queue import Key, Turn
from hl7core.engine.outbox.refill import Supply
from hl7core.engine.outbox.rules import Fate
from hl7core.engine.outbox.status import DestinationStatus
from hl7core.errors import EngineError, Hl7coreError
from hl7core.guard import describe
from hl7core.model.delivery import DeliveryStatus
from hl7core.model.events import SubmissionProgress, SubmissionResult
from hl7core.model.session import Session
from hl7core.plugin_host.dispatch import Dispatch

__all__ = ["Outbox"]

logger = logging.getLogger(__name__)

_IDLE: Final = 1.0
_BREATH: Final = 0.002
_AFTER_A_FAULT: Final = 15.0
_NOT_LOADED: Final = 2.0
_PROGRESS: Final = 0.2
_LOOK: Final = 30.0


class Outbox:
    """Sends.  ``start`` and ``stop`` it on the event loop; ``saved`` may be called from any thread, the rest not."""

    def __init__(
        self,
        dispatch: Dispatch,
        records: Records,
        news: News,
        *,
        now: Callable[[], datetime],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dispatch = dispatch
        self._records = records
        self._news = news
        self._now = now
        self._clock = clock
        self._wake = asyncio.Event()
        self._supply = Supply(records, now=now, clock=clock, looked=self._wake.set)
        self._destinations: dict[str, Destination] = {}
        self._silent: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._attempts: Attempts
        self._running: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over = False
        self._refresh_at = 0.0
        self._progress = SubmissionProgress(0, 0, active_worker=False)
        self._progress_at = 0.0

    # Life.

    def start(self) -> None:
        """Begin to look for what is pending and to send it."""
        self._loop = asyncio.get_running_loop()
        self._attempts = Attempts(self._dispatch, self._records, self._now)
        self._running = asyncio.create_task(self._run(), name="hl7core-outbox")

    async def stop(self, patience: float) -> None:
        """Begin nothing more; what is in flight has ``patience`` seconds, then stays pending."""
        self._over = True
        if self._running is None:
            return
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=patience)
        self._attempts.cut()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)
        for task in list(self._tasks):
            task.cancel()

    # What others tell it.

    def saved(self, sessions: Iterable[Session]) -> None:
        """These are stored now; called from any thread."""
        news = [
            (delivery.name, (session.start_ns // 1000, session.id), delivery.next_at)
            for session in sessions
            if not session.ignored
            for delivery in session.deliveries
            if delivery.status is DeliveryStatus.PENDING
        ]
        if news and self._loop is not None and not self._over:
            self._loop.call_soon_threadsafe(self._arrived, news)

    def wake(self) -> None:
        """Something has changed: settings, plugins, whether sessions are saved."""
        self._refresh_at = 0.0
        self._wake.set()

    def hurry(self, ids: Sequence[str]) -> None:
        """A person wants these to be sent now."""
        now = self._clock()
        for destination in self._active():
            destination.line.hurry(now, ids)
        self._wake.set()

    def drop(self, ids: Sequence[str]) -> None:
        """These are not to be sent any more."""
        for destination in self._destinations.values():
            destination.line.drop(ids)
        self._wake.set()

    def search(self) -> None:
        """Sessions may have come into the store that nobody told of."""
        for destination in self._active():
            destination.search.restart(backlog=True)
        self._wake.set()

    async def submit_now(self) -> int:
        """Try all that is pending at once, whatever it waits for; return how many sessions are known to be.

        Raises EngineError if no destination is active, or nothing is saved.
        """
        self._refresh()
        active = self._active()
        if not active:
            raise EngineError("no destination is active")
        if not self._records.sound:
            raise EngineError("sessions are not saved now, so none is handed on")
        now = self._clock()
        begun = sum(destination.done for destination in active)
        for destination in active:
            destination.line.hurry(now)
            destination.search.restart(backlog=True)
            destination.search_at = now
            destination.looked.clear()
        self._wake.set()
        looks = [asyncio.ensure_future(destination.looked.wait()) for destination in active]
        await asyncio.wait(looks, timeout=_LOOK)
        for look in looks:
            look.cancel()
        for destination in active:  # what was found may wait for its next attempt
            destination.line.hurry(self._clock(), probe=False)
        self._wake.set()
        done = sum(destination.done for destination in active) - begun
        return done + sum(len(destination.line) + destination.line.in_flight for destination in active)

    def status(self) -> list[DestinationStatus]:
        """Return how every destination stands, those too that are not active."""
        names = self._dispatch.destinations(inactive=True)
        known = (self._destinations.get(name) for name in names)
        return [
            one.status(self._clock(), self._now(), sound=self._records.sound)
            if one is not None and one.active
            else DestinationStatus(name, "inactive")
            for name, one in zip(names, known, strict=True)
        ]

    # The loop.

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                wake = self._round()
            except Exception as error:  # noqa: BLE001 - a fault of ours must not end all sending
                logger.error("handing sessions on broke: %s", describe(error))  # noqa: TRY400
                wake = self._clock() + _AFTER_A_FAULT
            try:
                async with asyncio.timeout(max(_BREATH, wake - self._clock())):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _round(self) -> float:
        """Begin what can begin; return when to look again unless something happens before."""
        now = self._clock()
        if now >= self._refresh_at:
            self._refresh()
        wake = now + _IDLE
        if self._records.sound:
            for destination in self._active():
                self._advance(destination, now)
                soon = destination.line.wake_at()
                wake = wake if soon is None else min(wake, soon)
        return min(wake, self._told_progress(now))

    def _refresh(self) -> None:
        """Follow the plugins and their settings."""
        self._refresh_at = self._clock() + _IDLE
        active = self._dispatch.destinations()
        for name in active:
            destination = self._destinations.get(name)
            if destination is None:
                destination = self._destinations[name] = Destination(name)
            settings = self._dispatch.destination_settings(name)
            if not destination.active:
                destination.begin(self._now())
            elif settings is not destination.settings:
                destination.line.hurry(self._clock(), ())
                destination.tick_at = min(destination.tick_at, self._clock() + settings.interval_minutes * 60.0)
            destination.settings = settings
            destination.line.concurrency = settings.concurrency
            destination.line.batch = settings.batch_size if self._dispatch.takes_many(name) else 1
        for name, destination in self._destinations.items():
            if destination.active and name not in active:
                destination.end(self._news)
        silent = set(self._dispatch.destinations(inactive=True)) - set(active)
        for name in sorted(silent - self._silent):
            logger.debug("%s is not active: no session is handed to it", name)
        self._silent = silent

    def _active(self) -> list[Destination]:
        return [destination for destination in self._destinations.values() if destination.active]

    def _advance(self, destination: Destination, now: float) -> None:
        """Begin what can begin now."""
        settings = destination.settings
        if settings is None:
            return
        if now >= destination.tick_at:
            if destination.tick_at:
                destination.search.restart()
            destination.tick_at = now + settings.interval_minutes * 60.0
        line = destination.line
        if self._supply.wanted(destination, now):
            destination.searching = True
            self._task(self._supply.look(destination, settings))
        for turn in line.take(now):
            self._task(self._attempt(destination, turn, settings))

    def _arrived(self, news: Sequence[tuple[str, Key, datetime | None]]) -> None:
        """Sessions are stored that destinations have still to get."""
        for name, key, next_at in news:
            destination = self._destinations.get(name)
            if destination is not None and destination.active:
                self._supply.arrived(destination, key, next_at)
        self._wake.set()

    # Attempts.

    async def _attempt(self, destination: Destination, turn: Turn, settings: DestinationSettings) -> None:
        line = destination.line
        ended: Sequence[Ended] = [Ended(session_id, back=True) for _, session_id in turn.keys]
        try:
            ended = await self._attempts.make(destination.name, turn, settings)
        except Hl7coreError as error:
            logger.debug("an attempt at %s came to nothing: %s", destination.name, error)
        finally:
            for one in ended:
                self._settle(destination, one, probe=turn.probe)
            line.landed()
            self._wake.set()
        destination.tell(self._news)

    def _settle(self, destination: Destination, one: Ended, *, probe: bool) -> None:
        line, now, outcome = destination.line, self._clock(), one.outcome
        if outcome is None:
            if not one.back:
                line.leave(one.session_id)
            else:
                line.put_back(one.session_id, now if one.alone else now + _NOT_LOADED, alone=one.alone)
            return
        line.settle(one.session_id, outcome, now, probe=probe)
        destination.error = outcome.error or destination.error
        if one.at is None:  # a probe that failed: the session has nothing to do with it
            return
        sent = outcome.fate is Fate.SENT
        destination.submitted += sent
        destination.failed += outcome.fate in (Fate.FAILED, Fate.REJECTED)
        if sent:
            logger.info("%s has session %s", destination.name, one.session_id)
        else:
            # Not a line in the log for each: what is the matter is said once, and stands with the session.
            logger.debug("%s does not have session %s: %s", destination.name, one.session_id, outcome.error)
        self._news.event(
            SubmissionResult(
                one.session_id, destination.name, sent, one.attempts, outcome.error, one.at if sent else None
            )
        )

    def _task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("handing sessions on broke: %s", describe(error))

    # News.

    def _told_progress(self, now: float) -> float:
        """Tell how busy it is if that has changed, not too often; return when there may be more to tell."""
        in_flight = sum(destination.line.in_flight for destination in self._destinations.values())
        queue = sum(len(destination.line) for destination in self._active())
        progress = SubmissionProgress(in_flight, queue, active_worker=in_flight > 0)
        if progress == self._progress:
            return math.inf
        if now < self._progress_at + _PROGRESS:
            return self._progress_at + _PROGRESS
        self._progress, self._progress_at = progress, now
        self._news.event(progress)
        return math.inf
