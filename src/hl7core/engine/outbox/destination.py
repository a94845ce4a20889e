"""One destination as the outbox sees it: its queue, its search, its settings, and the notices about it.

A notice tells a state, not each failure: it is raised once when something is wrong, and resolved once.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Final

from hl7core.contract import DestinationSettings
from hl7core.engine.news import News
from hl7core.engine.outbox.queue import IN_A_ROW, DestinationQueue
from hl7core.engine.outbox.rules import Failure
from hl7core.engine.outbox.search import Search
from hl7core.engine.outbox.status import DestinationStatus

__all__ = ["Destination"]

_PATIENCE: Final = 60.0
"""An attempt within this many seconds counts as soon."""


class Destination:
    """What the outbox knows of the destination ``name``; it is inactive at first.

    ``since`` is when it became active.  ``cycle_at``, ``tick_at`` and ``search_at`` are monotonic times: when its cycle
    began, when the next one begins, and the earliest next search.  ``searched`` is set once a search has found what
    there is room for, or failed.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.queue = DestinationQueue()
        self.search = Search(name)
        self.settings: DestinationSettings | None = None
        self.active = False
        self.since: datetime
        self.cycle_at = 0.0
        self.tick_at = 0.0
        self.search_at = 0.0
        self.searching = False
        self.searched = asyncio.Event()
        self.submitted = 0
        self.failed = 0
        self.error = ""
        self._reported = Failure.NONE
        self._reported_rejected = False

    @property
    def done(self) -> int:
        """How many sessions were submitted or failed since the start."""
        return self.submitted + self.failed

    def activate(self, now: datetime) -> None:
        """It is active from ``now`` on: search the whole store for what is pending for it."""
        self.active = True
        self.since = now
        self.tick_at = 0.0
        self.queue.reset()
        self.search.restart(backlog=True)

    def begin_cycle(self, now: float, interval: float) -> None:
        """A cycle begins ``now``, and the next one ``interval`` seconds later."""
        self.cycle_at, self.tick_at = now, now + interval

    def set_interval(self, interval: float, now: float) -> None:
        """Let the cycle that runs, and the sessions that wait for the next one, go by another interval."""
        if self.tick_at:
            self.tick_at = self.cycle_at + interval
        self.queue.set_interval(interval, now)

    def deactivate(self, news: News) -> None:
        """It is no longer active: its deliveries stay as they are, its notices are resolved."""
        self.active = False
        self.queue.drop(self.queue.ids())
        self._reported = Failure.NONE
        self._reported_rejected = False
        for kind in ("submission", "rejected"):
            news.resolve(f"{kind}-{self.name}", f"{self.name} is not active any more")

    def report(self, news: News) -> None:
        """Raise a notice when something is wrong with it, and resolve that once it works again."""
        queue, name = self.queue, self.name
        if queue.failure and queue.failure is not self._reported and (queue.paused or not queue.ready):
            self._reported = queue.failure
            text = f"{name} {queue.failure} ({self.error}); its sessions stay pending and are submitted later"
            news.notice(f"submission-{name}", text)
        elif self._reported and not queue.failure:
            self._reported = Failure.NONE
            news.resolve(f"submission-{name}", f"{name} accepts sessions again")
        rejected = queue.rejected_in_a_row >= IN_A_ROW
        if rejected is not self._reported_rejected:
            self._reported_rejected = rejected
            if rejected:
                news.notice(f"rejected-{name}", f"{name} rejects every session ({self.error}); check its address")
            else:
                news.resolve(f"rejected-{name}", f"{name} accepts sessions again")

    def status(self, clock: float, now: datetime, *, sound: bool) -> DestinationStatus:
        """Return its status at ``clock`` (monotonic) and ``now``; ``sound``: sessions are saved."""
        queue, search = self.queue, self.search
        until: float | None = None
        if not sound:
            state = "unsaved"
        elif queue.paused:
            state, until = "paused", max(queue.probe_at, queue.hold_until)
        elif queue.hold_until > clock:
            state, until = "waiting", queue.hold_until
        else:
            state = "sending" if queue.in_flight or queue.ready else "idle"
        looking = self.searching or not (search.over or queue.paused or self.search_at > clock)
        return DestinationStatus(
            self.name,
            state,
            now + timedelta(seconds=max(0.0, until - clock)) if until is not None else None,
            len(queue),
            not search.over,
            queue.in_flight,
            self.submitted,
            self.failed,
            self.error,
            sound and (looking or queue.busy(clock, _PATIENCE)),
        )
