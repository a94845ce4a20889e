"""One cleanup: expired sessions go to the trash, the trash is emptied, and disk use is kept below ``max_disk``.

The law: it works in small steps, so that saves go on in between, and never has more than a page of sessions in memory.
A session still pending for an active destination is kept for the grace period, and never deleted to free disk space.
A failure is counted and does not stop the rest.  Told to stop, it ends between two steps.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import CancelledError
from datetime import datetime, timedelta
from math import ceil
from threading import Event
from typing import Any, Final, TypeVar

from hl7core import (
    CleanupProgress,
    CleanupReport,
    DeliveryStatus,
    EngineError,
    NoticeRaised,
    Runtime,
    Session,
    SessionQuery,
    StoreError,
    session_to_json,
)
from hl7core_plugins.retention.settings import RetentionSettings

__all__ = ["BATCH", "PAGE", "Halted", "Sweep", "ask", "is_awaited", "pages"]

logger = logging.getLogger(__name__)
T = TypeVar("T")

BATCH: Final = 100
PAGE: Final = 500
"""How many sessions are read at once."""
_MEASURE: Final = 1000
"""How many sessions are deleted to free disk space before it is measured, which may look at every file."""
_TRASH_STEPS: Final = 20
_ORDER: Final = (
    DeliveryStatus.SUBMITTED,
    DeliveryStatus.IGNORED,
    DeliveryStatus.PENDING,  # only those that are pending for no active destination
    DeliveryStatus.FAILED,
)
_NOTICE: Final = "retention-disk"
_GRACE: Final = "still pending, within the grace period of {} days"
_UNSENT: Final = "still pending, so not deleted to free disk space"


class Halted(Exception):  # noqa: N818 - named for what has happened
    """The cleanup ends here; the text says why."""


def ask(runtime: Runtime, coroutine: Coroutine[Any, Any, T], stopping: Event) -> T:
    """Return the coroutine's result.  Raises what it raises, and Halted if the engine or the plugin stops meanwhile."""
    future = runtime.call(coroutine)
    while True:
        try:
            return future.result(timeout=0.5)
        except TimeoutError:
            if future.done():
                raise
            if stopping.is_set():
                future.cancel()
                raise Halted("the plugin was stopped") from None
        except (EngineError, CancelledError) as error:
            raise Halted(str(error) or "the engine has stopped") from error


def pages(runtime: Runtime, query: SessionQuery, stopping: Event) -> Iterator[list[Session]]:
    """Yield all matching sessions, ``query.limit`` at a time."""
    while True:
        page = ask(runtime, runtime.sessions(query), stopping)
        if page:
            yield page
        if len(page) < query.limit:
            return
        query = query._replace(after=(page[-1].started_at, page[-1].id))


def is_awaited(session: Session, destinations: Sequence[str]) -> bool:
    """Return whether ``session`` is still pending for one of the active ``destinations``."""
    return not session.ignored and any(
        delivery.status is DeliveryStatus.PENDING and delivery.name in destinations for delivery in session.deliveries
    )


class Sweep:
    """A cleanup at ``now``; ``settings`` returns the settings in force and is called again at every step."""

    def __init__(
        self,
        runtime: Runtime,
        settings: Callable[[], RetentionSettings],
        stopping: Event,
        *,
        now: datetime,
        dry_run: bool,
    ) -> None:
        self._runtime = runtime
        self._settings = settings
        self._stopping = stopping
        self._now = now
        self._dry_run = dry_run
        self._deleted = self._freed = self._failed = self._emptied = self._in_trash = 0
        self._kept: Counter[str] = Counter()
        self._error_logged = False

    def run(self) -> CleanupReport:
        """Clean up and return a report.  Raises StoreError if the sessions cannot be listed."""
        halted = ""
        try:
            self._delete_expired()
            self._empty_trash()
            self._free_disk()
        except Halted as error:
            halted = str(error)
        return CleanupReport(
            deleted=self._deleted,
            freed=self._freed,
            in_trash=self._in_trash,
            kept=tuple((reason, count) for reason, count in self._kept.items() if count),
            failed=self._failed,
            dry_run=self._dry_run,
            emptied=self._emptied,
            halted=halted,
        )

    # Expired sessions.

    def _delete_expired(self) -> None:
        for page in self._pages(SessionQuery(expired_at=self._now, limit=PAGE)):
            days = self._settings().pending_grace_days
            destinations = self._runtime.core().destinations
            going = []
            for session in page:
                over = (session.persisted_until or self._now) + timedelta(days=days)
                if over >= self._now and is_awaited(session, destinations):
                    self._kept[_GRACE.format(days)] += 1
                else:
                    going.append(session)
            for at in range(0, len(going), BATCH):
                self._remove(going[at : at + BATCH], to_trash=True)

    # The trash.

    def _empty_trash(self) -> None:
        self._check_halted()
        before = self._now - timedelta(days=self._settings().trash_days)
        try:
            if self._dry_run:
                entries = self._ask(self._runtime.trash())
                self._emptied = sum(when < before for _, when in entries)
                self._in_trash = len(entries)
            else:
                self._count_emptied(self._ask(self._runtime.empty_trash(before)))
        except StoreError as error:
            self._log_once("the trash cannot be emptied: %s", error)
            self._failed += 1

    def _count_emptied(self, report: CleanupReport) -> None:
        self._emptied += report.deleted
        self._in_trash = report.in_trash
        self._failed += report.failed

    # The limit on disk use.

    def _free_disk(self) -> None:
        bound = int(self._settings().max_disk)
        if not bound:
            self._notice("", resolved=True)
            return
        try:
            size = self._size()
            if self._dry_run:
                size -= self._freed
            elif size > bound:
                size = self._free_trash(size, bound)
            if size > bound:
                size = self._free_sessions(size, bound)
        except StoreError as error:
            self._notice(f"disk use cannot be kept below max_disk: {error}")
            return
        if size <= bound:
            self._notice("", resolved=True)
        elif not self._dry_run:
            self._notice(
                f"the stored sessions use {size} bytes, more than max_disk ({bound}), and none of them may be deleted"
            )

    def _free_trash(self, size: int, bound: int) -> int:
        """Empty the trash early, oldest deletions first, as far as needed; return the remaining size in bytes."""
        times = sorted({when for _, when in self._ask(self._runtime.trash())})
        step = -(-len(times) // _TRASH_STEPS) or 1
        for at in range(0, len(times), step):
            self._check_halted()
            last = times[min(at + step, len(times)) - 1]
            self._count_emptied(self._ask(self._runtime.empty_trash(last + timedelta(milliseconds=1))))
            size = self._size()
            if size <= bound:
                break
        return size

    def _free_sessions(self, size: int, bound: int) -> int:
        """Delete permanently, oldest first per status, until disk use is below ``bound``; return the remaining size.

        Disk use is measured less and less often, but always when half of the excess should be gone.  Each measurement
        corrects ``factor``: how much more disk space a session uses than its JSON.
        """
        measured, since, step = size, 0, _MEASURE
        factor = 1.0
        for status in _ORDER:
            for page in self._pages(SessionQuery(status=(status,), limit=PAGE)):
                destinations = self._runtime.core().destinations
                free = [session for session in page if not is_awaited(session, destinations)]
                self._kept[_UNSENT] += len(page) - len(free)
                while free and size > bound:
                    taken = _enough(free[:BATCH], ceil((size - bound) / factor))
                    free = free[len(taken) :]
                    before = self._freed
                    since += self._remove(taken, to_trash=False)
                    size -= int((self._freed - before) * factor)
                    enough = since >= step or (since >= _MEASURE and (measured - size) * 2 >= measured - bound)
                    if self._dry_run or (size > bound and not enough):
                        continue
                    thought, size = measured - size, self._size()
                    if since and size >= measured:
                        raise StoreError(f"deleting {since} sessions freed no disk space")
                    factor = max(1.0, factor * (measured - size) / thought) if thought else factor
                    measured, since, step = size, 0, step * 2
                if size <= bound:
                    return size
        return size if self._dry_run else self._size()

    # Steps.

    def _remove(self, sessions: Sequence[Session], *, to_trash: bool) -> int:
        """Delete ``sessions``, or only count them; return how many are gone."""
        if not sessions:
            return 0
        self._check_halted()
        sizes = {session.id: len(session_to_json(session)) for session in sessions}
        removed: Sequence[str] = list(sizes)
        if not self._dry_run:
            try:
                removed = self._ask(self._runtime.delete(list(sizes), to_trash=to_trash, deleted_at=self._now))
            except StoreError as error:
                removed = ()
                self._log_once("sessions cannot be deleted: %s", error)
            left = tuple(sizes.keys() - set(removed))
            if left:  # a session that something else deleted is no failure
                self._failed += len(self._ask(self._runtime.sessions(SessionQuery(ids=left, limit=len(left)))))
        self._deleted += len(removed)
        self._freed += sum(sizes[session_id] for session_id in removed)
        self._runtime.publish(CleanupProgress(self._deleted, sum(self._kept.values()), self._dry_run))
        return len(removed)

    def _pages(self, query: SessionQuery) -> Iterator[list[Session]]:
        self._check_halted()
        for page in pages(self._runtime, query, self._stopping):
            yield page
            self._check_halted()

    def _check_halted(self) -> None:
        """Raise Halted if this cleanup should end here."""
        if self._stopping.is_set():
            raise Halted("the plugin was stopped")
        if not self._dry_run and self._settings().dry_run:
            raise Halted("dry_run was switched on")
        if not self._runtime.core().enable_persistence:
            raise Halted("enable_persistence was switched off")

    def _size(self) -> int:
        return self._ask(self._runtime.store_size())

    def _ask(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return ask(self._runtime, coroutine, self._stopping)

    def _notice(self, text: str, *, resolved: bool = False) -> None:
        self._runtime.publish(NoticeRaised(_NOTICE, text or "disk use is below max_disk", resolved))

    def _log_once(self, text: str, error: StoreError) -> None:
        if not self._error_logged:
            self._error_logged = True
            logger.error(text, error)


def _enough(sessions: Sequence[Session], wanted: int) -> list[Session]:
    """Return the first of ``sessions`` that together have ``wanted`` bytes of JSON or more; all if they have fewer."""
    taken = []
    for session in sessions:
        taken.append(session)
        wanted -= len(session_to_json(session))
        if wanted <= 0:
            break
    return taken
