"""What people and plugins ask of a running engine."""

import time
from datetime import timedelta

import pytest

from engine.parts import exchange, poll
from hl7core.errors import (
    EngineError,
)
from hl7core.hookspecs import hookimpl
from hl7core.model.cleanup import CleanupReport
from hl7core.model.events import (
    CaptureChanged,
    CleanupSummary,
    SessionsRemoved,
)
from hl7core.model.session import Ending, SessionQuery


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
