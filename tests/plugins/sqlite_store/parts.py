"""A store that is started, sessions for it, and the database as other programs see it."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime

from hl7core import SessionQuery, session_to_json
from hl7core.model.schema import at_stored_precision
from hl7core.testing import FakeRuntime, make_session
from hl7core_plugins.sqlite_store import SqliteStore, SqliteStoreSettings
from hl7core_plugins.sqlite_store.schema import STEPS, bring_up

NOW = datetime(2026, 1, 3, tzinfo=UTC)


def started(folder, runtime=None, **settings):
    store = SqliteStore()
    store.configure(SqliteStoreSettings(**settings))
    store.start(runtime or FakeRuntime(folder))
    return store


def session(number=1, **changes):
    return at_stored_precision(make_session(number, **changes))


def loaded(store, **query):
    return store.load_sessions(SessionQuery(**query))


def asked(path, statement, *values):
    """Ask the database as any other program would."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(statement, values).fetchall()
    finally:
        connection.close()


def edited(path, statement, *values):
    """Change the database behind the store's back, as another program would."""
    connection = sqlite3.connect(path, timeout=10)
    with connection:
        connection.execute(statement, values)
    connection.close()


def earlier_database(folder):
    """A database of the first version, with three sessions; returns the sessions."""
    sessions = [session(number) for number in (1, 2, 3)]
    connection = sqlite3.connect(folder / "sessions.sqlite", isolation_level=None)
    bring_up(connection, steps=STEPS[:1])
    for one in sessions:
        columns = (one.id, 2, one.start_ns // 1000, one.end_ns // 1000, "pending", "mllp", one.device.address)
        connection.execute(
            "INSERT INTO sessions (id, major, start_us, end_us, status, protocol, device, lis, json)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*columns, one.lis.address, session_to_json(one).decode()),
        )
    connection.close()
    return sessions
