"""The plugin: its settings, its start and stop."""

from __future__ import annotations

import logging

import pytest
from pydantic import ValidationError

from hl7core import SettingsError, StoreError
from hl7core.testing import FakeRuntime
from hl7core_plugins.sqlite_store import SqliteStore, SqliteStoreSettings
from plugins.sqlite_store.parts import loaded, session, started


def test_the_file_is_a_setting_and_may_change_while_it_runs(tmp_path):
    runtime = FakeRuntime(tmp_path / "data")
    store = started(tmp_path, runtime, file="my.db")
    store.persist_session(session(1), replace=False)
    assert store.path == tmp_path / "data" / "my.db"
    store.configure(SqliteStoreSettings(file=str(tmp_path / "else where" / "50%?#.db")))
    assert loaded(store) == []
    store.persist_session(session(2), replace=False)
    assert (tmp_path / "else where" / "50%?#.db").exists()
    store.configure(SqliteStoreSettings(file="my.db", lock_timeout=1))
    assert loaded(store) == [session(1)]


def test_settings_out_of_bounds_are_refused(store):
    for wrong in ({"lock_timeout": 0}, {"lock_timeout": 61}, {"more": 1}):
        with pytest.raises(ValidationError):
            SqliteStoreSettings(**wrong)
    for file in ("", "a\0b"):
        with pytest.raises(SettingsError, match="must name a file"):
            store.configure(SqliteStoreSettings(file=file))


def test_it_takes_nothing_before_it_is_started_or_after_it_has_stopped(tmp_path):
    for store in (SqliteStore(), started(tmp_path)):
        store.stop()
        with pytest.raises(StoreError, match="not been started"):
            store.persist_session(session(), replace=False)
        with pytest.raises(StoreError, match="not been started"):
            loaded(store)
        assert isinstance(store.persist_sessions([session()], replace=False)[0], StoreError)


def test_a_save_is_logged_without_content(store, caplog):
    caplog.set_level(logging.DEBUG)
    store.persist_session(session(), replace=False)
    lines = [record.getMessage() for record in caplog.records]
    assert any(str(store.path) in line for line in lines)
    assert not any("TEST^PATIENT" in line or "P-0001" in line for line in lines)
