"""The store for many sessions: one SQLite file, nothing to install.

The law: once ``persist_session`` has returned, the session survives a power cut; before that, what was stored earlier
is still there, complete.  There is one writer: changes are made one after the other, each group of sessions in one
transaction.  No log line and no error contains a session's content.
"""

from __future__ import annotations

import logging
import sqlite3
import sys
import threading
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from pydantic import Field

from hl7core import (
    SESSION_ID,
    CleanupReport,
    Hl7coreError,
    NoticeRaised,
    PluginSettings,
    RecoveryDone,
    Runtime,
    Session,
    SessionQuery,
    SessionRefused,
    SettingsError,
    StoreError,
    hookimpl,
    session_from_json,
)
from hl7core_plugins.sqlite_store import trash
from hl7core_plugins.sqlite_store.database import Database, Terms
from hl7core_plugins.sqlite_store.query import Complaints, load
from hl7core_plugins.sqlite_store.rows import Row, row_of
from hl7core_plugins.sqlite_store.salvage import Salvaged
from hl7core_plugins.sqlite_store.schema import insert, update

__all__ = ["SqliteStore", "SqliteStoreSettings"]

logger = logging.getLogger(__name__)

_PART: Final = 500


class SqliteStoreSettings(PluginSettings):
    """The table ``[plugins.sqlite_store]``."""

    enabled: bool = Field(default=False, description="Store sessions in an SQLite database.")
    file: str = Field(
        default="sessions.sqlite",
        description="The database file. A relative path is relative to the data folder (output_folder).",
    )
    lock_timeout: float = Field(
        default=5.0, ge=0.1, le=60, description="Seconds to keep trying while another program locks the database."
    )
    network_folder: bool = Field(
        default=False,
        description="Allow a network file system, where unreliable locks may corrupt the database.",
    )


class SqliteStore:
    """Keeps sessions in ``{output_folder}/sessions.sqlite``."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._settings = SqliteStoreSettings()
        self._runtime: Runtime | None = None
        self._database: Database | None = None
        self._unsure: set[str] = set()  # ids whose last save may or may not be on the disk
        self._complaints = Complaints()

    # Lifecycle.

    @hookimpl
    def register_settings(self) -> type[PluginSettings]:
        """Return the model of ``[plugins.sqlite_store]``."""
        return SqliteStoreSettings

    @hookimpl
    def configure(self, settings: PluginSettings) -> None:
        """Apply ``settings``; if they name another file it is opened at once.  Raises SettingsError."""
        assert isinstance(settings, SqliteStoreSettings)  # noqa: S101 - the registry validates with our model
        if not settings.file or "\0" in settings.file:
            raise SettingsError("plugins.sqlite_store.file: must name a file")
        with self._lock:
            changed = settings != self._settings
            self._settings = settings
            if changed and self._database is not None and self._runtime is not None:
                self._database.close()
                self._open(self._runtime)

    @hookimpl
    def start(self, runtime: Runtime) -> None:
        """Open the database, or create it.  It never raises: if that fails, each later call says why."""
        with self._lock:
            self._runtime = runtime
            self._open(runtime)

    @hookimpl
    def stop(self) -> None:
        """Close the database; every session reported as saved is on the disk."""
        with self._lock:
            database, self._database, self._runtime = self._database, None, None
            if database is not None:
                database.close()

    def _open(self, runtime: Runtime) -> None:
        core, settings = runtime.core(), self._settings
        path = (Path(core.output_folder) / settings.file).absolute()
        terms = Terms(path, core.owner, settings.lock_timeout, settings.network_folder)
        self._database = Database(terms, self._mended, runtime.give_way)
        try:
            self._database.open()
        except StoreError as error:
            logger.error("%s", error)  # noqa: TRY400

    def _mended(self, salvaged: Salvaged) -> None:
        missing = f"; {salvaged.lost} more are damaged and were not recovered" if salvaged.lost else ""
        text = (
            f"the database of sqlite_store was damaged: {salvaged.recovered} sessions were recovered from it{missing}; "
            f"the damaged file is kept as {salvaged.aside}"
        )
        logger.error("%s", text)
        if self._runtime is not None:
            self._runtime.publish(RecoveryDone("sqlite_store", salvaged.recovered, 0))
            self._runtime.publish(NoticeRaised("sqlite_store", text))

    # Saving.

    @hookimpl
    def persist_session(self, session: Session, replace: bool) -> str:
        """Save one session durably and return where it lives.  Raises StoreError, SessionRefused if it is not valid."""
        outcome = self.persist_sessions([session], replace)[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    @hookimpl
    def persist_sessions(self, sessions: Sequence[Session], replace: bool) -> list[str | Exception]:
        """Save several sessions in one transaction; return for each, in order, where it is stored or why it is not."""
        outcomes: list[str | Exception] = []
        rows: list[tuple[int, str, Row]] = []
        with self._lock:
            try:
                database = self._started()
            except StoreError as error:
                return [error for _ in sessions]
            path = str(database.terms.path)
            for index, session in enumerate(sessions):
                try:
                    rows.append((index, session.id, row_of(session)))
                    outcomes.append(f"{path}#{session.id}")
                except (SessionRefused, AttributeError) as error:
                    outcomes.append(
                        error if isinstance(error, SessionRefused) else SessionRefused("it is not a session")
                    )
            if not rows:
                return outcomes
            ids = {session_id for _, session_id, _ in rows}
            try:
                refused = database.change(lambda connection: self._write(connection, rows, replace=replace))
            except StoreError as error:
                self._unsure |= ids
                refused = {index: error for index, _, _ in rows}
            else:
                self._unsure -= ids
            for index, reason in refused.items():
                outcomes[index] = reason
        logger.info("saved %d sessions in %s", len(rows) - len(refused), database.terms.path)
        return outcomes

    def _write(
        self, connection: sqlite3.Connection, rows: Sequence[tuple[int, str, Row]], *, replace: bool
    ) -> dict[int, StoreError]:
        """Write ``rows``; return those that must not be written, as index and reason.  Raises sqlite3.Error."""
        refused: dict[int, StoreError] = {}
        known = _known(connection, [session_id for _, session_id, _ in rows])
        fresh: dict[str, Row] = {}
        for index, session_id, row in rows:
            if session_id in fresh:  # a second session of the same id comes after the first
                insert(connection, list(fresh.values()))
                fresh = {}
                known |= _known(connection, [session_id])
            if session_id not in known:
                fresh[session_id] = row
                continue
            number, major = known[session_id]
            if major > row.major:
                if replace:
                    reason = f"session {session_id} was stored by a newer version, and this version does not rewrite it"
                    refused[index] = StoreError(reason)
            elif replace or session_id in self._unsure or not _is_whole(connection, number):
                update(connection, number, row)
        insert(connection, list(fresh.values()))
        return refused

    # Reading.

    @hookimpl
    def load_sessions(self, query: SessionQuery) -> list[Session]:
        """Return at most ``query.limit`` matching sessions, in its order; damaged ones are logged and skipped.

        Raises StoreError if the database cannot be read.
        """
        with self._lock:
            return self._started().read(lambda connection: load(connection, query, self._complaints))

    @hookimpl
    def store_size(self) -> int:
        """Return how many bytes of disk space the stored sessions use, trash included.  Raises StoreError."""
        with self._lock:
            return self._started().read(_used)

    # Deleting.

    @hookimpl
    def delete_sessions(self, ids: Sequence[str], to_trash: bool, deleted_at: datetime | None = None) -> list[str]:
        """Remove sessions and return the ids that were removed.  Raises StoreError.

        ``deleted_at`` (None: now) is the time under which they lie in the trash.
        """
        wanted = [session_id for session_id in ids if SESSION_ID.fullmatch(session_id)]
        with self._lock:
            database = self._started()
            when = (deleted_at or self._now()) if to_trash else None
            removed = database.change(lambda connection: trash.remove(connection, wanted, when))
            self._unsure.difference_update(removed)
            if removed and not to_trash:
                trash.give_back(database)
        return removed

    @hookimpl
    def restore_sessions(self, ids: Sequence[str]) -> list[str]:
        """Restore sessions from the trash and return the ids that were restored.  Raises StoreError."""
        wanted = [session_id for session_id in ids if SESSION_ID.fullmatch(session_id)]
        with self._lock:
            return self._started().change(lambda connection: trash.restore(connection, wanted))

    @hookimpl
    def empty_trash(self, before: datetime, limit: int = sys.maxsize) -> CleanupReport:
        """Delete permanently what went to the trash before that time, at most ``limit`` sessions.

        Raises StoreError.
        """
        with self._lock:
            return trash.empty(self._started(), before, limit)

    @hookimpl
    def list_trash(self) -> list[tuple[str, datetime]]:
        """Return the ids of the sessions in the trash and when each went there, the oldest first."""
        with self._lock:
            return self._started().read(trash.listed)

    # For tests and other users of the object itself.

    @property
    def path(self) -> Path:
        """The database file.  Raises StoreError before ``start``."""
        return self._started().terms.path

    @property
    def folder(self) -> Path:
        """The folder of the database file.  Raises StoreError before ``start``."""
        return self.path.parent

    def session_exists(self, session_id: str) -> bool:
        """Return whether a session is stored.  Raises StoreError if the database cannot be read."""
        if SESSION_ID.fullmatch(session_id) is None:
            return False
        with self._lock:
            return bool(self._started().read(lambda connection: _known(connection, [session_id])))

    def session_ids(self) -> list[str]:
        """Return the ids of all stored sessions, sorted.  Raises StoreError if they cannot be listed."""
        query = "SELECT CAST(id AS BLOB) FROM sessions WHERE trashed_us IS NULL ORDER BY id"
        with self._lock:
            return [
                raw.decode(errors="replace") for (raw,) in self._started().read(lambda c: c.execute(query).fetchall())
            ]

    def _started(self) -> Database:
        if self._database is None:
            raise StoreError("sqlite_store has not been started")
        return self._database

    def _now(self) -> datetime:
        if self._runtime is None:
            raise StoreError("sqlite_store has not been started")
        return self._runtime.now()


def _used(connection: sqlite3.Connection) -> int:
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int(pages - free) * int(size)


def _known(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return the number and the schema's major version of each row that is stored under one of ``ids``."""
    known: dict[str, tuple[int, int]] = {}
    for at in range(0, len(ids), _PART):
        part = ids[at : at + _PART]
        marks = ", ".join("?" * len(part))
        query = f"SELECT id, number, major FROM sessions WHERE id IN ({marks}) AND trashed_us IS NULL"  # noqa: S608
        known |= {session_id: (number, major) for session_id, number, major in connection.execute(query, part)}
    return known


def _is_whole(connection: sqlite3.Connection, number: int) -> bool:
    """Return whether the stored row can be read."""
    (data,) = connection.execute("SELECT CAST(json AS BLOB) FROM sessions WHERE number = ?", (number,)).fetchone()
    try:
        session_from_json(data)
    except Hl7coreError:
        return False
    return True
