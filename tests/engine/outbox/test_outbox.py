"""The outbox in an engine: stored sessions reach the destinations, whatever these do."""

import asyncio
import threading
import time

import pytest

from engine.parts import Listener, Store, exchange, poll, session
from hl7core.contract import DestinationSettings
from hl7core.errors import (
    DestinationBroken,
    DestinationBusy,
    DestinationUnauthorized,
    DestinationUnreachable,
    EngineError,
    SessionRejected,
)
from hl7core.hookspecs import hookimpl
from hl7core.model.delivery import Delivery, DeliveryStatus, Receipt
from hl7core.model.events import NoticeRaised, SubmissionProgress, SubmissionResult
from hl7core.testing import EngineHarness

PENDING, SUBMITTED, FAILED, IGNORED = DeliveryStatus


class QuickSettings(DestinationSettings):
    endpoint: str = "somewhere"

    @property
    def active(self):
        return bool(self.endpoint)


class Destination:
    """Keeps what it is handed; ``error`` is raised while it is set, ``errors`` by id; ``gate`` is waited for."""

    def __init__(self):
        self.got = []
        self.tries = []
        self.error = None
        self.errors = {}
        self.gate = None
        self.at_once = self.most = 0
        self.settings = None

    @hookimpl
    def register_settings(self):
        return QuickSettings

    @hookimpl
    def configure(self, settings):
        self.settings = settings

    @hookimpl
    async def submit_session(self, session):
        self.tries.append(session.id)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            while self.gate is not None and not self.gate.is_set():
                await asyncio.sleep(0.005)
            if (error := self.errors.get(session.id, self.error)) is not None:
                raise error
        finally:
            self.at_once -= 1
        self.got.append(session.id)
        return Receipt("7")


def stored(*numbers, names=("dest",), **delivery):
    return [
        session(number)._replace(
            first_saved_at=session().started_at, deliveries=tuple(Delivery(name, **delivery) for name in names)
        )
        for number in numbers
    ]


class Room:
    """An engine with a store, an ear and destinations."""

    def __init__(self, folder, *held, plugins=None, settings=None, **destinations):
        self.store, self.ear = Store(), Listener()
        self.store.held = {one.id: one for one in held}
        self.dest = destinations.setdefault("dest", Destination())
        self.harness = EngineHarness(
            folder,
            {"mem": self.store, "ear": self.ear, **destinations},
            settings={"core.store": "mem", "core.memory_sessions": 10, **(settings or {})},
        )

    def __enter__(self):
        self.harness.start()
        self.call, self.runtime, self.engine = self.harness.call, self.harness.runtime, self.harness.engine
        return self

    def __exit__(self, *_):
        self.harness.stop()

    def capture(self, count, start=0):
        self.harness.feed(*[exchange(f"M{start + i}", seconds=start + i) for i in range(count)])

    def statuses(self, name="dest"):
        return [
            d.status
            for s in sorted(self.store.held.values(), key=lambda s: s.start_ns)
            for d in s.deliveries
            if d.name == name
        ]

    def delivery(self, session_id, name="dest"):
        return next((d for d in self.store.held[session_id].deliveries if d.name == name), None)

    def status(self, name="dest"):
        return next(one for one in self.engine.outbox.status() if one.name == name)


@pytest.fixture
def make(tmp_path):
    def room(*held, **options):
        return Room(tmp_path, *held, **options)

    return room


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


# Attempts.


@pytest.mark.parametrize("concurrency", [1, 3])
def test_never_more_at_once_than_the_settings_allow(make, concurrency):
    room = make(*stored(*range(30)), settings={"plugins.dest.concurrency": concurrency})
    room.dest.gate = threading.Event()
    with room:
        poll(lambda: len(room.dest.tries) == concurrency)
        time.sleep(0.2)
        assert room.dest.at_once == concurrency
        room.dest.gate.set()
        poll(lambda: len(room.dest.got) == 30)
        assert room.dest.most == concurrency


def test_a_session_that_cannot_be_sent_does_not_hold_up_those_behind_it(make):
    held = stored(*range(1, 10))
    room = make(*held, settings={"plugins.dest.concurrency": 1})
    room.dest.errors[held[0].id] = DestinationUnreachable("reset by peer")
    with room:
        poll(lambda: len(room.dest.got) == 8)
        poll(lambda: room.dest.tries.count(held[0].id) == 3)
        poll(lambda: room.delivery(held[0].id).attempts == 3)
        kept = room.delivery(held[0].id)
        assert (kept.status, kept.error) == (PENDING, "reset by peer")
        assert kept.next_at is not None


def test_failed_attempts_are_stored_at_once(make):
    (one,) = held = stored(1)
    room = make(*held)
    room.dest.error = DestinationBroken("HTTP 500")
    with room:
        poll(lambda: room.delivery(one.id).attempts == 1)
        assert room.delivery(one.id).error == "HTTP 500"
        poll(lambda: room.delivery(one.id).status is FAILED)
        assert room.dest.tries == [one.id] * 3


@pytest.mark.parametrize(
    ("error", "status", "tries"),
    [
        (SessionRejected("HTTP 422"), FAILED, 1),
        (DestinationUnauthorized("HTTP 401"), FAILED, 1),
        (DestinationBroken("HTTP 500"), FAILED, 2),
        (ValueError("canary"), FAILED, 2),
        (SystemExit("canary"), FAILED, 2),
        (DestinationUnreachable("refused"), PENDING, 2),
        (DestinationBusy("HTTP 429"), PENDING, 2),
    ],
)
def test_every_way_to_fail_ends_as_it_must(make, error, status, tries):
    (one,) = held = stored(1)
    room = make(*held, settings={"plugins.dest.max_retries": 2})
    room.dest.error = error
    with room:
        poll(lambda: len(room.dest.tries) == tries and room.delivery(one.id).attempts == tries)
        assert room.delivery(one.id).status is status
        assert "canary" not in room.delivery(one.id).error
        assert len(room.dest.tries) == tries


def test_a_plugin_that_hangs_frees_its_slot_at_the_deadline(make):
    class Hanging(Destination):
        @hookimpl
        def submit_session(self, session):
            self.tries.append(session.id)
            if session.id == first:
                self.stuck.wait(30)
            return Receipt()

    held = stored(1, 2)
    first = held[0].id
    dest = Hanging()
    dest.stuck = threading.Event()
    with make(*held, dest=dest, settings={"plugins.dest.timeout": 1, "plugins.dest.concurrency": 1}) as room:
        poll(lambda: room.delivery(held[1].id).status is SUBMITTED)
        assert room.delivery(first).error == "no answer within 1 seconds"
        dest.stuck.set()


def test_an_async_plugin_that_does_not_let_itself_be_cancelled_frees_its_slot_too(make):
    class Stubborn(Destination):
        @hookimpl
        async def submit_session(self, session):
            self.tries.append(session.id)
            while session.id == first and not self.stuck.is_set():
                try:
                    await asyncio.sleep(0.05)
                except asyncio.CancelledError:
                    self.asked = True
            return Receipt()

    held = stored(1, 2)
    first = held[0].id
    dest = Stubborn()
    dest.stuck, dest.asked = threading.Event(), False
    with make(*held, dest=dest, settings={"plugins.dest.timeout": 1, "plugins.dest.concurrency": 1}) as room:
        poll(lambda: room.delivery(held[1].id).status is SUBMITTED)
        assert dest.asked
        dest.stuck.set()


# Several in one attempt.


class Many(Destination):
    def __init__(self):
        super().__init__()
        self.groups = []

    @hookimpl
    async def submit_sessions(self, sessions):
        self.groups.append([one.id for one in sessions])
        if any(one.id in self.errors for one in sessions) and self.error is not None:
            raise self.error
        return [self.errors.get(one.id, Receipt()) for one in sessions]


def test_several_go_in_one_attempt_each_with_an_answer_of_its_own(make):
    held = stored(*range(1, 7))
    dest = Many()
    dest.errors[held[1].id] = SessionRejected("HTTP 422")
    settings = {"plugins.dest.batch_size": 3, "plugins.dest.concurrency": 1}
    with make(*held, dest=dest, settings=settings) as room:
        poll(lambda: room.statuses() == [SUBMITTED, FAILED, *[SUBMITTED] * 4])
        assert [len(group) for group in dest.groups] == [3, 3]


@pytest.mark.parametrize("error", [SessionRejected("HTTP 413"), DestinationBroken("HTTP 500"), ValueError("canary")])
def test_one_bad_session_does_not_fail_those_that_were_sent_with_it(make, error):
    held = stored(*range(1, 5))
    dest = Many()
    dest.error = dest.errors[held[1].id] = error
    dest.error = error

    async def submit_session(session):
        dest.tries.append(session.id)
        if session.id in dest.errors:
            raise error
        return Receipt()

    class Both(Many):
        @hookimpl
        async def submit_session(self, session):
            return await submit_session(session)

    both = Both()
    both.error, both.errors = error, dest.errors
    settings = {"plugins.dest.batch_size": 4, "plugins.dest.concurrency": 1, "plugins.dest.max_retries": 1}
    with make(*held, dest=both, settings=settings) as room:
        poll(lambda: room.statuses() == [SUBMITTED, FAILED, SUBMITTED, SUBMITTED])
        assert room.delivery(held[0].id).attempts == 1  # the group did not count


def test_a_destination_that_takes_one_at_a_time_is_given_one(make):
    with make(*stored(1, 2, 3), settings={"plugins.dest.batch_size": 10}) as room:
        poll(lambda: len(room.dest.got) == 3)


# Pausing.


def test_a_dead_destination_is_one_notice_and_few_attempts(make, caplog):
    room = make(*stored(*range(1, 100)))
    room.dest.error = DestinationUnreachable("connection refused")
    with room:
        poll(lambda: room.status().state == "paused")
        poll(lambda: room.ear.notices("submission-dest"))  # what is told comes right behind what is so
        room.capture(5, 500)
        time.sleep(0.3)
        assert len([e for e in room.ear.of(NoticeRaised) if e.key == "submission-dest"]) == 1
        assert len([r for r in caplog.records if "dest" in r.getMessage() and r.levelname == "WARNING"]) == 1
        assert set(room.statuses()) == {PENDING}
        assert room.status().until is not None
        room.dest.error = None
        room.call(room.runtime.submit_now())
        poll(lambda: set(room.statuses()) == {SUBMITTED})
        assert [e.resolved for e in room.ear.notices("submission-dest")] == [False, True]


def test_refused_credentials_fail_one_session_and_the_rest_wait(make):
    room = make(*stored(*range(1, 10)), settings={"plugins.dest.concurrency": 1})
    room.dest.error = DestinationUnauthorized("HTTP 401")
    with room:
        poll(lambda: room.status().state == "paused")
        time.sleep(0.1)
        assert room.statuses() == [FAILED, *[PENDING] * 8]
        assert len(room.dest.tries) == 1


def test_new_settings_are_tried_at_once_and_count_for_the_next_attempt(make):
    room = make(*stored(*range(1, 10)), settings={"plugins.dest.concurrency": 1})
    room.dest.error = DestinationUnauthorized("HTTP 401")
    with room:
        poll(lambda: room.status().state == "paused")
        room.dest.error = None
        room.call(room.runtime.change_settings({"plugins.dest.endpoint": "elsewhere"}))
        poll(lambda: len(room.dest.got) == 8)
        assert room.dest.settings.endpoint == "elsewhere"


def test_three_sessions_in_a_row_at_its_own_fault_pause_it_and_the_rest_wait(make):
    settings = {"plugins.dest.concurrency": 1, "plugins.dest.max_retries": 1}
    room = make(*stored(*range(1, 10)), settings=settings)
    room.dest.error = DestinationBroken("HTTP 503")
    with room:
        poll(lambda: room.status().state == "paused")
        time.sleep(0.1)
        assert room.statuses() == [*[FAILED] * 3, *[PENDING] * 6]


def test_a_try_of_a_paused_destination_does_not_count_on_the_session(make):
    settings = {"plugins.dest.concurrency": 1, "plugins.dest.max_retries": 1}
    room = make(*stored(*range(1, 6)), settings=settings)
    room.dest.error = DestinationBroken("HTTP 503")
    with room:
        poll(lambda: room.status().state == "paused")
        room.call(room.runtime.submit_now())
        poll(lambda: len(room.dest.tries) == 4)
        poll(lambda: room.status().in_flight == 0)
        assert room.statuses() == [*[FAILED] * 3, *[PENDING] * 2]
        assert all(room.delivery(i).attempts == 0 for i in list(room.store.held)[3:])


def test_a_destination_that_rejects_everything_is_one_notice(make, caplog):
    room = make(*stored(*range(1, 50)))
    room.dest.error = SessionRejected("HTTP 404")
    with room:
        poll(lambda: room.statuses() == [FAILED] * 49)
        assert [e.text for e in room.ear.notices("rejected-dest")] == [
            "dest rejects every session (HTTP 404); check its address"
        ]
        assert len([r for r in caplog.records if r.levelname == "WARNING" and "dest" in r.getMessage()]) == 1


def test_what_the_destination_asks_for_is_kept(make):
    room = make(*stored(*range(1, 10)), settings={"plugins.dest.concurrency": 1})
    room.dest.error = DestinationBusy("HTTP 429", retry_after=2)
    with room:
        poll(lambda: room.dest.tries)
        began = time.monotonic()
        room.dest.error = None
        room.call(room.runtime.submit_now())
        poll(lambda: room.dest.got)
        assert time.monotonic() - began > 1.5
        assert len(room.dest.tries) >= 2
        poll(lambda: len(room.dest.got) == 9)


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


def test_a_session_ignored_in_flight_and_acknowledged_says_both(make):
    (one,) = held = stored(1)
    room = make(*held)
    room.dest.gate = threading.Event()
    with room:
        poll(lambda: room.dest.tries)
        room.call(room.runtime.ignore([one.id]))
        room.dest.gate.set()
        poll(lambda: room.delivery(one.id).status is SUBMITTED)
        assert room.store.held[one.id].status is IGNORED


def test_a_session_deleted_in_flight_stays_deleted(make):
    (one,) = held = stored(1)
    room = make(*held)
    room.dest.gate = threading.Event()
    with room:
        poll(lambda: room.dest.tries)
        room.call(room.runtime.delete([one.id]))
        room.dest.gate.set()
        poll(lambda: room.status().in_flight == 0)
        time.sleep(0.1)
        assert room.store.held == {}
        assert room.dest.tries == [one.id]


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


def test_a_destination_that_becomes_active_takes_up_what_was_pending_before(make):
    held = [*stored(1, names=()), *stored(2, names=("gone",)), *stored(3, names=("gone",), status=SUBMITTED)]
    held += [one._replace(ignored=True) for one in stored(4, names=())]
    with make(*held, settings={"plugins.dest.endpoint": ""}) as room:
        time.sleep(0.2)
        assert room.dest.tries == []
        assert room.status().state == "inactive"
        room.call(room.runtime.change_settings({"plugins.dest.endpoint": "there"}))
        poll(lambda: room.dest.got == [held[0].id, held[1].id])
        poll(lambda: room.store.held[held[0].id].status is SUBMITTED)
        assert room.delivery(held[2].id) is None
        assert room.delivery(held[3].id) is None


def test_without_backlog_it_takes_up_none(make):
    with make(*stored(1, names=()), settings={"plugins.dest.backlog": False}) as room:
        room.capture(1, 5)
        poll(lambda: len(room.dest.got) == 1)
        room.call(room.runtime.submit_now())
        time.sleep(0.2)
        assert len(room.dest.got) == 1


def test_a_destination_that_is_switched_off_leaves_its_deliveries_as_they_are(make):
    room = make(*stored(*range(1, 6)))
    room.dest.error = DestinationUnreachable("refused")
    with room:
        poll(lambda: room.status().state == "paused")
        room.call(room.runtime.change_settings({"plugins.dest.enabled": False}))
        poll(lambda: room.harness.state().unsaved == 0)
        before = dict(room.store.held)
        room.dest.error = None
        room.capture(1, 50)
        poll(lambda: len(room.store.held) == 6)
        time.sleep(0.2)
        assert all(room.store.held[i].deliveries == before[i].deliveries for i in before)
        assert room.engine.news.notices == ()
        room.call(room.runtime.change_settings({"plugins.dest.enabled": True}))
        poll(lambda: room.dest.got)  # the one captured meanwhile; the others wait for their next cycle
        room.call(room.runtime.submit_now())
        poll(lambda: set(room.statuses()) == {SUBMITTED})
        assert len(room.dest.got) == 6


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


def test_an_acknowledgement_is_kept_while_the_store_is_away(make):
    room = make(*stored(1))
    room.dest.gate = threading.Event()
    with room:
        poll(lambda: room.dest.tries)
        room.store.unreadable = room.store.down = True
        room.dest.gate.set()
        poll(lambda: room.dest.got)
        time.sleep(0.7)
        room.store.unreadable = room.store.down = False
        poll(lambda: room.statuses() == [SUBMITTED])
        assert len(room.dest.tries) == 1
