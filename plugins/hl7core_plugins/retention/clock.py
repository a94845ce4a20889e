"""Whether the clock can be trusted when it says that a session has expired.

The law: a wrong clock never costs a session.  The clock is in doubt, and nothing is deleted, if during a run the wall
clock and the monotonic clock drift apart by more than an hour, or if at the start the wall clock is before the newest
save, or later than it by more than ``retention_days``.  A person's confirmation ends both doubts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

__all__ = ["DRIFT", "ClockWatch", "boot_time", "drift_doubt", "start_doubt"]

DRIFT: Final = timedelta(hours=1)


def boot_time() -> float:
    """Return seconds since boot, which setting the clock does not change; on Linux time asleep counts."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


def start_doubt(began: datetime, now: datetime, newest: datetime | None, retention_days: int) -> str:
    """Return what is wrong with the clock of a run that began at ``began``, "" if nothing is.

    ``newest`` is the time of the newest save before the run, None if there is none.
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
    """Return by how much the clock was set, "" if it was not: the time that passed on either clock should be equal."""
    drift = wall - monotonic
    if abs(drift) <= DRIFT:
        return ""
    hours = abs(drift) / timedelta(hours=1)
    return f"the clock was set {'forward' if drift > timedelta() else 'back'} by {hours:.1f} hours while hl7core ran"


class ClockWatch:
    """Watches the clock during one run; ``monotonic`` returns seconds on a clock that cannot be set."""

    def __init__(self, monotonic: Callable[[], float] = boot_time) -> None:
        self._monotonic = monotonic
        self._anchor: tuple[datetime, float] | None = None
        self._began: datetime | None = None
        self._newest: datetime | None = None
        self._trusted = False
        self.knows_newest = False

    def start(self, now: datetime) -> None:
        """Note that the run begins at ``now``."""
        self._began = now
        self._anchor = (now, self._monotonic())

    @property
    def began(self) -> datetime | None:
        """When the run began, by the wall clock."""
        return self._began

    def set_newest(self, newest: datetime | None) -> None:
        """Set the time of the newest save before the run; None: nothing was stored."""
        self._newest = newest
        self.knows_newest = True

    def trust(self, now: datetime) -> None:
        """Trust the clock as it is now: a person has confirmed it."""
        self._anchor = (now, self._monotonic())
        self._trusted = True

    def doubt(self, now: datetime, retention_days: int) -> str:
        """Return in a sentence why ``now`` is in doubt, "" if it is not."""
        if self._anchor is None or self._began is None:
            return ""
        wall, monotonic = self._anchor
        drift = drift_doubt(now - wall, timedelta(seconds=self._monotonic() - monotonic))
        if drift or self._trusted:
            return drift
        return start_doubt(self._began, now, self._newest, retention_days)


def _text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
