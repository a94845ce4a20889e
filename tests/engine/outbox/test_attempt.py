"""One attempt: what is submitted at once, how it fails, and what is recorded."""

import asyncio
import threading
import time

import pytest

from engine.outbox.room import FAILED, IGNORED, PENDING, SUBMITTED, Destination, stored
from engine.parts import poll
from hl7core.errors import (
    DestinationBroken,
    DestinationBusy,
    DestinationUnauthorized,
    DestinationUnreachable,
    SessionRejected,
)
from hl7core.hookspecs import hookimpl
from hl7core.model.delivery import Receipt


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
