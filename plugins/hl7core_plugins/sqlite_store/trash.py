"""The trash: deleted rows, which no listing shows, with the time of their deletion.

The law: a session in the trash stays there until it is restored or the trash is emptied; restoring never overwrites a
stored session.  What is deleted permanently is overwritten, in SQLite's log too, and its space is freed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Final

from hl7core import CleanupReport
from hl7core_plugins.sqlite_store.database import Database
from hl7core_plugins.sqlite_store.rows import micros, time_of

__all__ = ["empty", "give_back", "listed", "remove", "restore"]

_PART: Final = 500
_ROOM: Final = 4096
"""How many pages at most are freed at a time."""
_LATEST: Final = (
    "SELECT number FROM sessions WHERE id = ? AND trashed_us IS NOT NULL ORDER BY trashed_us DESC, number DESC LIMIT 1"
)


def remove(connection: sqlite3.Connection, ids: Sequence[str], now: datetime | None) -> list[str]:
    """Move sessions to the trash, or delete them permanently if ``now`` is None; return the ids that were stored."""
    removed = []
    for session_id in ids:
        found = connection.execute("SELECT number FROM sessions WHERE id = ? AND trashed_us IS NULL", (session_id,))
        number = found.fetchone()
        if number is None:
            continue
        if now is None:
            _delete_rows(connection, [number[0]])
        else:
            connection.execute("UPDATE sessions SET trashed_us = ? WHERE number = ?", (micros(now), number[0]))
        removed.append(session_id)
    return removed


def restore(connection: sqlite3.Connection, ids: Sequence[str]) -> list[str]:
    """Restore the latest of each session unless it is stored; return the ids that were restored."""
    restored = []
    for session_id in ids:
        stored = connection.execute("SELECT 1 FROM sessions WHERE id = ? AND trashed_us IS NULL", (session_id,))
        if stored.fetchone() is not None:
            continue
        found = connection.execute(_LATEST, (session_id,)).fetchone()
        if found is not None:
            connection.execute("UPDATE sessions SET trashed_us = NULL WHERE number = ?", found)
            restored.append(session_id)
    return restored


def listed(connection: sqlite3.Connection) -> list[tuple[str, datetime]]:
    """Return the ids in the trash with the time of their deletion, oldest first."""
    query = "SELECT CAST(id AS BLOB), trashed_us FROM sessions WHERE trashed_us IS NOT NULL ORDER BY trashed_us, id"
    return [(raw.decode(errors="replace"), time_of(trashed_us)) for raw, trashed_us in connection.execute(query)]


def empty(database: Database, before: datetime, limit: int) -> CleanupReport:
    """Delete permanently what went to the trash before that time, at most ``limit`` sessions."""
    deleted = freed = 0
    while deleted < limit:
        most = min(_PART, limit - deleted)
        count, size = database.change(partial(_empty_part, before_us=micros(before), most=most))
        deleted += count
        freed += size
        if count < most:
            break
    if deleted:
        give_back(database)
    left = "SELECT count(*) FROM sessions WHERE trashed_us IS NOT NULL"
    in_trash: int = database.read(lambda connection: connection.execute(left).fetchone()[0])
    return CleanupReport(deleted=deleted, freed=freed, in_trash=in_trash)


def give_back(database: Database) -> None:
    """Shrink the file by what was deleted, and truncate the log, which still contains it."""
    database.keep_house(f"PRAGMA incremental_vacuum({_ROOM})")
    database.keep_house("PRAGMA wal_checkpoint(TRUNCATE)")


def _empty_part(connection: sqlite3.Connection, before_us: int, most: int) -> tuple[int, int]:
    rows = connection.execute(
        "SELECT number, length(CAST(json AS BLOB)) FROM sessions WHERE trashed_us < ? ORDER BY trashed_us LIMIT ?",
        (before_us, most),
    ).fetchall()
    _delete_rows(connection, [number for number, _ in rows])
    return len(rows), sum(size for _, size in rows)


def _delete_rows(connection: sqlite3.Connection, numbers: Sequence[int]) -> None:
    for table, column in (("found_by", "session"), ("sessions", "number")):
        connection.executemany(f"DELETE FROM {table} WHERE {column} = ?", [(number,) for number in numbers])  # noqa: S608
