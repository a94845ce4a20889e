"""Finding what a destination has still to get: which page of the store to read next.  It reads nothing itself.

A search goes through the store from the oldest session to the newest, a page when there is room in the line.  First
those that are pending for the destination; then, if that was asked for, the pending ones that are not yet meant for it,
which a destination that becomes active may take up.
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
"""Sessions a page: they are read whole, and large ones must not fill the memory."""


class _Stage(Enum):
    OVER = 0
    PENDING = 1
    BACKLOG = 2


class Search:
    """The state of one destination's search; a new one goes through everything, the backlog too."""

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
        """Whether the next page has sessions that are not yet meant for the destination."""
        return self._stage is _Stage.BACKLOG

    def restart(self, *, backlog: bool = False) -> None:
        """Go through the store once more, behind the search that goes on if there is one."""
        self._backlog = self._backlog or backlog
        if self._stage is _Stage.OVER:
            self._stage = _Stage.PENDING
        else:
            self._again = True

    def query(self) -> SessionQuery:
        """Return what to ask the store for."""
        if self.in_backlog:
            return SessionQuery(status=(DeliveryStatus.PENDING,), after=self._after, limit=PAGE)
        return SessionQuery(pending_for=self._name, after=self._after, limit=PAGE)

    def turn_page(self, page: Sequence[Session]) -> None:
        """``page`` is what the store answered; go on behind it."""
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
