"""The keeper: the store thread.  Everything that touches a store runs here, one job after the other.

It saves what is due in the ledger, in groups.  A session counts as saved when the store has returned, never before.
A save that fails is repeated with growing waits.  A session that fails alone never delays the others; when the store
fails as a whole it is tried with one session at a time, so that an outage costs little and its end is noticed at once.
A job that only reads may take long: it gives way to sessions that wait to be saved.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import datetime
from threading import Condition, Thread
from typing import Final, NamedTuple, TypeVar

from hl7core.engine.ledger import Ledger, Stamped
from hl7core.engine.news import News
from hl7core.engine.store_jobs import StoreJobs
from hl7core.engine.stores import AttachedStores
from hl7core.errors import EngineError, SessionRefused
from hl7core.guard import describe, reason_of
from hl7core.model.events import SessionSaved, SessionUnsaved
from hl7core.model.session import Session
from hl7core.plugin_host.dispatch import Dispatch
from hl7core.plugin_host.helper_thread import on_asking_thread

__all__ = ["Keeper", "Policy"]

logger = logging.getLogger(__name__)
T = TypeVar("T")

_GROUP: Final = 64
_GATHER: Final = 0.02
_IDLE: Final = 1.0
_FIRST_WAIT: Final = 0.5
_LONGEST_WAIT: Final = 30.0
_DRAIN_PAUSE: Final = 0.2


class Policy(NamedTuple):
    """What applies to the next save: the store of record, how long sessions are kept, which destinations get them.

    ``attached`` are the running stores; None: not known.
    """

    store: str
    retention_days: int
    destinations: tuple[str, ...] = ()
    attached: tuple[str, ...] | None = None


class Keeper:
    """Owns the store thread.  ``wake`` it when a session must be saved; ``submit`` other work with stores.

    ``on_saved`` is called on the store thread with the sessions that a store holds from now on.
    """

    def __init__(
        self,
        ledger: Ledger,
        dispatch: Dispatch,
        stores: AttachedStores,
        news: News,
        *,
        policy: Callable[[], Policy],
        now: Callable[[], datetime],
        on_saved: Callable[[Sequence[Session]], None] = lambda _sessions: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._dispatch = dispatch
        self._stores = stores
        self._news = news
        self._policy = policy
        self._now = now
        self._on_saved = on_saved
        self._monotonic = monotonic
        self._changed = Condition()
        self._jobs = StoreJobs(self._changed, monotonic)
        self._group = _GROUP
        self._failed_in_a_row: set[str] = set()
        self._failing: set[str] = set()
        self._waits = 0
        self._gate = 0.0
        self._drain_until: float | None = None
        self._thread: Thread | None = None

    @property
    def down(self) -> bool:
        """Whether the store fails as a whole."""
        return bool(self._waits)

    @property
    def stuck(self) -> bool:
        """Whether sessions are waiting because saving them failed."""
        return bool(self._failing)

    def start(self) -> None:
        """Start the thread."""
        self._thread = Thread(target=self._run, name="hl7core-keeper", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """A session must be saved, or limits have changed."""
        with self._changed:
            self._changed.notify_all()

    def submit(self, job: Callable[[], T], *, gives_way: bool = False) -> Future[T]:
        """Run ``job`` on the store thread, after those submitted before; return the future of its result.

        ``gives_way``: sessions may be saved while it runs, which suits a job that only reads.
        """
        return self._jobs.submit(job, gives_way=gives_way)

    def give_way(self) -> None:
        """Save waiting sessions in the middle of the current job, if it gives way and has run long enough.

        For a store's hook while the keeper waits for it; elsewhere, and in other jobs, it does nothing.  Raises
        EngineError if the keeper is stopping.
        """
        if self._jobs.interruptible:
            on_asking_thread(self._give_way)

    def _give_way(self) -> None:
        self._jobs.give_way(self._save_guarded, stopping=self._drain_until is not None)

    def retry(self) -> None:
        """Try at once what could not be saved: something has changed for the better."""
        self._gate = 0.0
        self._ledger.all_due()
        self.wake()

    def stop(self, timeout: float) -> list[str]:
        """Save what is waiting within ``timeout`` seconds, end the thread; return the ids that could not be saved."""
        if self._thread is not None:
            with self._changed:
                self._drain_until = self._monotonic() + timeout
                self._gate = 0.0
                self._ledger.all_due()
                self._changed.notify_all()
            self._thread.join(timeout + _DRAIN_PAUSE)
            self._jobs.close()
        unsaved = self._ledger.unsaved_ids()
        if unsaved:
            logger.error("%d sessions could not be saved before the stop: %s", len(unsaved), ", ".join(unsaved))
        return unsaved

    def _run(self) -> None:
        self._jobs.start_run()
        while True:
            if self._jobs.run_next() and not self._jobs.spent:
                continue
            self._jobs.start_run()
            busy = self._save_guarded()
            if self._drain_until is not None and self._drained():
                break
            if not busy:
                self._wait()
        self._jobs.close()

    def _drained(self) -> bool:
        with self._changed:
            if self._jobs:
                return False
        over = self._drain_until is not None and self._monotonic() >= self._drain_until
        return over or not self._ledger.unsaved or self._ledger.next_due() is None

    def _wait(self) -> None:
        """Wait for work, or until a session is due again."""
        now = self._monotonic()
        due = self._ledger.next_due()
        until = now + _IDLE if due is None else min(now + _IDLE, max(due, self._gate))
        draining = self._drain_until is not None
        with self._changed:
            if not self._jobs and (until > now or draining):
                self._changed.wait(_DRAIN_PAUSE if draining else until - now)
        if draining:
            self._gate = 0.0
            self._ledger.all_due()

    def _gather(self) -> None:
        """Give a group a moment to fill, so that one flush to disk serves many sessions."""
        if self._drain_until is None and self._group == _GROUP:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._jobs) or self._ledger.unsaved >= _GROUP, _GATHER)

    def _save_guarded(self) -> bool:
        """Save one group; return false if nothing is due, or if saving failed through a fault of ours."""
        try:
            return self._save_some()
        except Exception as error:  # noqa: BLE001 - a fault of ours must not end the thread
            logger.error("saving failed (%s) and is tried again", describe(error))  # noqa: TRY400
            self._gate = self._monotonic() + _FIRST_WAIT
            return False

    def _save_some(self) -> bool:
        """Save one group; return false if nothing is due."""
        if self._monotonic() < self._gate or not self._ledger.unsaved:
            return False
        if 0 < self._ledger.unsaved < _GROUP:
            self._gather()
        ids = self._ledger.claim_due(self._group, self._monotonic())
        if not ids:
            return False
        try:
            stamped = self._prepare(ids)
        except Exception as error:  # noqa: BLE001 - the store cannot be asked what it holds
            self._record([(session_id, error) for session_id in ids], [])
            return True
        except BaseException:
            self._ledger.release(ids)
            raise
        failed: list[tuple[str, Exception]] = []
        saved: list[tuple[Stamped, str]] = []
        for store, replace in dict.fromkeys((s.store, s.replace) for s in stamped):
            group = [s for s in stamped if (s.store, s.replace) == (store, replace)]
            for one, result in zip(group, self._persist(store, replace, group), strict=True):
                if isinstance(result, Exception):
                    failed.append((one.session.id, result))
                else:
                    saved.append((one, result))
        self._record(failed, saved)
        return True

    def _prepare(self, ids: Sequence[str]) -> list[Stamped]:
        """Look up what the stores hold of ``ids``, ask plugins for findings, and return what is to be saved."""
        self._stores.load_from_others(self._ledger.without_base(ids))
        changed = self._ledger.without_base(ids, changed_only=True)
        if changed:
            self._stores.load_known(changed)
        done = set(self._ledger.already_saved(ids))  # another store holds them
        ids = [session_id for session_id in ids if session_id not in done]
        for session in self._ledger.undiagnosed(ids):
            self._ledger.diagnosed(session, tuple(self._dispatch.findings(session)))
        policy = self._policy()
        return self._ledger.stamp(
            ids,
            now=self._now(),
            retention_days=policy.retention_days,
            store=policy.store,
            destinations=policy.destinations,
            attached=policy.attached,
        )

    def _persist(self, store: str, replace: bool, group: Sequence[Stamped]) -> list[str | Exception]:
        """Save a group; return for each session where it is stored, or why it is not."""
        try:
            results = self._dispatch.stores.persist(store, [one.session for one in group], replace=replace)
        except Exception as error:  # noqa: BLE001 - each of them failed
            return [error] * len(group)
        if len(results) != len(group):
            return [EngineError(f"store {store} answered {len(results)} of {len(group)} sessions")] * len(group)
        return results

    def _record(self, failed: Sequence[tuple[str, Exception]], saved: Sequence[tuple[Stamped, str]]) -> None:
        """Record how saving a group went, and decide when to try again."""
        for stamped, location in saved:
            self._ledger.saved(stamped)
            self._failing.discard(stamped.session.id)
            logger.info("saved %s at %s", stamped.session.id, location)
            self._news.event(SessionSaved(stamped.session.id, stamped.store, location))
        if saved:
            self._on_saved([stamped.session for stamped, _ in saved])
        now = self._monotonic()
        for session_id, error in failed:
            self._record_failure(session_id, error, now)
        if saved:
            self._group = min(_GROUP, self._group * 2) if not failed else self._group
            self._failed_in_a_row.clear()
            if self._waits:
                self._ledger.all_due()
            self._waits = 0
            self._gate = 0.0
            if self._failing and not failed:
                self._failing.intersection_update(self._ledger.unsaved_ids())
        elif failed:
            self._group = 1
            self._failed_in_a_row.update(i for i, error in failed if not isinstance(error, SessionRefused))
            if len(self._failed_in_a_row) > 1:
                self._gate = now + min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** min(self._waits, 10))
                self._waits += 1
        if saved and not failed and not self._failing:
            self._news.resolve("store", "sessions are saved again")
            self._news.resolve("refused", "the store refuses no session any more")

    def _record_failure(self, session_id: str, error: Exception, now: float) -> None:
        attempts = self._ledger.failed(session_id, now)
        if not attempts:
            return
        reason = reason_of(error)
        if session_id not in self._failing:
            self._failing.add(session_id)
            self._news.event(SessionUnsaved(session_id, reason, self._ledger.unsaved))
            logger.warning("session %s cannot be saved (%s); it stays in memory and is tried again", session_id, reason)
        if isinstance(error, SessionRefused):
            self._news.notice("refused", f"the store refused a session: {reason}")
        elif not any(key == "store" for key, _ in self._news.notices):
            self._news.notice("store", f"sessions cannot be saved and are kept in memory: {reason}")
