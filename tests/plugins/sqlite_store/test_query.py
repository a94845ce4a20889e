"""Finding sessions."""

from __future__ import annotations

import sqlite3
from datetime import timedelta

import pytest

from hl7core import DeliveryStatus, SessionQuery, StoreError
from hl7core_plugins.sqlite_store import database
from plugins.sqlite_store.parts import NOW, loaded, session


def test_what_is_stored_can_be_read_while_nothing_can_be_written(store, monkeypatch):
    store.persist_session(session(1), replace=False)
    begin = database.Database._begin

    def full(_self, _connection):
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    monkeypatch.setattr(database.Database, "_begin", full)
    store._database._drop()
    with pytest.raises(StoreError, match="No space left"):
        store.persist_session(session(2), replace=False)
    assert loaded(store) == [session(1)]
    monkeypatch.setattr(database.Database, "_begin", begin)
    store.persist_session(session(2), replace=False)
    assert loaded(store) == [session(1), session(2)]


def test_sessions_can_be_looked_up_by_id(store):
    store.persist_sessions([session(2), session(1)], replace=False)
    store.delete_sessions([session(2).id], to_trash=True)
    assert store.session_ids() == [session(1).id]
    assert store.session_exists(session(1).id)
    assert not store.session_exists(session(2).id)
    assert not store.session_exists("../x")


def test_searches_go_by_an_index(store):
    """No search that an index can answer reads every session."""
    from hl7core_plugins.sqlite_store.query import _select

    store.persist_sessions([session(n) for n in range(50)], replace=False)
    connection = sqlite3.connect(store.path)
    for query in (
        SessionQuery(specimen="S-0001"),
        SessionQuery(patient="P-0001", control_id="M000001", newest_first=True),
        SessionQuery(pending_for="rest", after=(NOW, session().id)),
        SessionQuery(finding="gap", status=(DeliveryStatus.FAILED,)),
        SessionQuery(expired_at=NOW),
        SessionQuery(status=(DeliveryStatus.FAILED,), since=NOW),
        SessionQuery(device="192.0.2.10"),
        SessionQuery(lis="192.0.2.20", newest_first=True),
        SessionQuery(protocol="lis01"),
        SessionQuery(newest_first=True),
        SessionQuery(since=NOW, until=NOW + timedelta(days=1)),
    ):
        statement, values = _select(query, None)
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
        scans = [line for line in plan if line.startswith("SCAN") and "USING INDEX sessions_started" not in line]
        assert not scans, (query, plan)
    connection.close()
