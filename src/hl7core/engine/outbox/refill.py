"""Refilling the queues: brings sessions that are pending for a destination into its queue.

They come from the store, page by page, and from the keeper as they are saved.  A queue holds a limited number of ids;
what is pending beyond them stays in the store and is found there when there is room again.  A search that fails, for
whatever reason, is repeated later and not at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from typing import Final

from hl7core.contract import DestinationSettings
from hl7core.engine.outbox.attempt import Records
from hl7core.engine.outbox.destination import Destination
from hl7core.engine.outbox.queue import Key
from hl7core.engine.outbox.rules import LONGEST_PAUSE, delivery_of, open_at
from hl7core.engine.session_state import with_deliveries
from hl7core.errors import Hl7coreError
from hl7core.guard import describe
from hl7core.model.delivery import DeliveryStatus
from hl7core.model.session import Session

__all__ = ["Refill"]

logger = logging.getLogger(__name__)

CAPACITY: Final = 10_000
"""How many ids a queue holds; what is pending beyond them is found in the store later."""
LOW: Final = 50
"""The store is searched for more while fewer sessions than this are due."""
_AGAIN: Final = 15.0


class Refill:
    """Fills queues; ``searched`` is called when a search has read a page or failed."""

    def __init__(
        self,
        records: Records,
        *,
        now: Callable[[], datetime],
        clock: Callable[[], float],
        searched: Callable[[], object],
    ) -> None:
        self._records = records
        self._now = now
        self._clock = clock
        self._searched = searched

    def wanted(self, destination: Destination, now: float) -> bool:
        """Return whether to search for more: there is room, more to read, and no search is running."""
        room = destination.queue.ready < LOW and now >= destination.search_at
        return room and not destination.search.over and not destination.searching

    async def read_page(self, destination: Destination, settings: DestinationSettings) -> None:
        """Read the next page of what is pending.  The caller sets ``destination.searching``; it is cleared here."""
        search = destination.search
        try:
            page = await self._records.load(search.query())
            if search.in_backlog:
                await self._add_backlog(destination, settings, page)
            else:
                self._add_pending(destination, page)
            search.advance(page)
        except Hl7coreError as error:
            logger.debug("sessions pending for %s cannot be loaded: %s", destination.name, error)
            destination.search_at = self._clock() + _AGAIN
        except Exception as error:  # noqa: BLE001 - a fault of ours must not repeat at once, over and over
            logger.error("searching for sessions pending for %s failed: %s", destination.name, describe(error))  # noqa: TRY400
            destination.search_at = self._clock() + _AGAIN
        finally:
            destination.searching = False
            if search.over or destination.queue.ready >= LOW or destination.search_at > self._clock():
                destination.searched.set()
            self._searched()

    def add_saved(self, destination: Destination, key: Key, next_at: datetime | None) -> None:
        """Add a session that was saved just now; if the queue is full, a later search finds it."""
        if len(destination.queue) < CAPACITY or key[1] in destination.queue:
            destination.queue.add(key, self._due(next_at))
        else:
            destination.search.restart()

    def _add_pending(self, destination: Destination, page: Iterable[Session]) -> None:
        for session in page:
            delivery = open_at(session, destination.name)
            if delivery is not None and destination.active:
                destination.queue.add((session.start_ns // 1000, session.id), self._due(delivery.next_at))

    async def _add_backlog(
        self, destination: Destination, settings: DestinationSettings, page: Iterable[Session]
    ) -> None:
        """Make Deliveries for sessions stored before the destination was active, or by another process."""
        name = destination.name
        keys = {
            session.id: (session.start_ns // 1000, session.id)
            for session in page
            if session.first_saved_at is not None
            and delivery_of(session, name) is None
            and (settings.backlog or session.first_saved_at >= destination.since)
        }
        if keys and destination.active:
            for session_id in await self._records.change(list(keys), partial(_with_delivery, name)):
                destination.queue.add(keys[session_id], self._clock())

    def _due(self, next_at: datetime | None) -> float:
        """Return the monotonic time for a wall-clock time, at most ``LONGEST_PAUSE`` ahead: the wall clock may jump."""
        now = self._clock()
        if next_at is None:
            return now
        return now + min(max(0.0, (next_at - self._now()).total_seconds()), LONGEST_PAUSE)


def _with_delivery(name: str, session: Session) -> Session:
    """Return ``session`` with a Delivery for the destination ``name``, if it is still pending."""
    return with_deliveries(session, [name]) if session.status is DeliveryStatus.PENDING else session
