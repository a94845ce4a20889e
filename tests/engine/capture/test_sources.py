"""The sources in an engine: what opens, fails, is restarted and stops."""

import pytest

from engine.parts import exchange, poll
from hl7core.contract import SourceRequest
from hl7core.engine.capture.sources import default_bpf
from hl7core.errors import (
    InterfaceMissing,
    PermissionMissing,
)
from hl7core.model.events import (
    CaptureChanged,
    PacketsDropped,
)
from hl7core.settings.model import CoreSettings
from hl7core.testing.harness import FakeSource


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
