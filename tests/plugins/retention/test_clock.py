"""When the clock is not believed, nothing is deleted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hl7core_plugins.retention.clock import DRIFT, ClockWatch, boot_time, drift_doubt, start_doubt
from plugins.retention.parts import DAY, HOUR, NOW, expired, session


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
    watch.start(wall)
    watch.set_newest(None)
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
