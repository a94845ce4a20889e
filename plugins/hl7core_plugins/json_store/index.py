"""The index: which files cannot match a query, so that they need not be read.

The law: the files are the truth.  The index only excludes files, and only if they are exactly as it saw them (change
time, size, inode); a file that it does not know, or whose row is lost or damaged, is read.  So the index may be deleted
at any time, and is never synced: after a power cut, some files are read again.

It is one file of rows, to which each process appends; the row with a file's present stamp is the valid one.  The owner
of the data folder rewrites it when too many rows are outdated.  ``work`` is called about every second: it writes out
what was saved, and reads unknown files, a few at a time.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Final, NamedTuple

from hl7core import Hl7coreError, Session, SessionQuery, StoreError, __version__, session_from_json, session_to_json
from hl7core_plugins.json_store import files
from hl7core_plugins.json_store.layout import Layout, changed_just_now, stamp_of
from hl7core_plugins.json_store.rows import FORMAT, Sieve, is_exact, odd_starts, row_of, rows_in
from hl7core_plugins.json_store.versions import CURRENT, major_of

__all__ = ["Index", "Sifted"]

logger = logging.getLogger(__name__)

_MOST_NOTES: Final = 1000
_A_WHILE: Final = 1000
_LONGEST_ROW: Final = 1 << 20
_SLICE_SECONDS: Final = 0.4
_REVIEW_SECONDS: Final = 3600.0
_WORTH_TELLING: Final = 1000
_TOLD_EVERY: Final = 10_000
_SPARE_ROWS: Final = 1000
_APPEND: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_ANEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class Sifted(NamedTuple):
    """Sessions that may fit, by id: those whose files the index knows, and of them those that are as we write them."""

    known: set[str]
    exact: set[str]


class Index:
    """The index of one store; safe to use from any thread."""

    def __init__(
        self,
        layout: Layout,
        *,
        owner: bool,
        clock: Callable[[], float] = time.monotonic,
        give_way: Callable[[], None] = lambda: None,
    ) -> None:
        self.path = layout.index / f"sessions-{FORMAT}-{__version__}.index"
        self._layout = layout
        self._owner = owner
        self._clock = clock
        self._give_way = give_way
        self._lock = threading.Lock()  # of the notes
        self._writing = threading.Lock()  # of the file
        self._notes: list[tuple[Session, str, bool]] = []
        self._todo: list[tuple[str, Path]] = []
        self._unknown = 0  # how many the last review found
        self._reviewed: float | None = None
        self._file = 0  # the inode of the file at that time
        self._broken = False  # it cannot be written at present

    def note(self, session: Session, stamp: str, *, exact: bool) -> None:
        """Record the content of the file with ``stamp``, ``exact`` if as we write it; it is written out soon."""
        if not stamp:
            return
        with self._lock:
            self._notes.append((session, stamp, exact))
            full = len(self._notes) >= _MOST_NOTES
        if full:
            self.flush(wait=False)

    def flush(self, *, wait: bool = True) -> None:
        """Write out what was recorded; without ``wait`` only if no other thread is writing."""
        if not self._writing.acquire(blocking=wait):
            return
        try:
            with self._lock:
                notes, self._notes = self._notes, []
            made = (row_of(session, stamp, exact=exact) for session, stamp, exact in notes)
            rows = [row for row in made if len(row) <= _LONGEST_ROW]
            if rows:
                self._append(rows)
                self._broken = False
        except OSError as error:
            self._complain(error)
        except StoreError:  # the disk is gone: whoever saves or reads a session says so
            self._broken = True
        finally:
            self._writing.release()

    def sift(self, stamps: dict[str, str], query: SessionQuery) -> Sifted:
        """Remove from ``stamps`` the sessions whose files still have them and that cannot match ``query``."""
        self.flush(wait=False)
        sieve = Sieve(query)
        known, exact = set(), set()
        for row in rows_in(self._lines(), stamps):
            if not sieve.passes(row):
                del stamps[row[1]]
                continue
            known.add(row[1])
            if is_exact(row):
                exact.add(row[1])
        return Sifted(known, exact)

    def starts(self) -> dict[str, int]:
        """Return the start, in unix milliseconds, of sessions whose ids do not contain it, if the index knows it."""
        self.flush(wait=False)
        return odd_starts(self._lines())

    def known(self) -> set[str]:
        """Return the sessions whose files the index knows in their present state.  Raises OSError if listing fails."""
        return self._known(self._layout.seen().stamps)

    def work(self) -> None:
        """Write out what was recorded and continue to read unknown files; returns within about a second."""
        self.flush()
        now = self._clock()
        if self._reviewed is None or now >= self._reviewed + _REVIEW_SECONDS or self._inode() != self._file:
            self._review()
            self._reviewed, self._file = now, self._inode()
        if self._todo and not self._broken:
            self._read_on(now + _SLICE_SECONDS)
            self._file = self._file or self._inode()  # that was made now

    def _known(self, stamps: Mapping[str, str]) -> set[str]:
        return {row[1] for row in rows_in(self._lines(), stamps)}

    # Reviewing, and reading what is unknown.

    def _review(self) -> None:
        """Compare the index with the files: list the unknown ones for reading, drop rows if too many are useless."""
        try:
            seen = self._layout.seen()
        except OSError as error:
            logger.warning("the stored sessions cannot be indexed: %s", error.strerror)
            return
        rows = sum(1 for _ in self._lines())
        known = self._known(seen.stamps)
        self._todo = sorted((i, seen.folders[i]) for i, stamp in seen.stamps.items() if stamp and i not in known)
        self._unknown = len(self._todo)
        if self._unknown >= _WORTH_TELLING:
            logger.info("%d of %d stored sessions are not in the index yet; reading them now", self._unknown,
                        len(seen.stamps))  # fmt: skip
        if self._owner and rows > len(known) * 3 // 2 + _SPARE_ROWS:
            self._compact(seen.stamps)

    def _read_on(self, until: float) -> None:
        while self._todo and not self._broken and self._clock() < until:
            session_id, folder = self._todo.pop()
            self._read(folder / f"{session_id}.json")
            done = self._unknown - len(self._todo)
            if done % _TOLD_EVERY == 0 and self._todo:
                logger.info("the index: %d of %d sessions read", done, self._unknown)
        self.flush()
        if not self._todo and self._unknown >= _WORTH_TELLING:
            logger.info("the index is complete: %d sessions were read", self._unknown)

    def _read(self, path: Path) -> None:
        """Record the session in ``path``; a damaged file stays unknown, and is reported by the query that reads it."""
        try:
            data, status = files.look(path)
            session = session_from_json(data)
        except (OSError, Hl7coreError):
            return
        if session.id == path.stem:
            self.found(session, data, status)

    def found(self, session: Session, data: bytes, status: os.stat_result) -> None:
        """Record what was read from a file: its bytes, and its state before."""
        if changed_just_now(status) or (major_of(data) or 0) < CURRENT:
            return  # it may look the same and be another; a predecessor's session expires as from when it is read
        try:
            exact = session_to_json(session) == data
        except Hl7coreError:
            exact = False
        self.note(session, stamp_of(status), exact=exact)

    # The file.

    def _lines(self) -> Iterator[bytes]:
        """Yield the lines of the file; none if it cannot be read."""
        try:
            with open(self._open(_READ), "rb", buffering=1 << 18) as file:  # noqa: PTH123 - opened without following a link
                for number in count(1):
                    line = file.readline(_LONGEST_ROW)
                    if not line:
                        return
                    yield line
                    if not number % _A_WHILE:
                        self._give_way()
        except FileNotFoundError:
            return
        except OSError as error:
            self._complain(error)

    def _append(self, rows: Sequence[bytes]) -> None:
        self._layout.check()
        files.make_folder(self.path.parent)
        descriptor = self._open(_APPEND)
        try:
            if os.fstat(descriptor).st_mode & 0o777 != 0o600:
                os.fchmod(descriptor, 0o600)
            # What was cut off before ends here; one call, so that rows of two processes do not mix.
            os.write(descriptor, b"\n" + b"".join(rows))
        finally:
            files.close(descriptor)

    def _open(self, flags: int) -> int:
        descriptor = os.open(self.path, flags, 0o600)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            files.close(descriptor)
            raise OSError(errno.EINVAL, "no regular file", str(self.path))
        return descriptor

    def _compact(self, stamps: Mapping[str, str]) -> None:
        """Rewrite the index with the valid rows only, and remove the index files of other versions."""
        fresh = self.path.with_suffix(".new")
        with self._writing:
            try:
                files.discard(fresh)
                with open(os.open(fresh, _ANEW, 0o600), "wb") as file:  # noqa: PTH123 - as above
                    file.writelines(" ".join(row).encode() for row in rows_in(self._lines(), stamps))
                fresh.replace(self.path)
                for other in self.path.parent.glob("sessions-*.index"):
                    if other != self.path:
                        files.discard(other)
            except OSError as error:
                self._complain(error)

    def _inode(self) -> int:
        try:
            return self.path.lstat().st_ino
        except OSError:
            return 0

    def _complain(self, error: OSError) -> None:
        if not self._broken:
            self._broken = True
            logger.warning("the index %s cannot be used (%s): searches read every file", self.path, error.strerror)
