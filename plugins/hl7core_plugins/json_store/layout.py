"""Where sessions are stored: ``{output_folder}/sessions/{id}.json``, or in a subfolder; the trash is beside it.

The law: only a regular file named by an id and ``.json`` is a session; links are not followed, not even for
``sessions/`` itself.  Our ids sort by time, so a listing opens no more files than it needs.  A missing folder is
created again, but not if its disk is gone: files in an empty mount point would be hidden once the disk is back.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from hl7core import SESSION_ID, StoreError
from hl7core_plugins.json_store import files

__all__ = ["Layout", "Seen", "changed_just_now", "is_session", "millis_of", "stamp_of", "told"]

logger = logging.getLogger(__name__)

_EARLIEST: Final = 946_684_800_000
"""An id whose first 48 bits are a time before the year 2000 contains no time."""
JUST_NOW_NS: Final = 2_000_000_000
"""Longer than any tick of a file system's clock; a file that changes twice within a tick looks the same."""
_A_WHILE: Final = 500
"""How many entries are listed before others get a turn."""
_NAME: Final = re.compile(rf"{SESSION_ID.pattern}\.json")


def told(error: OSError, what: str) -> StoreError:
    """Return a system error as a StoreError: what failed and why, without any content."""
    return StoreError(f"{what}: {error.strerror or type(error).__name__}")


def millis_of(session_id: str) -> int | None:
    """Return the start in a time-ordered id, in unix milliseconds; None if the id has none."""
    if session_id[14:15] != "7" or session_id[8:9] != "-":
        return None
    try:
        millis = int(session_id[:8] + session_id[9:13], 16)
    except ValueError:
        return None
    return millis if millis >= _EARLIEST else None


def stamp_of(status: os.stat_result) -> str:
    """Return what tells that a file is still the one that was read: when it was last changed, its size, its inode.

    The change time, unlike the modification time, cannot be set back by a copy that keeps times.
    """
    return f"{status.st_ctime_ns}.{status.st_size}.{status.st_ino}"


def changed_just_now(status: os.stat_result, now_ns: int | None = None) -> bool:
    """Return whether a file changed so recently that another change may not show; ``now_ns``: the time, if known."""
    return abs((time.time_ns() if now_ns is None else now_ns) - status.st_ctime_ns) <= JUST_NOW_NS


class Seen(NamedTuple):
    """The sessions' files as a listing saw them, by id: their folders; their stamps, "" for what changed just now."""

    folders: dict[str, Path]
    stamps: dict[str, str]


class Layout:
    """The folders of a store.  ``give_way`` is called between any two steps of work that may take long."""

    def __init__(self, output_folder: str, give_way: Callable[[], None] = lambda: None) -> None:
        self.give_way = give_way
        self.root = Path(output_folder).absolute()
        self.sessions = self.root / "sessions"
        self.trash = self.root / "trash"
        self.originals = self.root / "predecessor"
        self.index = self.root / "index"
        self._below: tuple[Path, ...] = ()
        self._around: frozenset[int] | None = None  # the file systems around ours, once ours is known

    def prepare(self) -> None:
        """Create ``sessions/`` if it is missing.  Raises StoreError."""
        self.check()
        try:
            files.make_folder(self.sessions)
            if self._around is None:
                ours = self.sessions.lstat().st_dev
                self._around = frozenset(os.stat(folder).st_dev for folder in self.sessions.parents) - {ours}  # noqa: PTH116
                for folder in (self.sessions, self.trash):
                    self._check_mode(folder)
        except OSError as error:
            raise told(error, f"cannot make or use the folder {self.sessions}") from error

    def check(self) -> None:
        """Raise StoreError if the disk of the sessions is gone."""
        for folder in (self.sessions, *self.sessions.parents):
            try:
                device = os.stat(folder).st_dev  # noqa: PTH116
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                    raise told(error, f"cannot use the folder {folder}") from error
                continue
            if self._around and device in self._around:
                raise StoreError(f"the disk of {self.sessions} is gone; saving continues when it is back")
            return

    def _check_mode(self, folder: Path) -> None:
        try:
            mode = stat.S_IMODE(folder.lstat().st_mode)
        except OSError:  # not there yet, and ours will be 0700
            return
        if mode & 0o077:
            logger.warning("%s holds patient data and has mode %o: run chmod 700 on it", folder, mode)

    def path_of(self, session_id: str) -> Path:
        """Return the path where a session is, or would be, stored.  Raises OSError if the folder cannot be read."""
        flat = self.sessions / f"{session_id}.json"
        if self._below and not files.is_file(flat):
            for folder in self._below:
                if files.is_file(folder / flat.name):
                    return folder / flat.name
        return flat

    def names(self) -> dict[str, Path]:
        """Return the stored sessions by id, each with its folder.

        Of two files with one id the one nearer to the top counts.  Raises OSError if ``sessions/`` is there and cannot
        be listed.
        """
        found: dict[str, Path] = {}
        for folder, entry in self._walk():
            name = entry.name
            if is_session(name):
                found.setdefault(name[:36], folder)
        return found

    def seen(self, wanted: Callable[[str], bool] | None = None) -> Seen:
        """Return the stored sessions as ``names`` does, those whose id is ``wanted``, and their files' stamps.

        Raises OSError as ``names`` does.
        """
        folders: dict[str, Path] = {}
        stamps: dict[str, str] = {}
        now_ns = time.time_ns()
        for folder, entry in self._walk():
            session_id = entry.name[:36]
            if is_session(entry.name) and session_id not in folders and (wanted is None or wanted(session_id)):
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:  # gone since the folder was read
                    continue
                folders[session_id] = folder
                stamps[session_id] = "" if changed_just_now(status, now_ns) else stamp_of(status)
        return Seen(folders, stamps)

    def size(self) -> int:
        """Return the size in bytes of all stored sessions.  Raises OSError as ``names`` does."""
        total = 0
        for _, entry in self._walk():
            if is_session(entry.name):
                try:
                    total += entry.stat(follow_symlinks=False).st_size
                except FileNotFoundError:  # gone since the folder was read
                    continue
        return total

    def files(self, wanted: Callable[[str], bool]) -> list[Path]:
        """Return every regular file below ``sessions/`` whose name is ``wanted``.  Raises OSError as ``names`` does."""
        return [folder / entry.name for folder, entry in self._walk() if wanted(entry.name)]

    def _walk(self) -> Iterator[tuple[Path, os.DirEntry[str]]]:
        """Yield every regular file below ``sessions/`` with its folder, upper folders first."""
        below: list[Path] = []
        waiting = [self.sessions]
        for folder in waiting:  # it grows while we go
            try:
                with files.opened(folder) as descriptor, os.scandir(descriptor) as entries:
                    for number, entry in enumerate(entries, 1):
                        if not number % _A_WHILE:
                            self.give_way()
                        if entry.is_file(follow_symlinks=False):
                            yield folder, entry
                        elif entry.is_dir(follow_symlinks=False):
                            below.append(folder / entry.name)
                            waiting.append(below[-1])
            except FileNotFoundError:
                continue
            except OSError as error:
                if folder == self.sessions:
                    raise
                logger.error("%s cannot be listed (%s); the sessions in it are skipped", folder, error.strerror)  # noqa: TRY400
        self._below = tuple(below)


def is_session(name: str) -> bool:
    """Return whether a session's file may have this name."""
    return _NAME.fullmatch(name) is not None
