"""Searching the store for sessions pending for one destination: which page to read next.  It reads nothing itself.

A search pages through the store from the oldest session to the newest, whenever there is room in the queue.  First the
sessions pending for the destination; then, if asked for, the backlog: pending sessions without a Delivery for it, which
a destination that becomes active may get too.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import Enum
from typing import Final

from hl7core.model.delivery import DeliveryStatus
from hl7core.model.session import Session, SessionQuery

__all__ = ["Search"]

PAGE: Final = 50
"""Sessions per page: they are read whole, and large ones must not fill the memory."""


class _Stage(Enum):
    OVER = 0
    PENDING = 1
    BACKLOG = 2


class Search:
    """The state of one destination's search; a new one covers everything, with the backlog."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._stage = _Stage.PENDING
        self._after: tuple[datetime, str] | None = None
        self._again = False
        self._backlog = True

    @property
    def over(self) -> bool:
        """Whether there is nothing left to read."""
        return self._stage is _Stage.OVER

    @property
    def in_backlog(self) -> bool:
        """Whether the next page is one of the backlog."""
        return self._stage is _Stage.BACKLOG

    def restart(self, *, backlog: bool = False) -> None:
        """Search the store once more, after the current search if there is one."""
        self._backlog = self._backlog or backlog
        if self._stage is _Stage.OVER:
            self._stage = _Stage.PENDING
        else:
            self._again = True

    def query(self) -> SessionQuery:
        """Return the query for the next page."""
        if self.in_backlog:
            return SessionQuery(status=(DeliveryStatus.PENDING,), after=self._after, limit=PAGE)
        return SessionQuery(pending_for=self._name, after=self._after, limit=PAGE)

    def advance(self, page: Sequence[Session]) -> None:
        """Continue after ``page``, the store's answer to ``query``."""
        if len(page) >= PAGE:
            self._after = (page[-1].started_at, page[-1].id)
            return
        self._after = None
        if self._stage is _Stage.PENDING and self._backlog:
            self._backlog = False
            self._stage = _Stage.BACKLOG
        elif self._again:
            self._again = False
            self._stage = _Stage.PENDING
        else:
            self._stage = _Stage.OVER
