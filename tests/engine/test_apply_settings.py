"""Settings that are applied to a running engine, another store of record among them: nothing is lost or sent twice."""

import threading
import time
from datetime import timedelta
from functools import partial

import pytest

from engine.parts import Store, exchange, poll, session
from engine.two_stores import Watched
from hl7core.engine.apply_settings import hidden_sessions
from hl7core.errors import (
    SettingsError,
    StoreError,
)
from hl7core.hookspecs import hookimpl
from hl7core.model.delivery import DeliveryStatus
from hl7core.model.events import (
    SettingsChanged,
)
from hl7core.model.session import SessionQuery
from hl7core.testing import TcpTalk
from hl7core.testing.harness import EngineHarness
from hl7core_plugins.json_store import JsonStore
from hl7core_plugins.sqlite_store import SqliteStore
from shell import hl7core


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


def test_the_store_of_record_cannot_be_switched_off_under_the_engine(two):
    sentence = (
        "plugins.old_store.enabled: must not be false while old_store is the store of record, so it stays enabled"
    )
    with pytest.raises(SettingsError, match=sentence):
        two.harness.call(two.harness.runtime.change_settings({"plugins.old_store.enabled": False}))
    right = two.harness.path.read_text()
    assert "[plugins.old_store]\nenabled = true" in right
    two.write(right.replace("[plugins.old_store]\nenabled = true", "[plugins.old_store]\nenabled = false"))
    poll(lambda: sentence in dict(two.harness.state().notices).get("settings", ""))
    two.harness.feed(exchange("A"))
    poll(lambda: two.old.held)
    assert two.harness.engine.registry.info("old_store").state == "enabled"
    two.write(right)
    poll(lambda: "settings" not in dict(two.harness.state().notices))


def test_at_a_start_a_store_of_record_that_is_switched_off_runs_and_that_is_said(tmp_path):
    store = Store()
    settings = {"core.store": "one_store", "plugins.one_store.enabled": False}
    with EngineHarness(tmp_path, {"one_store": store}, settings=settings) as harness:
        assert "plugins.one_store.enabled: must not be false" in dict(harness.state().notices)["settings"]
        harness.feed(exchange("A"))
        poll(lambda: store.held)


# Sessions out of sight.


def hidden(two, store="old_store"):
    return dict(two.harness.state().notices).get(f"hidden-{store}", "")


def test_a_swap_that_switches_the_old_store_off_says_how_many_sessions_are_out_of_sight(two):
    two.harness.feed(*[exchange(f"A{number}", seconds=number) for number in range(3)])
    poll(lambda: len(two.old.held) == 3)
    changes = {"core.store": "new_store", "plugins.old_store.enabled": False}
    two.harness.call(two.harness.runtime.change_settings(changes))
    assert hidden(two).startswith(
        "old_store is disabled: 3 sessions in it are out of sight until it is enabled "
        "(hl7core plugins enable old_store); disabled on 20"
    )
    two.harness.call(two.harness.runtime.change_settings({"plugins.old_store.enabled": True}))
    assert hidden(two) == ""
    assert [notice.resolved for notice in two.listener.notices("hidden-old_store")] == [False, True]


def test_the_next_start_and_doctor_say_it_again_until_the_store_is_enabled(tmp_path):
    old, new = Store(), Store()

    def run(**settings):
        settings = {f"core.{key}": value for key, value in settings.items()} | {"core.output_folder": "docs"}
        return EngineHarness(tmp_path, {"old_store": old, "new_store": new}, settings=settings)

    def switch(on):
        (tmp_path / "settings.toml").write_text(
            f'[core]\nstore = "new_store"\noutput_folder = "docs"\n[plugins.old_store]\nenabled = {str(on).lower()}\n'
        )

    with run(store="old_store") as harness:
        harness.feed(exchange("A"))
        poll(lambda: old.held)
        harness.call(harness.runtime.change_settings({"core.store": "new_store"}))
        harness.call(harness.runtime.change_settings({"plugins.old_store.enabled": False}))
        told = dict(harness.state().notices)["hidden-old_store"]
    assert hidden_sessions(tmp_path / "docs") == {"old_store": told}
    switch(on=False)
    assert told in hl7core("doctor", cwd=tmp_path).stdout
    with EngineHarness(tmp_path, {"new_store": new}, settings={"core.store": "new_store"}) as harness:
        assert dict(harness.state().notices)["hidden-old_store"] == told
    with run(store="new_store") as harness:  # the harness enables both
        assert "hidden-old_store" not in dict(harness.state().notices)
    assert hidden_sessions(tmp_path / "docs") == {}


def test_so_does_switching_it_off_later(two):
    two.harness.feed(exchange("A"))
    poll(lambda: two.old.held)
    two.go_to("new_store")
    assert hidden(two) == ""
    two.harness.call(two.harness.runtime.change_settings({"plugins.old_store.enabled": False}))
    assert hidden(two).startswith("old_store is disabled: 1 session in it is out of sight")


def test_copies_that_another_store_holds_are_not_out_of_sight(two):
    two.harness.feed(exchange("A"), exchange("B", seconds=1))
    poll(lambda: len(two.old.held) == 2)
    two.go_to("new_store")
    two.new.held |= two.old.held
    two.harness.call(two.harness.runtime.change_settings({"plugins.old_store.enabled": False}))
    assert two.harness.engine.registry.info("old_store").state == "disabled"
    assert hidden(two) == ""


def test_if_counting_takes_too_long_no_number_is_made_up(two, monkeypatch):
    monkeypatch.setattr("hl7core.engine.apply_settings._COUNTING", 0.0)
    two.harness.feed(exchange("A"))
    poll(lambda: two.old.held)
    two.harness.call(
        two.harness.runtime.change_settings({"core.store": "new_store", "plugins.old_store.enabled": False})
    )
    assert hidden(two).startswith("old_store is disabled: the sessions in it are out of sight")


def test_a_store_that_hangs_is_switched_off_all_the_same(tmp_path, monkeypatch):
    class Stuck(Store):
        stuck, returns = False, threading.Event()

        @hookimpl
        def load_sessions(self, query):
            if self.stuck:
                self.returns.wait(20)
            return super().load_sessions(query)

    monkeypatch.setattr("hl7core.engine.apply_settings._COUNTING", 0.3)
    monkeypatch.setattr("hl7core.plugin_host.registry.STOP_DEADLINE", 0.1)
    old = Stuck()
    plugins, settings = {"old_store": old, "new_store": Store()}, {"core.store": "old_store"}
    with EngineHarness(tmp_path, plugins, settings=settings) as harness:
        harness.feed(exchange("A"))
        poll(lambda: old.held)
        harness.call(harness.runtime.change_settings({"core.store": "new_store"}))
        old.stuck = True
        try:
            harness.call(harness.runtime.change_settings({"plugins.old_store.enabled": False}))
            assert "the sessions in it are out of sight" in dict(harness.state().notices)["hidden-old_store"]
            assert harness.engine.dispatch.stores.attached_stores() == ("new_store",)
        finally:
            old.returns.set()


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


def test_a_wrong_value_in_the_file_is_named_and_the_old_one_stays(parts, tmp_path):
    store, listener, make = parts
    with make(settings={"core.retention_days": 5}) as harness:
        path = tmp_path / "settings.toml"
        right = path.read_text()
        path.write_text(right.replace("retention_days = 5", "retention_days = 5000"))
        poll(lambda: listener.of(SettingsChanged))
        assert "core.retention_days" in listener.of(SettingsChanged)[0].problems[0]
        assert "core.retention_days" in dict(harness.state().notices)["settings"]
        harness.feed(exchange("A"))
        poll(lambda: store.held)
        assert next(iter(store.held.values())).retention_days == 5
        path.write_text(right.replace("retention_days = 5", "retention_days = 50"))
        poll(lambda: harness.engine.settings.core.retention_days == 50)
        poll(lambda: "settings" not in dict(harness.state().notices))


def test_days_changed_while_it_runs_count_at_the_next_save(parts):
    store, _, make = parts
    with make() as harness:
        harness.call(harness.runtime.change_settings({"core.retention_days": 3}))
        harness.feed(exchange("A"))
        poll(lambda: store.held)
    (held,) = store.held.values()
    assert held.persisted_until - held.first_saved_at == timedelta(days=3)


def test_with_persistence_off_nothing_is_saved_and_that_is_said_once(parts):
    store, listener, make = parts
    with make(settings={"core.enable_persistence": False}) as harness:
        store.held[session(1).id] = session(1)
        harness.feed(exchange("A"))
        poll(lambda: listener.sessions)
        assert len(harness.sessions()) == 2
        assert harness.state().unsaved == 0
        poll(lambda: listener.notices("persistence"))
        harness.call(harness.runtime.change_settings({"core.enable_persistence": True}))
        harness.feed(exchange("B"))
        poll(lambda: len(store.held) == 2)
    assert [n.resolved for n in listener.notices("persistence")] == [False, True]


def test_another_store_takes_over_and_the_old_one_is_still_read_and_changed(parts):
    store, _, make = parts
    other = Store()
    with make({"other_store": other}) as harness:
        harness.feed(exchange("A"))
        poll(lambda: store.held)
        harness.call(harness.runtime.change_settings({"core.store": "other_store"}))
        harness.feed(exchange("B"))
        poll(lambda: other.held)
        ids = [s.id for s in harness.sessions()]
        assert len(ids) == 2
        harness.call(harness.runtime.clear())
        assert sorted(harness.call(harness.runtime.ignore(ids))) == sorted(ids)
        poll(lambda: all(s.ignored for s in (*store.held.values(), *other.held.values())))
        assert (len(store.held), len(other.held)) == (1, 1)


def test_a_store_that_does_not_start_leaves_the_old_one_in_force(parts):
    class Broken(Store):
        @hookimpl
        def start(self):
            raise StoreError("no such disk")

    store, _, make = parts
    with make({"broken_store": Broken()}) as harness:
        with pytest.raises(SettingsError):
            harness.call(harness.runtime.change_settings({"core.store": "broken_store"}))
        harness.feed(exchange("A"))
        poll(lambda: store.held)
        assert harness.engine.record == "memory_store"


def test_toggling_in_the_settings_file_takes_a_second_at_most(parts, tmp_path):
    _, listener, make = parts
    with make() as harness:
        path = tmp_path / "settings.toml"
        before = path.read_text()
        began = time.monotonic()
        path.write_text(before.replace("[plugins.listener]\nenabled = true", "[plugins.listener]\nenabled = false"))
        poll(lambda: harness.engine.registry.info("listener").state == "disabled")
        assert time.monotonic() - began < 1
        harness.feed(exchange("A"))
        harness.wait_decoded()
        assert listener.sessions == []
        path.write_text(before)
        poll(lambda: harness.engine.registry.info("listener").state == "enabled")
        harness.feed(exchange("B"))
        poll(lambda: len(listener.sessions) == 1)


def test_a_pin_to_an_unknown_protocol_is_reported_and_detection_decides_there(tmp_path):
    with EngineHarness(tmp_path, settings={"core.protocols": ":2575=nobody"}) as harness:
        assert "core.protocols: unknown protocol nobody" in dict(harness.state().notices)["protocols"]
        talk = TcpTalk()
        talk.open()
        talk.opener(b"\x0bMSH|^~\\&|A|||||ORU^R01|M1|P|2.5\r\x1c\r")
        talk.close()
        harness.feed(talk.batch())
        harness.wait_for(harness.sessions)
        assert harness.sessions()[0].protocol == "mllp"
