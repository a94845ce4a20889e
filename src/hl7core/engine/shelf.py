"""The shelf: all attached stores and the ledger, as one.  It runs on the store thread alone.

A session is read from, changed and deleted in the store that holds it; where two hold the same id the store of record
counts.  What memory knows better than a store (a change that waits to be saved) is what a reader sees.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Final

from hl7core.dispatch import Dispatch
from hl7core.engine.ledger import Ledger
from hl7core.engine.match import sort_key
from hl7core.errors import Hl7coreError, StoreError
from hl7core.guard import describe
from hl7core.model.cleanup import CleanupReport
from hl7core.model.session import Session, SessionQuery

__all__ = ["PAGE", "Shelf", "reason_of"]

logger = logging.getLogger(__name__)

PAGE: Final = 500


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
        names = list(self._dispatch.attached_stores())
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
            for store in {store for _, store in found.values()}:
                self._ledger.fill([session for session, held in found.values() if held == store], store)
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

    def delete(self, ids: Sequence[str], *, to_trash: bool) -> list[str]:
        """Remove sessions from memory and from the stores; return the ids that were removed."""
        removed: set[str] = set()
        for store in self.stores():
            removed.update(self._dispatch.delete(store, ids, to_trash=to_trash))
        removed.update(self._ledger.remove(ids))
        return [session_id for session_id in dict.fromkeys(ids) if session_id in removed]

    def restore(self, ids: Sequence[str]) -> list[str]:
        """Bring sessions back from the trash; return the ids that came back."""
        came: set[str] = set()
        for store in self.stores():
            came.update(self._dispatch.restore(store, [i for i in ids if i not in came]))
        self._ledger.revived(came)
        return [session_id for session_id in dict.fromkeys(ids) if session_id in came]

    def empty_trash(self, before: datetime) -> list[CleanupReport]:
        """Throw away for good what went to the trash before that time, in every attached store."""
        return [self._dispatch.empty_trash(store, before) for store in self.stores()]

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
        for store in self.stores():
            self._ledger.fill((session for session, held in newest if held == store), store)
        return len(newest)

    def _stored(self, query: SessionQuery, *, all_must_answer: bool = False) -> dict[str, tuple[Session, str]]:
        """Ask every attached store; the first that holds an id counts."""
        found: dict[str, tuple[Session, str]] = {}
        failures: list[str] = []
        names = self.stores()
        for store in names:
            try:
                sessions: Iterable[Session] = self._dispatch.load(store, query) or ()
            except Exception as error:  # noqa: BLE001 - one store's trouble must not hide what the others hold
                logger.warning("store %s cannot load sessions: %s", store, reason_of(error))
                failures.append(f"{store}: {reason_of(error)}")
                continue
            for session in sessions:
                found.setdefault(session.id, (session, store))
        if failures and (all_must_answer or len(failures) == len(names)):
            raise StoreError(f"stored sessions cannot be loaded ({'; '.join(failures)})")
        return found
