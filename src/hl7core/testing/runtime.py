"""A runtime to test a plugin with that needs no engine: it records what the plugin does and answers as you set it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from hl7core.contract import CoreView, State
from hl7core.hl7.query import matches, sort_key
from hl7core.model.cleanup import CleanupReport
from hl7core.model.events import Event
from hl7core.model.packet import Interface
from hl7core.model.replay import ReplayReport
from hl7core.model.schema import session_to_json
from hl7core.model.session import Session, SessionQuery

__all__ = ["FakeRuntime"]

T = TypeVar("T")


class FakeRuntime:
    """Implements :class:`hl7core.Runtime`.

    ``clock`` is what ``now`` returns; set it to let time pass.  ``events`` are the published events, ``asked`` the
    calls of coroutines by name, ``jobs`` what ``every`` was given (call them yourself).  ``held`` are the stored
    sessions, ``trashed`` those in the trash, each with the time of its deletion.  ``between`` is called whenever a
    store gives way.
    """

    def __init__(self, folder: Path | str, *, now: datetime | None = None, **core: Any) -> None:
        self.clock = now or datetime(2026, 1, 3, tzinfo=UTC)
        self.events: list[Event] = []
        self.asked: list[tuple[str, tuple[Any, ...]]] = []
        self.jobs: list[tuple[timedelta, Callable[[], None]]] = []
        self.held: dict[str, Session] = {}
        self.trashed: dict[str, tuple[Session, datetime]] = {}
        self.between: Callable[[], None] = lambda: None
        self._core = CoreView(str(folder), 30, True, "json_store", "", "", 0)._replace(**core)

    async def sessions(self, query: SessionQuery) -> list[Session]:
        """Return the matching sessions of ``held``, in the query's order, at most ``query.limit``."""
        self._note("sessions", query)
        found = (session for session in self.held.values() if matches(session, query))
        return sorted(found, key=sort_key, reverse=query.newest_first)[: query.limit]

    async def retry(self, ids: Sequence[str]) -> list[str]:
        """Return those of ``ids`` that are in ``held``."""
        return self._known("retry", ids)

    async def ignore(self, ids: Sequence[str]) -> list[str]:
        """Return those of ``ids`` that are in ``held``."""
        return self._known("ignore", ids)

    async def unignore(self, ids: Sequence[str]) -> list[str]:
        """Return those of ``ids`` that are in ``held``."""
        return self._known("unignore", ids)

    async def delete(
        self, ids: Sequence[str], *, to_trash: bool = True, deleted_at: datetime | None = None
    ) -> list[str]:
        """Move those of ``ids`` that are in ``held`` to ``trashed``, or delete them permanently; return them."""
        known = self._known("delete", ids, to_trash)
        for session_id in known:
            session = self.held.pop(session_id)
            if to_trash:
                self.trashed[session_id] = (session, deleted_at or self.clock)
        return known

    async def restore(self, ids: Sequence[str]) -> list[str]:
        """Move those of ``ids`` back from ``trashed`` that are not in ``held``, and return them."""
        self._note("restore", tuple(ids))
        back = [session_id for session_id in ids if session_id in self.trashed and session_id not in self.held]
        for session_id in back:
            self.held[session_id] = self.trashed.pop(session_id)[0]
        return back

    async def empty_trash(self, before: datetime) -> CleanupReport:
        """Permanently delete what went to ``trashed`` before that time."""
        self._note("empty_trash", before)
        gone = [session_id for session_id, (_, when) in self.trashed.items() if when < before]
        freed = sum(len(session_to_json(self.trashed.pop(session_id)[0])) for session_id in gone)
        return CleanupReport(deleted=len(gone), freed=freed, in_trash=len(self.trashed))

    async def trash(self) -> list[tuple[str, datetime]]:
        """Return the ids in ``trashed`` and when each was deleted, oldest first."""
        self._note("trash")
        return sorted(((i, when) for i, (_, when) in self.trashed.items()), key=lambda entry: (entry[1], entry[0]))

    async def store_size(self) -> int:
        """Return the size of ``held`` and ``trashed`` as JSON, in bytes."""
        self._note("store_size")
        return sum(len(session_to_json(s)) for s in (*self.held.values(), *(s for s, _ in self.trashed.values())))

    async def submit_now(self) -> int:
        """Return how many sessions are in ``held``."""
        self._note("submit_now")
        return len(self.held)

    async def cleanup(self, *, dry_run: bool = False, confirmed: bool = False) -> list[CleanupReport]:
        """Record the call; return no report."""
        self._note("cleanup", dry_run, confirmed)
        return []

    async def change_settings(self, changes: dict[str, Any]) -> None:
        """Record the call."""
        self._note("change_settings", changes)

    async def interfaces(self) -> list[Interface]:
        """Return no interface."""
        return []

    async def start_capture(self, interfaces: Sequence[str] = (), bpf: str = "") -> None:
        """Record the call."""
        self._note("start_capture", tuple(interfaces), bpf)

    async def stop_capture(self) -> None:
        """Record the call."""
        self._note("stop_capture")

    async def pause(self) -> None:
        """Record the call."""
        self._note("pause")

    async def resume(self) -> None:
        """Record the call."""
        self._note("resume")

    async def replay(
        self,
        files: Sequence[str],
        *,
        speed: str = "max",
        progress: Callable[[ReplayReport], None] = lambda _report: None,
    ) -> ReplayReport:
        """Record the call; report that ``files`` were replayed and held nothing."""
        self._note("replay", tuple(files), speed)
        report = ReplayReport(state="done")
        progress(report)
        return report

    async def clear(self) -> None:
        """Forget all sessions."""
        self._note("clear")
        self.held.clear()

    def publish(self, event: Event) -> None:
        """Add ``event`` to ``events``."""
        self.events.append(event)

    def state(self) -> State:
        """Return the state of a running engine that has seen only the sessions in ``held``."""
        count = len(self.held)
        return State(
            running=True,
            paused=False,
            capturing=False,
            sources=(),
            packets=0,
            dropped_intake=0,
            dropped_kernel=0,
            open_sessions=0,
            sessions=count,
            sessions_in_memory=count,
            unsaved=0,
            counters=(),
            notices=(),
        )

    def core(self) -> CoreView:
        """Return the view given at the start."""
        return self._core

    def now(self) -> datetime:
        """Return ``clock``."""
        return self.clock

    def give_way(self) -> None:
        """Call ``between``: what happens while a store reads for long."""
        self.between()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run ``coroutine`` at once, on a loop of its own."""
        future: Future[T] = Future()
        try:
            future.set_result(asyncio.run(coroutine))
        except Exception as error:  # noqa: BLE001 - the caller gets it
            future.set_exception(error)
        return future

    def every(self, period: timedelta, job: Callable[[], None]) -> Callable[[], None]:
        """Keep ``job`` in ``jobs`` until the returned function is called."""
        entry = (period, job)
        self.jobs.append(entry)

        def cancel() -> None:
            if entry in self.jobs:
                self.jobs.remove(entry)

        return cancel

    def _note(self, name: str, *arguments: Any) -> None:
        self.asked.append((name, arguments))

    def _known(self, name: str, ids: Sequence[str], *more: Any) -> list[str]:
        self._note(name, tuple(ids), *more)
        return [session_id for session_id in ids if session_id in self.held]
