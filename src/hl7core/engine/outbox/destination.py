"""One destination as the outbox sees it: its line, its search, its settings, and what is said of it.

What is said is a state, not a log of failures: once what is the matter, and once that it is over.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Final

from hl7core.contract import DestinationSettings
from hl7core.engine.news import News
from hl7core.engine.outbox.queue import IN_A_ROW, Line
from hl7core.engine.outbox.rules import Trouble
from hl7core.engine.outbox.search import Search
from hl7core.engine.outbox.status import DestinationStatus

__all__ = ["Destination"]

_PATIENCE: Final = 60.0
"""What is tried within so many seconds counts as soon."""


class Destination:
    """What the outbox knows of the destination ``name``; it begins inactive."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.line = Line()
        self.search = Search(name)
        self.settings: DestinationSettings | None = None
        self.active = False
        self.since: datetime
        self.tick_at = 0.0
        self.search_at = 0.0
        self.searching = False
        self.looked = asyncio.Event()
        self.submitted = 0
        self.failed = 0
        self.error = ""
        self._told = Trouble.NONE
        self._told_rejected = False

    @property
    def done(self) -> int:
        """How many sessions were submitted or failed since the start."""
        return self.submitted + self.failed

    def begin(self, now: datetime) -> None:
        """It is active from ``now`` on: everything is looked through for what it is to get."""
        self.active = True
        self.since = now
        self.tick_at = 0.0
        self.line.begin_anew()
        self.search.restart(backlog=True)

    def end(self, news: News) -> None:
        """It is active no more: its deliveries stay as they are, and nothing stands against it."""
        self.active = False
        self.line.drop(self.line.ids())
        self._told = Trouble.NONE
        self._told_rejected = False
        for matter in ("submission", "rejected"):
            news.settle(f"{matter}-{self.name}", f"{self.name} is handed no sessions any more")

    def tell(self, news: News) -> None:
        """Say once what is the matter with it, and once that it is over."""
        line, name = self.line, self.name
        if line.trouble and line.trouble is not self._told and (line.paused or not line.ready):
            self._told = line.trouble
            text = f"{name} {line.trouble} ({self.error}); its sessions wait and are sent later"
            news.notice(f"submission-{name}", text)
        elif self._told and not line.trouble:
            self._told = Trouble.NONE
            news.settle(f"submission-{name}", f"{name} takes sessions again")
        rejected = line.rejected_in_a_row >= IN_A_ROW
        if rejected is not self._told_rejected:
            self._told_rejected = rejected
            if rejected:
                news.notice(f"rejected-{name}", f"{name} rejects every session ({self.error}); is its address right?")
            else:
                news.settle(f"rejected-{name}", f"{name} takes sessions again")

    def status(self, clock: float, now: datetime, *, sound: bool) -> DestinationStatus:
        """Return how it stands; ``sound`` is whether sessions are saved."""
        line, search = self.line, self.search
        until: float | None = None
        if not sound:
            state = "unsaved"
        elif line.paused:
            state, until = "paused", max(line.probe_at, line.hold_until)
        elif line.hold_until > clock:
            state, until = "waiting", line.hold_until
        else:
            state = "sending" if line.in_flight or line.ready else "idle"
        looking = self.searching or not (search.over or line.paused or self.search_at > clock)
        return DestinationStatus(
            self.name,
            state,
            now + timedelta(seconds=max(0.0, until - clock)) if until is not None else None,
            len(line),
            not search.over,
            line.in_flight,
            self.submitted,
            self.failed,
            self.error,
            sound and (looking or line.busy(clock, _PATIENCE)),
        )
