"""Retention in a real engine, with real stores on a real disk."""

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from engine.parts import exchange
from hl7core import (
    CleanupProgress,
    CleanupSummary,
    Delivery,
    DeliveryStatus,
    DestinationUnreachable,
    SessionQuery,
    hookimpl,
)
from hl7core.engine.control.client import ControlClient
from hl7core.testing import EngineHarness, FakeRuntime, make_session
from hl7core_plugins.json_store import JsonStore, JsonStoreSettings, listing
from hl7core_plugins.retention import Retention

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


def session(number, *, until, **fields):
    saved = NOW - HOUR
    return make_session(
        number, saved_at=saved, first_saved_at=until - 30 * DAY, persisted_until=until, retention_days=30, **fields
    )


def expired(number, **fields):
    return session(number, until=NOW - HOUR, **fields)


def young(number, **fields):
    return session(number, until=NOW + 20 * DAY, **fields)


def store_in(folder, sessions):
    """Put sessions into the JSON store of an engine that will run in ``folder``."""
    store = JsonStore()
    store.configure(JsonStoreSettings())
    store.start(FakeRuntime(folder / "docs", now=NOW))
    for at in range(0, len(sessions), 500):
        assert all(isinstance(place, str) for place in store.persist_sessions(sessions[at : at + 500], replace=False))
    store.stop()


class Clock:
    """The engine's wall clock, in our hands."""

    def __init__(self):
        self.now = NOW

    def __call__(self):
        return self.now


class Listener:
    def __init__(self):
        self.events = []

    @hookimpl
    def on_event(self, event):
        self.events.append(event)

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
def harness(tmp_path):
    def make(plugins=None, *, clock=NOW, settings=None):
        return EngineHarness(
            tmp_path,
            {"json_store": JsonStore, "retention": Retention, **(plugins or {})},
            settings=settings,
            clock=clock if callable(clock) else lambda: clock,
        )

    return make


class Away:
    """A destination that cannot be reached."""

    @hookimpl
    def submit_session(self, session):
        raise DestinationUnreachable("nobody is there")


def names(folder):
    return sorted(path.stem for path in folder.glob("*.json"))


def test_it_runs_at_the_start_by_itself_and_says_what_it_did(tmp_path, harness):
    store_in(tmp_path, [expired(1), expired(2), young(3)])
    listener = Listener()
    with harness({"listener": listener}) as h:
        h.wait_for(lambda: listener.of(CleanupSummary))
        (kept,) = h.sessions()
    assert kept.id == young(3).id
    (summary,) = listener.of(CleanupSummary)
    assert (summary.report.deleted, summary.report.in_trash, summary.report.dry_run) == (2, 2, False)
    assert summary.start_time == NOW


def test_one_cleanup_fills_one_folder_of_the_trash(tmp_path, harness):
    old = [expired(number) for number in range(1, 351)]
    store_in(tmp_path, old)
    times = iter([NOW] + [NOW + timedelta(seconds=n) for n in range(1, 5000)])
    with harness(clock=lambda: next(times)) as h:
        h.wait_for(lambda: not (h.sessions()))
        h.wait_for(lambda: len(list((tmp_path / "docs/trash").glob("*/*.json"))) == 350)
    (folder,) = (tmp_path / "docs/trash").iterdir()
    assert folder.name.startswith("cleanup-20260301T12")
    assert names(folder) == sorted(one.id for one in old)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_what_it_took_comes_back_whole_and_its_life_is_counted_anew(tmp_path, harness):
    store_in(tmp_path, [expired(1)])
    with harness() as h:
        h.wait_for(lambda: not h.sessions())
        ((trashed, when),) = h.call(h.runtime.trash())
        assert (trashed, when) == (expired(1).id, NOW)
        h.call(h.runtime.change_settings({"core.retention_days": 60}))
        assert h.call(h.runtime.restore([trashed])) == [trashed]
        (back,) = h.sessions()
        assert back.messages == expired(1).messages
        assert back.first_saved_at == expired(1).first_saved_at
        assert back.persisted_until == back.first_saved_at + 60 * DAY
        (report,) = h.call(h.runtime.cleanup())
        assert report.deleted == 0
        assert len(h.sessions()) == 1


def test_a_destination_that_is_active_protects_what_it_has_still_to_get(tmp_path, harness):
    waiting = expired(1, deliveries=(Delivery("lab"),))
    sent = expired(2, deliveries=(Delivery("lab", DeliveryStatus.SUBMITTED),))
    store_in(tmp_path, [waiting, sent])
    with harness({"lab": Away()}) as h:
        h.wait_for(lambda: len(h.sessions()) == 1)
        assert h.runtime.core().destinations == ("lab",)
        (report,) = h.call(h.runtime.cleanup())
        assert report.kept == (("still pending, within the grace period of 30 days", 1),)
        assert [one.id for one in h.sessions()] == [waiting.id]


def test_a_changed_interval_counts_at_once_and_dry_run_too(tmp_path, harness):
    clock, seconds = Clock(), [0.0]
    plugin = Retention(monotonic=lambda: seconds[0])
    listener = Listener()
    with harness({"retention": plugin, "listener": listener}, clock=clock) as h:
        h.wait_for(lambda: len(listener.of(CleanupSummary)) == 1)
        h.call(h.runtime.change_settings({"plugins.retention.dry_run": True}))
        seconds[0] += 7200
        clock.now += 2 * HOUR
        h.call(h.runtime.change_settings({"plugins.retention.cleanup_interval_hours": 2}))
        h.wait_for(lambda: len(listener.of(CleanupSummary)) == 2)
    assert [event.report.dry_run for event in listener.of(CleanupSummary)] == [False, True]


def test_nothing_is_saved_nothing_is_cleaned_up(tmp_path, harness):
    store_in(tmp_path, [expired(1)])
    with harness(settings={"core.enable_persistence": False}) as h:
        assert h.call(h.runtime.cleanup(confirmed=True)) == []
        assert len(h.sessions()) == 1


def test_a_clock_that_was_set_is_a_notice_that_stands(tmp_path, harness):
    store_in(tmp_path, [young(1)])
    clock = Clock()
    with harness(clock=clock) as h:
        h.call(h.runtime.cleanup())
        clock.now += 400 * DAY
        (report,) = h.call(h.runtime.cleanup())
        assert report.deleted == 0
        assert "retention-clock" in dict(h.state().notices)
        (report,) = h.call(h.runtime.cleanup(confirmed=True))
        assert report.deleted == 1
        assert "retention-clock" not in dict(h.state().notices)


def test_saving_goes_on_between_the_steps_of_a_long_cleanup(tmp_path, harness):
    store_in(tmp_path, [expired(number) for number in range(1, 3001)])
    listener = Listener()
    with harness({"listener": listener}) as h:
        h.wait_for(lambda: listener.of(CleanupProgress))
        h.feed(exchange("LIVE"))
        h.wait_decoded()
        h.wait_for(
            lambda: any(
                one.messages[0].control_id == "LIVE" for one in h.sessions(SessionQuery(newest_first=True, limit=5))
            )
        )
        h.wait_for(lambda: h.state().unsaved == 0)
        h.wait_for(lambda: listener.of(CleanupSummary), timeout=60)
    kinds = [type(event).__name__ for event in listener.events]
    assert "CleanupProgress" in kinds[kinds.index("SessionSaved") :], "it was saved only after the cleanup"
    assert listener.of(CleanupSummary)[-1].report.deleted == 3000


def test_a_long_cleanup_looks_through_the_folder_no_more_often_than_a_short_one(tmp_path, harness, monkeypatch):
    store_in(tmp_path, [young(1)])
    scandir, listed = os.scandir, []

    def counting(folder):
        if threading.current_thread().name == "hl7core-ask-json_store-saving":
            listed.append(folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", counting)
    monkeypatch.setattr(listing, "_SERVES_SECONDS", 1e9)  # however slow the machine
    listener, counts = Listener(), []
    with harness({"listener": listener}) as h:
        h.wait_for(lambda: listener.of(CleanupSummary))  # the one at the start
        for count in (1001, 1600):
            many = [expired(number) for number in range(10, 10 + count)]
            saved = h.engine.keeper.submit(
                lambda many=many: h.engine.dispatch.stores.persist_as_is("json_store", many, replace=True)
            ).result(60)
            assert all(isinstance(place, str) for place in saved)
            for dry_run in (True, False):
                listed.clear()
                (report,) = h.call(h.runtime.cleanup(dry_run=dry_run), timeout=120)
                assert report.deleted == count
                counts.append(len(listed))
            h.call(h.runtime.empty_trash(NOW + DAY), timeout=60)
    dry, real, dry_of_more, real_of_more = counts
    assert (dry_of_more, real_of_more) == (dry, real), "each page costs what it holds"


def test_a_command_in_another_process_hears_how_far_it_is(tmp_path, harness):
    store_in(tmp_path, [young(1)])
    listener = Listener()
    with harness({"listener": listener}) as h:
        h.wait_for(lambda: listener.of(CleanupSummary))  # the one at the start
        many = [expired(number) for number in range(10, 260)]
        for at in range(0, len(many), 50):
            h.engine.keeper.submit(
                lambda at=at: h.engine.dispatch.stores.persist_as_is("json_store", many[at : at + 50], replace=True)
            ).result(10)
        client = ControlClient(h.engine.folder).connect()
        with client:
            heard = []
            (report,) = client.cleanup(dry_run=True, progress=heard.append)
            assert (report.deleted, report.dry_run) == (250, True)
            assert heard[-1] == 250
            (report,) = client.cleanup()
            assert report.deleted == 250
            assert len(client.trash()) == 250
            assert client.trash()[0][1].tzinfo is not None
            assert client.store_size() > 0


def test_disk_use_is_held_without_touching_what_is_to_be_sent(tmp_path, harness):
    waiting = [young(number, deliveries=(Delivery("lab"),)) for number in range(1, 6)]
    submitted = (Delivery("lab", DeliveryStatus.SUBMITTED),)
    free = [young(number, deliveries=submitted) for number in range(10, 110)]
    store_in(tmp_path, waiting + free)
    with harness({"lab": Away()}) as h:
        h.wait_for(lambda: len(h.sessions()) == 105)
        h.call(h.runtime.cleanup())
        full = h.call(h.runtime.store_size())
        h.call(h.runtime.change_settings({"plugins.retention.max_disk": full // 2}))
        h.call(h.runtime.cleanup())
        assert h.call(h.runtime.store_size()) <= full // 2
        left = [one.id for one in h.sessions()]
        assert left[:5] == [one.id for one in waiting]
        assert 30 < len(left) < 60
        assert left[5:] == [one.id for one in free][-(len(left) - 5) :]


KILLED = """
import sys, time
sys.path.insert(0, {tests!r})
from datetime import timedelta
from hl7core_plugins.json_store import JsonStore
from hl7core_plugins.retention import Retention
from hl7core.testing import EngineHarness
from pathlib import Path
from plugins.retention.test_engine import NOW
with EngineHarness(Path({folder!r}), {{"json_store": JsonStore, "retention": Retention}}, clock=lambda: NOW) as h:
    print("running", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("attempt", range(4))
def test_a_kill_during_a_cleanup_loses_nothing(tmp_path, attempt):
    old = [expired(number) for number in range(1, 601)]
    new = [young(number) for number in range(1001, 1101)]
    store_in(tmp_path, old + new)
    script = KILLED.format(tests=str(Path(__file__).parents[2]), folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "running\n"
        trash = tmp_path / "docs/trash"
        until = time.monotonic() + 30
        while len(list(trash.glob("*/*.json"))) < 1 + 130 * attempt:
            assert time.monotonic() < until
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    stored = set(names(tmp_path / "docs/sessions"))
    trashed = {path.stem for path in trash.glob("*/*.json")}
    assert stored | trashed == {one.id for one in old + new}
    assert {one.id for one in new} <= stored
    store = JsonStore()
    store.start(FakeRuntime(tmp_path / "docs", now=NOW))
    store.restore_sessions([one.id for one in old])
    assert store.load_sessions(SessionQuery(limit=1000)) == sorted(old + new, key=lambda one: one.started_at)
    store.stop()


def test_an_engine_that_stops_does_not_wait_for_its_cleanup(tmp_path, harness):
    class Slow:
        """A cleanup of somebody else's that listens to nobody."""

        def __init__(self):
            self.entered, self.leave = threading.Event(), threading.Event()

        @hookimpl
        def on_event(self, event):
            if isinstance(event, CleanupProgress):
                self.entered.set()

    store_in(tmp_path, [expired(number) for number in range(1, 1001)])
    slow = Slow()
    with harness({"slow": slow}) as h:
        assert slow.entered.wait(20)
        h.stop()
    left = len(names(tmp_path / "docs/sessions"))
    trashed = len(list((tmp_path / "docs/trash").glob("*/*.json")))
    assert left + trashed == 1000
