"""The tables, and databases of other versions or programs."""

from __future__ import annotations

import sqlite3

import pytest

from hl7core import StoreError
from hl7core.testing import FakeRuntime
from hl7core_plugins.sqlite_store import schema
from hl7core_plugins.sqlite_store.schema import STEPS, bring_up
from plugins.sqlite_store.parts import asked, earlier_database, loaded, session, started


def test_a_database_of_a_later_version_is_left_alone(tmp_path, caplog):
    started(tmp_path).stop()
    path = tmp_path / "sessions.sqlite"
    asked(path, "PRAGMA user_version = 99")
    before = path.read_bytes()
    store = started(tmp_path)
    for use in (lambda: loaded(store), lambda: store.persist_session(session(), replace=False), store.store_size):
        with pytest.raises(StoreError, match=r"later version of hl7core .*schema 99.*left unchanged"):
            use()
    assert "later version" in caplog.text
    store.stop()
    assert path.read_bytes() == before


def test_another_programs_database_is_left_alone(tmp_path):
    path = tmp_path / "sessions.sqlite"
    asked(path, "CREATE TABLE theirs (a)")
    store = started(tmp_path)
    with pytest.raises(StoreError, match="another program"):
        store.persist_session(session(), replace=False)
    assert asked(path, "SELECT name FROM sqlite_schema") == [("theirs",)]


def test_a_database_takes_the_steps_that_it_has_not_taken_each_whole_or_not_at_all():
    connection = sqlite3.connect(":memory:", isolation_level=None)
    assert bring_up(connection) == len(STEPS)
    assert bring_up(connection) == 0

    def third(connection, _progress):
        connection.execute("CREATE TABLE third (a)")

    def fourth(connection, _progress):
        connection.execute("CREATE TABLE fourth (a)")
        raise sqlite3.OperationalError("disk full")

    for _ in range(2):
        with pytest.raises(sqlite3.OperationalError, match="disk full"):
            bring_up(connection, steps=(*STEPS, third, fourth))
        assert schema.version_of(connection) == len(STEPS) + 1
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
        assert "third" in tables
        assert "fourth" not in tables
    with pytest.raises(StoreError, match="later version"):
        bring_up(connection)


def test_a_guest_brings_no_database_up_but_makes_a_new_one(tmp_path):
    earlier_database(tmp_path)
    guest = started(tmp_path, FakeRuntime(tmp_path, owner=False))
    with pytest.raises(StoreError, match="earlier version"):
        guest.persist_session(session(9), replace=False)
    new = started(tmp_path / "new", FakeRuntime(tmp_path / "new", owner=False))
    new.persist_session(session(9), replace=False)
    assert loaded(new) == [session(9)]
