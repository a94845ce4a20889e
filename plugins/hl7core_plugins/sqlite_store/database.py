"""The one connection to the database: opened, checked, closed when it cannot be trusted, and opened again.

The law: once ``change`` returns, its changes are on the disk; if it raises, none of them counts.  Every transaction
takes the write lock first (BEGIN IMMEDIATE), so it waits for other programs instead of failing half-way.  After any
error other than a lock the connection is closed, and the next one starts with a checkpoint that must succeed: whatever
a failed flush left in the log is written to the database again and flushed before anything else is changed.

Not safe for several threads at once: the store has a lock.
"""

from __future__ import annotations

import errno
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from hl7core import StoreError
from hl7core_plugins.sqlite_store import place, salvage
from hl7core_plugins.sqlite_store.schema import bring_up, check_version

__all__ = ["Database", "Terms", "told"]

logger = logging.getLogger(__name__)
T = TypeVar("T")

_CHECK_SECONDS: Final = 5.0
_PROGRESS_STEPS: Final = 200_000
"""After so many of its instructions SQLite calls back: every few milliseconds."""
"""How long the check after an unclean stop may take; damage that it does not reach shows when it is read."""
_LOG_PAGES: Final = 1000
_LOG_BYTES: Final = 64 << 20
_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_LOCKED: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_WORDS: Final = {
    sqlite3.SQLITE_BUSY: "it is locked by another program",
    sqlite3.SQLITE_LOCKED: "it is locked by another program",
    sqlite3.SQLITE_FULL: "No space left on device",
    sqlite3.SQLITE_READONLY: "it cannot be written to (read-only)",
    sqlite3.SQLITE_CANTOPEN: "its files cannot be opened",
    sqlite3.SQLITE_PERM: "Permission denied",
    sqlite3.SQLITE_IOERR: "Input/output error",
    sqlite3.SQLITE_CORRUPT: "it is damaged",
    sqlite3.SQLITE_NOTADB: "it is damaged or not a database",
}
_NEW: Final = (f"PRAGMA page_size = {salvage.PAGE}", "PRAGMA auto_vacuum = INCREMENTAL")
"""Settings of a new database."""
_SETTINGS: Final = (
    "PRAGMA synchronous = FULL",
    "PRAGMA secure_delete = ON",  # overwrites what is deleted, so that no salvage brings it back
    "PRAGMA temp_store = MEMORY",  # no patient in a temporary file
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
    "PRAGMA foreign_keys = OFF",
    "PRAGMA cache_size = -16384",
    f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}",
    f"PRAGMA journal_size_limit = {_LOG_BYTES}",
)


class Terms(NamedTuple):
    """How the database is used.

    ``owner``: whether this process may recover and repair it.  ``patience``: how many seconds to keep trying while
    another program has it locked.  ``network``: whether it may be on a network file system.
    """

    path: Path
    owner: bool = True
    patience: float = 5.0
    network: bool = False


class _Damaged(Exception):  # noqa: N818 - named for the state
    """A check has found damage."""


class Database:
    """The database that ``terms`` describe; ``mended`` is called after a salvage.

    ``give_way`` is called to show progress while something is changed; it must not use the database.
    """

    def __init__(
        self,
        terms: Terms,
        mended: Callable[[salvage.Salvaged], None],
        give_way: Callable[[], None] = lambda: None,
    ) -> None:
        self.terms = terms
        self._give_way = give_way
        self._changing = False
        self._mended = mended
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._log: tuple[int, int] | None = None
        self._around: frozenset[int] = frozenset()
        self._to_check = False
        self._checked: tuple[int, int] | None = None

    def open(self) -> None:
        """Open the database before its first use, without checking its content.  Raises StoreError."""
        try:
            with self._showing_progress():
                self._opened()
        except (OSError, sqlite3.Error) as error:
            if not _is_damage(error):
                raise told(error, self.terms.path) from error
            logger.debug("%s is damaged; it is repaired when it is first used", self.terms.path)

    def change(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Call ``work`` in a transaction and return its result once the changes are on the disk.  Raises StoreError."""
        with self._showing_progress():
            return self._do(lambda: self._changed(self._ready(), work))

    @contextmanager
    def _showing_progress(self) -> Iterator[None]:
        """Let ``give_way`` be called: nothing reads, so no session is saved inside it."""
        before, self._changing = self._changing, True
        try:
            yield
        finally:
            self._changing = before

    def show_progress(self) -> None:
        """Call ``give_way`` if something is being changed; SQLite calls this while a statement runs."""
        if self._changing:
            self._give_way()

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Call ``work``, which changes nothing, and return its result.  Raises StoreError."""
        return self._do(lambda: self._looked(work))

    def keep_house(self, statement: str) -> None:
        """Run a statement that changes no content (a checkpoint, a vacuum); a failure is only logged."""
        try:
            self._ready().executescript(statement)  # runs it to its end, although it returns no rows
        except (sqlite3.Error, OSError, StoreError, _Damaged) as error:
            logger.debug("%s: %s failed: %s", self.terms.path, statement, _words(error))
            self._drop()

    def close(self) -> None:
        """Close the database; as its owner, record that it was closed properly."""
        connection = self._connection
        if connection is None:
            return
        try:
            if self.terms.owner and not self._to_check and self._is_there():
                self._changed(connection, lambda c: c.execute("INSERT OR REPLACE INTO state VALUES ('clean', 1)"))
        except (sqlite3.Error, OSError) as error:  # the next start checks it
            logger.info("%s was not closed properly: %s", self.terms.path, _words(error))
        self._drop()

    # One use.

    def _do(self, use: Callable[[], T]) -> T:
        try:
            return use()
        except (sqlite3.Error, OSError, _Damaged) as error:
            if not _is_locked(error):
                self._drop()
            if not _is_damage(error):
                raise told(error, self.terms.path) from error
            self._mend(error)
        try:
            return use()
        except (sqlite3.Error, OSError, _Damaged) as error:
            self._drop()
            raise told(error, self.terms.path) from error

    def _changed(self, connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
        connection.execute("BEGIN IMMEDIATE")
        try:
            answer = work(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self._prove()
        return answer

    def _looked(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            connection = self._ready()
        except (sqlite3.Error, OSError) as error:
            if _is_damage(error) or _is_locked(error) or place.identity(self.terms.path) is None:
                raise
            # It cannot be written to: what is stored stays readable.
            connection = self._connect("ro")
            try:
                return work(connection)
            finally:
                connection.close()
        return work(connection)

    def _prove(self) -> None:
        """Make sure that the files that were written to still have their names.  Raises OSError."""
        path = self.terms.path
        if self._log is None:
            place.sync_folder(path.parent)  # SQLite lets an error of this pass
            self._log = place.identity(_log_of(path))
        if not self._is_there():
            raise OSError(errno.ENOENT, "it was removed while it was in use", str(path))

    def _is_there(self) -> bool:
        path = self.terms.path
        if place.identity(path) != self._identity:
            return False
        return self._log is None or place.identity(_log_of(path)) == self._log

    # Opening.

    def _ready(self) -> sqlite3.Connection:
        """Return the connection; a database that was not closed properly is checked first."""
        connection = self._opened()
        if self._to_check:
            self._check(connection)
            self._to_check = False
            self._checked = self._identity
        return connection

    def _opened(self) -> sqlite3.Connection:
        if self._connection is not None:
            if self._is_there():
                return self._connection
            logger.warning("%s was removed or replaced; it is opened again", self.terms.path)
            self._drop()
        self._prepare()
        connection = self._connect("rw")
        try:
            self._begin(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _prepare(self) -> None:
        """Create folder and file, and check that they can be used.  Raises OSError or StoreError."""
        path = self.terms.path
        if self._around and place.device_for(path.parent) in self._around:
            # What was saved in the empty mount point would be hidden when the disk is mounted again.
            raise StoreError(f"the disk of {path} is not mounted; saving continues when it is back")
        place.make_folder(path.parent)
        kind = "" if self.terms.network else place.network_kind(path.parent)
        if kind:
            raise StoreError(
                f"{path} is on a network file system ({kind}), where unreliable locks may corrupt it; move it to a "
                "local disk, or set plugins.sqlite_store.network_folder = true"
            )
        if self.terms.owner:
            salvage.finish(path)
            if not place.size_of(path) and place.size_of(_log_of(path)):
                self._mend(_Damaged())  # SQLite would take an emptied file for a new one, and delete its log
        elif salvage.being_mended(path):
            raise StoreError(f"{path} is being repaired; the engine, its owner, finishes that at its next start")
        place.make_file(path)

    def _connect(self, mode: str) -> sqlite3.Connection:
        path = self.terms.path
        connection = sqlite3.connect(
            f"{path.as_uri()}?mode={mode}", uri=True, timeout=self.terms.patience, isolation_level=None,
            check_same_thread=False,
        )  # fmt: skip
        connection.set_progress_handler(self.show_progress, _PROGRESS_STEPS)
        try:
            version = check_version(connection, may=self.terms.owner)  # before anything is written
            for setting in _SETTINGS if version else (*_NEW, *_SETTINGS):
                connection.execute(setting).fetchall()
            if mode == "rw":
                if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
                    raise StoreError("this file system does not support SQLite's log (WAL)")  # noqa: TRY301
                bring_up(connection, progress=self.show_progress)
        except StoreError as error:
            connection.close()
            raise StoreError(f"{path} cannot be used: {error}") from error
        except BaseException:
            connection.close()
            raise
        return connection

    def _begin(self, connection: sqlite3.Connection) -> None:
        """Make sure that everything readable is on the disk; as its owner, record that it is in use."""
        path = self.terms.path
        busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy:
            raise StoreError(f"{path}: {_WORDS[sqlite3.SQLITE_BUSY]}")
        self._identity, self._log = place.identity(path), None
        self._around = self._around or place.around(path.parent)
        if not self.terms.owner:
            return
        found = connection.execute("SELECT value FROM state WHERE name = 'clean'").fetchone()
        if found is not None and not found[0]:
            self._to_check = self._checked != self._identity
        else:
            self._changed(connection, lambda c: c.execute("INSERT OR REPLACE INTO state VALUES ('clean', 0)"))
            self._checked = self._identity

    def _check(self, connection: sqlite3.Connection) -> None:
        """Look for damage, for some seconds at most.  Raises _Damaged or sqlite3.Error."""
        timer = threading.Timer(_CHECK_SECONDS, connection.interrupt)
        timer.daemon = True
        timer.start()
        try:
            found = connection.execute("PRAGMA integrity_check(1)").fetchone()
        except sqlite3.OperationalError as error:
            if _code(error) != sqlite3.SQLITE_INTERRUPT:
                raise
            logger.info("%s was not closed properly; its check ended after %.0f s", self.terms.path, _CHECK_SECONDS)
            return
        finally:
            timer.cancel()
            timer.join()
        if found != ("ok",):
            raise _Damaged

    # When something is wrong.

    def _mend(self, error: Exception) -> None:
        """Recover what can be read of a damaged database.  Raises StoreError."""
        path = self.terms.path
        if not self.terms.owner:
            raise StoreError(f"{path} is damaged; the engine, its owner, repairs it at its next use") from error
        try:
            self._mended(salvage.mend(path, self.show_progress))
        except (sqlite3.Error, OSError) as failure:
            raise StoreError(f"{path} is damaged and cannot be repaired now: {_words(failure)}") from failure
        self._checked = place.identity(path)

    def _drop(self) -> None:
        """Close the connection without trusting it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error as error:
                logger.debug("closing %s failed: %s", self.terms.path, _words(error))


def told(error: Exception, path: Path) -> StoreError:
    """Return an error of SQLite or the system as a StoreError: what failed and why, without any content."""
    return StoreError(f"the database {path} cannot be used: {_words(error)}")


def _words(error: BaseException) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    code = _code(error)
    name = getattr(error, "sqlite_errorname", "") or type(error).__name__
    return f"{_WORDS[code & 0xFF]} ({name})" if code & 0xFF in _WORDS else name


def _code(error: BaseException) -> int:
    return getattr(error, "sqlite_errorcode", 0)


def _is_damage(error: BaseException) -> bool:
    return isinstance(error, _Damaged) or _code(error) & 0xFF in _DAMAGE


def _is_locked(error: BaseException) -> bool:
    return _code(error) & 0xFF in _LOCKED


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")
