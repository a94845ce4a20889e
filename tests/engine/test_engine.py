"""The engine as a whole: packets in, sessions stored, whatever comes and goes meanwhile."""

import asyncio
import logging
import signal
import stat
import subprocess
import sys
import time

import pytest

from engine.parts import exchange, noise, poll
from hl7core.contract import SourceRequest
from hl7core.engine.control.client import ControlClient
from hl7core.engine.engine import Engine
from hl7core.errors import (
    CaptureFileError,
    EngineBusy,
)
from hl7core.hookspecs import hookimpl
from hl7core.model.events import (
    PluginChanged,
    SessionSaved,
)
from hl7core.model.session import Ending
from hl7core.settings.model import CoreSettings
from hl7core.settings.reading import Settings
from hl7core.testing import EngineHarness, TcpTalk
from hl7core.testing.harness import FakeSource
from tls_peers import TlsTalk

FILES = SourceRequest(files=("day.pcap",), configured=False)


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


def test_a_decoded_fault_is_told_and_the_capture_goes_on(parts):
    store, _, make = parts
    with make() as harness:
        harness.engine.decoding._decoder.feed = lambda _batch: 1 // 0
        harness.feed(noise(1))
        poll(lambda: "decoding" in dict(harness.state().notices))
        harness.feed(exchange("A"))
        poll(lambda: store.held)


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


def test_an_engine_told_to_stop_while_it_starts_stops(tmp_path):
    async def main():
        engine = Engine(Settings(core=CoreSettings(output_folder=str(tmp_path)), root=tmp_path), entry_points=[])
        engine.request_stop()
        await asyncio.wait_for(engine.run(), 10)

    asyncio.run(main())


def test_an_encrypted_connection_is_counted_and_told_once(tmp_path):
    with EngineHarness(tmp_path / "data") as harness:
        for number in range(3):
            tls = TlsTalk(tmp_path, talk=TcpTalk(opener=("10.0.0.5", 40000 + number)))
            tls.open()
            tls.opener(b"\x0bMSH|^~\\&|A\r\x1c\r")
            harness.feed(tls.talk.batch())
            harness.wait_decoded()
            harness.wait_for(lambda: "tls" in dict(harness.state().notices))
        assert dict(harness.state().counters)["tls"] == 3
        assert dict(harness.state().notices)["tls"] == (
            "connection 10.0.0.5:40000-10.0.0.9:2575 is encrypted (TLS):"
            " hl7core read FILE --keylog KEYS reads a capture of it if its keys were logged"
        )
        assert harness.sessions() == []
