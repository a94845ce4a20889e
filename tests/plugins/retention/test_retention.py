"""When a cleanup runs, and what ends it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from hl7core import EngineError
from hl7core.errors import PluginError
from hl7core.testing import FakeRuntime
from hl7core_plugins.retention import Retention
from plugins.retention.parts import DAY, HOUR, NOW, expired


def test_it_runs_at_the_start_and_each_interval(desk):
    d = desk(cleanup_interval_hours=24).start()
    d.look()
    d.look()
    assert d.asked("cleanup") == [(False, False)]
    d.clean()
    d.passes(24 * HOUR - timedelta(seconds=1))
    d.look()
    assert len(d.asked("cleanup")) == 1
    d.passes(timedelta(seconds=1))
    d.look()
    assert len(d.asked("cleanup")) == 2


def test_a_changed_interval_counts_at_once(desk):
    d = desk(cleanup_interval_hours=168).start()
    d.look()
    d.clean()
    d.passes(2 * HOUR)
    d.look()
    assert len(d.asked("cleanup")) == 1
    d.configure(cleanup_interval_hours=2)
    d.look()
    assert len(d.asked("cleanup")) == 2


def test_a_bound_on_disk_use_is_looked_at_each_hour(desk):
    d = desk(max_disk="1GB").start()
    d.look()
    d.clean()
    d.passes(HOUR)
    d.look()
    assert len(d.asked("cleanup")) == 2


def test_a_cleanup_that_did_not_finish_is_tried_again_within_the_hour(desk):
    d = desk().start()
    d.hold(expired(1, saved=NOW + DAY))
    d.look()
    assert d.clean().halted
    d.passes(HOUR)
    d.look()
    assert len(d.asked("cleanup")) == 2


def test_while_nothing_is_saved_it_waits_and_then_makes_up_for_it(desk, tmp_path):
    d = desk()
    d.runtime = FakeRuntime(tmp_path, now=NOW, enable_persistence=False)
    d.start()
    d.look()
    assert not d.asked("cleanup")
    d.runtime._core = d.runtime._core._replace(enable_persistence=True)
    d.look()
    assert len(d.asked("cleanup")) == 1


def test_persistence_switched_off_ends_a_cleanup_at_its_next_step(desk):
    class Switching(FakeRuntime):
        async def delete(self, ids, *, to_trash=True, deleted_at=None):
            self._core = self._core._replace(enable_persistence=False)
            return await super().delete(ids, to_trash=to_trash, deleted_at=deleted_at)

    d = desk(runtime=Switching).start()
    d.hold(*(expired(number) for number in range(1, 301)))
    report = d.clean()
    assert report.deleted == 100
    assert "enable_persistence" in report.halted


def test_where_another_process_owns_the_folder_nothing_is_deleted(desk, tmp_path):
    d = desk()
    d.runtime = FakeRuntime(tmp_path, now=NOW, owner=False)
    d.start()
    d.hold(expired(1))
    assert "another process" in d.clean().halted
    assert d.held


def test_it_ends_at_the_next_step_when_it_is_stopped(desk):
    class Stopping(FakeRuntime):
        async def delete(self, ids, *, to_trash=True, deleted_at=None):
            d.retention.stop()
            return await super().delete(ids, to_trash=to_trash, deleted_at=deleted_at)

    d = desk(runtime=Stopping).start()
    d.hold(*(expired(number) for number in range(1, 301)))
    report = d.clean()
    assert report.deleted == 100
    assert "stopped" in report.halted
    assert not d.runtime.jobs


def test_an_engine_that_ends_ends_the_cleanup_without_an_error(desk):
    class Ended(FakeRuntime):
        async def sessions(self, query):
            raise EngineError("the engine has stopped")

    d = desk(runtime=Ended).start()
    assert d.clean().halted == "the engine has stopped"


def test_before_its_start_it_cleans_nothing():
    with pytest.raises(PluginError):
        Retention().cleanup(NOW, False, False)
