"""Imports: copies sessions from another store, or from files, into the store of record.

A session that was saved before is written unchanged (first save, expiry, status and deliveries), and read back and
compared before it counts as copied.  A session that the store of record already holds is kept, unless the other copy
was saved later.  So an import can be interrupted and repeated at any time.  The source is only read, unless it is to
be emptied: then each session is deleted from it once it is known to be in the store of record.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from hashlib import sha256
from itertools import islice
from typing import Any, Final

from hl7core.engine.parts import Parts
from hl7core.engine.session_files import read_sessions, session_files
from hl7core.engine.session_state import stamp
from hl7core.engine.store_probe import PROBE_ID
from hl7core.engine.stores import age
from hl7core.errors import EngineError, PluginError, SessionRefused, StoreError
from hl7core.guard import reason_of
from hl7core.hl7.query import sort_key
from hl7core.model.schema import at_stored_precision, session_to_json
from hl7core.model.session import Session, SessionQuery

__all__ = ["ImportReport", "Imports"]

_PAGE: Final = 100
_SECOND: Final = 1_000_000_000


@dataclass(slots=True)
class ImportReport:
    """How far an import has come.

    Of the ``found`` sessions, ``copied`` were written and read back equal, ``known`` were there already, ``newer`` are
    kept because the store of record has a later copy, ``failed`` could not be written (``reason`` is the first reason).
    ``damaged`` counts file entries that are not sessions, ``removed`` the sessions deleted from the source.  ``first``,
    ``last`` and ``at`` are start times in unix seconds: of the source's first and last session, and of the latest one
    imported so far.
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
        """Return the report as a JSON object."""
        return asdict(self)


class Imports:
    """Imports into the store of record.  Between two pages the store thread saves whatever else is waiting."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def from_store(self, source: str, *, empty: bool = False) -> AsyncIterator[ImportReport]:
        """Import what the attached store ``source`` holds; yield the same, growing report after each page.

        With ``empty``, delete from the source what the store of record has.  Raises PluginError if there is no such
        store, StoreError if one of the two fails.
        """
        dispatch, record = self._parts.dispatch, self._ready()
        if source == record:
            raise PluginError(f"{source} is the store of record; name the store to import from")
        if source not in dispatch.stores.attached_stores():
            self._parts.registry.info(source)
            raise PluginError(f"{source} is not running as a store; enable it with `hl7core plugins enable {source}`")
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

        def import_page() -> int:
            nonlocal after
            page = dispatch.stores.load(source, SessionQuery(limit=_PAGE, after=after))
            if page:
                after = sort_key(page[-1])
            there = self._import([session for session in page if session.id != PROBE_ID], report)
            if empty and there:
                report.removed += len(
                    dispatch.stores.delete(source, there, to_trash=False, deleted_at=self._parts.now())
                )
            return len(page)

        while await self._on_store_thread(import_page) == _PAGE:
            yield report
        yield report

    async def from_files(self, paths: Sequence[str]) -> AsyncIterator[ImportReport]:
        """Import the sessions of files, and of all files in folders, as ``from_store`` does.

        Sessions that were never saved (from ``read -o jsonl``) are saved as if captured now.  Raises StoreError.
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
            await self._on_store_thread(partial(self._import, sessions, report))
            yield report
        yield report

    def _ready(self) -> str:
        """Return the store of record.  Raises EngineError or StoreError if nothing can be saved in it now."""
        parts = self._parts
        settings, record, _ = parts.in_force()
        if not settings.core.enable_persistence:
            raise EngineError("nothing is saved while core.enable_persistence is false")
        self._check_redactors()
        if record not in parts.dispatch.stores.attached_stores():
            reason = parts.registry.info(record).error if record in parts.registry.names() else ""
            raise StoreError(f"the store {record} is not running{f': {reason}' if reason else ''}")
        return record

    def _check_redactors(self) -> None:
        """Raise StoreError if nothing may be saved, because a plugin that changes what is saved does not run."""
        missing = self._parts.dispatch.redactors.missing()
        if missing is not None:
            raise StoreError(str(missing))

    async def _on_store_thread(self, job: Callable[[], Any]) -> Any:
        return await asyncio.wrap_future(self._parts.keeper.submit(job))

    # On the store thread.

    def _import(self, sessions: Sequence[Session], report: ImportReport) -> list[str]:
        """Write what the store of record lacks or has older; return the ids that it holds afterwards."""
        if not sessions:
            return []
        self._check_redactors()
        ledger, record = self._parts.ledger, self._parts.in_force().record
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
        ledger.forget([session.id for session in later])
        ledger.moved_to(record, there)
        ledger.undeleted(copied)
        return there

    def _held(self, ids: dict[str, Session]) -> dict[str, Session]:
        """Return those of ``ids`` that the store of record holds."""
        query = SessionQuery(ids=tuple(ids), limit=len(ids))
        return {
            session.id: session for session in self._parts.dispatch.stores.load(self._parts.in_force().record, query)
        }

    def _written(self, sessions: Sequence[Session], report: ImportReport, *, replace: bool) -> list[str]:
        """Write sessions unchanged; return the ids of those that read back equal."""
        if not sessions:
            return []
        outcomes = self._parts.dispatch.stores.persist_as_is(self._parts.in_force().record, sessions, replace=replace)
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
        """Save sessions for the first time; return the ids of those that can be read back afterwards."""
        if not sessions:
            return []
        parts = self._parts
        settings, record, _ = parts.in_force()
        days, now = settings.core.retention_days, parts.now()
        stamped = [stamp(session, now, days, parts.dispatch.destinations()) for session in sessions]
        outcomes = parts.dispatch.stores.persist(record, stamped, replace=False)
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
