"""Imports: sessions of another store, or of files, brought into the store of record.

The law: what was saved before is written as it is, its first save, expiry, status and deliveries untouched, and it is
read back and compared before it counts.  What is there already stays, unless the other was saved later.  So an import
can be broken off and begun again at any time.  The source is only read, unless it is to be emptied: then a session is
deleted from it once it is known to be in the store of record.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from hl7core.engine.session_files import read_sessions, session_files
from hl7core.engine.session_state import stamp
from hl7core.engine.store_probe import PROBE_ID
from hl7core.engine.stores import age, reason_of
from hl7core.errors import EngineError, PluginError, SessionRefused, StoreError
from hl7core.hl7.query import sort_key
from hl7core.model.schema import at_stored_precision, session_to_json
from hl7core.model.session import Session, SessionQuery

if TYPE_CHECKING:
    from hl7core.engine.engine import Engine

__all__ = ["ImportReport", "Imports"]

_PAGE: Final = 100
_SECOND: Final = 1_000_000_000


@dataclass(slots=True)
class ImportReport:
    """How far an import has come.

    Of the ``found`` sessions, ``copied`` were written and read back equal, ``known`` were there already, ``newer`` are
    there as saved later and were left, ``failed`` could not be written (``reason`` is the first reason).  ``damaged``
    entries of files are no sessions.  ``removed`` were deleted from the source.  ``first``, ``last`` and ``at`` are
    starts in unix seconds: of the first and last session of the source, and of the one that it has come to.
    """

    found: int = 0
    copied: int = 0
    known: int = 0
    newer: int = 0
    failed: int = 0
    damaged: int = 0
    removed: int = 0
    reason: str = ""
    first: float = 0
    last: float = 0
    at: float = 0

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


class Imports:
    """Imports into the store of record of ``engine``; between two pages the engine saves what else there is."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def from_store(self, source: str, *, empty: bool = False) -> AsyncIterator[ImportReport]:
        """Bring over what the attached store ``source`` holds, yielding after each page the one report that grows.

        ``empty``: delete from the source what is in the store of record.  Raises PluginError if there is no such
        store, StoreError if one of them fails.
        """
        dispatch, record = self._engine.dispatch, self._ready()
        if source == record:
            raise PluginError(f"{source} is the store of record: name the store that sessions are to come from")
        if source not in dispatch.stores.attached_stores():
            self._engine.registry.info(source)
            raise PluginError(f"{source} does not run as a store; `hl7core plugins enable {source}` switches it on")
        report = ImportReport()
        for newest in (False, True):
            ends = await self._on_store_thread(
                partial(dispatch.stores.load, source, SessionQuery(newest_first=newest, limit=1))
            )
            if not ends:
                yield report
                return
            report.last = ends[0].start_ns / _SECOND
            report.first = report.first or report.last
        after: tuple[datetime, str] | None = None

        def turn() -> int:
            nonlocal after
            page = dispatch.stores.load(source, SessionQuery(limit=_PAGE, after=after))
            if page:
                after = sort_key(page[-1])
            there = self._take([session for session in page if session.id != PROBE_ID], report)
            if empty and there:
                report.removed += len(
                    dispatch.stores.delete(source, there, to_trash=False, deleted_at=self._engine.now())
                )
            return len(page)

        while await self._on_store_thread(turn) == _PAGE:
            yield report
        yield report

    async def from_files(self, paths: Sequence[str]) -> AsyncIterator[ImportReport]:
        """Bring in what the files, or the files in the folders, hold, as ``from_store`` does.

        What was never saved (``read -o jsonl``) is saved like a session that was captured now.  Raises StoreError.
        """
        self._ready()
        report = ImportReport()

        def entries() -> Iterator[Session | SessionRefused]:
            for file in session_files(paths):
                yield from read_sessions(file)

        source = entries()
        while page := await asyncio.to_thread(lambda: list(islice(source, _PAGE))):
            sessions = [entry for entry in page if isinstance(entry, Session) and entry.id != PROBE_ID]
            refused = [entry for entry in page if isinstance(entry, SessionRefused)]
            report.damaged += len(refused)
            if refused:
                report.reason = report.reason or str(refused[0])
            await self._on_store_thread(partial(self._take, sessions, report))
            yield report
        yield report

    def _ready(self) -> str:
        engine = self._engine
        if not engine.settings.core.enable_persistence:
            raise EngineError("nothing is saved while core.enable_persistence is false")
        if engine.record not in engine.dispatch.stores.attached_stores():
            reason = engine.registry.info(engine.record).error if engine.record in engine.registry.names() else ""
            raise StoreError(f"the store {engine.record} does not run{f': {reason}' if reason else ''}")
        return engine.record

    async def _on_store_thread(self, job: Callable[[], Any]) -> Any:
        return await asyncio.wrap_future(self._engine.keeper.submit(job))

    # On the store thread.

    def _take(self, sessions: Sequence[Session], report: ImportReport) -> list[str]:
        """Write what is not there, or is older there; return the ids of what the store of record now has."""
        if not sessions:
            return []
        engine, record = self._engine, self._engine.record
        latest = {session.id: session for session in sessions}
        report.found += len(latest)
        report.at = max(session.start_ns for session in latest.values()) / _SECOND
        held = self._held(latest)
        there: list[str] = []
        fresh: list[Session] = []
        later: list[Session] = []
        for session in latest.values():
            mine = held.get(session.id)
            if mine is None:
                fresh.append(session)
            elif session.first_saved_at is None or _digest(mine) == _digest(session):
                report.known += 1
                there.append(session.id)
            elif age(session) > age(mine):
                later.append(session)
            else:
                report.newer += 1
                there.append(session.id)
        saved = [session for session in fresh if session.first_saved_at is not None]
        copied = self._written(saved, report, replace=False) + self._written(later, report, replace=True)
        copied += self._captured([session for session in fresh if session.first_saved_at is None], report)
        report.copied += len(copied)
        there += copied
        engine.ledger.forget([session.id for session in later])
        engine.ledger.rehoused(there, record)
        engine.ledger.revived(copied)
        return there

    def _held(self, ids: dict[str, Session]) -> dict[str, Session]:
        """Return what the store of record has of ``ids``."""
        query = SessionQuery(ids=tuple(ids), limit=len(ids))
        return {session.id: session for session in self._engine.dispatch.stores.load(self._engine.record, query)}

    def _written(self, sessions: Sequence[Session], report: ImportReport, *, replace: bool) -> list[str]:
        """Write sessions as they are; return the ids of those that read back equal."""
        if not sessions:
            return []
        outcomes = self._engine.dispatch.stores.persist_as_is(self._engine.record, sessions, replace=replace)
        back = self._held({session.id: session for session in sessions})
        good: list[str] = []
        for session, outcome in zip(sessions, outcomes, strict=True):
            if isinstance(outcome, Exception):
                self._failed(report, reason_of(outcome))
            elif session.id not in back or _digest(back[session.id]) != _digest(session):
                self._failed(report, f"session {session.id} does not read back as it was written")
            else:
                good.append(session.id)
        return good

    def _captured(self, sessions: Sequence[Session], report: ImportReport) -> list[str]:
        """Save sessions for the first time; return the ids of those that can be read back."""
        if not sessions:
            return []
        engine = self._engine
        days, now = engine.settings.core.retention_days, engine.now()
        stamped = [stamp(session, now, days, engine.dispatch.destinations()) for session in sessions]
        outcomes = engine.dispatch.stores.persist(engine.record, stamped, replace=False)
        back = self._held({session.id: session for session in sessions})
        good: list[str] = []
        for session, outcome in zip(sessions, outcomes, strict=True):
            if isinstance(outcome, Exception) or session.id not in back:
                reason = reason_of(outcome) if isinstance(outcome, Exception) else f"{session.id} cannot be read back"
                self._failed(report, reason)
            else:
                good.append(session.id)
        return good

    def _failed(self, report: ImportReport, reason: str) -> None:
        report.failed += 1
        report.reason = report.reason or reason


def _digest(session: Session) -> bytes:
    return sha256(session_to_json(at_stored_precision(session))).digest()
