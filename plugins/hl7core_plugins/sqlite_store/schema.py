"""The tables, and the numbered migrations that create them.

The law: ``user_version`` counts the migrations that were applied to a database.  Each is one transaction, so an
interrupted one leaves no trace.  A released migration is never changed; the next one corrects its mistakes.  A database
with migrations unknown here was written by a later version and is not touched.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from hl7core import SessionRefused, StoreError
from hl7core_plugins.sqlite_store.rows import COLUMNS, Row, stored_row

__all__ = ["APPLICATION", "STEPS", "Step", "bring_up", "check_version", "insert", "update", "version_of"]

Step = Callable[[sqlite3.Connection, Callable[[], None]], None]

APPLICATION: Final = 0x486C3763
"""``application_id``: "Hl7c", which tells our database from another program's."""

_INSERT: Final = f"INSERT INTO sessions (number, trashed_us, {', '.join(COLUMNS)}) VALUES (?, ?{', ?' * len(COLUMNS)})"  # noqa: S608 - no value in it
_INDEXED: Final = ("start_us", "status", "protocol", "device", "lis", "persisted_until_us")
_CHANGE: Final = [f"UPDATE sessions SET {name} = ?1 WHERE number = ?2 AND {name} IS NOT ?1" for name in _INDEXED]  # noqa: S608
_UPDATE: Final = "UPDATE sessions SET major = ?, end_us = ?, json = ? WHERE number = ?"
_ADD_KEY: Final = "INSERT INTO found_by (session, kind, value, start_us) VALUES (?, ?, ?, ?)"
_KEYS: Final = "SELECT CAST(kind AS BLOB), CAST(value AS BLOB), start_us FROM found_by WHERE session = ?"  # as they lie
_REMOVE_KEY: Final = "DELETE FROM found_by WHERE session = ? AND kind = CAST(? AS TEXT) AND value = CAST(? AS TEXT)"
_PART: Final = 500


def _sessions(connection: sqlite3.Connection, _progress: Callable[[], None]) -> None:
    """Migration 1: one table, with the session as JSON and the columns that listings are ordered and filtered by.

    One row per session, deleted ones included: an id may occur more than once, but only once outside the trash.
    """
    connection.execute(
        """
        CREATE TABLE IF NOT EXISTS sessions (
            number INTEGER PRIMARY KEY,
            id TEXT NOT NULL,
            trashed_us INTEGER,
            major INTEGER NOT NULL,
            start_us INTEGER NOT NULL,
            end_us INTEGER NOT NULL,
            status TEXT NOT NULL,
            protocol TEXT NOT NULL,
            device TEXT NOT NULL,
            lis TEXT NOT NULL,
            persisted_until_us INTEGER,
            json TEXT NOT NULL
        )
        """
    )
    for name, columns in (
        ("started", "start_us, id"),
        ("status", "status, start_us"),
        ("protocol", "protocol, start_us"),
        ("device", "device, start_us"),
        ("lis", "lis, start_us"),
        ("expiry", "persisted_until_us"),
    ):
        connection.execute(
            f"CREATE INDEX IF NOT EXISTS sessions_{name} ON sessions ({columns}) WHERE trashed_us IS NULL"
        )
    connection.execute("CREATE UNIQUE INDEX IF NOT EXISTS sessions_id ON sessions (id) WHERE trashed_us IS NULL")
    connection.execute(
        "CREATE INDEX IF NOT EXISTS sessions_trash ON sessions (trashed_us, id) WHERE trashed_us IS NOT NULL"
    )
    connection.execute("CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value INTEGER NOT NULL)")


def _found_by(connection: sqlite3.Connection, progress: Callable[[], None]) -> None:
    """Migration 2: the values that a session may have several of, such as specimens, patients and control ids."""
    connection.execute(
        """
        CREATE TABLE IF NOT EXISTS found_by (
            session INTEGER NOT NULL,
            kind TEXT NOT NULL,
            value TEXT NOT NULL,
            start_us INTEGER NOT NULL,
            PRIMARY KEY (session, kind, value)
        ) WITHOUT ROWID
        """
    )
    connection.execute("CREATE INDEX IF NOT EXISTS found_by_value ON found_by (kind, value, start_us)")
    connection.execute("DELETE FROM found_by")
    for number, data in _stored(connection):
        progress()
        try:
            row = stored_row(data)
        except SessionRefused:  # damaged: reported when it is loaded
            continue
        connection.executemany(_ADD_KEY, [(number, kind, value, row.start_us) for kind, value in row.keys])


STEPS: Final[tuple[Step, ...]] = (_sessions, _found_by)


def version_of(connection: sqlite3.Connection) -> int:
    """Return how many migrations a database has.  Raises StoreError if it is another program's."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    application: int = connection.execute("PRAGMA application_id").fetchone()[0]
    tables: int = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if application != APPLICATION and (application or version or tables):
        raise StoreError("it is another program's database; set file to another path")
    return version


def check_version(connection: sqlite3.Connection, *, steps: Sequence[Step] = STEPS, may: bool = True) -> int:
    """Return how many migrations a database has, without changing it.

    Raises StoreError if it belongs to a later version or another program, or, without ``may``, if it must be migrated.
    """
    version = version_of(connection)
    if version > len(steps):
        raise StoreError(
            f"it was written by a later version of hl7core (schema {version}; this version knows {len(steps)}) and is "
            "left unchanged; run that version, or set file to another path"
        )
    if version < len(steps) and version and not may:
        raise StoreError("it is of an earlier version, and another process owns it: restart the engine first")
    return version


def bring_up(
    connection: sqlite3.Connection, *, steps: Sequence[Step] = STEPS, progress: Callable[[], None] = lambda: None
) -> int:
    """Apply the missing migrations; return how many.  Raises StoreError (see ``check_version``)."""
    version = check_version(connection, steps=steps)
    taken = 0
    for number in range(version + 1, len(steps) + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            if version_of(connection) < number:  # another process may have been faster
                steps[number - 1](connection, progress)
                connection.execute(f"PRAGMA application_id = {APPLICATION}")
                connection.execute(f"PRAGMA user_version = {number}")
                taken += 1
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    return taken


def insert(connection: sqlite3.Connection, rows: Sequence[Row], trashed_us: int | None = None) -> None:
    """Insert new rows; with ``trashed_us`` (unix microseconds) they are in the trash since then."""
    first: int = connection.execute("SELECT coalesce(max(number), 0) + 1 FROM sessions").fetchone()[0]
    connection.executemany(_INSERT, [(number, trashed_us, *row.values) for number, row in enumerate(rows, first)])
    keys = [(number, *key, row.start_us) for number, row in enumerate(rows, first) for key in row.keys]
    connection.executemany(_ADD_KEY, keys)


def update(connection: sqlite3.Connection, number: int, row: Row) -> None:
    """Replace the row ``number``; indexed values are only written if they differ."""
    values = dict(zip(COLUMNS, row.values, strict=True))
    connection.execute(_UPDATE, (row.major, values["end_us"], values["json"], number))
    for name, statement in zip(_INDEXED, _CHANGE, strict=True):
        connection.execute(statement, (values[name], number))
    before = set(connection.execute(_KEYS, (number,)))
    after = {(kind.encode(), value.encode(), row.start_us) for kind, value in row.keys}
    connection.executemany(_REMOVE_KEY, [(number, kind, value) for kind, value, _ in before - after])
    connection.executemany(
        _ADD_KEY, [(number, kind.decode(), value.decode(), us) for kind, value, us in after - before]
    )


def _stored(connection: sqlite3.Connection) -> Iterator[tuple[int, bytes]]:
    """Yield number and JSON of all rows, read in parts, since the table may change meanwhile."""
    last = -1
    query = "SELECT number, CAST(json AS BLOB) FROM sessions WHERE number > ? ORDER BY number LIMIT ?"
    while part := connection.execute(query, (last, _PART)).fetchall():
        yield from part
        last = part[-1][0]
