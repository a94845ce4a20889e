"""The keeper: saved means stored, and nothing that fails holds up the rest."""

import threading
import time

import pytest

from engine.parts import exchange, poll, session
from engine.rooms import NOW
from hl7core.engine.store_jobs import FAIR
from hl7core.errors import (
    EngineError,
)
from hl7core.model.delivery import Delivery
from hl7core.model.events import (
    NoticeRaised,
    SessionSaved,
    SessionUnsaved,
)
from hl7core.model.finding import Finding, Severity
from hl7core.model.session import SessionQuery


def test_a_session_is_saved_with_its_stamps_and_told_with_its_place(rooms):
    r = rooms()
    r.add(session(1))
    r.saved()
    held = r.store.held[session(1).id]
    assert held.first_saved_at == NOW
    assert held.deliveries == (Delivery("lab"),)
    poll(lambda: r.dispatch.of(SessionSaved))
    assert r.dispatch.of(SessionSaved) == [SessionSaved(session(1).id, "main", f"memory/{session(1).id}")]
    assert r.store.threads == {"hl7core-keeper"}


def test_many_are_saved_in_groups(rooms):
    r = rooms()
    r.add(*(session(number) for number in range(1, 200)))
    r.saved()
    assert max(r.store.groups) == 64
    assert len(r.store.groups) < 10


def test_while_the_store_is_down_sessions_wait_one_is_told_once_and_all_are_saved_when_it_returns(rooms):
    r = rooms()
    r.store.down = True
    r.add(*(session(number) for number in range(1, 100)))
    poll(lambda: r.keeper.down)
    time.sleep(0.6)
    assert r.ledger.unsaved == 99
    notices = [e for e in r.dispatch.of(NoticeRaised) if e.key == "store"]
    assert [(e.resolved, "the disk is full" in e.text) for e in notices] == [(False, True)]
    tried = r.store.attempts
    assert tried < 99 + 10
    r.store.down = False
    r.saved()
    assert len(r.store.held) == 99
    poll(lambda: [e.resolved for e in r.dispatch.of(NoticeRaised) if e.key == "store"] == [False, True])


def test_each_unsaved_session_is_told_of_once(rooms):
    r = rooms()
    r.store.down = True
    r.add(session(1))
    poll(lambda: r.store.attempts >= 2)
    assert [event.session_id for event in r.dispatch.of(SessionUnsaved)] == [session(1).id]


def test_a_session_that_always_fails_does_not_hold_up_the_others(rooms):
    r = rooms()
    r.store.poison = {session(1).id}
    r.store.refused = {session(2).id}
    r.add(session(1), session(2))
    poll(lambda: r.store.attempts >= 2)
    began = time.monotonic()
    r.add(*(session(number) for number in range(3, 50)))
    poll(lambda: r.ledger.unsaved == 2)
    assert time.monotonic() - began < 2
    assert len(r.store.held) == 47


def test_several_that_always_fail_hold_the_others_up_for_moments_only(rooms):
    r = rooms()
    r.store.poison = {session(number).id for number in range(1, 6)}
    r.add(*(session(number) for number in range(1, 6)))
    poll(lambda: r.store.attempts >= 5)
    r.add(*(session(number) for number in range(6, 50)))
    poll(lambda: r.ledger.unsaved == 5, timeout=5)


def test_what_raises_in_the_store_thread_reaches_who_asked_and_the_thread_lives(rooms):
    r = rooms()
    with pytest.raises(ZeroDivisionError):
        r.do(lambda: 1 // 0)
    assert r.do(lambda: 7) == 7


def test_a_session_of_an_earlier_run_decoded_again_is_left_as_it_is_stored(rooms):
    r = rooms()
    stored = session(1)._replace(ignored=True)
    r.store.held[stored.id] = stored
    r.add(session(1))
    r.saved()
    assert r.store.held[stored.id] is stored
    assert r.do(lambda: r.stores.change([stored.id], lambda s: s._replace(sensor="seen"))) == [stored.id]
    r.saved()
    assert r.store.held[stored.id].ignored


def test_findings_are_part_of_what_is_saved(rooms):
    r = rooms()
    r.dispatch.found = (Finding("odd", Severity.INFO, "odd"),)
    r.add(session(1))
    r.saved()
    assert [f.code for f in r.store.held[session(1).id].findings] == ["odd"]


def test_a_query_that_reads_for_long_does_not_keep_sessions_from_being_saved(rooms):
    r = rooms()
    r.store.held = {session(number).id: session(number) for number in range(1, 4)}
    seen = []

    def reading(query, load=r.store.load_sessions):
        r.ledger.add([session(9)])
        time.sleep(FAIR)  # this is what reading takes
        r.keeper.give_way()
        seen.append(session(9).id in r.store.held)
        return load(query)

    r.store.load_sessions = reading
    found = r.keeper.submit(lambda: r.stores.load(SessionQuery()), gives_way=True).result(10)
    assert seen == [True]
    assert [one.id for one in found] == [session(number).id for number in (1, 2, 3, 9)]
    assert r.store.threads == {"hl7core-keeper"}


def test_a_query_that_reads_for_long_ends_when_the_engine_stops(rooms, caplog):
    r = rooms()
    reading = threading.Event()

    def endless(_query):
        while True:
            reading.set()
            time.sleep(FAIR / 5)
            r.keeper.give_way()

    r.store.load_sessions = endless
    asked = r.keeper.submit(lambda: r.stores.load(SessionQuery()), gives_way=True)
    assert reading.wait(10)
    r.ledger.add([session(1)])
    assert r.keeper.stop(30) == []
    assert isinstance(asked.exception(0), EngineError)
    assert session(1).id in r.store.held
    assert not caplog.records


def test_stop_saves_what_waits(rooms):
    r = rooms()
    r.store.slow = 0.005
    r.add(*(session(number) for number in range(1, 101)))
    assert r.keeper.stop(10) == []
    assert len(r.store.held) == 100


def test_stop_keeps_its_deadline_and_names_what_it_could_not_save(rooms, caplog):
    r = rooms()
    r.store.down = True
    r.add(session(1), session(2))
    began = time.monotonic()
    assert r.keeper.stop(0.5) == [session(1).id, session(2).id]
    assert time.monotonic() - began < 2
    assert session(1).id in caplog.text
    assert "C1" not in caplog.text
    with pytest.raises(EngineError):
        r.do(lambda: 1)


def test_a_store_that_comes_back_during_the_stop_still_gets_them(rooms):
    r = rooms()
    r.store.down = True
    r.add(session(1), session(2))
    poll(lambda: r.keeper.stuck)
    r.keeper.submit(lambda: setattr(r.store, "down", False))
    assert r.keeper.stop(5) == []


def test_an_old_store_that_cannot_be_read_holds_up_no_new_save(two):
    two.go_to("new_store")
    two.old.unreadable = True
    two.harness.feed(exchange("A"))
    poll(lambda: two.new.held)


def test_a_change_of_a_session_whose_store_is_gone_is_saved_in_the_store_of_record(two):
    two.harness.feed(exchange("A"))
    poll(lambda: two.old.held)
    (stored,) = two.old.held
    two.go_to("new_store")
    two.harness.call(two.harness.runtime.change_settings({"plugins.old_store.enabled": False}))
    assert two.harness.call(two.harness.runtime.ignore([stored])) == [stored]
    poll(lambda: stored in two.new.held)
    assert two.new.held[stored].ignored
    assert two.new.held[stored].first_saved_at == two.old.held[stored].first_saved_at
    two.harness.call(two.harness.runtime.change_settings({"plugins.old_store.enabled": True}))
    assert [session.ignored for session in two.harness.sessions()] == [True]
