"""The ledger: the sessions in memory, and the one writer of a session.

Decoding adds, the keeper saves, people change: each under one lock that is held for moments and never over a plugin's
code.  What is to be saved is a *dirty set*, one entry a session, the newest value wins.  A saved session may be
forgotten when memory is full, an unsaved one only past a stated bound, counted and said aloud.  A session decoded again
never resets what became of it: until the ledger has seen what the store holds of an id (its *base*), it saves that id
for the first time with ``replace`` false, and changes it only after taking the base over.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Final, NamedTuple

from hl7core.engine.books import Books, Entry, Limits
from hl7core.engine.session_state import carried, size_of, stamp, with_deliveries
from hl7core.hl7.query import matches
from hl7core.model.finding import Finding
from hl7core.model.session import Session, SessionQuery

__all__ = ["Ledger", "Stamped"]

_TOMBSTONES: Final = 10_000
"""So many deleted ids are remembered, lest a late acknowledgement brings one back."""


class Stamped(NamedTuple):
    """A session as it is to be saved now; ``version`` tells ``saved`` whether it has changed since."""

    session: Session
    replace: bool
    store: str
    version: int


class Ledger(Books):
    """Sessions in memory.  Every method may be called from any thread."""

    def __init__(self, limits: Limits, *, on_lost: Callable[[Sequence[str]], None] = lambda _ids: None) -> None:
        super().__init__(limits)
        self._on_lost = on_lost
        self._deleted: OrderedDict[str, None] = OrderedDict()
        self.sessions = 0
        self.repeated = 0
        self.saved_count = 0

    # What is there.

    def get(self, session_id: str) -> Session | None:
        """Return a session in memory, or None."""
        with self._lock:
            entry = self._entries.get(session_id)
            return entry.session if entry else None

    def newer(self, query: SessionQuery) -> tuple[list[Session], set[str]]:
        """Return the sessions that fit and that no store holds as they are now.

        And the ids of all for which memory counts more than a store: their base is known, or a change waits.
        """
        with self._lock:
            waiting = [e for e in self._entries.values() if e.dirty or not e.stored]
            found = [entry.session for entry in waiting]
            ruling = {entry.session.id for entry in waiting if entry.based or entry.replace}
        return [session for session in found if matches(session, query)], ruling

    # What decoding says.

    def add(self, sessions: Iterable[Session]) -> list[Session]:
        """Take what the decoder ended or changed; return what is news, as it stands now."""
        with self._lock:
            told = [news for session in sessions if (news := self._add(session)) is not None]
            lost = self._make_room()
        if lost:
            self._on_lost(lost)
        return told

    def _add(self, session: Session) -> Session | None:
        entry = self._entries.get(session.id)
        if session.revision:
            if session.id in self._deleted:
                return None
            if entry is not None:
                if entry.session.revision >= session.revision:
                    self.repeated += 1
                    return None
                merged = carried(session, entry.session)
                entry.diagnosed = False
                self._change(entry, merged, dirty=self._limits.saving or entry.stored)
                return merged
        else:
            self.sessions += 1
            self._deleted.pop(session.id, None)
            if entry is not None:
                self.repeated += 1
                told = None if entry.decoded else entry.session
                entry.decoded = True
                return told
        entry = Entry(session, size_of(session), replace=bool(session.revision))
        self._insert(entry, dirty=self._limits.saving)
        return session

    # What the store says.

    def fill(self, sessions: Iterable[Session], store: str) -> None:
        """Take over what ``store`` holds, at the start or because a person asks for it."""
        with self._lock:
            for session in sessions:
                entry = self._entries.get(session.id)
                if entry is None:
                    entry = Entry(session, size_of(session), decoded=False, stored=True, based=True, diagnosed=True)
                    entry.store = store
                    self._insert(entry, dirty=False)
                else:
                    self._rebase(entry, session, store)
            lost = self._make_room()
        if lost:
            self._on_lost(lost)

    def based(self, ids: Iterable[str]) -> None:
        """No store holds these (yet): nothing is to be taken over."""
        with self._lock:
            for session_id in ids:
                entry = self._entries.get(session_id)
                if entry is not None:
                    entry.based = True

    def settled(self, ids: Iterable[str]) -> list[str]:
        """Name those of ``ids`` that need not be saved any more; they are in flight no longer."""
        with self._lock:
            done = [i for i in ids if (e := self._entries.get(i)) is None or not e.dirty]
            for session_id in done:
                entry = self._entries.get(session_id)
                if entry is not None:
                    entry.in_flight = False
            return done

    def forget(self, ids: Iterable[str]) -> None:
        """Forget those of ``ids`` that need not be saved: the store has them newer than memory."""
        with self._lock:
            for session_id in ids:
                entry = self._entries.get(session_id)
                if entry is not None and not entry.dirty:
                    self._forget(session_id)

    def rehoused(self, ids: Iterable[str], store: str) -> None:
        """These are in ``store`` now: what changes of them from here on is saved there."""
        with self._lock:
            for session_id in ids:
                entry = self._entries.get(session_id)
                if entry is not None and entry.stored:
                    entry.store = store

    def unbased(self, ids: Iterable[str], *, changed_only: bool = False) -> list[str]:
        """Name those of ``ids`` whose base is unknown; ``changed_only``: and that need it before they can be saved."""
        with self._lock:
            entries = ((session_id, self._entries.get(session_id)) for session_id in ids)
            return [i for i, e in entries if e is not None and not e.based and (e.replace or not changed_only)]

    def _rebase(self, entry: Entry, stored: Session, store: str) -> None:
        if entry.based:
            return
        entry.based = entry.stored = True
        entry.store = store
        if entry.replace:
            self._value(entry, carried(entry.session, stored))
        else:
            entry.diagnosed = True
            self._value(entry, stored)
            self._settle(entry)

    @contextmanager
    def keeping(self, ids: Iterable[str]) -> Iterator[None]:
        """Let none of ``ids`` be forgotten meanwhile."""
        kept = set(ids)
        with self._lock:
            self._kept |= kept
        try:
            yield
        finally:
            with self._lock:
                self._kept -= kept
                self._make_room()

    # What the keeper asks.

    def undiagnosed(self, ids: Iterable[str]) -> list[Session]:
        """Return those of ``ids`` in which plugins have not yet looked for findings."""
        with self._lock:
            return [e.session for i in ids if (e := self._entries.get(i)) is not None and not e.diagnosed]

    def diagnosed(self, session: Session, findings: Sequence[Finding]) -> None:
        """Add ``findings`` to ``session``, unless it has changed since."""
        with self._lock:
            entry = self._entries.get(session.id)
            if entry is None or entry.session is not session:
                return
            entry.diagnosed = True
            if findings:
                self._value(entry, session._replace(findings=(*session.findings, *findings)))

    def stamp(
        self,
        ids: Iterable[str],
        *,
        now: datetime,
        retention_days: int,
        store: str,
        destinations: Sequence[str],
        attached: Sequence[str] | None = None,
    ) -> list[Stamped]:
        """Return the sessions as they are to be saved at ``now``: in the store that holds them, else in ``store``.

        A store that is not among the ``attached`` ones (None: all are) cannot take them.
        """
        with self._lock:
            entries = [entry for i in ids if (entry := self._entries.get(i)) is not None]
            gone = {entry.store for entry in entries} - {*(attached or ())} if attached is not None else set()
            return [
                Stamped(
                    stamp(entry.session, now, retention_days, destinations),
                    entry.replace,
                    store if entry.store in gone else entry.store or store,
                    entry.version,
                )
                for entry in entries
            ]

    def saved(self, stamped: Stamped) -> None:
        """The store holds ``stamped`` now."""
        with self._lock:
            self.saved_count += 1
            entry = self._entries.get(stamped.session.id)
            if entry is None:
                return
            entry.in_flight = False
            entry.attempts = 0
            entry.next_at = 0.0
            entry.stored = True
            entry.store = stamped.store
            entry.based = entry.based or stamped.replace
            if entry.version == stamped.version:
                self._value(entry, stamped.session)
                self._settle(entry)
            else:
                newer = carried(entry.session, stamped.session, status=False)
                self._value(entry, with_deliveries(newer, [delivery.name for delivery in stamped.session.deliveries]))
            self._make_room()

    # What people ask.

    def change(self, ids: Iterable[str], how: Callable[[Session], Session]) -> list[str]:
        """Replace sessions by ``how`` they should be; return the ids that are in memory.  Their base must be known."""
        found: list[str] = []
        with self._lock:
            for session_id in ids:
                entry = self._entries.get(session_id)
                if entry is None:
                    continue
                found.append(session_id)
                changed = how(entry.session)
                if changed != entry.session:
                    self._change(entry, changed, dirty=self._limits.saving or entry.stored)
        return found

    def remove(self, ids: Iterable[str]) -> list[str]:
        """Forget sessions that are deleted, and keep late acknowledgements from reviving them."""
        removed: list[str] = []
        with self._lock:
            for session_id in ids:
                self._deleted[session_id] = None
                if session_id in self._entries:
                    self._forget(session_id)
                    removed.append(session_id)
            while len(self._deleted) > _TOMBSTONES:
                self._deleted.popitem(last=False)
        return removed

    def revived(self, ids: Iterable[str]) -> None:
        """These came back from the trash."""
        with self._lock:
            for session_id in ids:
                self._deleted.pop(session_id, None)

    def clear(self) -> int:
        """Forget what need not be saved; return how many sessions that were."""
        with self._lock:
            ids = [session_id for _, session_id in self._clean]
            for session_id in ids:
                self._forget(session_id)
            return len(ids)

    def limit(self, limits: Limits) -> None:
        """Take other limits."""
        with self._lock:
            self._limits = limits
            lost = self._make_room()
        if lost:
            self._on_lost(lost)
