"""Deletes expired sessions: first to the trash, then permanently some days later.

The law: nothing is deleted that has not expired, except to keep to ``max_disk``, and nothing while the clock is in
doubt. The plugin implements the hook ``cleanup`` through Runtime alone, so every store follows the same policy and none
has its own.  A cleanup runs at start, every ``cleanup_interval_hours``, and on request; two never run at once.
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
        self._turn = threading.Lock()
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
        """Take settings; they count at once, for a cleanup that runs too."""
        self._settings = settings

    @hookimpl
    def start(self, runtime: Runtime) -> None:
        """Begin to watch the clock; the first cleanup follows once the engine runs, and delays nothing."""
        self._runtime = runtime
        self._clock.begin(runtime.now())
        self._cancel = runtime.every(_LOOK_EVERY, self.look)

    @hookimpl
    def stop(self) -> None:
        """End; a cleanup that runs ends at its next step, and what it has not reached stays as it is."""
        self._stopping.set()
        self._cancel()

    def look(self) -> None:
        """Begin a cleanup if one is due."""
        runtime, now = self._runtime, self._monotonic()
        if runtime is None or not runtime.core().enable_persistence:
            return
        if self._scheduled is not None and not self._scheduled.done():
            return
        if self._last is None or now - self._last >= self._period():
            self._last = now
            self._scheduled = runtime.call(runtime.cleanup())

    def _period(self) -> float:
        """Return the seconds between two cleanups: less where disk is to be watched, or the last did not finish."""
        period = self._settings.cleanup_interval_hours * 3600.0
        return min(period, _AN_HOUR) if self._settings.max_disk or not self._finished else period

    @hookimpl
    def cleanup(self, now: datetime, dry_run: bool, confirmed: bool) -> CleanupReport:
        """Clean up and report; while the clock is in doubt and nobody says yes, only say so."""
        runtime = self._runtime
        if runtime is None:
            raise PluginError("retention has not been started")
        with self._turn:
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
        """Say why the clock is in doubt, "" if it is not; people are told."""
        if not self._clock.judged:
            self._clock.judge(self._newest_save(runtime, now))
        if confirmed:
            self._clock.trust(now)
        doubt = self._clock.doubt(now, runtime.core().retention_days)
        if doubt:
            doubt = f"{doubt}: nothing is deleted until the clock is right, or you say `hl7core cleanup --yes`"
        text = doubt or "the clock is right: cleanups go on"
        runtime.publish(NoticeRaised(_NOTICE, text, resolved=not doubt))
        return doubt

    def _newest_save(self, runtime: Runtime, now: datetime) -> datetime | None:
        """Return the newest save before this run, None if there is none.

        Sessions are looked through newest first, and no further than to one that settles the matter.
        """
        began = self._clock.began or now
        recent = began - timedelta(days=runtime.core().retention_days)
        newest: datetime | None = None
        for page in pages(runtime, SessionQuery(newest_first=True, limit=PAGE), self._stopping):
            # What was saved between the start and now was saved by this very clock, and says nothing about it.
            saves = [s.saved_at for s in page if s.saved_at is not None and not began <= s.saved_at <= now]
            newest = max(saves, default=None) if newest is None else max([newest, *saves])
            if newest is not None and newest >= recent:
                break
        return newest
