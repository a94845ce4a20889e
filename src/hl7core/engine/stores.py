"""All attached stores and the ledger, read and changed as one.  Runs on the store thread only.

A session is read, changed and deleted in the store that holds it.  If two stores hold the same id, as after an import,
the copy saved last wins; on a tie, the one in the store of record.  A change that is still waiting to be saved is
already visible to readers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

from hl7core.engine.ledger import Ledger
from hl7core.engine.store_jobs import JobCancelled
from hl7core.engine.store_probe import PROBE_ID, remove_probe
from hl7core.errors import StoreError
from hl7core.guard import reason_of
from hl7core.hl7.query import sort_key
from hl7core.model.cleanup import CleanupReport
from hl7core.model.session import Session, SessionQuery
from hl7core.plugin_host.dispatch import Dispatch

__all__ = ["PAGE", "TRASH_PART", "AttachedStores", "age"]

logger = logging.getLogger(__name__)

PAGE: Final = 500
TRASH_PART: Final = 500
"""How many sessions one job removes from the trash."""
_LONG_AGO: Final = datetime(1, 1, 1, tzinfo=UTC)

_Held = dict[str, tuple[Session, str]]


class AttachedStores:
    """Reads and changes what the attached stores and the ledger hold."""

    def __init__(self, dispatch: Dispatch, ledger: Ledger, *, record: Callable[[], str]) -> None:
        self._dispatch = dispatch
        self._ledger = ledger
        self._record = record

    def names(self) -> list[str]:
        """Name the attached stores, the store of record first."""
        names = list(self._dispatch.stores.attached_stores())
        record = self._record()
        return sorted(names, key=lambda name: name != record)

    def load(self, query: SessionQuery) -> list[Session]:
        """Return at most ``query.limit`` matching sessions, stored or still only in memory.

        Raises StoreError if no store answers.
        """
        newer, overriding = self._ledger.newer(query)
        stored = self._stored(query._replace(limit=query.limit + len(overriding)))
        merged = {i: session for i, (session, _) in stored.items() if i not in overriding}
        for session in newer:
            merged.setdefault(session.id, session)
        return sorted(merged.values(), key=sort_key, reverse=query.newest_first)[: query.limit]

    def load_known(self, ids: Sequence[str]) -> None:
        """Tell the ledger what the stores hold of ``ids``, where it does not know yet.  Raises StoreError."""
        unknown = [i for i in ids if i not in self._ledger] + self._ledger.without_base(ids)
        for at in range(0, len(unknown), PAGE):
            part = unknown[at : at + PAGE]
            found = self._stored(SessionQuery(ids=tuple(part), limit=len(part)), all_must_answer=True)
            self._fill(found)
            self._ledger.not_stored(i for i in part if i not in found)

    def load_from_others(self, ids: Sequence[str]) -> None:
        """Tell the ledger what any store holds of ``ids``, so that no session is stored in two of them.

        Does nothing while only one store is attached.  A store that does not answer delays nothing.
        """
        if len(self.names()) < 2:
            return
        for at in range(0, len(ids), PAGE):
            part = ids[at : at + PAGE]
            failures: dict[str, str] = {}
            found = self._newest(SessionQuery(ids=tuple(part), limit=len(part)), failures)
            self._fill(found)
            if not failures:
                self._ledger.not_stored(i for i in part if i not in found)

    def change(self, ids: Sequence[str], how: Callable[[Session], Session]) -> list[str]:
        """Replace each session by what ``how`` returns for it, stored or not; return the ids that were found."""
        found: list[str] = []
        for at in range(0, len(ids), PAGE):  # in pages, so that memory still holds a page when it is changed
            part = ids[at : at + PAGE]
            with self._ledger.pinned(part):
                self.load_known(part)
                found += self._ledger.change(part, how)
        return found

    def delete(self, ids: Sequence[str], *, to_trash: bool, deleted_at: datetime) -> list[str]:
        """Delete sessions from memory and from the stores; return the ids that were deleted.

        ``deleted_at`` is the time the trash records for them.  Every store is asked; then StoreError is raised if one
        did not answer.
        """
        removed: set[str] = set()
        failure: StoreError | None = None
        for store in self.names():
            try:
                removed.update(self._dispatch.stores.delete(store, ids, to_trash, deleted_at))
            except StoreError as error:
                failure = failure or error
        if failure is None:
            removed.update(self._ledger.remove(ids))
        else:
            self._ledger.remove(removed)
            raise failure
        return [session_id for session_id in dict.fromkeys(ids) if session_id in removed]

    def restore(self, ids: Sequence[str], renew: Callable[[Session], Session] | None = None) -> list[str]:
        """Restore sessions from the trash; return the ids that were restored.

        ``renew`` returns a restored session with its new expiry; if that differs, it is saved.
        """
        restored: set[str] = set()
        for store in self.names():
            back = self._dispatch.stores.restore(store, [i for i in ids if i not in restored])
            restored.update(back)
            if renew is not None and back:
                self._renew(store, back, renew)
        self._ledger.undeleted(restored)
        return [session_id for session_id in dict.fromkeys(ids) if session_id in restored]

    def _renew(self, store: str, ids: Sequence[str], renew: Callable[[Session], Session]) -> None:
        try:
            held = self._dispatch.stores.load(store, SessionQuery(ids=tuple(ids), limit=len(ids)))
            changed = [new for session in held if (new := renew(session)) is not session]
            outcomes = self._dispatch.stores.persist_as_is(store, changed, replace=True)
            failures = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        except StoreError as error:
            failures = [error]
        if failures:
            logger.warning("restored sessions keep their old expiry: %s", reason_of(failures[0]))

    def empty_trash(self, before: datetime, limit: int) -> CleanupReport:
        """Permanently delete what went to the trash before ``before``, at most ``limit`` sessions per store.

        Raises StoreError.
        """
        reports = [self._dispatch.stores.empty_trash(store, before, limit) for store in self.names()]
        return CleanupReport(
            deleted=sum(report.deleted for report in reports),
            freed=sum(report.freed for report in reports),
            in_trash=sum(report.in_trash for report in reports),
            failed=sum(report.failed for report in reports),
        )

    def trash(self) -> list[tuple[str, datetime]]:
        """Return the ids in the trash and when each was deleted, oldest first.  Raises StoreError."""
        found = [entry for store in self.names() for entry in self._dispatch.stores.list_trash(store)]
        return sorted(found, key=lambda entry: (entry[1], entry[0]))

    def size(self) -> int:
        """Return the size of all stored sessions in bytes, the trash included.  Raises StoreError."""
        return sum(self._dispatch.stores.store_size(store) for store in self.names())

    def fill(self, limit: int) -> int:
        """Fill the ledger with the newest stored sessions; return how many there were.

        A start never fails because of stored data, so a failure is only logged.
        """
        try:
            found = self._stored(SessionQuery(newest_first=True, limit=limit))
        except StoreError as error:
            logger.warning("the newest stored sessions cannot be loaded into memory: %s", error)
            return 0
        newest = sorted(found.values(), key=lambda pair: sort_key(pair[0]), reverse=True)[:limit]
        self._fill({session.id: (session, store) for session, store in newest})
        return len(newest)

    def remove_probes(self) -> None:
        """Delete the probe sessions that a crash may have left behind."""
        for store in self.names():
            remove_probe(self._dispatch, store)

    def _fill(self, found: _Held) -> None:
        for store in {store for _, store in found.values()}:
            self._ledger.fill([session for session, held in found.values() if held == store], store)

    def _stored(self, query: SessionQuery, *, all_must_answer: bool = False) -> _Held:
        """Return at least the first ``query.limit`` matching sessions, each with the store whose copy wins."""
        failures: dict[str, str] = {}
        found = self._newest(query, failures)
        if failures and (all_must_answer or len(failures) == len(self.names())):
            reasons = "; ".join(f"{store}: {reason}" for store, reason in failures.items())
            raise StoreError(f"stored sessions cannot be loaded ({reasons})")
        return found

    def _newest(self, query: SessionQuery, failures: dict[str, str]) -> _Held:
        """Page through all stores until none can hold more of the first ``query.limit`` sessions."""
        found: _Held = {}
        going = dict.fromkeys(self.names(), query) if query.limit > 0 else {}
        while going:
            fresh: list[tuple[Session, str]] = []
            for store, asked in list(going.items()):
                page = self._load_page(store, asked, failures)
                fresh += [(session, store) for session in page if session.id != PROBE_ID]
                if len(page) < asked.limit:
                    del going[store]
                else:
                    going[store] = asked._replace(after=sort_key(page[-1]))
            found |= self._not_outdated(fresh, failures)
            if len(found) < query.limit:
                continue
            keys = sorted((sort_key(session) for session, _ in found.values()), reverse=query.newest_first)
            last = keys[query.limit - 1]
            for store, asked in list(going.items()):
                key = asked.after or last
                if key <= last if query.newest_first else key >= last:
                    del going[store]
        return found

    def _not_outdated(self, fresh: Sequence[tuple[Session, str]], failures: dict[str, str]) -> _Held:
        """Leave out each copy of which another store holds a later one, whether or not that one matches the query."""
        names = self.names()
        kept: _Held = {}
        for session, store in fresh:  # in the order of ``names``: on a tie the first wins
            known = kept.get(session.id)
            if known is None or age(session) > age(known[0]):
                kept[session.id] = (session, store)
        for place, other in enumerate(names if len(names) > 1 else ()):
            ids = [i for i, (_, store) in kept.items() if store != other]
            for at in range(0, len(ids), PAGE):
                part = tuple(ids[at : at + PAGE])
                for copy in self._load_page(other, SessionQuery(ids=part, limit=len(part)), failures):
                    mine = kept.get(copy.id)
                    if mine and (age(copy), -place) > (age(mine[0]), -names.index(mine[1])):
                        del kept[copy.id]
        return kept

    def _load_page(self, store: str, query: SessionQuery, failures: dict[str, str]) -> Sequence[Session]:
        """Return what ``store`` holds; if it fails, note why in ``failures``, so that the others are still read."""
        if store in failures:
            return ()
        try:
            return self._dispatch.stores.load(store, query) or ()
        except Exception as error:  # the caller decides whether it matters
            if JobCancelled in (type(error), type(error.__cause__)):  # the engine is stopping; the store did not fail
                raise
            failures[store] = reason_of(error)
            logger.warning("store %s cannot load sessions: %s", store, failures[store])
            return ()


def age(session: Session) -> datetime:
    """Return when a copy was saved; a copy without that time counts as the oldest."""
    return session.saved_at or _LONG_AGO
