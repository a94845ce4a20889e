"""The keeper: saved means stored, and nothing that fails holds up the rest."""

import threading
import time
from datetime import UTC, datetime

import pytest

from engine.parts import Store, poll, session
from hl7core.engine.keeper import Keeper, Policy
from hl7core.engine.ledger import Ledger
from hl7core.engine.news import News
from hl7core.engine.session_memory import Limits
from hl7core.engine.session_state import ignore
from hl7core.engine.store_jobs import FAIR
from hl7core.engine.stores import AttachedStores
from hl7core.errors import EngineError, StoreError
from hl7core.model.delivery import Delivery
from hl7core.model.events import NoticeRaised, SessionSaved, SessionUnsaved
from hl7core.model.finding import Finding, Severity
from hl7core.model.session import SessionQuery

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Direct:
    """The dispatch's surface, straight onto stores."""

    def __init__(self, **stores):
        self._stores = stores
        self.events = []
        self.found = ()

    @property
    def stores(self):
        return self

    def attached_stores(self):
        return tuple(self._stores)

    def persist(self, store, sessions, *, replace):
        if store not in self._stores:
            return [StoreError(f"the store {store} is not in service")] * len(sessions)
        return self._stores[store].persist_sessions(sessions, replace)

    def load(self, store, query):
        return self._stores[store].load_sessions(query)

    def delete(self, store, ids, to_trash, deleted_at):
        return self._stores[store].delete_sessions(ids, to_trash, deleted_at)

    def restore(self, store, ids):
        return self._stores[store].restore_sessions(ids)

    def findings(self, _session):
        return self.found

    def event(self, event):
        self.events.append(event)

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


class Rooms:
    def __init__(self, limits, **stores):
        self.store = stores.get("main") or Store()
        self.dispatch = Direct(main=self.store, **{k: v for k, v in stores.items() if k != "main"})
        self.ledger = Ledger(limits)
        self.news = News(self.dispatch)
        self.stores = AttachedStores(self.dispatch, self.ledger, record=lambda: "main")
        self.policy = Policy("main", 30, ("lab",))
        self.keeper = Keeper(
            self.ledger, self.dispatch, self.stores, self.news, policy=lambda: self.policy, now=lambda: NOW
        )

    def add(self, *sessions):
        self.ledger.add(sessions)
        self.keeper.wake()

    def saved(self):
        poll(lambda: self.ledger.unsaved == 0)

    def do(self, job):
        return self.keeper.submit(job).result(10)


@pytest.fixture
def rooms():
    made = []

    def make(limits=None, **stores):
        one = Rooms(limits or Limits(), **stores)
        made.append(one)
        one.keeper.start()
        return one

    yield make
    for one in made:
        one.keeper.stop(0.1)


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


def test_a_late_acknowledgement_of_a_session_that_memory_forgot_keeps_what_is_stored_of_it(rooms):
    r = rooms()
    r.store.held[session(1).id] = session(1)._replace(ignored=True, first_saved_at=NOW.replace(year=2025))
    r.add(session(1, revision=1))
    r.saved()
    held = r.store.held[session(1).id]
    assert (held.revision, held.ignored, held.first_saved_at.year) == (1, True, 2025)
    assert r.store.replaced == [session(1).id]


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


def test_a_change_of_a_session_that_only_the_store_holds_is_stored(rooms):
    r = rooms()
    r.store.held[session(1).id] = session(1)
    assert r.do(lambda: r.stores.change([session(1).id, session(2).id], ignore)) == [session(1).id]
    r.saved()
    assert r.store.held[session(1).id].ignored


def test_a_session_is_changed_in_the_store_that_holds_it_and_new_ones_go_to_the_store_of_record(rooms):
    old = Store()
    r = rooms(old=old)
    old.held[session(1).id] = session(1)
    r.add(session(2))
    r.do(lambda: r.stores.change([session(1).id], ignore))
    r.saved()
    assert old.held[session(1).id].ignored
    assert list(r.store.held) == [session(2).id]


def test_listings_merge_all_stores_and_memory_in_order_and_in_pages(rooms):
    old = Store()
    r = rooms(Limits(memory_sessions=1), old=old)
    for number in (1, 4, 7):
        old.held[session(number).id] = session(number)
    for number in (2, 4, 6):
        r.store.held[session(number).id] = session(number)._replace(sensor="main")
    r.store.down = True
    r.add(session(5))
    query = SessionQuery(limit=2)
    seen = []
    while page := r.do(lambda query=query: r.stores.load(query)):
        seen += page
        query = query._replace(after=(page[-1].started_at, page[-1].id))
    assert [s.messages[0].control_id for s in seen] == ["C1", "C2", "C4", "C5", "C6", "C7"]
    assert seen[2].sensor == "main"
    newest = r.do(lambda: r.stores.load(SessionQuery(newest_first=True, limit=3)))
    assert [s.messages[0].control_id for s in newest] == ["C7", "C6", "C5"]


def test_a_change_that_waits_is_what_a_reader_sees(rooms):
    r = rooms()
    r.add(session(1), session(2))
    r.saved()
    r.store.down = True
    r.do(lambda: r.stores.change([session(1).id], ignore))
    assert [s.ignored for s in r.do(lambda: r.stores.load(SessionQuery()))] == [True, False]


def test_one_store_that_cannot_load_does_not_hide_what_the_others_hold(rooms):
    old = Store()
    r = rooms(old=old)
    r.store.held[session(1).id] = session(1)
    old.unreadable = True
    assert len(r.do(lambda: r.stores.load(SessionQuery()))) == 1
    r.store.unreadable = True
    with pytest.raises(StoreError):
        r.do(lambda: r.stores.load(SessionQuery()))


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


def test_deleting_and_restoring_go_through_every_store(rooms):
    old = Store()
    r = rooms(old=old)
    old.held[session(1).id] = session(1)
    r.add(session(2))
    r.saved()
    ids = [session(1).id, session(2).id, session(3).id]
    assert r.do(lambda: r.stores.delete(ids, to_trash=True, deleted_at=NOW)) == ids[:2]
    assert not old.held
    assert not r.store.held
    assert session(2).id not in r.ledger
    assert r.do(lambda: r.stores.restore(ids)) == ids[:2]


def test_memory_is_filled_with_the_newest_stored_sessions(rooms):
    r = rooms()
    for number in range(1, 8):
        r.store.held[session(number).id] = session(number)
    assert r.do(lambda: r.stores.fill(3)) == 3
    assert [session(n).id in r.ledger for n in (4, 5, 6, 7)] == [False, True, True, True]
    assert r.ledger.unsaved == 0
