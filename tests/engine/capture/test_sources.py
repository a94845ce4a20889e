"""The sources in an engine: what opens, fails, is restarted and stops."""

import queue
import threading
import time

import pytest

from engine.parts import exchange, noise, poll
from hl7core.contract import PluginSettings, SourceRequest, SourceStats
from hl7core.engine.capture.sources import default_bpf
from hl7core.errors import (
    InterfaceMissing,
    PermissionMissing,
    SourceError,
)
from hl7core.hookspecs import hookimpl
from hl7core.model.events import (
    CaptureChanged,
    PacketsDropped,
)
from hl7core.settings.model import CoreSettings
from hl7core.testing.harness import EngineHarness, FakeSource


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


def test_addresses_and_port_in_the_settings_amount_to_a_filter():
    assert default_bpf(CoreSettings()) == ""
    core = CoreSettings(device_address="10.1.0.7, 10.2.0.0/24", lis_address="10.0.0.9", lis_port=2575)
    assert default_bpf(core) == "tcp and (host 10.1.0.7 or net 10.2.0.0/24) and (host 10.0.0.9) and port 2575"


class Wire:
    """A wire on which every listening source hears every packet at the same time."""

    def __init__(self):
        self.sources, self.number, self.lock, self.refuses = [], 0, threading.Lock(), None

    def send(self):
        with self.lock:
            self.number += 1
            one = noise(1, size=self.number, time_ns=time.time_ns())
            for source in self.sources:
                source.queue.put(one)

    def plugin(self):
        wire = self

        class Table(PluginSettings):
            level: int = 0

        class Plugin:
            @hookimpl
            def register_settings(self):
                return Table

            @hookimpl
            def open_source(self, request):
                return Ear(wire)

        return Plugin


class Ear:
    name = "ear"

    def __init__(self, wire):
        self.wire, self.queue, self.listening = wire, queue.SimpleQueue(), False

    def run(self, emit):
        if self.wire.refuses is not None:
            raise self.wire.refuses
        time.sleep(0.05)
        with self.wire.lock:
            self.wire.sources.append(self)
        self.listening = True
        while (batch := self.queue.get()) is not None:
            emit(batch)

    def stop(self):
        with self.wire.lock:
            if self in self.wire.sources:
                self.wire.sources.remove(self)
        self.queue.put(None)

    def stats(self):
        return SourceStats()

    def interfaces(self):
        return ()


def test_new_settings_of_a_source_that_says_when_it_listens_lose_and_double_no_packet(tmp_path):
    wire, heard, over = Wire(), [], threading.Event()

    class Counter:
        @hookimpl
        def on_packet(self, packet):
            heard.append(packet.wire_length)

    def traffic():
        while not over.wait(0.001):
            wire.send()

    with EngineHarness(tmp_path, {"ear": wire.plugin(), "counter": Counter}) as harness:
        harness.wait_for(lambda: wire.sources)
        sender = threading.Thread(target=traffic)
        sender.start()
        for level in range(1, 4):
            harness.call(harness.runtime.change_settings({"plugins.ear.level": level}))
        over.set()
        sender.join()
        harness.wait_for(lambda: len(heard) >= wire.number)
        harness.wait_decoded()
        assert heard == list(range(1, wire.number + 1))
        assert len(wire.sources) == 1


def test_a_source_that_cannot_be_replaced_goes_on_and_that_is_said(tmp_path):
    wire, heard = Wire(), []

    class Counter:
        @hookimpl
        def on_packet(self, packet):
            heard.append(packet.wire_length)

    with EngineHarness(tmp_path, {"ear": wire.plugin(), "counter": Counter}) as harness:
        harness.wait_for(lambda: wire.sources)
        wire.refuses = SourceError("the socket is refused")
        harness.call(harness.runtime.change_settings({"plugins.ear.level": 1}))
        said = dict(harness.state().notices)["capture"]
        assert said == "the capture on ear goes on with its earlier settings: the socket is refused"
        wire.send()
        harness.wait_for(lambda: heard == [1])
        wire.refuses = None
        harness.call(harness.runtime.change_settings({"plugins.ear.level": 2}))
        assert "capture" not in dict(harness.state().notices)
        wire.send()
        harness.wait_for(lambda: heard == [1, 2])


def test_a_source_is_reported_as_started_once_it_listens(tmp_path):
    wire, told = Wire(), []

    class Listener:
        @hookimpl
        def on_event(self, event):
            if isinstance(event, CaptureChanged):
                told.append((event.state, len(wire.sources)))

    with EngineHarness(tmp_path, {"ear": wire.plugin(), "listener": Listener}) as harness:
        harness.wait_for(lambda: told)
        assert ("started", 1) in told


def test_a_capture_that_could_not_be_opened_at_the_start_is_opened_once_its_settings_are_mended(tmp_path):
    wire = Wire()

    class Refuses(wire.plugin()):
        @hookimpl
        def open_source(self, request):
            if wire.refuses is not None:
                raise wire.refuses
            return Ear(wire)

    wire.refuses = SourceError("no interface is up")
    with EngineHarness(tmp_path, {"ear": Refuses}, settings={"plugins.fake_source.enabled": False}) as harness:
        assert "no interface is up" in dict(harness.state().notices)["capture"]
        wire.refuses = None
        harness.call(harness.runtime.change_settings({"plugins.ear.level": 1}))
        harness.wait_for(lambda: wire.sources)
        assert harness.state().capturing
