"""The outbox in an engine: stored sessions reach the destinations, whatever these do."""

import threading
import time

import pytest

from engine.outbox.room import FAILED, IGNORED, PENDING, SUBMITTED, Destination, stored
from engine.parts import poll, session
from hl7core.errors import (
    DestinationBroken,
    DestinationUnreachable,
    EngineError,
    SessionRejected,
)
from hl7core.model.events import SubmissionProgress, SubmissionResult

# Discovery.


def test_sessions_are_sent_as_they_are_stored_and_each_once(make):
    with make() as room:
        room.capture(20)
        poll(lambda: room.statuses() == [SUBMITTED] * 20)
        assert len(room.dest.got) == len(set(room.dest.got)) == 20
        assert all(room.delivery(i).submitted_at and room.delivery(i).attempts == 1 for i in room.dest.got)


def test_nothing_is_sent_that_is_not_stored(make):
    with make() as room:
        room.store.down = True
        room.capture(3)
        poll(lambda: room.harness.state().unsaved == 3)
        time.sleep(0.3)
        assert room.dest.tries == []
        room.store.down = False
        poll(lambda: room.statuses() == [SUBMITTED] * 3)


def test_what_was_pending_before_the_start_is_sent_oldest_first(make):
    with make(*stored(*range(250, 0, -1)), settings={"plugins.dest.concurrency": 1}) as room:
        poll(lambda: len(room.dest.got) == 250)
        assert room.dest.got == sorted(room.dest.got)


def test_what_is_not_pending_is_left_alone(make):
    held = [
        *stored(1, status=SUBMITTED),
        *stored(2, status=FAILED),
        *(one._replace(ignored=True) for one in stored(3)),
        *stored(4),
    ]
    with make(*held) as room:
        poll(lambda: room.dest.got == [held[3].id])
        time.sleep(0.1)
        assert room.dest.tries == [held[3].id]


def test_a_restart_goes_on_where_it_stopped(make):
    soon = session().started_at
    late, due = stored(1, attempts=2, next_at=soon.replace(year=soon.year + 50))[0], stored(2, attempts=2)[0]
    room = make(late, due)
    room.dest.error = DestinationBroken("HTTP 503")
    with room:
        poll(lambda: room.delivery(due.id).status is FAILED)  # the third attempt of its cycle was the last
        assert room.delivery(due.id).attempts == 3
        assert room.dest.tries == [due.id]


def test_a_session_stored_beside_the_engine_is_found_when_somebody_asks(make):
    with make() as room:
        (one,) = stored(5, names=())
        room.store.held[one.id] = one
        assert room.call(room.runtime.submit_now()) == 1
        poll(lambda: room.dest.got == [one.id])


def test_to_submit_now_without_an_active_destination_says_so(make):
    with make(settings={"plugins.dest.endpoint": ""}) as room, pytest.raises(EngineError, match="no destination"):
        room.call(room.runtime.submit_now())


def test_while_nothing_is_saved_nothing_is_sent(make):
    with make(*stored(1), settings={"core.enable_persistence": False}) as room:
        time.sleep(0.3)
        assert room.dest.tries == []
        assert room.status().state == "unsaved"
        with pytest.raises(EngineError, match="not saved"):
            room.call(room.runtime.submit_now())
        room.call(room.runtime.change_settings({"core.enable_persistence": True}))
        poll(lambda: room.dest.got)


# Several in one attempt.


# What people do.


def test_a_retry_sends_at_once_and_counts_anew(make):
    (one,) = held = stored(1, status=FAILED, attempts=3, error="HTTP 503")
    with make(*held) as room:
        assert room.call(room.runtime.retry([one.id])) == [one.id]
        poll(lambda: room.delivery(one.id) and room.delivery(one.id).status is SUBMITTED)
        assert room.delivery(one.id).attempts == 1


def test_an_ignored_session_is_never_sent_until_that_is_undone(make):
    (one,) = held = stored(1)
    room = make(*held)
    room.dest.gate = threading.Event()
    room.dest.error = DestinationUnreachable("refused")
    with room:
        poll(lambda: room.dest.tries)
        room.call(room.runtime.ignore([one.id]))
        room.dest.gate.set()
        poll(lambda: room.status().in_flight == 0)
        room.dest.error = None
        time.sleep(1.3)
        assert len(room.dest.tries) == 1
        assert room.store.held[one.id].status is IGNORED
        room.call(room.runtime.unignore([one.id]))
        poll(lambda: room.dest.got == [one.id])


def test_one_that_comes_back_from_the_trash_is_sent(make):
    (one,) = held = stored(1)
    with make() as room:
        room.store.trash = {one.id: one for one in held}
        room.call(room.runtime.restore([one.id]))
        poll(lambda: room.dest.got == [one.id])


# Several destinations, and what becomes active.


def test_each_destination_has_its_own_line_and_the_whole_follows_from_them(make):
    other = Destination()
    other.error = DestinationUnreachable("refused")
    with make(other=other) as room:
        room.capture(5)
        poll(lambda: room.statuses() == [SUBMITTED] * 5)
        assert room.statuses("other") == [PENDING] * 5
        assert {one.status for one in room.store.held.values()} == {PENDING}
        other.error = None
        room.call(room.runtime.submit_now())
        poll(lambda: {one.status for one in room.store.held.values()} == {SUBMITTED})


# News, and the end.


def test_events_say_how_busy_it_is_and_how_each_attempt_ended(make):
    room = make(*stored(1, 2))
    room.dest.errors[session(2).id] = SessionRejected("HTTP 422")
    with room:
        poll(lambda: len(room.ear.of(SubmissionResult)) == 2)
        good, bad = sorted(room.ear.of(SubmissionResult), key=lambda e: e.session_id)
        assert (good.success, good.submission_attempts, good.destination, good.error) == (True, 1, "dest", "")
        assert good.submitted_at is not None
        assert (bad.success, bad.error, bad.submitted_at) == (False, "HTTP 422", None)
        poll(lambda: room.ear.of(SubmissionProgress))
        poll(lambda: room.ear.of(SubmissionProgress)[-1] == SubmissionProgress(0, 0, active_worker=False))


def test_the_stop_waits_for_an_answer_that_comes_in_time(make):
    room = make(*stored(1))
    room.dest.gate = threading.Event()
    with room:
        poll(lambda: room.dest.tries)
        threading.Timer(0.3, room.dest.gate.set).start()
    assert room.statuses() == [SUBMITTED]


def test_the_stop_does_not_wait_for_one_that_never_comes_and_it_stays_pending(make):
    room = make(*stored(1, 2, 3))
    room.dest.gate = threading.Event()
    with room:
        poll(lambda: len(room.dest.tries) == 2)
        began = time.monotonic()
        room.harness.stop()
        assert time.monotonic() - began < 10
    assert room.statuses() == [PENDING] * 3
    assert len(room.dest.tries) == 2
