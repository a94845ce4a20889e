"""Retention: what goes when, what stays, and what a clock that jumps may not do."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hl7core import (
    CleanupProgress,
    Delivery,
    DeliveryStatus,
    EngineError,
    NoticeRaised,
    StoreError,
    session_to_json,
)
from hl7core.errors import PluginError
from hl7core.testing import FakeRuntime, make_session
from hl7core_plugins.retention import Retention, RetentionSettings, sweep
from hl7core_plugins.retention.clock import DRIFT, ClockWatch, boot_time, drift_doubt, start_doubt

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


@pytest.fixture
def desk(tmp_path):
    return lambda **options: Desk(tmp_path, **options)


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


# What has expired.


def test_what_has_expired_goes_to_the_trash_and_the_rest_stays(desk):
    d = desk().start()
    old, young = expired(1), session(2)
    d.hold(old, young)
    report = d.clean()
    assert d.held == [young.id]
    assert list(d.runtime.trashed) == [old.id]
    assert (report.deleted, report.in_trash, report.failed, report.halted) == (1, 1, 0, "")
    assert report.freed == len(session_to_json(old))


def test_one_cleanup_lies_in_the_trash_under_one_time(desk):
    d = desk().start()
    d.hold(*(expired(number) for number in range(1, 351)))
    d.clean()
    assert not d.held
    assert {when for _, when in d.runtime.trashed.values()} == {NOW}
    assert len(d.asked("delete")) == 4


def test_a_cleanup_goes_by_small_steps_and_tells_how_far_it_is(desk):
    d = desk().start()
    d.hold(*(expired(number) for number in range(1, 251)))
    d.clean()
    assert all(len(ids) <= 100 for ids, _ in d.asked("delete"))
    assert all(query.limit <= 500 for (query,) in d.asked("sessions"))
    assert [event.deleted for event in d.of(CleanupProgress)] == [100, 200, 250]


def test_a_dry_run_reports_and_deletes_nothing(desk):
    d = desk().start()
    d.hold(*(expired(number) for number in range(1, 151)), session(200))
    before = d.held
    report = d.clean(dry_run=True)
    assert (report.deleted, report.dry_run, report.in_trash) == (150, True, 0)
    assert report.freed > 0
    assert d.held == before
    assert not d.asked("delete")
    assert not d.asked("empty_trash")


def test_with_the_setting_dry_run_every_cleanup_is_one(desk):
    d = desk(dry_run=True).start()
    d.hold(expired(1))
    assert d.clean(confirmed=True).dry_run
    assert len(d.held) == 1
    d.configure(dry_run=False)
    assert d.clean().deleted == 1


def test_dry_run_switched_on_ends_a_cleanup_at_its_next_step(desk):
    class Switching(FakeRuntime):
        async def delete(self, ids, *, to_trash=True, deleted_at=None):
            d.configure(dry_run=True)
            return await super().delete(ids, to_trash=to_trash, deleted_at=deleted_at)

    d = desk(runtime=Switching).start()
    d.hold(*(expired(number) for number in range(1, 301)))
    report = d.clean()
    assert report.deleted == 100
    assert "dry_run" in report.halted
    assert len(d.held) == 200


def test_a_deletion_that_fails_does_not_stop_the_rest_and_is_counted(desk):
    class Stubborn(FakeRuntime):
        async def delete(self, ids, *, to_trash=True, deleted_at=None):
            if expired(150).id in ids:
                raise StoreError("the trash is full")
            return await super().delete(
                [i for i in ids if i != expired(1).id], to_trash=to_trash, deleted_at=deleted_at
            )

    d = desk(runtime=Stubborn).start()
    d.hold(*(expired(number) for number in range(1, 301)))
    report = d.clean()
    assert (report.deleted, report.failed) == (199, 101)
    assert len(d.held) == 101


def test_what_somebody_else_has_deleted_is_no_failure(desk):
    class Raced(FakeRuntime):
        async def delete(self, ids, *, to_trash=True, deleted_at=None):
            self.held.pop(expired(1).id)
            return await super().delete(ids, to_trash=to_trash, deleted_at=deleted_at)

    d = desk(runtime=Raced).start()
    d.hold(expired(1), expired(2))
    report = d.clean()
    assert (report.deleted, report.failed) == (1, 0)


def test_nothing_stored_is_fine(desk):
    report = desk().start().clean()
    assert report == report._replace(deleted=0, failed=0, halted="", in_trash=0)


# What is still to be sent.


def test_what_an_active_destination_waits_for_is_kept_for_its_grace_and_counted(desk):
    d = desk(destinations=("rest",), pending_grace_days=30).start()
    within = session(1, until=NOW - 30 * DAY, status=PENDING)
    beyond = session(2, until=NOW - 30 * DAY - HOUR, status=PENDING)
    d.hold(within, beyond, expired(3, status=SUBMITTED))
    report = d.clean()
    assert d.held == [within.id]
    assert report.deleted == 2
    assert report.kept == (("still to be sent, and within the grace of 30 days", 1),)


def test_a_destination_that_is_not_active_protects_nothing(desk):
    d = desk(destinations=("other",)).start()
    d.hold(expired(1, status=PENDING), expired(2))
    assert d.clean().deleted == 2


def test_an_ignored_session_is_not_awaited(desk):
    d = desk(destinations=("rest",)).start()
    d.hold(expired(1, status=PENDING, ignored=True))
    assert d.clean().deleted == 1


def test_what_failed_at_one_destination_and_waits_at_another_is_kept(desk):
    d = desk(destinations=("rest", "lab")).start()
    d.hold(expired(1)._replace(deliveries=(Delivery("rest", FAILED), Delivery("lab"))))
    assert d.clean().deleted == 0


def test_a_shorter_grace_counts_at_once(desk):
    d = desk(destinations=("rest",)).start()
    d.hold(session(1, until=NOW - 2 * DAY, status=PENDING))
    assert d.clean().deleted == 0
    d.configure(pending_grace_days=1)
    assert d.clean().deleted == 1


# The trash.


def test_the_trash_is_emptied_after_its_days(desk):
    d = desk(trash_days=7).start()
    for number, age in ((1, 8 * DAY), (2, 7 * DAY), (3, HOUR)):
        d.runtime.trashed[expired(number).id] = (expired(number), NOW - age)
    report = d.clean()
    assert sorted(d.runtime.trashed) == [expired(2).id, expired(3).id]
    assert (report.emptied, report.in_trash, report.deleted) == (1, 2, 0)
    d.configure(trash_days=0)
    assert d.clean().emptied == 2


def test_a_dry_run_counts_what_the_trash_would_lose(desk):
    d = desk().start()
    d.runtime.trashed[expired(1).id] = (expired(1), NOW - 8 * DAY)
    report = d.clean(dry_run=True)
    assert (report.emptied, report.in_trash) == (1, 1)
    assert d.runtime.trashed


def test_a_trash_that_cannot_be_emptied_does_not_stop_the_rest(desk, caplog):
    class Stuck(FakeRuntime):
        async def empty_trash(self, before):
            raise StoreError("the disk is read-only")

    d = desk(runtime=Stuck).start()
    d.hold(expired(1))
    report = d.clean()
    assert (report.deleted, report.failed) == (1, 1)
    assert "the disk is read-only" in caplog.text


# The bound on disk use.


def size_of(*sessions):
    return sum(len(session_to_json(one)) for one in sessions)


def test_over_the_bound_the_oldest_submitted_go_first_and_for_good(desk):
    d = desk().start()
    sessions = [session(number, status=SUBMITTED) for number in range(1, 11)]
    d.hold(*sessions)
    d.configure(max_disk=size_of(*sessions[4:]))
    report = d.clean()
    assert d.held == [one.id for one in sessions[4:]]
    assert (report.deleted, report.kept) == (4, ())
    assert not d.runtime.trashed
    assert d.notices("retention-disk")[-1][1]


def test_the_order_is_submitted_ignored_waited_for_by_nobody_failed(desk):
    d = desk(destinations=("rest",)).start()
    kinds = [
        session(1, status=FAILED),
        session(2, status=PENDING, name="gone"),
        session(3, status=PENDING, ignored=True),
        session(4, status=SUBMITTED),
    ]
    d.hold(*kinds)
    gone = []
    while d.runtime.held:
        d.configure(max_disk=max(1, size_of(*d.runtime.held.values()) - 1))
        before = set(d.held)
        d.clean()
        gone += sorted(before - set(d.held))
        if len(gone) == 4:
            break
    assert gone == [one.id for one in reversed(kinds)]


def test_what_is_still_to_be_sent_is_never_deleted_to_free_disk(desk):
    d = desk(destinations=("rest",), max_disk=1).start()
    waiting = [session(number, status=PENDING) for number in range(1, 151)]
    d.hold(*waiting, session(200, status=SUBMITTED))
    report = d.clean()
    assert d.held == [one.id for one in waiting]
    assert report.deleted == 1
    assert dict(report.kept) == {"still to be sent, so not deleted to free disk": 150}
    ((text, resolved),) = d.notices("retention-disk")
    assert "max_disk" in text
    assert not resolved


def test_the_trash_goes_before_any_session_does_and_only_as_far_as_needed(desk):
    d = desk().start()
    for number in range(1, 4):
        d.runtime.trashed[session(number).id] = (session(number), NOW - number * HOUR)
    d.hold(session(9, status=SUBMITTED))
    d.configure(max_disk=size_of(session(1), session(9, status=SUBMITTED)) + 10)
    report = d.clean()
    assert list(d.runtime.trashed) == [session(1).id]
    assert (report.emptied, report.deleted) == (2, 0)
    assert len(d.held) == 1


def test_under_the_bound_nothing_goes(desk):
    d = desk(max_disk="1GB").start()
    d.hold(*(session(number, status=SUBMITTED) for number in range(1, 11)))
    assert d.clean().deleted == 0


def test_a_dry_run_says_what_the_bound_would_cost(desk):
    d = desk().start()
    sessions = [session(number, status=SUBMITTED) for number in range(1, 11)]
    d.hold(*sessions)
    d.configure(max_disk=size_of(*sessions[4:]))
    assert d.clean(dry_run=True).deleted == 4
    assert len(d.held) == 10


def test_a_store_whose_size_does_not_fall_is_not_emptied_for_it(desk):
    class Lying(FakeRuntime):
        async def store_size(self):
            return 1 << 40

    d = desk(runtime=Lying, max_disk=1000).start()
    d.hold(*(session(number, status=SUBMITTED) for number in range(1, 2501)))
    report = d.clean()
    assert report.deleted <= 1100
    assert "freed nothing" in d.notices("retention-disk")[-1][0]


def test_the_more_has_to_go_the_less_often_it_is_measured(desk, monkeypatch):
    """A store of files looks at all of them to say its size."""
    monkeypatch.setattr(sweep, "_MEASURE", 50)
    monkeypatch.setattr(sweep, "BATCH", 10)
    measured = []
    for count in (200, 800):
        d = desk().start()
        sessions = [session(number, status=SUBMITTED) for number in range(1, count + 101)]
        d.hold(*sessions)
        d.configure(max_disk=size_of(*sessions[count:]))
        assert d.clean().deleted == count
        measured.append(len(d.asked("store_size")))
    assert measured[1] <= measured[0] + 4


def test_a_store_in_which_more_is_freed_than_was_thought_keeps_the_rest(desk, monkeypatch):
    class Large(FakeRuntime):
        async def store_size(self):
            return 3 * await super().store_size()

    monkeypatch.setattr(sweep, "_MEASURE", 50)
    monkeypatch.setattr(sweep, "BATCH", 10)
    d = desk(runtime=Large).start()
    sessions = [session(number, status=SUBMITTED) for number in range(1, 901)]
    d.hold(*sessions)
    d.configure(max_disk=3 * size_of(*sessions[600:]))
    assert 600 <= d.clean().deleted <= 600 + 50 + 10


def test_a_store_that_cannot_say_its_size_is_told_of(desk):
    class Silent(FakeRuntime):
        async def store_size(self):
            raise StoreError("mine does not implement store_size")

    d = desk(runtime=Silent, max_disk=1).start()
    d.hold(session(1, status=SUBMITTED), expired(2))
    assert d.clean().deleted == 1
    assert "mine does not implement store_size" in d.notices("retention-disk")[-1][0]


@pytest.mark.parametrize(("text", "size"), [(0, 0), (5000, 5000), ("20GB", 20 * 10**9), ("1 GiB", 1 << 30)])
def test_max_disk_is_a_number_or_has_a_unit(text, size):
    assert RetentionSettings(max_disk=text).max_disk == size


@pytest.mark.parametrize("text", [-1, "-5GB", "much", "20 bananas"])
def test_a_max_disk_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="max_disk"):
        RetentionSettings(max_disk=text)


@pytest.mark.parametrize(("key", "good", "bad"), [("cleanup_interval_hours", (1, 24, 168), (0, 169, 1.5))])
def test_the_interval_has_bounds(key, good, bad):
    for value in good:
        RetentionSettings(**{key: value})
    for value in bad:
        with pytest.raises(ValueError, match=key):
            RetentionSettings(**{key: value})


# The clock.


def test_at_the_start_nothing_goes_if_now_lies_before_the_newest_save(desk):
    d = desk().start()
    d.hold(expired(1), session(2, saved=NOW + timedelta(minutes=1)))
    report = d.clean()
    assert (report.deleted, len(d.held)) == (0, 2)
    assert "hl7core cleanup --yes" in report.halted
    ((text, resolved),) = d.notices("retention-clock")
    assert "the newest session was saved at 2026-03-01 12:01 UTC" in text
    assert not resolved
    d.passes(timedelta(minutes=2))  # the clock has caught up with what it said before
    assert d.clean().deleted == 1
    assert d.notices("retention-clock")[-1][1]


def test_at_the_start_nothing_goes_if_now_lies_far_behind_the_newest_save(desk):
    d = desk().start()
    d.hold(expired(1, saved=NOW - 40 * DAY), expired(2, saved=NOW - 30 * DAY - HOUR))
    d.runtime.trashed[session(3).id] = (session(3), NOW - 20 * DAY)
    report = d.clean()
    assert report.deleted == report.emptied == 0
    assert "more than 30 days" in report.halted
    assert d.runtime.trashed


def test_just_within_the_days_it_goes_on(desk):
    d = desk().start()
    d.hold(expired(1, saved=NOW - 40 * DAY), session(2, saved=NOW - 30 * DAY))
    assert d.clean().deleted == 1


def test_a_persons_yes_settles_the_doubt_for_this_run(desk):
    d = desk().start()
    d.hold(expired(1, saved=NOW - 400 * DAY), session(2, until=NOW + HOUR, saved=NOW - 400 * DAY))
    assert d.clean().deleted == 0
    assert d.clean(confirmed=True).deleted == 1
    d.passes(2 * HOUR)
    assert d.clean().deleted == 1


def test_what_this_run_saves_by_a_wrong_clock_does_not_vouch_for_it(desk):
    d = desk().start()
    d.passes(HOUR)
    d.hold(expired(1, saved=NOW - 400 * DAY), session(2, saved=NOW + timedelta(minutes=30)))
    assert d.clean().deleted == 0
    d.passes(24 * HOUR)
    d.hold(session(3, saved=NOW + DAY))
    assert d.clean().deleted == 0


def test_the_newest_save_is_found_wherever_it_stands(desk):
    d = desk().start()
    d.hold(*(session(number, saved=NOW - 50 * DAY, until=NOW - 20 * DAY) for number in range(2, 700)))
    d.hold(session(1))  # the oldest capture, read in an hour ago
    assert d.clean().deleted == 698


@pytest.mark.parametrize("jump", [400 * DAY, -400 * DAY, HOUR + timedelta(seconds=1), -HOUR - timedelta(seconds=1)])
def test_a_clock_that_is_set_while_it_runs_pauses_it(desk, jump):
    d = desk().start()
    d.hold(
        expired(1, saved=NOW - 2 * DAY), *(session(n, until=NOW + n * DAY, saved=NOW - 2 * DAY) for n in range(2, 9))
    )
    d.clean()
    held = d.held
    d.passes(DAY)
    d.runtime.clock += jump
    report = d.clean()
    assert report.deleted == 0
    assert "was set" in report.halted
    assert d.held == held
    d.runtime.clock -= jump
    assert not d.clean().halted
    assert d.notices("retention-clock")[-1][1]


def test_a_dry_run_shows_what_would_go_and_says_what_is_wrong_with_the_clock(desk):
    d = desk().start()
    d.hold(expired(1, saved=NOW - 400 * DAY))
    report = d.clean(dry_run=True, confirmed=True)
    assert report.deleted == 1
    assert report.halted
    assert d.held


def test_time_asleep_is_no_drift():
    assert boot_time() > 0  # CLOCK_BOOTTIME goes on while the machine sleeps


moments = st.integers(0, 36_500 * 86_400).map(
    lambda seconds: datetime(2000, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
)


@given(began=moments, newest=moments, days=st.integers(1, 365), run=st.timedeltas(timedelta(), 100 * DAY))
def test_the_rule_at_the_start(began, newest, days, run):
    doubtful = began + run < newest or began > newest + days * DAY
    assert bool(start_doubt(began, began + run, newest, days)) == doubtful
    assert not start_doubt(began, began + run, None, days)


@given(wall=st.timedeltas(-500 * DAY, 500 * DAY), monotonic=st.timedeltas(timedelta(), 500 * DAY))
def test_the_rule_of_drift(wall, monotonic):
    assert bool(drift_doubt(wall, monotonic)) == (abs(wall - monotonic) > HOUR)


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("pass"), st.timedeltas(timedelta(), 40 * DAY)),
            st.tuples(st.just("jump"), st.timedeltas(-400 * DAY, 400 * DAY)),
            st.tuples(st.just("yes"), st.just(timedelta())),
        ),
        max_size=12,
    )
)
def test_however_the_clock_goes_it_is_believed_only_within_an_hour_of_what_a_person_or_the_start_said(steps):
    wall, seconds, off = NOW, 0.0, timedelta()
    watch = ClockWatch(lambda: seconds)
    watch.begin(wall)
    watch.judge(None)
    for what, step in steps:
        if what == "pass":
            wall, seconds = wall + step, seconds + step.total_seconds()
        elif what == "jump":
            wall, off = wall + step, off + step
        else:
            watch.trust(wall)
            off = timedelta()
        if abs(abs(off) - DRIFT) > timedelta(milliseconds=1):
            assert bool(watch.doubt(wall, 30)) == (abs(off) > DRIFT)


# When it runs.


def test_it_runs_at_the_start_and_each_interval(desk):
    d = desk(cleanup_interval_hours=24).start()
    d.look()
    d.look()
    assert d.asked("cleanup") == [(False, False)]
    d.clean()
    d.passes(24 * HOUR - timedelta(seconds=1))
    d.look()
    assert len(d.asked("cleanup")) == 1
    d.passes(timedelta(seconds=1))
    d.look()
    assert len(d.asked("cleanup")) == 2


def test_a_changed_interval_counts_at_once(desk):
    d = desk(cleanup_interval_hours=168).start()
    d.look()
    d.clean()
    d.passes(2 * HOUR)
    d.look()
    assert len(d.asked("cleanup")) == 1
    d.configure(cleanup_interval_hours=2)
    d.look()
    assert len(d.asked("cleanup")) == 2


def test_a_bound_on_disk_use_is_looked_at_each_hour(desk):
    d = desk(max_disk="1GB").start()
    d.look()
    d.clean()
    d.passes(HOUR)
    d.look()
    assert len(d.asked("cleanup")) == 2


def test_a_cleanup_that_did_not_finish_is_tried_again_within_the_hour(desk):
    d = desk().start()
    d.hold(expired(1, saved=NOW + DAY))
    d.look()
    assert d.clean().halted
    d.passes(HOUR)
    d.look()
    assert len(d.asked("cleanup")) == 2


def test_while_nothing_is_saved_it_waits_and_then_makes_up_for_it(desk, tmp_path):
    d = desk()
    d.runtime = FakeRuntime(tmp_path, now=NOW, enable_persistence=False)
    d.start()
    d.look()
    assert not d.asked("cleanup")
    d.runtime._core = d.runtime._core._replace(enable_persistence=True)
    d.look()
    assert len(d.asked("cleanup")) == 1


def test_persistence_switched_off_ends_a_cleanup_at_its_next_step(desk):
    class Switching(FakeRuntime):
        async def delete(self, ids, *, to_trash=True, deleted_at=None):
            self._core = self._core._replace(enable_persistence=False)
            return await super().delete(ids, to_trash=to_trash, deleted_at=deleted_at)

    d = desk(runtime=Switching).start()
    d.hold(*(expired(number) for number in range(1, 301)))
    report = d.clean()
    assert report.deleted == 100
    assert "enable_persistence" in report.halted


def test_where_another_process_owns_the_folder_nothing_is_deleted(desk, tmp_path):
    d = desk()
    d.runtime = FakeRuntime(tmp_path, now=NOW, owner=False)
    d.start()
    d.hold(expired(1))
    assert "another process" in d.clean().halted
    assert d.held


def test_it_ends_at_the_next_step_when_it_is_stopped(desk):
    class Stopping(FakeRuntime):
        async def delete(self, ids, *, to_trash=True, deleted_at=None):
            d.retention.stop()
            return await super().delete(ids, to_trash=to_trash, deleted_at=deleted_at)

    d = desk(runtime=Stopping).start()
    d.hold(*(expired(number) for number in range(1, 301)))
    report = d.clean()
    assert report.deleted == 100
    assert "stopped" in report.halted
    assert not d.runtime.jobs


def test_an_engine_that_ends_ends_the_cleanup_without_an_error(desk):
    class Ended(FakeRuntime):
        async def sessions(self, query):
            raise EngineError("the engine has stopped")

    d = desk(runtime=Ended).start()
    assert d.clean().halted == "the engine has stopped"


def test_before_its_start_it_cleans_nothing():
    with pytest.raises(PluginError):
        Retention().cleanup(NOW, False, False)
