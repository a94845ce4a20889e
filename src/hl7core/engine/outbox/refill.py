"""Filling the lines: which sessions a destination has still to get, from the store and as they are saved.

The law: a line holds a bounded number of ids; what is pending beyond them stays in the store and is found there when
there is room again.  A search that fails, for whatever reason, is made again later and not at once.
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

__all__ = ["Supply"]

logger = logging.getLogger(__name__)

CAPACITY: Final = 10_000
"""So many ids a line keeps; what is pending beyond them is found in the store when there is room again."""
LOW: Final = 50
"""With fewer that are ready than this, the store is searched for more."""
_AGAIN: Final = 15.0


class Supply:
    """Brings sessions into the lines; ``looked`` is called when a search has ended, well or not."""

    def __init__(
        self,
        records: Records,
        *,
        now: Callable[[], datetime],
        clock: Callable[[], float],
        looked: Callable[[], object],
    ) -> None:
        self._records = records
        self._now = now
        self._clock = clock
        self._looked = looked

    def wanted(self, destination: Destination, now: float) -> bool:
        """Say whether to look for more: there is room, something left to read, and nobody looks already."""
        room = destination.line.ready < LOW and now >= destination.search_at
        return room and not destination.search.over and not destination.searching

    async def look(self, destination: Destination, settings: DestinationSettings) -> None:
        """Read a page of what is pending; ``destination.searching`` was set by whoever calls, and ends here."""
        search = destination.search
        try:
            page = await self._records.load(search.query())
            if search.in_backlog:
                await self._take_up(destination, settings, page)
            else:
                self._line_up(destination, page)
            search.turn_page(page)
        except Hl7coreError as error:
            logger.debug("what is pending for %s cannot be loaded: %s", destination.name, error)
            destination.search_at = self._clock() + _AGAIN
        except Exception as error:  # noqa: BLE001 - a fault of ours must not come again at once, and for ever
            logger.error("looking for what is pending for %s broke: %s", destination.name, describe(error))  # noqa: TRY400
            destination.search_at = self._clock() + _AGAIN
        finally:
            destination.searching = False
            if search.over or destination.line.ready >= LOW or destination.search_at > self._clock():
                destination.looked.set()
            self._looked()

    def arrived(self, destination: Destination, key: Key, next_at: datetime | None) -> None:
        """A session is stored that ``destination`` has still to get; where the line is full it is found later."""
        if len(destination.line) < CAPACITY or key[1] in destination.line:
            destination.line.add(key, self._due(next_at))
        else:
            destination.search.restart()

    def _line_up(self, destination: Destination, page: Iterable[Session]) -> None:
        for session in page:
            delivery = open_at(session, destination.name)
            if delivery is not None and destination.active:
                destination.line.add((session.start_ns // 1000, session.id), self._due(delivery.next_at))

    async def _take_up(self, destination: Destination, settings: DestinationSettings, page: Iterable[Session]) -> None:
        """Make Deliveries for sessions that were stored before the destination became active, or beside the engine."""
        name = destination.name
        keys = {
            session.id: (session.start_ns // 1000, session.id)
            for session in page
            if session.first_saved_at is not None
            and delivery_of(session, name) is None
            and (settings.backlog or session.first_saved_at >= destination.since)
        }
        if keys and destination.active:
            for session_id in await self._records.change(list(keys), partial(_meant_for, name)):
                destination.line.add(keys[session_id], self._clock())

    def _due(self, next_at: datetime | None) -> float:
        """Return the time on our clock for one of the calendar; a calendar that jumped makes nobody wait for long."""
        now = self._clock()
        if next_at is None:
            return now
        return now + min(max(0.0, (next_at - self._now()).total_seconds()), LONGEST_PAUSE)


def _meant_for(name: str, session: Session) -> Session:
    """Return a session that is pending still with a Delivery for the destination ``name``."""
    return with_deliveries(session, [name]) if session.status is DeliveryStatus.PENDING else session
