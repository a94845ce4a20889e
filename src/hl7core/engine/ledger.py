"""The ledger: the sessions in memory, and the only writer of a session.

Decoding adds sessions, the keeper saves them, people change them: each under one lock, which is held briefly and never
while a plugin's code runs.  What must be saved waits in a queue with one entry per session; the newest value wins.  A
saved session may be forgotten when memory is full; an unsaved one only past a stated limit, counted and reported.

A session that is decoded again never resets its status.  Until the ledger knows what the stores hold of an id (its
*base*), it saves that id for the first time with ``replace`` false, and a change waits until the base is known.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from threading import Lock
from typing import Final, NamedTuple

from hl7core.engine.save_queue import Entry
from hl7core.engine.session_memory import Limits, SessionMemory
from hl7core.engine.session_state import carried, size_of, stamp, with_deliveries
from hl7core.hl7.query import matches, sort_key
from hl7core.model.finding import Finding
from hl7core.model.session import Session, SessionQuery

__all__ = ["Ledger", "Stamped"]

_TOMBSTONES: Final = 10_000
"""How many deleted ids are remembered, so that a late acknowledgement does not bring one back; as many lost ones."""


class Stamped(NamedTuple):
    """A session as it is to be saved now; ``version`` tells ``saved`` whether it has changed since."""

    session: Session
    replace: bool
    store: str
    version: int


class Ledger:
    """Sessions in memory.  Every method may be called from any thread.

    ``on_lost`` is called with the ids of unsaved sessions that were dropped because too many were waiting.
    """

    def __init__(self, limits: Limits, *, on_lost: Callable[[Sequence[str]], None] = lambda _ids: None) -> None:
        self._memory = SessionMemory(limits)
        self._lock = Lock()
        self._on_lost = on_lost
        self._deleted: OrderedDict[str, None] = OrderedDict()
        self._lost_ids: OrderedDict[str, None] = OrderedDict()
        self.sessions = 0
        self.repeated = 0
        self.saved_count = 0
        self.lost = 0

    def __len__(self) -> int:
        return len(self._memory)

    def __contains__(self, session_id: object) -> bool:
        return session_id in self._memory

    # What is in memory.

    @property
    def unsaved(self) -> int:
        """How many sessions wait to be saved."""
        return len(self._memory.queue)

    @property
    def pressed(self) -> bool:
        """Whether so much waits to be saved that sources which can wait should."""
        return self._memory.pressed

    @property
    def filled(self) -> float:
        """Which share of what may wait to be saved does wait, 0 to 1 (more where nothing is dropped)."""
        return self._memory.filled

    def waiting(self, ids: Iterable[str]) -> set[str]:
        """Return those of ``ids`` that wait to be saved."""
        with self._lock:
            return {entry.session.id for entry in self._memory.entries(ids) if entry.dirty}

    def lost_among(self, ids: Iterable[str]) -> set[str]:
        """Return those of ``ids`` that were dropped unsaved, as far back as is remembered."""
        with self._lock:
            return {session_id for session_id in ids if session_id in self._lost_ids}

    def unsaved_ids(self) -> list[str]:
        """Return the ids of the sessions that wait to be saved, the oldest change first."""
        with self._lock:
            return list(self._memory.queue)

    def get(self, session_id: str) -> Session | None:
        """Return a session in memory, or None."""
        with self._lock:
            entry = self._memory.get(session_id)
            return entry.session if entry else None

    def matching(self, query: SessionQuery) -> list[Session]:
        """Return the sessions in memory that match ``query``, in its order and at most ``query.limit``."""
        with self._lock:
            found = [entry.session for entry in self._memory.all()]
        found = [session for session in found if matches(session, query)]
        return sorted(found, key=sort_key, reverse=query.newest_first)[: query.limit]

    def newer(self, query: SessionQuery) -> tuple[list[Session], set[str]]:
        """Return the matching sessions that no store holds as they are now.

        Also returns the ids for which memory overrides every store, because their base is known or they were changed.
        """
        with self._lock:
            waiting = self._memory.not_as_stored()
            found = [entry.session for entry in waiting]
            overriding = {entry.session.id for entry in waiting if entry.based or entry.replace}
        return [session for session in found if matches(session, query)], overriding

    def limit(self, limits: Limits) -> None:
        """Keep within other limits from now on."""
        with self._lock:
            self._memory.limits = limits
            lost = self._make_room()
        self._report(lost)

    def clear(self) -> int:
        """Forget what need not be saved; return how many sessions that were."""
        with self._lock:
            ids = self._memory.saved_ids()
            for session_id in ids:
                self._memory.forget(session_id)
            return len(ids)

    @contextmanager
    def pinned(self, ids: Iterable[str]) -> Iterator[None]:
        """Forget none of ``ids`` meanwhile."""
        pinned = set(ids)
        with self._lock:
            self._memory.pinned |= pinned
        try:
            yield
        finally:
            with self._lock:
                self._memory.pinned -= pinned
                lost = self._make_room()
            self._report(lost)

    def _make_room(self) -> list[str]:
        lost = self._memory.make_room()
        self.lost += len(lost)
        self._lost_ids.update(dict.fromkeys(lost))
        while len(self._lost_ids) > _TOMBSTONES:
            self._lost_ids.popitem(last=False)
        return lost

    def _report(self, lost: Sequence[str]) -> None:
        if lost:
            self._on_lost(lost)

    # What the decoder found.

    def add(self, sessions: Iterable[Session]) -> list[Session]:
        """Add sessions that ended or changed; return those that are news, as they stand now."""
        with self._lock:
            news = [now for session in sessions if (now := self._add(session)) is not None]
            lost = self._make_room()
        self._report(lost)
        return news

    def _add(self, session: Session) -> Session | None:
        memory = self._memory
        entry = memory.get(session.id)
        if session.revision:
            if session.id in self._deleted:
                return None
            if entry is not None:
                if entry.session.revision >= session.revision:
                    self.repeated += 1
                    return None
                merged = carried(session, entry.session)
                entry.diagnosed = False
                memory.change(entry, merged, dirty=memory.limits.saving or entry.stored)
                return merged
        else:
            self.sessions += 1
            self._deleted.pop(session.id, None)
            if entry is not None:
                self.repeated += 1
                news = None if entry.decoded else entry.session
                entry.decoded = True
                return news
        entry = Entry(session, size_of(session), replace=bool(session.revision))
        memory.insert(entry, dirty=memory.limits.saving)
        return session

    # What the stores hold.

    def fill(self, sessions: Iterable[Session], store: str) -> None:
        """Load what ``store`` holds, at the start or because a person asks for it."""
        with self._lock:
            for session in sessions:
                entry = self._memory.get(session.id)
                if entry is None:
                    entry = Entry(session, size_of(session), decoded=False, stored=True, based=True, diagnosed=True)
                    entry.store = store
                    self._memory.insert(entry, dirty=False)
                else:
                    self._add_base(entry, session, store)
            lost = self._make_room()
        self._report(lost)

    def _add_base(self, entry: Entry, stored: Session, store: str) -> None:
        if entry.based:
            return
        entry.based = entry.stored = True
        entry.store = store
        if entry.replace:
            self._memory.replace(entry, carried(entry.session, stored))
        else:
            entry.diagnosed = True
            self._memory.replace(entry, stored)
            self._memory.mark_saved(entry)

    def not_stored(self, ids: Iterable[str]) -> None:
        """No store holds ``ids`` yet, so their base is known to be empty."""
        with self._lock:
            for entry in self._memory.entries(ids):
                entry.based = True

    def without_base(self, ids: Iterable[str], *, changed_only: bool = False) -> list[str]:
        """Return those of ``ids`` whose base is unknown; ``changed_only``: those that need it before they are saved."""
        with self._lock:
            return [
                entry.session.id
                for entry in self._memory.entries(ids)
                if not entry.based and (entry.replace or not changed_only)
            ]

    def moved_to(self, store: str, ids: Iterable[str]) -> None:
        """``ids`` are in ``store`` now: further changes of them are saved there."""
        with self._lock:
            for entry in self._memory.entries(ids):
                if entry.stored:
                    entry.store = store

    def forget(self, ids: Iterable[str]) -> None:
        """Forget those of ``ids`` that need not be saved, because the store has them newer than memory."""
        with self._lock:
            for session_id in ids:
                entry = self._memory.get(session_id)
                if entry is not None and not entry.dirty:
                    self._memory.forget(session_id)

    # What the keeper saves.

    def claim_due(self, limit: int, now: float) -> list[str]:
        """Return at most ``limit`` ids that are due to be saved at ``now``; they are in flight until reported on.

        That is with ``saved``, ``failed``, ``release`` or ``already_saved``.
        """
        with self._lock:
            return self._memory.queue.claim(limit, now) if self._memory.limits.saving else []

    def next_due(self) -> float | None:
        """Return the monotonic time at which the next session is due to be saved, None if there is none."""
        with self._lock:
            return self._memory.queue.next_due() if self._memory.limits.saving else None

    def all_due(self) -> None:
        """The store works again: everything that waits is due now."""
        with self._lock:
            self._memory.queue.all_due()

    def already_saved(self, ids: Iterable[str]) -> list[str]:
        """Return those of ``ids`` that need not be saved any more; they are no longer in flight."""
        with self._lock:
            done = []
            for session_id in ids:
                entry = self._memory.get(session_id)
                if entry is None or not entry.dirty:
                    done.append(session_id)
                    if entry is not None:
                        entry.in_flight = False
            return done

    def release(self, ids: Iterable[str]) -> None:
        """``ids`` were claimed but not tried: they are due as before."""
        with self._lock:
            for entry in self._memory.entries(ids):
                entry.in_flight = False

    def failed(self, session_id: str, now: float) -> int:
        """Saving ``session_id`` failed: it is due again later; return how often it has failed in a row."""
        with self._lock:
            entry = self._memory.get(session_id)
            return 0 if entry is None else entry.save_failed(now)

    def undiagnosed(self, ids: Iterable[str]) -> list[Session]:
        """Return those of ``ids`` in which plugins have not yet looked for findings."""
        with self._lock:
            return [entry.session for entry in self._memory.entries(ids) if not entry.diagnosed]

    def diagnosed(self, session: Session, findings: Sequence[Finding]) -> None:
        """Add ``findings`` to ``session``, unless it has changed since."""
        with self._lock:
            entry = self._memory.get(session.id)
            if entry is None or entry.session is not session:
                return
            entry.diagnosed = True
            if findings:
                self._memory.replace(entry, session._replace(findings=(*session.findings, *findings)))

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

        A store that is not one of the ``attached`` (None: all are) cannot save, so ``store`` does instead.
        """
        with self._lock:
            entries = self._memory.entries(ids)
            gone = {entry.store for entry in entries} - {*attached} if attached is not None else set()
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
            entry = self._memory.get(stamped.session.id)
            if entry is None:
                return
            entry.in_flight = False
            entry.due_at_once()
            entry.stored = True
            entry.store = stamped.store
            entry.based = entry.based or stamped.replace
            if entry.version == stamped.version:
                self._memory.replace(entry, stamped.session)
                self._memory.mark_saved(entry)
            else:
                newer = carried(entry.session, stamped.session, status=False)
                names = [delivery.name for delivery in stamped.session.deliveries]
                self._memory.replace(entry, with_deliveries(newer, names))
            lost = self._make_room()
        self._report(lost)

    # What people ask for.

    def change(self, ids: Iterable[str], how: Callable[[Session], Session]) -> list[str]:
        """Replace each session by what ``how`` returns for it; return the ids that are in memory.

        The base of ``ids`` must be known.
        """
        memory = self._memory
        with self._lock:
            entries = memory.entries(ids)
            for entry in entries:
                changed = how(entry.session)
                if changed != entry.session:
                    memory.change(entry, changed, dirty=memory.limits.saving or entry.stored)
            return [entry.session.id for entry in entries]

    def remove(self, ids: Iterable[str]) -> list[str]:
        """Forget deleted sessions, also against late acknowledgements; return the ids that were in memory."""
        removed: list[str] = []
        with self._lock:
            for session_id in ids:
                self._deleted[session_id] = None
                if session_id in self._memory:
                    self._memory.forget(session_id)
                    removed.append(session_id)
            while len(self._deleted) > _TOMBSTONES:
                self._deleted.popitem(last=False)
        return removed

    def undeleted(self, ids: Iterable[str]) -> None:
        """``ids`` were restored from the trash, or imported again."""
        with self._lock:
            for session_id in ids:
                self._deleted.pop(session_id, None)
