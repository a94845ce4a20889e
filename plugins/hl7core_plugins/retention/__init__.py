"""Deletes expired sessions: to the trash first, and permanently some days later.

The law: only expired sessions are deleted, except to stay below ``max_disk``, and none while the clock is in doubt.
The hook ``cleanup`` uses Runtime alone, so the policy is the same for every store.  A cleanup runs at the start, every
``cleanup_interval_hours``, and on request; two never run at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime, timedelta
from typing import Any, Final

from hl7core import (
    CleanupReport,
    NoticeRaised,
    PluginError,
    PluginSettings,
    Runtime,
    SessionQuery,
    hookimpl,
)
from hl7core_plugins.retention.clock import ClockWatch, boot_time
from hl7core_plugins.retention.settings import RetentionSettings
from hl7core_plugins.retention.sweep import PAGE, Halted, Sweep, pages

__all__ = ["Retention", "RetentionSettings"]

_LOOK_EVERY: Final = timedelta(seconds=1)
_AN_HOUR: Final = 3600.0
_NOTICE: Final = "retention-clock"


class Retention:
    """The bundled ``cleanup``; ``monotonic`` gives seconds that no clock setting changes."""

    def __init__(self, monotonic: Callable[[], float] = boot_time) -> None:
        self._monotonic = monotonic
        self._clock = ClockWatch(monotonic)
        self._settings = RetentionSettings()
        self._runtime: Runtime | None = None
        self._cancel: Callable[[], None] = lambda: None
        self._one_at_a_time = threading.Lock()
        self._stopping = threading.Event()
        self._scheduled: Future[Any] | None = None
        self._last: float | None = None
        self._finished = True

    @hookimpl
    def register_settings(self) -> type[PluginSettings]:
        """Return the model of ``[plugins.retention]``."""
        return RetentionSettings

    @hookimpl
    def configure(self, settings: RetentionSettings) -> None:
        """Apply ``settings`` at once, to a running cleanup too."""
        self._settings = settings

    @hookimpl
    def start(self, runtime: Runtime) -> None:
        """Start to watch the clock; the first cleanup follows once the engine runs, without delaying it."""
        self._runtime = runtime
        self._clock.start(runtime.now())
        self._cancel = runtime.every(_LOOK_EVERY, self.clean_if_due)

    @hookimpl
    def stop(self) -> None:
        """Stop; a running cleanup ends at its next step and leaves the rest as it is."""
        self._stopping.set()
        self._cancel()

    def clean_if_due(self) -> None:
        """Start a cleanup if one is due."""
        runtime, now = self._runtime, self._monotonic()
        if runtime is None or not runtime.core().enable_persistence:
            return
        if self._scheduled is not None and not self._scheduled.done():
            return
        if self._last is None or now - self._last >= self._period():
            self._last = now
            self._scheduled = runtime.call(runtime.cleanup())

    def _period(self) -> float:
        """Return the seconds between two cleanups: at most an hour with ``max_disk``, or if the last did not finish."""
        period = self._settings.cleanup_interval_hours * 3600.0
        return min(period, _AN_HOUR) if self._settings.max_disk or not self._finished else period

    @hookimpl
    def cleanup(self, now: datetime, dry_run: bool, confirmed: bool) -> CleanupReport:
        """Delete what has expired and return a report; while the clock is in doubt, delete only if ``confirmed``."""
        runtime = self._runtime
        if runtime is None:
            raise PluginError("retention has not been started")
        with self._one_at_a_time:
            dry_run = dry_run or self._settings.dry_run
            self._finished = False
            if not runtime.core().owner:
                return CleanupReport(dry_run=dry_run, halted="another process owns the data folder")
            try:
                doubt = self._doubt(runtime, now, confirmed=confirmed and not dry_run)
            except Halted as error:
                return CleanupReport(dry_run=dry_run, halted=str(error))
            if doubt and not dry_run:
                return CleanupReport(halted=doubt)
            sweep = Sweep(runtime, lambda: self._settings, self._stopping, now=now, dry_run=dry_run)
            report = sweep.run()
            self._finished = not (report.halted or report.failed)
            return report._replace(halted=doubt) if doubt else report

    def _doubt(self, runtime: Runtime, now: datetime, *, confirmed: bool) -> str:
        """Return why the clock is in doubt, "" if it is not, and publish it as a notice."""
        if not self._clock.knows_newest:
            self._clock.set_newest(self._newest_save(runtime, now))
        if confirmed:
            self._clock.trust(now)
        doubt = self._clock.doubt(now, runtime.core().retention_days)
        if doubt:
            doubt = f"{doubt}: nothing is deleted until the clock is right or you run `hl7core cleanup --yes`"
        text = doubt or "the clock is right: cleanups continue"
        runtime.publish(NoticeRaised(_NOTICE, text, resolved=not doubt))
        return doubt

    def _newest_save(self, runtime: Runtime, now: datetime) -> datetime | None:
        """Return the time of the newest save before this run, None if there is none.

        Sessions are read newest first, only until one is recent enough that the clock cannot be in doubt.
        """
        began = self._clock.began or now
        recent = began - timedelta(days=runtime.core().retention_days)
        newest: datetime | None = None
        for page in pages(runtime, SessionQuery(newest_first=True, limit=PAGE), self._stopping):
            # Saves between the start and now were timed by this same clock and prove nothing about it.
            saves = [s.saved_at for s in page if s.saved_at is not None and not began <= s.saved_at <= now]
            newest = max(saves, default=None) if newest is None else max([newest, *saves])
            if newest is not None and newest >= recent:
                break
        return newest
