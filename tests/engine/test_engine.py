"""The engine as a whole: packets in, sessions stored, whatever comes and goes meanwhile."""

import asyncio
import logging
import signal
import stat
import subprocess
import sys
import time
from datetime import timedelta

import pytest

from engine.parts import Listener, Store, exchange, noise, poll, session
from hl7core.contract import SourceRequest
from hl7core.engine.control.client import ControlClient
from hl7core.engine.engine import Engine
from hl7core.engine.sources import default_bpf
from hl7core.errors import (
    CaptureFileError,
    EngineBusy,
    EngineError,
    InterfaceMissing,
    PermissionMissing,
    SettingsError,
    StoreError,
)
from hl7core.hookspecs import hookimpl
from hl7core.model.cleanup import CleanupReport
from hl7core.model.events import (
    CaptureChanged,
    CleanupSummary,
    PacketsDropped,
    PluginChanged,
    SessionSaved,
    SessionsRemoved,
    SettingsChanged,
)
from hl7core.model.session import Ending, SessionQuery
from hl7core.settings.model import CoreSettings
from hl7core.settings.reading import Settings
from hl7core.testing.harness import EngineHarness, FakeSource

FILES = SourceRequest(files=("day.pcap",), configured=False)


@pytest.fixture
def parts(tmp_path):
    store, listener = Store(), Listener()

    def make(more=None, **options):
        settings = {"core.store": "memory_store", **options.pop("settings", {})}
        return EngineHarness(
            tmp_path, {"memory_store": store, "listener": listener, **(more or {})}, settings=settings, **options
        )

    return store, listener, make


def test_a_session_is_told_and_saved(parts):
    store, listener, make = parts
    with make() as harness:
        harness.feed(exchange("A"))
        poll(lambda: store.held)
    (held,) = store.held.values()
    assert held.is_complete
    assert held.first_saved_at is not None
    assert [s.id for s in listener.sessions] == [held.id]
    assert [event.session_id for event in listener.of(SessionSaved)] == [held.id]


def test_the_data_folder_and_the_control_socket_are_private(parts, tmp_path):
    _, _, make = parts
    with make():
        assert stat.S_IMODE((tmp_path / "docs").stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / "docs" / "control.sock").stat().st_mode) == 0o600
    assert not (tmp_path / "docs" / "control.sock").exists()


def test_a_second_engine_on_the_folder_is_refused_and_the_first_goes_on(parts):
    store, _, make = parts
    with make() as harness:
        with pytest.raises(EngineBusy), make():
            pass
        harness.feed(exchange("A"))
        poll(lambda: store.held)


def test_a_slow_disk_never_delays_the_news(parts):
    store, listener, make = parts
    store.slow = 0.7
    with make() as harness:
        began = time.monotonic()
        for number in range(20):
            harness.feed(exchange(f"A{number}"))
        poll(lambda: len(listener.sessions) == 20)
        assert listener.times[-1] - began < 0.7
        store.slow = 0
    assert len(store.held) == 20


def test_while_the_store_is_down_sessions_wait_and_are_saved_when_it_returns(parts):
    store, listener, make = parts
    store.down = True
    with make() as harness:
        for number in range(10):
            harness.feed(exchange(f"A{number}"))
        poll(lambda: harness.state().unsaved == 10)
        poll(lambda: dict(harness.state().notices).get("store"))
        assert len(harness.sessions()) == 10
        store.down = False
        poll(lambda: len(store.held) == 10)
        poll(lambda: "store" not in dict(harness.state().notices))
    poll(lambda: len(listener.notices("store")) == 2)


def test_stop_saves_what_waits_and_what_is_open(parts):
    store, _, make = parts
    store.slow = 0.01
    with make() as harness:
        for number in range(50):
            harness.feed(exchange(f"A{number}"))
        harness.feed(exchange("OPEN", answered=False))
        harness.wait_for(lambda: harness.source.idle)
    assert len(store.held) == 51
    assert sum(s.ending is Ending.STOPPED for s in store.held.values()) == 1
    assert harness.engine.unsaved == []


def test_stop_keeps_its_deadline_with_a_store_that_is_down_and_names_the_sessions(parts, caplog):
    store, listener, make = parts
    store.down = True
    harness = make(stop_deadline=2.0)
    harness.start()
    harness.feed(exchange("A"))
    poll(lambda: listener.sessions)
    began = time.monotonic()
    harness.stop()
    assert time.monotonic() - began < 4
    assert harness.engine.unsaved == [listener.sessions[0].id]
    assert listener.sessions[0].id in caplog.text


def test_toggling_a_plugin_while_packets_flow_loses_no_packet_and_no_session(parts):
    store, _, make = parts
    with make() as harness:
        for number in range(300):
            harness.feed(exchange(f"A{number}"))
            if number % 60 == 30:
                enabled = number % 120 != 30
                harness.call(harness.runtime.change_settings({"plugins.listener.enabled": enabled}))
        harness.wait_decoded()
        poll(lambda: len(store.held) == 300)
        state = harness.state()
        assert state.packets == 300 * exchange("X").count
        assert state.dropped_intake == 0
        harness.feed(*(exchange(f"B{number}") for number in range(10)))
        poll(lambda: len(store.held) == 310)


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


def test_restarting_the_source_marks_a_gap_and_keeps_the_rest(parts):
    store, _, make = parts
    with make() as harness:
        harness.feed(exchange("A"))
        poll(lambda: store.held)
        harness.call(harness.runtime.change_settings({"plugins.fake_source.enabled": False}))
        assert not harness.state().capturing
        assert "capture" in dict(harness.state().notices)
        harness.call(harness.runtime.change_settings({"plugins.fake_source.enabled": True}))
        assert harness.state().capturing
        poll(lambda: "capture" not in dict(harness.state().notices))
        harness.feed(exchange("B"))
        poll(lambda: len(store.held) == 2)


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


def test_a_change_that_is_refused_leaves_the_file_as_it_was(parts, tmp_path):
    _, _, make = parts
    with make() as harness:
        before = (tmp_path / "settings.toml").read_text()
        for changes in (
            {"core.retention_days": 0},
            {"core.store": "no_such_store"},
            {"core.retention_days": 9, "plugins.listener.colour": "red"},
        ):
            with pytest.raises(SettingsError):
                harness.call(harness.runtime.change_settings(changes))
            assert (tmp_path / "settings.toml").read_text() == before
        assert harness.engine.settings.core.retention_days == 30
        assert harness.engine.record == "memory_store"


def test_a_linked_settings_file_stays_a_link_with_its_mode_when_a_change_is_refused(parts, tmp_path):
    _, _, make = parts
    with make() as harness:
        link, real = tmp_path / "settings.toml", tmp_path / "mine.toml"
        link.rename(real)
        real.chmod(0o640)
        link.symlink_to(real)
        before = real.read_text()
        with pytest.raises(SettingsError):
            harness.call(harness.runtime.change_settings({"core.store": "no_such_store"}))
        assert link.is_symlink()
        assert real.read_text() == before
        assert real.stat().st_mode & 0o777 == 0o640


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


def test_files_are_read_to_their_end_saved_and_the_engine_ends_by_itself(parts):
    store, listener, make = parts
    source = FakeSource([exchange(f"A{n}") for n in range(500)] + [exchange("Z", answered=False)], live=False)
    with make(source=source, request=FILES, until_end=True, settings={"core.unsaved_sessions": 20}) as harness:
        harness.join()
    assert len(store.held) == 501
    assert sum(s.ending is Ending.CAPTURE_END for s in store.held.values()) == 1
    assert len(listener.sessions) == 501


def test_a_damaged_file_keeps_what_came_before_and_the_error_is_raised(parts):
    store, _, make = parts
    source = FakeSource([exchange("A")], live=False, error=CaptureFileError("day.pcap is cut", packet=9))
    harness = make(source=source, request=FILES, until_end=True)
    harness.start()
    harness.join()
    with pytest.raises(CaptureFileError):
        harness.raise_failure()
    assert len(store.held) == 1


def test_a_person_who_may_not_capture_is_told_by_the_error_itself(parts):
    _, _, make = parts
    source = FakeSource()
    harness = make(source=source, request=SourceRequest(interfaces=("fake0",), configured=False))
    harness.start()
    source.finish(PermissionMissing("you may not capture", remedy="setcap"))
    harness.join()
    with pytest.raises(PermissionMissing):
        harness.raise_failure()


def test_a_service_whose_capture_fails_stays_up_and_says_so(parts):
    _, listener, make = parts
    with make() as harness:
        harness.source.finish(PermissionMissing("you may not capture", remedy="setcap"))
        poll(lambda: "you may not capture" in dict(harness.state().notices).get("capture", ""))
        assert harness.state().running
    assert [e.state for e in listener.of(CaptureChanged)][:2] == ["started", "failed"]


def test_an_engine_without_a_source_says_so(parts):
    _, _, make = parts
    with make(settings={"plugins.fake_source.enabled": False}) as harness:
        assert "capture" in dict(harness.state().notices)
        assert not harness.state().capturing


def test_kernel_drops_and_a_lost_interface_are_told(parts):
    _, listener, make = parts
    with make() as harness:
        harness.source.dropped = 5
        harness.source.detail = "fake0 is down"
        poll(lambda: listener.of(PacketsDropped))
        assert harness.state().dropped_kernel == 5
    assert listener.of(PacketsDropped) == [PacketsDropped("kernel", "fake0", 5, 5)]
    assert CaptureChanged("fake0", "waiting", "fake0 is down") in listener.events


def test_pause_lets_packets_go_and_resume_takes_them_again(parts):
    store, listener, make = parts
    with make() as harness:
        harness.call(harness.runtime.pause())
        assert harness.state().paused
        harness.feed(exchange("A"))
        harness.wait_for(lambda: harness.source.idle)
        assert dict(harness.state().counters)["letGo"] == exchange("X").count
        harness.call(harness.runtime.resume())
        harness.feed(exchange("B"))
        poll(lambda: len(store.held) == 1)
    assert [e.state for e in listener.of(CaptureChanged)] == ["started", "paused", "resumed", "stopped"]


def test_capture_can_be_stopped_and_started(parts):
    store, _, make = parts
    with make() as harness:
        harness.feed(exchange("A", answered=False))
        harness.wait_decoded()
        harness.call(harness.runtime.stop_capture())
        poll(lambda: [s.ending for s in store.held.values()] == [Ending.STOPPED])
        assert not harness.state().capturing
        harness.call(harness.runtime.start_capture())
        harness.feed(exchange("B"))
        poll(lambda: len(store.held) == 2)
        assert [i.name for i in harness.call(harness.runtime.interfaces())] == ["fake0"]


def test_sessions_can_be_deleted_and_restored(parts):
    store, listener, make = parts
    with make() as harness:
        harness.feed(exchange("A"))
        poll(lambda: store.held)
        (one,) = harness.sessions()
        assert harness.call(harness.runtime.delete([one.id])) == [one.id]
        assert harness.sessions() == []
        assert harness.call(harness.runtime.restore([one.id])) == [one.id]
        assert [s.id for s in harness.sessions(SessionQuery(device=one.device.address))] == [one.id]
    assert listener.of(SessionsRemoved) == [SessionsRemoved((one.id,), True)]


def test_nothing_is_submitted_without_a_destination_and_that_is_said(parts):
    _, _, make = parts
    with make() as harness, pytest.raises(EngineError, match="no destination is active"):
        harness.call(harness.runtime.submit_now())


def test_a_delivery_is_made_for_each_destination_in_service(parts):
    class Lab:
        @hookimpl
        def submit_session(self, session):
            raise AssertionError

    store, _, make = parts
    with make({"lab": Lab()}) as harness:
        harness.feed(exchange("A"))
        poll(lambda: store.held)
    (held,) = store.held.values()
    assert [(d.name, d.status) for d in held.deliveries] == [("lab", "pending")]


def test_cleanup_asks_every_plugin_and_tells_of_the_reports_and_of_what_failed(parts):
    class Broom:
        @hookimpl
        def cleanup(self, now, dry_run):
            return CleanupReport(deleted=3, dry_run=dry_run)

    class BrokenBroom:
        @hookimpl
        def cleanup(self, now):
            raise OSError(5, "PATIENT^NAME")

    _, listener, make = parts
    with make({"broom": Broom(), "broken": BrokenBroom()}) as harness:
        assert harness.call(harness.runtime.cleanup(dry_run=True)) == [CleanupReport(deleted=3, dry_run=True)]
        assert "PATIENT" not in dict(harness.state().notices)["cleanup-broken"]
    assert listener.of(CleanupSummary)[0].report.deleted == 3


def test_a_decoded_fault_is_told_and_the_capture_goes_on(parts):
    store, _, make = parts
    with make() as harness:
        harness.engine.decoding._decoder.feed = lambda _batch: 1 // 0
        harness.feed(noise(1))
        poll(lambda: "decoding" in dict(harness.state().notices))
        harness.feed(exchange("A"))
        poll(lambda: store.held)


def test_a_plugins_job_runs_until_it_is_ended(parts):
    _, _, make = parts
    ran = []
    with make() as harness:
        end = harness.runtime.of("listener").every(timedelta(milliseconds=20), lambda: ran.append(1))
        poll(lambda: len(ran) >= 3)
        end()
        other = []
        harness.runtime.of("listener").every(timedelta(milliseconds=20), lambda: other.append(1))
        poll(lambda: other)
        harness.call(harness.runtime.change_settings({"plugins.listener.enabled": False}))
        time.sleep(0.05)
        count = len(other)
        time.sleep(0.1)
        assert len(other) == count


def test_a_plugin_that_raises_is_told_of_and_nothing_else_happens(parts):
    class Bad:
        @hookimpl
        def on_session_complete(self, session):
            raise SystemExit(3)

    store, listener, make = parts
    with make({"bad": Bad()}) as harness:
        harness.feed(exchange("A"))
        poll(lambda: store.held)
        poll(lambda: any(event.plugin == "bad" and event.error for event in listener.of(PluginChanged)))


def test_no_message_content_reaches_the_log(parts, caplog):
    caplog.set_level(logging.DEBUG)
    store, _, make = parts
    store.down = True
    with make(stop_deadline=1.0) as harness:
        harness.feed(exchange("CANARY-42"))
        poll(lambda: harness.state().unsaved)
    assert "CANARY" not in caplog.text


ENGINE = """
import asyncio, signal, sys
from pathlib import Path
from hl7core.settings import reading as settings
from hl7core.engine.engine import Engine

async def main():
    path = Path(sys.argv[1])
    engine = Engine(settings.read(path), entry_points=[])
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, engine.request_stop)
    await engine.start()
    print("running", flush=True)
    await engine.run_until_stopped()
    print("stopped", flush=True)

asyncio.run(main())
"""


def running_engine(path):
    process = subprocess.Popen(
        [sys.executable, "-c", ENGINE, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == b"running\n"
    return process


def test_a_killed_engine_leaves_everything_and_the_next_one_starts(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text("[core]\nretention_days = 5\n")
    sessions = tmp_path / "docs" / "sessions"
    sessions.mkdir(parents=True)
    (sessions / "x.json").write_text("{}")
    first = running_engine(path)
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=10)
    assert (tmp_path / "docs" / "control.sock").exists()
    assert ControlClient(tmp_path / "docs").connect() is None
    second = running_engine(path)
    try:
        with ControlClient(tmp_path / "docs").connect() as client:
            assert client.call("ping")["pid"] == second.pid
        second.send_signal(signal.SIGTERM)
        out, _ = second.communicate(timeout=10)
        assert out == b"stopped\n"
        assert second.returncode == 0
    finally:
        second.kill()
        second.wait()
    assert (sessions / "x.json").read_text() == "{}"


def test_reading_files_can_be_stopped_in_the_middle_while_the_store_is_down(parts):
    store, _, make = parts
    store.down = True
    source = FakeSource([exchange(f"A{n}") for n in range(500)], live=False)
    harness = make(
        source=source, request=FILES, until_end=True, settings={"core.unsaved_sessions": 20}, stop_deadline=2.0
    )
    harness.start()
    poll(lambda: harness.state().unsaved >= 10)
    began = time.monotonic()
    harness.stop()
    assert time.monotonic() - began < 4
    assert len(harness.engine.unsaved) == harness.engine.ledger.unsaved
    assert harness.engine.ledger.lost == 0


def test_a_plugin_that_hangs_does_not_keep_the_engine_from_ending(parts):
    class Hung:
        @hookimpl
        def on_session_complete(self, session):
            time.sleep(30)

    store, _, make = parts
    harness = make({"hung": Hung()}, stop_deadline=2.0)
    harness.start()
    harness.feed(exchange("A"))
    poll(lambda: store.held)
    began = time.monotonic()
    harness.engine.registry.busy = lambda _name: False  # how long a plugin may take to end is the registry's matter
    harness.stop()
    assert time.monotonic() - began < 4


def test_a_store_that_hangs_holds_up_neither_decoding_nor_the_news(parts):
    store, listener, make = parts
    store.slow = 3
    with make(stop_deadline=1.0) as harness:
        harness.feed(exchange("A"))
        poll(lambda: store.attempts)
        harness.feed(*(exchange(f"B{n}") for n in range(100)))
        poll(lambda: len(listener.sessions) == 101, timeout=2)
        store.slow = 0
        poll(lambda: len(store.held) == 101)


def test_an_interface_that_does_not_exist_keeps_the_engine_from_starting(parts, tmp_path):
    _, _, make = parts
    with pytest.raises(InterfaceMissing), make(request=SourceRequest(interfaces=("eth9",), configured=False)):
        pass
    assert not (tmp_path / "docs" / "control.sock").exists()
    with make():
        pass


def test_what_taps_the_packets_sees_every_batch(parts):
    store, _, make = parts
    harness = make()
    seen = []
    with harness:
        harness.engine.sources.tap = seen.append
        batch = exchange("A")
        harness.feed(batch)
        poll(lambda: store.held)
    assert seen == [batch]


def test_settings_that_came_from_no_file_are_not_changed_in_one(tmp_path):
    async def main():
        engine = Engine(Settings(core=CoreSettings(output_folder=str(tmp_path)), root=tmp_path), entry_points=[])
        await engine.start()
        (tmp_path / "settings.toml").write_text("[core]\nretention_days = 5\n")
        try:
            with pytest.raises(SettingsError, match="no settings file"):
                await engine.runtime.change_settings({"core.retention_days": 7})
            await asyncio.sleep(1.2)
            assert engine.settings.core.retention_days == 30
            assert not engine.stopping
        finally:
            await engine.stop()
        assert engine.stopping
        assert [item async for item in engine.follow()] == []

    asyncio.run(main())


def test_an_engine_told_to_stop_while_it_starts_stops(tmp_path):
    async def main():
        engine = Engine(Settings(core=CoreSettings(output_folder=str(tmp_path)), root=tmp_path), entry_points=[])
        engine.request_stop()
        await asyncio.wait_for(engine.run(), 10)

    asyncio.run(main())


def test_addresses_and_port_in_the_settings_amount_to_a_filter():
    assert default_bpf(CoreSettings()) == ""
    core = CoreSettings(device_address="10.1.0.7, 10.2.0.0/24", lis_address="10.0.0.9", lis_port=2575)
    assert default_bpf(core) == "tcp and (host 10.1.0.7 or net 10.2.0.0/24) and (host 10.0.0.9) and port 2575"
