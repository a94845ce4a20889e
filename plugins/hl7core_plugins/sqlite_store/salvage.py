"""Recovering what can be read of a damaged database, without SQLite.

The law: only damaged sessions are lost, and the damaged file is kept.  Every page of rows is read on its own, from the
log where it has a later version, so a damaged header, index or page hides no other; a session counts if its JSON is
complete.  The recovered sessions are on the disk in a new database before the damaged one is set aside; if that is
interrupted at any point, the next start continues from there.

The file format is https://www.sqlite.org/fileformat2.html: sections 1.6 (pages), 2.1 (records), 4.1 (the log).
"""

from __future__ import annotations

import itertools
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from hl7core import SESSION_ID, SessionRefused
from hl7core_plugins.sqlite_store import place
from hl7core_plugins.sqlite_store.rows import Row, stored_row
from hl7core_plugins.sqlite_store.schema import bring_up, insert

__all__ = ["Salvaged", "being_mended", "finish", "mend"]

logger = logging.getLogger(__name__)

PAGE: Final = 4096
_LEAF: Final = 0x0D
_HEADER: Final = b"SQLite format 3\0"
_LOG_HEADER, _FRAME_HEADER = 32, 24
_ID, _TRASHED, _JSON = 1, 2, 11
"""Which of a row's columns these are."""
_INTEGERS: Final = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}


class Salvaged(NamedTuple):
    """The result of a salvage: sessions recovered, sessions found only in part, and where the damaged file is kept."""

    recovered: int
    lost: int
    aside: Path


class _Found(NamedTuple):
    """A row as it was found."""

    number: int
    session_id: str
    trashed_us: int | None
    json: bytes


def being_mended(path: Path) -> bool:
    """Return whether a salvage of the database ``path`` was not finished.  Raises OSError."""
    return place.identity(_with(path, ".salvaged")) is not None


def mend(path: Path, progress: Callable[[], None] = lambda: None) -> Salvaged:
    """Recover what can be read of the database ``path``, set it aside, and put a new one in its place.

    Raises OSError or sqlite3.Error; everything is then as before, or is finished at the next call.
    """
    fresh = _with(path, ".salvaging")
    for ending in (*place.FILES, "-journal"):
        _with(fresh, ending).unlink(missing_ok=True)
    place.make_file(fresh)
    with closing(sqlite3.connect(fresh, isolation_level=None)) as connection:
        for setting in (f"page_size = {PAGE}", "auto_vacuum = INCREMENTAL", "journal_mode = OFF", "synchronous = OFF"):
            connection.execute(f"PRAGMA {setting}").fetchall()
        bring_up(connection)
        connection.execute("BEGIN")
        recovered, lost = _copy(path, connection, progress)
        connection.execute("COMMIT")
    descriptor = os.open(fresh, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    fresh.rename(_with(path, ".salvaged"))
    place.sync_folder(path.parent)
    return Salvaged(recovered, lost, finish(path) or path)


def finish(path: Path) -> Path | None:
    """Finish an interrupted salvage: replace the damaged database and return where it is kept; None if there is none.

    Raises OSError; the next call then continues.
    """
    ready = _with(path, ".salvaged")
    if place.identity(ready) is None:
        return None
    names = (_with(path, f".damaged-{number}") for number in itertools.count(1))
    aside = next(name for name in names if place.identity(name) is None)
    _with(path, "-shm").unlink(missing_ok=True)
    for ending in ("-wal", ""):  # a log must never be left beside another database
        source = _with(path, ending)
        if place.identity(source) is not None:
            source.rename(_with(aside, ending))
    place.sync_folder(path.parent)
    ready.rename(path)
    place.sync_folder(path.parent)
    return aside


def _copy(path: Path, connection: sqlite3.Connection, progress: Callable[[], None]) -> tuple[int, int]:
    """Write every session that can be read to a new database; return how many, and how many could not be read."""
    latest: dict[str, int] = {}
    recovered = lost = 0
    for found in _rows(path):
        progress()
        row = _sound(found)
        if row is None:
            lost += 1
            continue
        if found.trashed_us is None:
            known = latest.setdefault(found.session_id, found.number)
            if known > found.number:
                continue
            if known < found.number:
                connection.execute("DELETE FROM sessions WHERE id = ? AND trashed_us IS NULL", (found.session_id,))
                latest[found.session_id] = found.number
                recovered -= 1
        insert(connection, [row], found.trashed_us)
        recovered += 1
    return recovered, lost


def _sound(found: _Found) -> Row | None:
    try:
        row = stored_row(found.json)
    except (SessionRefused, UnicodeDecodeError):
        row = None
    if row is None or row.values[0] != found.session_id:
        logger.error(
            "session %s is damaged and was not recovered; it is in the file that was set aside", found.session_id
        )
        return None
    return row


class _Pages:
    """The pages of a database, each in its latest committed state."""

    def __init__(self, file: BinaryIO, log: BinaryIO | None) -> None:
        self._file = file
        self._log = log
        head = file.read(100)
        self._whole = head.startswith(_HEADER)
        self.reserved = head[20] if self._whole else 0
        self._later: dict[int, int] = {}
        self.count = file.seek(0, os.SEEK_END) // PAGE
        if log is not None:
            self._read_log(log)

    def _read_log(self, log: BinaryIO) -> None:
        """Record where the log has later versions of pages, up to its last commit."""
        header = log.read(_LOG_HEADER)
        if len(header) < _LOG_HEADER or int.from_bytes(header[8:12]) != PAGE:
            return
        salts = header[16:24]
        pending: dict[int, int] = {}
        for at in itertools.count(_LOG_HEADER, _FRAME_HEADER + PAGE):
            log.seek(at)
            frame = log.read(_FRAME_HEADER + PAGE)
            if len(frame) < _FRAME_HEADER + PAGE or frame[8:16] != salts:
                return
            pending[int.from_bytes(frame[:4])] = at + _FRAME_HEADER
            size = int.from_bytes(frame[4:8])
            if size:
                self._later |= pending
                pending = {}
                self.count = size

    def page(self, number: int) -> bytes:
        """Return a page; a missing one is empty."""
        at = self._later.get(number)
        if at is not None and self._log is not None:
            self._log.seek(at)
            return self._log.read(PAGE)
        self._file.seek((number - 1) * PAGE)
        return self._file.read(PAGE)


def _rows(path: Path) -> Iterator[_Found]:
    """Yield the sessions on every page of the database ``path`` that holds rows."""
    with path.open("rb") as file:
        try:
            log = _with(path, "-wal").open("rb")
        except FileNotFoundError:
            log = None
        try:
            pages = _Pages(file, log)
            for number in range(1, pages.count + 1):
                page = pages.page(number)
                start = 100 if number == 1 else 0
                if len(page) == PAGE and page[start] == _LEAF:
                    yield from _rows_of(pages, page, start)
        finally:
            if log is not None:
                log.close()


def _rows_of(pages: _Pages, page: bytes, start: int) -> Iterator[_Found]:
    for cell in range(int.from_bytes(page[start + 3 : start + 5])):
        pointer = start + 8 + 2 * cell
        try:
            found = _row(pages, page, int.from_bytes(page[pointer : pointer + 2]))
        except (IndexError, ValueError):  # not one of our rows, or damaged
            continue
        if found is not None:
            yield found


def _row(pages: _Pages, page: bytes, at: int) -> _Found | None:
    """Return the session in a cell, None if it is another table's.  Raises IndexError or ValueError over damage."""
    length, at = _varint(page, at)
    number, at = _varint(page, at)
    payload = _payload(pages, page, at, length)
    size, at = _varint(payload, 0)
    kinds = []
    while at < size:
        kind, at = _varint(payload, at)
        kinds.append(kind)
    if len(kinds) <= _JSON or kinds[_ID] != 36 * 2 + 13 or kinds[_JSON] % 2 == 0 or kinds[_JSON] < 13:
        return None
    values: list[bytes] = []
    for kind in kinds[: _JSON + 1]:
        width = _INTEGERS.get(kind, 8 if kind == 7 else 0) if kind < 12 else (kind - 12) // 2
        values.append(payload[at : at + width])
        at += width
    session_id = values[_ID].decode("ascii")
    if SESSION_ID.fullmatch(session_id) is None:
        return None
    trashed = int.from_bytes(values[_TRASHED], signed=True) if kinds[_TRASHED] in _INTEGERS else None
    return _Found(number, session_id, trashed, values[_JSON])


def _payload(pages: _Pages, page: bytes, at: int, length: int) -> bytes:
    """Return a cell's payload as far as it is found; what does not fit on its page is on a chain of other pages."""
    usable = PAGE - pages.reserved
    if length <= usable - 35:
        return page[at : at + length]
    least = (usable - 12) * 32 // 255 - 23
    local = least + (length - least) % (usable - 4)
    if local > usable - 35:
        local = least
    parts = [page[at : at + local]]
    rest = length - local
    following = int.from_bytes(page[at + local : at + local + 4])
    while rest > 0 and 0 < following <= pages.count:
        overflow = pages.page(following)
        parts.append(overflow[4 : 4 + min(rest, usable - 4)])
        rest -= usable - 4
        following = int.from_bytes(overflow[:4])
    return b"".join(parts)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number that begins at ``at``, and where it ends.  Raises IndexError."""
    value = 0
    for count in range(1, 10):
        byte = data[at + count - 1]
        if count == 9:
            return value << 8 | byte, at + 9
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + count
    raise ValueError(at)


def _with(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)
