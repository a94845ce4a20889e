"""The clock: whether "now" can be believed when it says that a session's time is over.

The law: a clock that jumps never costs a session.  Two things raise a doubt, and while one stands nothing is deleted:
within a run the wall clock and the monotonic clock drift apart by over an hour; at the start the wall clock lies before
the newest save, or further behind it than sessions are kept.  A person's yes settles both.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

__all__ = ["DRIFT", "ClockWatch", "boot_time", "drift_doubt", "start_doubt"]

DRIFT: Final = timedelta(hours=1)


def boot_time() -> float:
    """Return seconds that no clock setting changes; time asleep counts, where the system can say."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


def start_doubt(began: datetime, now: datetime, newest: datetime | None, retention_days: int) -> str:
    """Say what is wrong with the clock of a run that began at ``began``, "" if nothing is.

    ``newest`` is the newest save before the run, None if there is none.
    """
    if newest is None:
        return ""
    if now < newest:
        return f"the clock says {_text(now)}, but the newest session was saved at {_text(newest)}"
    if began - newest > timedelta(days=retention_days):
        return (
            f"the clock said {_text(began)} at the start, more than {retention_days} days after the newest session was "
            f"saved ({_text(newest)})"
        )
    return ""


def drift_doubt(wall: timedelta, monotonic: timedelta) -> str:
    """Return whether the clock was set: so much time has passed by the wall clock, and so much in truth."""
    drift = wall - monotonic
    if abs(drift) <= DRIFT:
        return ""
    hours = abs(drift) / timedelta(hours=1)
    return f"the clock was set {'forward' if drift > timedelta() else 'back'} by {hours:.1f} hours while hl7core ran"


class ClockWatch:
    """Watches the clock of one run; ``monotonic`` gives seconds that nobody can set."""

    def __init__(self, monotonic: Callable[[], float] = boot_time) -> None:
        self._monotonic = monotonic
        self._anchor: tuple[datetime, float] | None = None
        self._began: datetime | None = None
        self._newest: datetime | None = None
        self._trusted = False
        self.judged = False

    def begin(self, now: datetime) -> None:
        """The run begins."""
        self._began = now
        self._anchor = (now, self._monotonic())

    @property
    def began(self) -> datetime | None:
        """When the run began, by its wall clock."""
        return self._began

    def judge(self, newest: datetime | None) -> None:
        """Take the newest save before the run; None: nothing was stored."""
        self._newest = newest
        self.judged = True

    def trust(self, now: datetime) -> None:
        """A person says that the clock is right as it stands."""
        self._anchor = (now, self._monotonic())
        self._trusted = True

    def doubt(self, now: datetime, retention_days: int) -> str:
        """Say in a sentence why ``now`` is in doubt, "" if it is not."""
        if self._anchor is None or self._began is None:
            return ""
        wall, monotonic = self._anchor
        drift = drift_doubt(now - wall, timedelta(seconds=self._monotonic() - monotonic))
        if drift or self._trusted:
            return drift
        return start_doubt(self._began, now, self._newest, retention_days)


def _text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
