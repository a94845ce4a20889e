"""One destination: its pauses, its notices, and when it is active."""

import time

from engine.outbox.room import FAILED, PENDING, SUBMITTED, stored
from engine.parts import poll
from hl7core.errors import (
    DestinationBroken,
    DestinationBusy,
    DestinationUnauthorized,
    DestinationUnreachable,
    SessionRejected,
)
from hl7core.model.events import NoticeRaised


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


def test_a_destination_without_an_endpoint_is_named_once_in_the_log_at_its_ordinary_level(make, caplog):
    caplog.set_level("INFO", "hl7core")

    def told():
        return [record.getMessage() for record in caplog.records if "submits nothing" in record.getMessage()]

    with make(settings={"plugins.dest.endpoint": ""}) as room:
        poll(told)
        room.capture(3)
        room.call(room.runtime.change_settings({"core.retention_days": 3}))
        time.sleep(1.5)
        assert told() == ["dest submits nothing: its settings name no receiver ([plugins.dest])"]
        room.call(room.runtime.change_settings({"plugins.dest.endpoint": "here"}))
        poll(lambda: room.status().state != "inactive")
        room.call(room.runtime.change_settings({"plugins.dest.endpoint": ""}))
        poll(lambda: len(told()) == 2)
