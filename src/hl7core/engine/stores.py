"""The shelf: all attached stores and the ledger, as one.  It runs on the store thread alone.

A session is read from, changed and deleted in the store that holds it.  Where two hold the same id, as after an import,
the copy that was saved last counts, on a tie that of the store of record.  What memory knows better than a store (a
change that waits to be saved) is what a reader sees.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

from hl7core.engine.ledger import Ledger
from hl7core.engine.store_jobs import GivenUp
from hl7core.engine.store_probe import PROBE_ID, sweep
from hl7core.errors import Hl7coreError, StoreError
from hl7core.guard import describe
from hl7core.hl7.query import sort_key
from hl7core.model.cleanup import CleanupReport
from hl7core.model.session import Session, SessionQuery
from hl7core.plugin_host.dispatch import Dispatch

__all__ = ["PAGE", "TRASH_PART", "Shelf", "age", "reason_of"]

logger = logging.getLogger(__name__)

PAGE: Final = 500
TRASH_PART: Final = 500
"""So many sessions leave the trash in one go."""
_LONG_AGO: Final = datetime(1, 1, 1, tzinfo=UTC)

_Held = dict[str, tuple[Session, str]]


def reason_of(error: BaseException) -> str:
    """Say why in words for a person; a foreign exception's text may hold message content, so only its kind is said."""
    if isinstance(error, Hl7coreError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return describe(error)


class Shelf:
    """Reads and changes what the attached stores and the ledger hold."""

    def __init__(self, dispatch: Dispatch, ledger: Ledger, *, record: Callable[[], str]) -> None:
        self._dispatch = dispatch
        self._ledger = ledger
        self._record = record

    def stores(self) -> list[str]:
        """Name the attached stores, the store of record first."""
        names = list(self._dispatch.stores.attached_stores())
        record = self._record()
        return sorted(names, key=lambda name: name != record)

    def load(self, query: SessionQuery) -> list[Session]:
        """Return at most ``query.limit`` sessions that fit, stored or not.  Raises StoreError if no store answers."""
        newer, ruling = self._ledger.newer(query)
        stored = self._stored(query._replace(limit=query.limit + len(ruling)))
        merged = {i: session for i, (session, _) in stored.items() if i not in ruling}
        for session in newer:
            merged.setdefault(session.id, session)
        return sorted(merged.values(), key=sort_key, reverse=query.newest_first)[: query.limit]

    def fetch(self, ids: Sequence[str]) -> None:
        """Make the ledger know what the stores hold of ``ids``, as far as it does not."""
        unknown = [i for i in ids if i not in self._ledger] + self._ledger.unbased(ids)
        for at in range(0, len(unknown), PAGE):
            part = unknown[at : at + PAGE]
            found = self._stored(SessionQuery(ids=tuple(part), limit=len(part)), all_must_answer=True)
            self._fill(found)
            self._ledger.based(i for i in part if i not in found)

    def recall(self, ids: Sequence[str]) -> None:
        """Make the ledger know what other stores hold of ``ids``, lest a session is stored twice.

        With one store that is its own business.  A store that does not answer holds up nothing.
        """
        if len(self.stores()) < 2:
            return
        for at in range(0, len(ids), PAGE):
            part = ids[at : at + PAGE]
            failures: dict[str, str] = {}
            found = self._newest(SessionQuery(ids=tuple(part), limit=len(part)), failures)
            self._fill(found)
            if not failures:
                self._ledger.based(i for i in part if i not in found)

    def change(self, ids: Sequence[str], how: Callable[[Session], Session]) -> list[str]:
        """Change sessions, stored or not; return the ids that were found."""
        found: list[str] = []
        for at in range(0, len(ids), PAGE):  # in parts, so that what one brings to memory is not yet forgotten
            part = ids[at : at + PAGE]
            with self._ledger.keeping(part):
                self.fetch(part)
                found += self._ledger.change(part, how)
        return found

    def delete(self, ids: Sequence[str], *, to_trash: bool, deleted_at: datetime) -> list[str]:
        """Remove sessions from memory and from the stores; return the ids that were removed.

        ``deleted_at`` is the time under which they lie in the trash.  Raises StoreError if a store does not answer,
        once the others have.
        """
        removed: set[str] = set()
        trouble: StoreError | None = None
        for store in self.stores():
            try:
                removed.update(self._dispatch.stores.delete(store, ids, to_trash, deleted_at))
            except StoreError as error:
                trouble = trouble or error
        if trouble is None:
            removed.update(self._ledger.remove(ids))
        else:
            self._ledger.remove(removed)
            raise trouble
        return [session_id for session_id in dict.fromkeys(ids) if session_id in removed]

    def restore(self, ids: Sequence[str], renew: Callable[[Session], Session] | None = None) -> list[str]:
        """Bring sessions back from the trash; return the ids that came back.

        Each that ``renew`` changes is saved as it says.
        """
        came: set[str] = set()
        for store in self.stores():
            back = self._dispatch.stores.restore(store, [i for i in ids if i not in came])
            came.update(back)
            if renew is not None and back:
                self._renew(store, back, renew)
        self._ledger.revived(came)
        return [session_id for session_id in dict.fromkeys(ids) if session_id in came]

    def _renew(self, store: str, ids: Sequence[str], renew: Callable[[Session], Session]) -> None:
        try:
            held = self._dispatch.stores.load(store, SessionQuery(ids=tuple(ids), limit=len(ids)))
            changed = [new for session in held if (new := renew(session)) is not session]
            outcomes = self._dispatch.stores.persist_as_is(store, changed, replace=True)
            troubles = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        except StoreError as error:
            troubles = [error]
        if troubles:
            logger.warning("restored sessions keep the expiry that they had: %s", reason_of(troubles[0]))

    def empty_trash(self, before: datetime, limit: int) -> CleanupReport:
        """Throw away for good what went to the trash of any store before that time, some ``limit`` sessions at once.

        Raises StoreError.
        """
        reports = [self._dispatch.stores.empty_trash(store, before, limit) for store in self.stores()]
        return CleanupReport(
            deleted=sum(report.deleted for report in reports),
            freed=sum(report.freed for report in reports),
            in_trash=sum(report.in_trash for report in reports),
            failed=sum(report.failed for report in reports),
        )

    def trash(self) -> list[tuple[str, datetime]]:
        """Return what is in the trash and since when, oldest first.  Raises StoreError."""
        found = [entry for store in self.stores() for entry in self._dispatch.stores.list_trash(store)]
        return sorted(found, key=lambda entry: (entry[1], entry[0]))

    def size(self) -> int:
        """Return the bytes that the stored sessions take, the trash included.  Raises StoreError."""
        return sum(self._dispatch.stores.store_size(store) for store in self.stores())

    def fill(self, limit: int) -> int:
        """Fill the ledger with the newest stored sessions; return how many there were.

        A start never fails because of stored data, so what cannot be loaded is logged.
        """
        try:
            found = self._stored(SessionQuery(newest_first=True, limit=limit))
        except StoreError as error:
            logger.warning("no stored sessions in memory: %s", error)
            return 0
        newest = sorted(found.values(), key=lambda pair: sort_key(pair[0]), reverse=True)[:limit]
        self._fill({session.id: (session, store) for session, store in newest})
        return len(newest)

    def sweep(self) -> None:
        """Delete what a crash in the middle of a probe has left."""
        for store in self.stores():
            sweep(self._dispatch, store)

    def _fill(self, found: _Held) -> None:
        for store in {store for _, store in found.values()}:
            self._ledger.fill([session for session, held in found.values() if held == store], store)

    def _stored(self, query: SessionQuery, *, all_must_answer: bool = False) -> _Held:
        """Return at least the first ``query.limit`` sessions that fit, each with the store whose copy counts."""
        failures: dict[str, str] = {}
        found = self._newest(query, failures)
        if failures and (all_must_answer or len(failures) == len(self.stores())):
            reasons = "; ".join(f"{store}: {reason}" for store, reason in failures.items())
            raise StoreError(f"stored sessions cannot be loaded ({reasons})")
        return found

    def _newest(self, query: SessionQuery, failures: dict[str, str]) -> _Held:
        """Page through all stores until none can hold any of the first ``query.limit`` any more."""
        found: _Held = {}
        going = dict.fromkeys(self.stores(), query) if query.limit > 0 else {}
        while going:
            fresh: list[tuple[Session, str]] = []
            for store, asked in list(going.items()):
                page = self._asked(store, asked, failures)
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
        """Leave out each copy that another store has a later one of, whether that fits the query or not."""
        names = self.stores()
        kept: _Held = {}
        for session, store in fresh:  # in the order of the stores: the first wins a tie
            known = kept.get(session.id)
            if known is None or age(session) > age(known[0]):
                kept[session.id] = (session, store)
        for place, other in enumerate(names if len(names) > 1 else ()):
            ids = [i for i, (_, store) in kept.items() if store != other]
            for at in range(0, len(ids), PAGE):
                part = tuple(ids[at : at + PAGE])
                for copy in self._asked(other, SessionQuery(ids=part, limit=len(part)), failures):
                    mine = kept.get(copy.id)
                    if mine and (age(copy), -place) > (age(mine[0]), -names.index(mine[1])):
                        del kept[copy.id]
        return kept

    def _asked(self, store: str, query: SessionQuery, failures: dict[str, str]) -> Sequence[Session]:
        """Return what ``store`` has; its trouble is noted, and must not hide what the others hold."""
        if store in failures:
            return ()
        try:
            return self._dispatch.stores.load(store, query) or ()
        except Exception as error:  # noted, and decided upon by who asked
            if GivenUp in (type(error), type(error.__cause__)):  # the engine stops: no trouble of the store's
                raise
            failures[store] = reason_of(error)
            logger.warning("store %s cannot load sessions: %s", store, failures[store])
            return ()


def age(session: Session) -> datetime:
    """Return when a copy was saved; one that does not say counts as the oldest."""
    return session.saved_at or _LONG_AGO
