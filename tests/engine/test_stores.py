"""The attached stores and the ledger, read and changed as one."""

import pytest

from engine.parts import Store, exchange, poll, session
from engine.rooms import NOW
from hl7core.engine.session_memory import Limits
from hl7core.engine.session_state import ignore
from hl7core.errors import (
    StoreError,
)
from hl7core.model.delivery import Delivery, DeliveryStatus
from hl7core.model.session import SessionQuery


def test_a_start_never_fails_because_of_what_is_stored(parts):
    store, _, make = parts
    store.unreadable = True
    with make() as harness:
        harness.feed(exchange("A"))
        poll(lambda: store.held)


def test_memory_holds_the_newest_stored_sessions_after_a_start(parts):
    store, _, make = parts
    for number in range(1, 6):
        store.held[session(number).id] = session(number)
    with make(settings={"core.memory_sessions": 2}) as harness:
        poll(lambda: harness.state().sessions_in_memory == 2)


def test_a_late_acknowledgement_of_a_session_that_memory_forgot_keeps_what_is_stored_of_it(rooms):
    r = rooms()
    r.store.held[session(1).id] = session(1)._replace(ignored=True, first_saved_at=NOW.replace(year=2025))
    r.add(session(1, revision=1))
    r.saved()
    held = r.store.held[session(1).id]
    assert (held.revision, held.ignored, held.first_saved_at.year) == (1, True, 2025)
    assert r.store.replaced == [session(1).id]


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


def test_sessions_of_the_old_store_are_found_changed_deleted_and_restored_after_the_swap(two):
    two.harness.feed(exchange("A"), exchange("B", seconds=1))
    poll(lambda: len(two.old.held) == 2)
    first, second = sorted(two.old.held)
    two.go_to("new_store")
    two.harness.call(two.harness.runtime.clear())
    assert two.ids() == [first, second]
    assert two.ids(control_id="B") == [second]
    two.harness.call(two.harness.runtime.ignore([first]))
    poll(lambda: two.old.held[first].ignored)
    assert two.harness.call(two.harness.runtime.delete([second])) == [second]
    assert two.ids() == [first]
    assert two.harness.call(two.harness.runtime.restore([second])) == [second]
    assert two.ids() == [first, second]
    assert not two.new.held


def test_a_capture_seen_again_after_the_swap_is_not_stored_twice_and_keeps_its_status(two):
    packets = exchange("A")
    two.harness.feed(packets)
    poll(lambda: two.old.held)
    (stored,) = two.old.held
    two.harness.call(two.harness.runtime.ignore([stored]))
    poll(lambda: two.old.held[stored].ignored)
    two.go_to("new_store")
    two.harness.call(two.harness.runtime.clear())
    two.harness.feed(exchange("other", seconds=90), packets)
    poll(lambda: two.new.held)
    two.harness.wait_decoded()
    poll(lambda: two.harness.state().unsaved == 0)
    assert stored not in two.new.held
    assert two.harness.sessions(SessionQuery(ids=(stored,)))[0].ignored


def test_of_two_copies_the_one_saved_last_counts_whichever_store_has_it(two):
    two.harness.feed(exchange("A"))
    poll(lambda: two.old.held)
    (stored,) = two.old.held.values()
    two.go_to("new_store")
    two.harness.call(two.harness.runtime.clear())
    sent = (Delivery("lab", DeliveryStatus.SUBMITTED, 1, None, stored.saved_at),)
    later = stored._replace(saved_at=stored.saved_at.replace(year=2100), deliveries=sent)
    pending = stored._replace(deliveries=(Delivery("lab"),))
    for newer, older in ((two.new, two.old), (two.old, two.new)):
        newer.held[stored.id], older.held[stored.id] = later, pending
        assert two.harness.sessions() == [later]
        assert two.ids(pending_for="lab") == []  # the older copy is never taken for pending
        assert two.ids(status=(DeliveryStatus.SUBMITTED,), newest_first=True) == [stored.id]


def test_paging_through_two_stores_that_share_sessions_yields_each_once(two):
    for number in range(30):
        two.harness.feed(exchange(f"C{number}", seconds=number))
    poll(lambda: len(two.old.held) == 30)
    two.go_to("new_store")
    two.harness.call(two.harness.runtime.clear())
    order = sorted(two.old.held, key=lambda i: two.old.held[i].start_ns)
    for place, session_id in enumerate(order):  # a third in both, older, as old and newer in the new store
        copy = two.old.held[session_id]
        if place % 3 == 0:
            two.new.held[session_id] = copy._replace(saved_at=copy.saved_at.replace(year=2000 + 100 * (place % 2)))
    for newest_first in (False, True):
        seen, after = [], None
        while page := two.harness.sessions(SessionQuery(limit=4, after=after, newest_first=newest_first)):
            seen += [session.id for session in page]
            after = (page[-1].started_at, page[-1].id)
        assert seen == (order[::-1] if newest_first else order)


def test_deleting_goes_on_where_one_store_does_not_answer_and_says_so(two):
    two.harness.feed(exchange("A"))
    poll(lambda: two.old.held)
    two.go_to("new_store")
    two.harness.feed(exchange("B", seconds=1))
    poll(lambda: two.new.held)
    ids = [*two.old.held, *two.new.held]
    with pytest.MonkeyPatch.context() as patched:
        real = two.harness.engine.dispatch.stores.delete

        def delete(store, *rest):
            if store == "old_store":
                raise StoreError("the folder is gone")
            return real(store, *rest)

        patched.setattr(two.harness.engine.dispatch.stores, "delete", delete)
        with pytest.raises(StoreError, match="the folder is gone"):
            two.harness.call(two.harness.runtime.delete(ids))
    assert not two.new.held
    assert two.ids() == list(two.old.held)
