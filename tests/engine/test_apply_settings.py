"""Another store of record, in a running engine: nothing is lost, nothing is stranded, nothing is sent twice for it."""

import threading
import time
from dataclasses import dataclass
from functools import partial

import pytest

from engine.parts import Listener, Store, exchange, poll
from hl7core.engine.store_probe import PROBE_ID
from hl7core.errors import SettingsError, StoreError
from hl7core.hookspecs import hookimpl
from hl7core.model.delivery import Delivery, DeliveryStatus
from hl7core.model.events import SettingsChanged
from hl7core.model.session import SessionQuery
from hl7core.testing.harness import EngineHarness
from hl7core_plugins.json_store import JsonStore
from hl7core_plugins.sqlite_store import SqliteStore


class Watched(Store):
    """It notes every session that it was ever given."""

    def __init__(self):
        super().__init__()
        self.given = []
        self.forgetful = self.clinging = False

    @hookimpl
    def persist_session(self, session, replace):
        self.given.append(session.id)
        if self.forgetful:
            return "nowhere"
        return super().persist_session(session, replace)

    @hookimpl
    def persist_sessions(self, sessions, replace):
        self.given += [session.id for session in sessions]
        return super().persist_sessions(sessions, replace)

    @hookimpl
    def delete_sessions(self, ids, to_trash, deleted_at):
        if self.clinging:
            return []
        removed = super().delete_sessions(ids, to_trash, deleted_at)
        for session_id in removed if not to_trash else ():
            del self.trash[session_id]
        return removed


@dataclass
class Two:
    harness: EngineHarness
    old: Watched
    new: Watched
    listener: Listener

    def go_to(self, name):
        self.harness.call(self.harness.runtime.change_settings({"core.store": name}))

    def write(self, text):
        self.harness.path.write_text(text)

    def ids(self, **query):
        return [session.id for session in self.harness.sessions(SessionQuery(**query))]


@pytest.fixture
def two(tmp_path):
    old, new, listener = Watched(), Watched(), Listener()
    plugins = {"old_store": old, "new_store": new, "listener": listener}
    with EngineHarness(tmp_path, plugins, settings={"core.store": "old_store"}) as harness:
        yield Two(harness, old, new, listener)


def test_the_new_store_is_probed_with_one_write_that_leaves_nothing(two):
    two.go_to("new_store")
    assert two.new.given == [PROBE_ID]
    assert not two.new.held
    assert not two.new.trash
    assert two.harness.engine.record == "new_store"


@pytest.mark.parametrize("trouble", ["down", "forgetful", "clinging", "unreadable"])
def test_a_store_that_fails_its_probe_leaves_the_old_one_in_force_and_says_why(two, trouble):
    setattr(two.new, trouble, True)
    with pytest.raises(SettingsError, match=r"core\.store: new_store cannot be written to \(.+\); old_store stays"):
        two.go_to("new_store")
    assert two.harness.engine.record == "old_store"
    assert '"old_store"' in two.harness.path.read_text()
    two.harness.feed(exchange("A"))
    poll(lambda: two.old.held)
    assert set(two.new.given) <= {PROBE_ID}
    assert PROBE_ID not in two.ids()


def test_a_swap_in_the_file_that_fails_is_told_and_tried_again_by_itself(two, monkeypatch):
    monkeypatch.setattr("hl7core.engine.engine._STORE_AGAIN", 0.0)
    two.new.down = True
    two.write(two.harness.path.read_text().replace('store = "old_store"', 'store = "new_store"'))
    poll(lambda: "new_store" in dict(two.harness.state().notices).get("settings", ""))
    two.harness.feed(exchange("A"))
    poll(lambda: two.old.held)
    two.new.down = False
    poll(lambda: two.harness.engine.record == "new_store")
    poll(lambda: "settings" not in dict(two.harness.state().notices))
    two.harness.feed(exchange("B"))
    poll(lambda: two.new.held)
    told = [event.problems for event in two.listener.of(SettingsChanged)]
    assert len(told[0]) == 1
    assert told[-1] == ()


def test_a_store_that_was_misspelt_from_the_start_is_put_right_in_the_running_engine(tmp_path):
    store = Store()
    with EngineHarness(tmp_path, {"one_store": store}, settings={"core.store": "on_store"}) as harness:
        harness.feed(exchange("A"))
        harness.wait_for(lambda: harness.state().unsaved == 1)
        harness.call(harness.runtime.change_settings({"core.store": "one_store"}))
        poll(lambda: store.held)


def test_what_a_crash_leaves_of_a_probe_is_never_seen_and_goes_at_the_next_start(tmp_path):
    from hl7core.engine.store_probe import _PROBE

    store = Store()
    with EngineHarness(tmp_path, {"one_store": store}, settings={"core.store": "one_store"}) as harness:
        poll(lambda: harness.engine.keeper.submit(lambda: True).result(5))  # what a start sweeps is swept
        store.held[PROBE_ID] = _PROBE
        assert harness.sessions() == []
        assert harness.sessions(SessionQuery(ids=(PROBE_ID,))) == []
        assert harness.call(harness.runtime.ignore([PROBE_ID])) == []
    with EngineHarness(tmp_path, {"one_store": store}, settings={"core.store": "one_store"}):
        poll(lambda: not store.held)


@pytest.mark.parametrize("other", [Watched, SqliteStore])
def test_under_steady_traffic_back_and_forth_each_session_is_in_exactly_one_store_and_found(tmp_path, other):
    fed, over = [], threading.Event()
    settings = {"core.store": "json_store", "core.output_folder": "data"}
    with EngineHarness(tmp_path, {"json_store": JsonStore, "other_store": other}, settings=settings) as harness:

        def held(store):
            load = partial(harness.engine.dispatch.stores.load, store, SessionQuery(limit=100_000))
            return {session.id for session in harness.engine.keeper.submit(load).result(60)}

        def traffic():
            while not over.is_set():
                fed.append(f"N{len(fed):05d}")
                harness.feed(exchange(fed[-1], seconds=len(fed)))
                time.sleep(0.002)

        thread = threading.Thread(target=traffic)
        thread.start()
        try:
            for store in ("other_store", "json_store") * 4:
                before = harness.engine.ledger.saved_count
                harness.call(harness.runtime.change_settings({"core.store": store}))
                poll(lambda before=before: harness.engine.ledger.saved_count > before + 10)
        finally:
            over.set()
            thread.join()
        harness.wait_decoded()
        poll(lambda: harness.state().unsaved == 0)
        found = harness.sessions(SessionQuery(limit=100_000))
        assert [session.messages[0].control_id for session in found] == fed
        harness.call(harness.runtime.clear())
        assert len(harness.call(harness.runtime.ignore([session.id for session in found]))) == len(fed)
        poll(lambda: harness.state().unsaved == 0)
        assert len(harness.sessions(SessionQuery(status=(DeliveryStatus.IGNORED,), limit=100_000))) == len(fed)
        ours, theirs = held("json_store"), held("other_store")
    assert ours
    assert theirs
    assert not ours & theirs
    assert ours | theirs == {session.id for session in found}


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


def test_an_old_store_that_cannot_be_read_holds_up_no_new_save(two):
    two.go_to("new_store")
    two.old.unreadable = True
    two.harness.feed(exchange("A"))
    poll(lambda: two.new.held)


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


def test_the_store_of_record_cannot_be_switched_off_under_the_engine(two):
    two.harness.call(two.harness.runtime.change_settings({"plugins.old_store.enabled": False}))
    two.harness.feed(exchange("A"))
    poll(lambda: two.old.held)
    assert two.harness.engine.registry.info("old_store").state == "enabled"


def test_a_swap_that_also_switches_the_old_store_off_keeps_it_until_the_new_one_has_proved_itself(two):
    two.new.down = True
    changes = {"core.store": "new_store", "plugins.old_store.enabled": False}
    with pytest.raises(SettingsError):
        two.harness.call(two.harness.runtime.change_settings(changes))
    two.harness.feed(exchange("A"))
    poll(lambda: two.old.held)
    two.new.down = False
    two.harness.call(two.harness.runtime.change_settings(changes))
    assert two.harness.engine.registry.info("old_store").state == "disabled"
    two.harness.feed(exchange("B"))
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
