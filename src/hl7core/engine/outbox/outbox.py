"""The outbox: submits stored sessions to every active destination, each with a queue of its own.

A session is submitted only once it is stored, and counts as submitted only once the destination has acknowledged it and
that is recorded.  Nothing is lost with the process: what is pending is stored with the sessions, and is found in the
store at the start, at each interval and on request.  Memory holds a limited number of ids; a session is loaded for its
attempt.  A slow or dead destination delays no other.
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
from hl7core.engine.outbox.attempt import AttemptResult, Attempts, Records
from hl7core.engine.outbox.destination import Destination
from hl7core.engine.outbox.queue import Batch, Key
from hl7core.engine.outbox.refill import Refill
from hl7core.engine.outbox.rules import Disposition
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
_SEARCH: Final = 30.0


class Outbox:
    """Submits sessions.  Runs on the event loop; only ``saved`` may be called from any thread."""

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
        self._refill = Refill(records, now=now, clock=clock, searched=self._wake.set)
        self._destinations: dict[str, Destination] = {}
        self._inactive: set[str] = set()
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
        """Start searching for pending sessions and submitting them."""
        self._loop = asyncio.get_running_loop()
        self._attempts = Attempts(self._dispatch, self._records, self._now)
        self._running = asyncio.create_task(self._run(), name="hl7core-outbox")

    async def stop(self, patience: float) -> None:
        """Start no more attempts; those in flight have ``patience`` seconds, then their sessions stay pending."""
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

    # What other rooms report.

    def saved(self, sessions: Iterable[Session]) -> None:
        """``sessions`` are stored now; called from any thread."""
        pending = [
            (delivery.name, (session.start_ns // 1000, session.id), delivery.next_at)
            for session in sessions
            if not session.ignored
            for delivery in session.deliveries
            if delivery.status is DeliveryStatus.PENDING
        ]
        if pending and self._loop is not None and not self._over:
            self._loop.call_soon_threadsafe(self._add_saved, pending)

    def wake(self) -> None:
        """Settings, plugins, or whether sessions are saved may have changed."""
        self._refresh_at = 0.0
        self._wake.set()

    def expedite(self, ids: Sequence[str]) -> None:
        """Submit ``ids`` now, without waiting for their next attempt."""
        now = self._clock()
        for destination in self._active():
            destination.queue.expedite(now, ids)
        self._wake.set()

    def drop(self, ids: Sequence[str]) -> None:
        """Do not submit ``ids`` any more."""
        for destination in self._destinations.values():
            destination.queue.drop(ids)
        self._wake.set()

    def search(self) -> None:
        """Search the stores again: another process may have stored sessions."""
        for destination in self._active():
            destination.search.restart(backlog=True)
        self._wake.set()

    async def submit_now(self) -> int:
        """Try everything pending now, without waiting for the next attempt; return how many sessions are known to be.

        Raises EngineError if no destination is active, or if nothing is saved.
        """
        self._refresh()
        active = self._active()
        if not active:
            raise EngineError("no destination is active")
        if not self._records.sound:
            raise EngineError("sessions are not saved now, so none is submitted")
        now = self._clock()
        done_before = sum(destination.done for destination in active)
        for destination in active:
            destination.queue.expedite(now)
            destination.search.restart(backlog=True)
            destination.search_at = now
            destination.searched.clear()
        self._wake.set()
        searches = [asyncio.ensure_future(destination.searched.wait()) for destination in active]
        await asyncio.wait(searches, timeout=_SEARCH)
        for search in searches:
            search.cancel()
        for destination in active:  # the sessions found may be waiting for their next attempt
            destination.queue.expedite(self._clock(), probe=False)
        self._wake.set()
        done = sum(destination.done for destination in active) - done_before
        return done + sum(len(destination.queue) + destination.queue.in_flight for destination in active)

    def status(self) -> list[DestinationStatus]:
        """Return the status of every destination, active or not."""
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
            except Exception as error:  # noqa: BLE001 - a fault of ours must not end the outbox
                logger.error("submitting sessions failed: %s", describe(error))  # noqa: TRY400
                wake = self._clock() + _AFTER_A_FAULT
            try:
                async with asyncio.timeout(max(_BREATH, wake - self._clock())):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _round(self) -> float:
        """Start what can start; return when to look again unless something happens before."""
        now = self._clock()
        if now >= self._refresh_at:
            self._refresh()
        wake = now + _IDLE
        if self._records.sound:
            for destination in self._active():
                self._advance(destination, now)
                soon = destination.queue.wake_at()
                wake = wake if soon is None else min(wake, soon)
        return min(wake, self._report_progress(now))

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
                destination.activate(self._now())
            elif settings is not destination.settings:
                destination.queue.expedite(self._clock(), ())
                if destination.settings is None or settings.interval_minutes != destination.settings.interval_minutes:
                    destination.set_interval(settings.interval_minutes * 60.0, self._clock())
            destination.settings = settings
            destination.queue.concurrency = settings.concurrency
            destination.queue.batch_size = settings.batch_size if self._dispatch.takes_many(name) else 1
        for name, destination in self._destinations.items():
            if destination.active and name not in active:
                destination.deactivate(self._news)
        inactive = set(self._dispatch.destinations(inactive=True)) - set(active)
        for name in sorted(inactive - self._inactive):
            logger.info("%s submits nothing: its settings name no receiver ([plugins.%s])", name, name)
        self._inactive = inactive

    def _active(self) -> list[Destination]:
        return [destination for destination in self._destinations.values() if destination.active]

    def _advance(self, destination: Destination, now: float) -> None:
        """Start a search and attempts at ``destination``, if they are due."""
        settings = destination.settings
        if settings is None:
            return
        if now >= destination.tick_at:
            if destination.tick_at:
                destination.search.restart()
            destination.begin_cycle(now, settings.interval_minutes * 60.0)
        queue = destination.queue
        if self._refill.wanted(destination, now):
            destination.searching = True
            self._task(self._refill.read_page(destination, settings))
        for batch in queue.next_batches(now):
            self._task(self._attempt(destination, batch, settings))

    def _add_saved(self, pending: Sequence[tuple[str, Key, datetime | None]]) -> None:
        """Queue sessions that were saved, each with the destination it is pending for and its next attempt."""
        for name, key, next_at in pending:
            destination = self._destinations.get(name)
            if destination is not None and destination.active:
                self._refill.add_saved(destination, key, next_at)
        self._wake.set()

    # Attempts.

    async def _attempt(self, destination: Destination, batch: Batch, settings: DestinationSettings) -> None:
        queue = destination.queue
        results: Sequence[AttemptResult] = [AttemptResult(session_id, requeue=True) for _, session_id in batch.keys]
        try:
            results = await self._attempts.make(destination.name, batch, settings)
        except Hl7coreError as error:
            logger.debug("no attempt was made at %s: %s", destination.name, error)
        finally:
            for one in results:
                self._record(destination, one, probe=batch.probe)
            queue.attempt_over()
            self._wake.set()
        destination.report(self._news)

    def _record(self, destination: Destination, one: AttemptResult, *, probe: bool) -> None:
        queue, now, outcome = destination.queue, self._clock(), one.outcome
        if outcome is None:
            if not one.requeue:
                queue.remove(one.session_id)
            else:
                queue.put_back(one.session_id, now if one.alone else now + _NOT_LOADED, alone=one.alone)
            return
        queue.record(one.session_id, outcome, now, probe=probe)
        destination.error = outcome.error or destination.error
        if one.at is None:  # a failed probe does not count on its session
            return
        sent = outcome.disposition is Disposition.SENT
        destination.submitted += sent
        destination.failed += outcome.disposition in (Disposition.FAILED, Disposition.REJECTED)
        if sent:
            logger.info("%s received session %s", destination.name, one.session_id)
        else:
            # Only for debugging: a notice says what is wrong, and the error is stored with the session.
            logger.debug("%s did not accept session %s: %s", destination.name, one.session_id, outcome.error)
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
            logger.error("submitting sessions failed: %s", describe(error))

    # News.

    def _report_progress(self, now: float) -> float:
        """Report progress if it has changed, five times a second at most; return when to look again."""
        in_flight = sum(destination.queue.in_flight for destination in self._destinations.values())
        queue = sum(len(destination.queue) for destination in self._active())
        progress = SubmissionProgress(in_flight, queue, active_worker=in_flight > 0)
        if progress == self._progress:
            return math.inf
        if now < self._progress_at + _PROGRESS:
            return self._progress_at + _PROGRESS
        self._progress, self._progress_at = progress, now
        self._news.event(progress)
        return math.inf
