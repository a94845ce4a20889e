"""The runtime: what people and plugins may ask of a running engine.

Every job that touches a store runs on the store thread, in order; the event loop only waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from datetime import datetime, timedelta
from functools import partial
from threading import Event as Flag
from threading import Lock, Thread
from typing import Any, Final, Protocol, TypeVar

from hl7core.contract import CoreView, SourceRequest, State
from hl7core.engine.capture.sources import default_bpf
from hl7core.engine.parts import Parts
from hl7core.engine.replay.replay import Replays
from hl7core.engine.session_state import ignore, renewed, retry, unignore
from hl7core.engine.stores import TRASH_PART
from hl7core.guard import describe, in_thread, made_progress, progress_of, reason_of
from hl7core.model.cleanup import CleanupReport
from hl7core.model.events import CaptureChanged, CleanupSummary, Event, NoticeRaised, SessionsRemoved
from hl7core.model.packet import Interface
from hl7core.model.replay import ReplayReport
from hl7core.model.session import Ending, Session, SessionQuery

__all__ = ["EngineRuntime", "RunningEngine"]

logger = logging.getLogger(__name__)
T = TypeVar("T")

_PROGRESS_EVERY: Final = 2.0


class RunningEngine(Protocol):
    """What the runtime asks of the engine itself, beside its parts."""

    running: bool
    loop: asyncio.AbstractEventLoop

    async def capture(self, request: SourceRequest) -> None:
        """Capture what ``request`` says, instead of what is captured now.  Raises SourceError."""

    async def change_settings(self, changes: dict[str, Any]) -> None:
        """Write ``changes`` to the settings file and put them in force.  Raises SettingsError, changing nothing."""

    @property
    def replays(self) -> Replays:
        """Replays of capture files, one at a time."""


class EngineRuntime:
    """Implements ``hl7core.Runtime``.  ``of(name)`` is that of one plugin, whose jobs end when the plugin stops."""

    def __init__(self, parts: Parts, engine: RunningEngine, owner: str = "") -> None:
        self._parts = parts
        self._engine = engine
        self._owner = owner
        self._lock = Lock()
        self._jobs: set[Flag] = set()
        self._others: dict[str, EngineRuntime] = {}

    def of(self, name: str) -> EngineRuntime:
        """Return the runtime of the plugin ``name``."""
        with self._lock:
            return self._others.setdefault(name, EngineRuntime(self._parts, self._engine, name))

    def end_jobs(self, name: str | None = None) -> None:
        """End the jobs of the plugin ``name``; None: all jobs."""
        with self._lock:
            others = [other for owner, other in self._others.items() if name in (None, owner)]
            mine = list(self._jobs) if name in (None, self._owner) else []
        for other in others:
            other.end_jobs()
        for flag in mine:
            flag.set()

    async def sessions(self, query: SessionQuery) -> list[Session]:
        """Return matching sessions, stored or waiting in memory to be saved."""
        return await self._on_store_thread(self._parts.stores.load, query, gives_way=True)

    async def retry(self, ids: Sequence[str]) -> list[str]:
        """Make failed or submitted sessions pending again with no attempts; return the ids that were found."""
        found = await self._on_store_thread(self._parts.stores.change, ids, retry)
        self._parts.outbox.expedite(found)
        return found

    async def ignore(self, ids: Sequence[str]) -> list[str]:
        """Mark sessions as never to be submitted; return the ids that were found."""
        found = await self._on_store_thread(self._parts.stores.change, ids, ignore)
        self._parts.outbox.drop(found)
        return found

    async def unignore(self, ids: Sequence[str]) -> list[str]:
        """Undo ``ignore``; return the ids that were found."""
        found = await self._on_store_thread(self._parts.stores.change, ids, unignore)
        self._parts.outbox.expedite(found)
        return found

    async def delete(
        self, ids: Sequence[str], *, to_trash: bool = True, deleted_at: datetime | None = None
    ) -> list[str]:
        """Delete sessions from memory and store; return the ids that were deleted."""
        when = self.now() if deleted_at is None else deleted_at
        work = partial(self._parts.stores.delete, ids, to_trash=to_trash, deleted_at=when)
        removed = await self._on_store_thread(work)
        if removed:
            self._parts.outbox.drop(removed)
            self.publish(SessionsRemoved(tuple(removed), to_trash))
        return removed

    async def restore(self, ids: Sequence[str]) -> list[str]:
        """Restore sessions from the trash with a new expiry; return the ids that were restored."""
        core = self._parts.in_force().core
        renew = partial(renewed, now=self.now(), retention_days=core.retention_days)
        work = self._parts.stores.restore
        restored = await self._on_store_thread(work, ids, renew if core.enable_persistence else None)
        if restored:
            self._parts.outbox.search()
        return restored

    async def empty_trash(self, before: datetime) -> CleanupReport:
        """Permanently delete what went to the trash before ``before``; ``in_trash`` counts what is left there."""
        report = CleanupReport()
        while True:  # in parts, so that sessions are saved in between
            part = await self._on_store_thread(self._parts.stores.empty_trash, before, TRASH_PART)
            report = part._replace(deleted=report.deleted + part.deleted, freed=report.freed + part.freed)
            if part.deleted < TRASH_PART:
                return report

    async def trash(self) -> list[tuple[str, datetime]]:
        """Return the ids of the sessions in the trash and when each was deleted, oldest first."""
        return await self._on_store_thread(self._parts.stores.trash)

    async def store_size(self) -> int:
        """Return the size of the stored sessions on disk in bytes, the trash included."""
        return await self._on_store_thread(self._parts.stores.size, gives_way=True)

    async def submit_now(self) -> int:
        """Try everything pending now, without waiting for the next attempt; return how many sessions are known to be.

        Raises EngineError if no destination is active, or if nothing is saved.
        """
        return await self._parts.outbox.submit_now()

    async def cleanup(self, *, dry_run: bool = False, confirmed: bool = False) -> list[CleanupReport]:
        """Run every plugin's ``cleanup`` and return the reports.  Does nothing while sessions are not saved."""
        parts = self._parts
        if not parts.in_force().core.enable_persistence:
            return []
        began = self.now()
        reports: list[CleanupReport] = []
        entries = await in_thread(lambda: parts.dispatch.cleanup(began, dry_run, confirmed), name="hl7core-cleanup")
        for plugin, report in entries:
            if isinstance(report, CleanupReport):
                parts.news.resolve(f"cleanup-{plugin}", f"the cleanup of {plugin} works again")
                self.publish(CleanupSummary(report, began, self.now()))
                reports.append(report)
            else:
                parts.news.notice(f"cleanup-{plugin}", f"the cleanup of {plugin} failed: {reason_of(report)}")
        return reports

    async def change_settings(self, changes: dict[str, Any]) -> None:
        """Write ``changes`` to the settings file and put them in force.  Raises SettingsError, changing nothing."""
        await self._engine.change_settings(changes)

    async def interfaces(self) -> list[Interface]:
        """List the interfaces that can be captured on."""
        return await in_thread(self._parts.dispatch.list_interfaces, name="hl7core-interfaces")

    async def start_capture(self, interfaces: Sequence[str] = (), bpf: str = "") -> None:
        """Start capturing; without arguments, as the settings say.  Raises SourceError."""
        as_configured = not (interfaces or bpf)
        filter_of_settings = default_bpf(self._parts.in_force().core)
        await self._engine.capture(SourceRequest((), tuple(interfaces), bpf, filter_of_settings, True, as_configured))

    async def stop_capture(self) -> None:
        """Stop capturing and end the open sessions."""
        await self._parts.sources.stop()
        done = self._parts.decoding.end_open(Ending.STOPPED)
        await asyncio.to_thread(done.wait, 10.0)

    async def pause(self) -> None:
        """Stop decoding; packets that arrive are counted and discarded, and a gap is marked."""
        if not self._parts.intake.paused:
            self._parts.intake.pause()
            self.publish(CaptureChanged("", "paused"))

    async def resume(self) -> None:
        """Decode again."""
        if self._parts.intake.paused:
            self._parts.intake.resume()
            self.publish(CaptureChanged("", "resumed"))

    async def replay(
        self,
        files: Sequence[str],
        *,
        speed: str = "max",
        progress: Callable[[ReplayReport], None] = lambda _report: None,
    ) -> ReplayReport:
        """Replay capture files beside the capture; return the final report.  Cancelling it stops the replay.

        Raises EngineError if it cannot begin.
        """
        replay = self._engine.replays.begin(files, speed=speed)
        report = ReplayReport()
        try:
            async for report in replay.progress():
                progress(report)
        finally:
            replay.stop()
        return report

    async def clear(self) -> None:
        """Forget the sessions in memory that are stored; the store keeps them."""
        self._parts.ledger.clear()

    def publish(self, event: Event) -> None:
        """Tell every plugin that listens.  A notice is reported once, and stands until it is published as resolved."""
        news = self._parts.news
        if not isinstance(event, NoticeRaised):
            news.event(event)
        elif event.resolved:
            news.resolve(event.key, event.text)
        else:
            news.notice(event.key, event.text)

    def state(self) -> State:
        """Return the engine's state in numbers."""
        parts = self._parts
        counters = parts.decoding.counters
        packets = counters.pop("packets", 0)
        counters.pop("sessions", None)
        counters |= {
            "saved": parts.ledger.saved_count,
            "lost": parts.ledger.lost,
            "repeated": parts.ledger.repeated,
            "letGo": parts.intake.discarded,
            "troubles": parts.decoding.faults,
        }
        return State(
            running=self._engine.running,
            paused=parts.intake.paused,
            capturing=parts.sources.capturing,
            sources=parts.sources.stats(),
            packets=packets,
            dropped_intake=parts.intake.dropped,
            dropped_kernel=parts.sources.dropped_kernel,
            open_sessions=parts.decoding.open_count,
            sessions=parts.ledger.sessions,
            sessions_in_memory=len(parts.ledger),
            unsaved=parts.ledger.unsaved,
            counters=tuple(counters.items()),
            notices=parts.news.notices,
        )

    def core(self) -> CoreView:
        """Return what plugins may know of ``[core]``."""
        in_force = self._parts.in_force()
        core = in_force.core
        return CoreView(
            output_folder=str(self._parts.folder),
            retention_days=core.retention_days,
            enable_persistence=core.enable_persistence,
            store=in_force.record,
            device_address=core.device_address,
            lis_address=core.lis_address,
            lis_port=core.lis_port,
            owner=self._parts.lock.held,
            destinations=tuple(self._parts.dispatch.destinations()),
        )

    def now(self) -> datetime:
        """Return the wall-clock time (aware, UTC); a test may set another."""
        return self._parts.now()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run ``coroutine`` on the event loop, from another thread.

        While it runs, the plugin's call that waits for it counts as getting on.
        """
        future = asyncio.run_coroutine_threadsafe(coroutine, self._engine.loop)
        on_progress = progress_of()
        if on_progress is not None:
            self._engine.loop.call_soon_threadsafe(self._show_progress, future, on_progress)
        return future

    def _show_progress(self, future: Future[T], on_progress: Callable[[], None]) -> None:
        on_progress()
        if not future.done():
            self._engine.loop.call_later(_PROGRESS_EVERY, self._show_progress, future, on_progress)

    def give_way(self) -> None:
        """Let waiting sessions be saved before a store reads on.  Raises EngineError if the engine is stopping."""
        made_progress()
        self._parts.keeper.give_way()

    async def _on_store_thread(self, job: Callable[..., T], *args: Any, gives_way: bool = False) -> T:
        return await asyncio.wrap_future(self._parts.keeper.submit(lambda: job(*args), gives_way=gives_way))

    def every(self, period: timedelta, job: Callable[[], None]) -> Callable[[], None]:
        """Run ``job`` every ``period`` on a thread of its own until the returned function is called."""
        seconds = max(0.01, period.total_seconds())
        flag = Flag()
        with self._lock:
            self._jobs.add(flag)

        def run() -> None:
            logged = ""
            while not flag.wait(seconds):
                if self._owner and self._parts.registry.suspended(self._owner):
                    continue
                try:
                    job()
                    logged = ""
                except Exception as error:  # noqa: BLE001 - a job that fails once may succeed the next time
                    if logged != (logged := describe(error)):
                        logger.warning("a job of plugin %s failed: %s", self._owner or "?", logged)
            with self._lock:
                self._jobs.discard(flag)

        Thread(target=run, name=f"hl7core-{self._owner or 'plugin'}-job", daemon=True).start()
        return flag.set
