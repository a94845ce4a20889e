"""A retention in a fake runtime, and sessions that expire."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hl7core import Delivery, DeliveryStatus, NoticeRaised
from hl7core.testing import FakeRuntime, make_session
from hl7core_plugins.retention import Retention, RetentionSettings

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
PENDING, SUBMITTED, FAILED = DeliveryStatus.PENDING, DeliveryStatus.SUBMITTED, DeliveryStatus.FAILED


class Desk:
    """A retention in a fake runtime, with both of its clocks in our hands."""

    def __init__(self, folder, *, runtime=FakeRuntime, destinations=(), now=NOW, **settings):
        self.seconds = 1000.0
        self.runtime = runtime(folder, now=now, destinations=destinations)
        self.retention = Retention(monotonic=lambda: self.seconds)
        self.configure(**settings)

    def configure(self, **settings):
        self.retention.configure(RetentionSettings(**settings))

    def start(self):
        self.retention.start(self.runtime)
        return self

    def hold(self, *sessions):
        self.runtime.held.update((session.id, session) for session in sessions)

    def clean(self, *, dry_run=False, confirmed=False):
        return self.retention.cleanup(self.runtime.now(), dry_run, confirmed)

    def look(self):
        ((_, job),) = self.runtime.jobs
        job()

    def passes(self, time):
        """Time passes, by both clocks."""
        self.seconds += time.total_seconds()
        self.runtime.clock += time

    @property
    def held(self):
        return sorted(self.runtime.held)

    def of(self, kind):
        return [event for event in self.runtime.events if isinstance(event, kind)]

    def notices(self, key):
        return [(event.text, event.resolved) for event in self.of(NoticeRaised) if event.key == key]

    def asked(self, name):
        return [arguments for asked, arguments in self.runtime.asked if asked == name]


def session(number, *, until=None, saved=None, status=None, name="rest", **fields):
    """A session that expires at ``until`` and was saved at ``saved`` (an hour ago), with a delivery if it has one."""
    deliveries = () if status is None else (Delivery(name, status),)
    return make_session(
        number,
        saved_at=saved or NOW - HOUR,
        first_saved_at=saved or NOW - HOUR,
        persisted_until=until or NOW + 30 * DAY,
        retention_days=30,
        deliveries=deliveries,
        **fields,
    )


def expired(number, **fields):
    return session(number, until=NOW - HOUR, **fields)
