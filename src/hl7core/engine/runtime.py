"""The runtime: what people and plugins may ask of a running engine, and nothing else of it.

Whatever touches a store is done on the store thread, in order; the event loop only waits for it.
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
from typing import TYPE_CHECKING, Any, TypeVar

from hl7core.contract import CoreView, SourceRequest, State
from hl7core.engine.session_state import ignore, renewed, retry, unignore
from hl7core.engine.sources import default_bpf
from hl7core.engine.stores import TRASH_PART, reason_of
from hl7core.guard import describe, in_thread
from hl7core.model.cleanup import CleanupReport
from hl7core.model.events import CaptureChanged, CleanupSummary, Event, NoticeRaised, SessionsRemoved
from hl7core.model.packet import Interface
from hl7core.model.session import Ending, Session, SessionQuery

if TYPE_CHECKING:
    from hl7core.engine.engine import Engine

__all__ = ["EngineRuntime"]

logger = logging.getLogger(__name__)
T = TypeVar("T")


class EngineRuntime:
    """Implements ``hl7core.Runtime``.  ``of(name)`` is the one for a plugin: its jobs end when the plugin stops."""

    def __init__(self, engine: Engine, owner: str = "") -> None:
        self._engine = engine
        self._owner = owner
        self._lock = Lock()
        self._jobs: set[Flag] = set()
        self._others: dict[str, EngineRuntime] = {}

    def of(self, name: str) -> EngineRuntime:
        """Return the runtime of the plugin ``name``."""
        with self._lock:
            return self._others.setdefault(name, EngineRuntime(self._engine, name))

    def end_jobs(self, name: str | None = None) -> None:
        """End the jobs of the plugin ``name``, or all there are."""
        with self._lock:
            others = [other for owner, other in self._others.items() if name in (None, owner)]
            mine = list(self._jobs) if name in (None, self._owner) else []
        for other in others:
            other.end_jobs()
        for flag in mine:
            flag.set()

    async def sessions(self, query: SessionQuery) -> list[Session]:
        """Return stored sessions, and those in memory that are not stored yet."""
        return await self._stores(self._engine.shelf.load, query, gives_way=True)

    async def retry(self, ids: Sequence[str]) -> list[str]:
        """Make failed or submitted sessions pending again with no attempts; return the ids that were found."""
        found = await self._stores(self._engine.shelf.change, ids, retry)
        self._engine.outbox.hurry(found)
        return found

    async def ignore(self, ids: Sequence[str]) -> list[str]:
        """Mark sessions as never to be sent; return the ids that were found."""
        found = await self._stores(self._engine.shelf.change, ids, ignore)
        self._engine.outbox.drop(found)
        return found

    async def unignore(self, ids: Sequence[str]) -> list[str]:
        """Undo ``ignore``; return the ids that were found."""
        found = await self._stores(self._engine.shelf.change, ids, unignore)
        self._engine.outbox.hurry(found)
        return found

    async def delete(
        self, ids: Sequence[str], *, to_trash: bool = True, deleted_at: datetime | None = None
    ) -> list[str]:
        """Remove sessions from memory and store; return the ids that were removed."""
        when = self.now() if deleted_at is None else deleted_at
        removed = await self._stores(lambda: self._engine.shelf.delete(ids, to_trash=to_trash, deleted_at=when))
        if removed:
            self._engine.outbox.drop(removed)
            self.publish(SessionsRemoved(tuple(removed), to_trash))
        return removed

    async def restore(self, ids: Sequence[str]) -> list[str]:
        """Bring sessions back from the trash, their expiry counted anew; return the ids that came back."""
        core = self._engine.settings.core
        renew = partial(renewed, now=self.now(), retention_days=core.retention_days)
        back = await self._stores(self._engine.shelf.restore, ids, renew if core.enable_persistence else None)
        if back:
            self._engine.outbox.search()
        return back

    async def empty_trash(self, before: datetime) -> CleanupReport:
        """Throw away for good what went to the trash before that time; ``in_trash`` tells what is left there."""
        report = CleanupReport()
        while True:  # by parts, so that saving goes on in between
            part = await self._stores(self._engine.shelf.empty_trash, before, TRASH_PART)
            report = part._replace(deleted=report.deleted + part.deleted, freed=report.freed + part.freed)
            if part.deleted < TRASH_PART:
                return report

    async def trash(self) -> list[tuple[str, datetime]]:
        """Return the ids of the sessions in the trash and when each went there, oldest first."""
        return await self._stores(self._engine.shelf.trash)

    async def store_size(self) -> int:
        """Return the bytes on disk that the stored sessions take, the trash included."""
        return await self._stores(self._engine.shelf.size, gives_way=True)

    async def submit_now(self) -> int:
        """Try all that is pending at once, whatever it waits for; return how many sessions are known to be.

        Raises EngineError if no destination is active, or nothing is saved.
        """
        return await self._engine.outbox.submit_now()

    async def cleanup(self, *, dry_run: bool = False, confirmed: bool = False) -> list[CleanupReport]:
        """Run every plugin's ``cleanup``; return their reports.  Pauses while nothing is saved."""
        engine = self._engine
        if not engine.settings.core.enable_persistence:
            return []
        began = self.now()
        reports: list[CleanupReport] = []
        entries = await in_thread(lambda: engine.dispatch.cleanup(began, dry_run, confirmed), name="hl7core-cleanup")
        for plugin, report in entries:
            if isinstance(report, CleanupReport):
                engine.news.settle(f"cleanup-{plugin}", f"the cleanup of {plugin} works again")
                self.publish(CleanupSummary(report, began, self.now()))
                reports.append(report)
            else:
                engine.news.notice(f"cleanup-{plugin}", f"the cleanup of {plugin} failed: {reason_of(report)}")
        return reports

    async def change_settings(self, changes: dict[str, Any]) -> None:
        """Write ``changes`` to the settings file and put them in force.  Raises SettingsError, changing nothing."""
        await self._engine.settling.change(changes)

    async def interfaces(self) -> list[Interface]:
        """List the interfaces that can be captured on."""
        return await in_thread(self._engine.dispatch.list_interfaces, name="hl7core-interfaces")

    async def start_capture(self, interfaces: Sequence[str] = (), bpf: str = "") -> None:
        """Start capturing; nothing given: as the settings say.  Raises SourceError."""
        asked = bool(interfaces or bpf)
        request = SourceRequest((), tuple(interfaces), bpf, default_bpf(self._engine.settings.core), True, not asked)
        await self._engine.capture(request)

    async def stop_capture(self) -> None:
        """Stop capturing and end the open sessions."""
        await self._engine.sources.stop()
        done = self._engine.decoding.end_open(Ending.STOPPED)
        await asyncio.to_thread(done.wait, 10.0)

    async def pause(self) -> None:
        """Stop decoding; packets that come are counted and let go, and a gap is marked."""
        if not self._engine.intake.paused:
            self._engine.intake.pause()
            self.publish(CaptureChanged("", "paused"))

    async def resume(self) -> None:
        """Decode again."""
        if self._engine.intake.paused:
            self._engine.intake.resume()
            self.publish(CaptureChanged("", "resumed"))

    async def clear(self) -> None:
        """Forget the sessions in memory that are stored; the store keeps them."""
        self._engine.ledger.clear()

    def publish(self, event: Event) -> None:
        """Tell every plugin that listens; a notice stands, and is told once, until it is published as resolved."""
        news = self._engine.news
        if not isinstance(event, NoticeRaised):
            news.event(event)
        elif event.resolved:
            news.settle(event.key, event.text)
        else:
            news.notice(event.key, event.text)

    def state(self) -> State:
        """Return the engine's state in numbers."""
        engine = self._engine
        counters = engine.decoding.counters
        packets = counters.pop("packets", 0)
        counters.pop("sessions", None)
        counters |= {
            "saved": engine.ledger.saved_count,
            "lost": engine.ledger.lost,
            "repeated": engine.ledger.repeated,
            "letGo": engine.intake.let_go,
            "troubles": engine.decoding.troubles,
        }
        return State(
            running=engine.running,
            paused=engine.intake.paused,
            capturing=engine.sources.capturing,
            sources=engine.sources.stats(),
            packets=packets,
            dropped_intake=engine.intake.dropped,
            dropped_kernel=engine.sources.dropped_kernel,
            open_sessions=engine.decoding.open_count,
            sessions=engine.ledger.sessions,
            sessions_in_memory=len(engine.ledger),
            unsaved=engine.ledger.unsaved,
            counters=tuple(counters.items()),
            notices=engine.news.notices,
        )

    def core(self) -> CoreView:
        """Return what a plugin may know of ``[core]`` now."""
        engine = self._engine
        core = engine.settings.core
        return CoreView(
            output_folder=str(engine.folder),
            retention_days=core.retention_days,
            enable_persistence=core.enable_persistence,
            store=engine.record,
            device_address=core.device_address,
            lis_address=core.lis_address,
            lis_port=core.lis_port,
            owner=engine.lock.held,
            destinations=tuple(engine.dispatch.destinations()),
        )

    def now(self) -> datetime:
        """Return the wall-clock time (aware, UTC); a test may set another."""
        return self._engine.now()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run ``coroutine`` on the event loop, from another thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._engine.loop)

    def give_way(self) -> None:
        """Let what waits to be saved be saved before a store reads on.  Raises EngineError if the engine stops."""
        self._engine.keeper.give_way()

    async def _stores(self, job: Callable[..., T], *args: Any, gives_way: bool = False) -> T:
        return await asyncio.wrap_future(self._engine.keeper.submit(lambda: job(*args), gives_way=gives_way))

    def every(self, period: timedelta, job: Callable[[], None]) -> Callable[[], None]:
        """Run ``job`` each ``period`` on a thread of its own until the returned function is called."""
        seconds = max(0.01, period.total_seconds())
        flag = Flag()
        with self._lock:
            self._jobs.add(flag)

        def run() -> None:
            told = ""
            while not flag.wait(seconds):
                try:
                    job()
                    told = ""
                except Exception as error:  # noqa: BLE001 - a job that fails once may succeed the next time
                    if told != (told := describe(error)):
                        logger.warning("a job of plugin %s failed: %s", self._owner or "?", told)
            with self._lock:
                self._jobs.discard(flag)

        Thread(target=run, name=f"hl7core-{self._owner or 'plugin'}-job", daemon=True).start()
        return flag.set
