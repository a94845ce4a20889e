"""One engine per data folder: ``engine.lock``, held with flock, so that the lock of a killed engine is free.

The file holds the owner's pid, for people; it is never deleted, because two processes can lock a file that was removed.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from hl7core.errors import EngineBusy, EngineError

__all__ = ["LOCK_NAME", "EngineLock"]

LOCK_NAME: Final = "engine.lock"
_MAX_PID_TEXT: Final = 32


class EngineLock:
    """The lock needed to run an engine, or to change sessions without one, in ``folder`` (created with mode 0700).

    Use it as a context manager, or call ``acquire`` and ``release``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / LOCK_NAME
        self._fd = -1

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._fd >= 0

    def acquire(self) -> None:
        """Take the lock.  Raises EngineBusy with the owner's pid, EngineError if the folder cannot be used."""
        if self.held:
            return
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise EngineError(f"cannot use the data folder {self.folder}: {error.strerror}") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = _read_pid(fd)
            os.close(fd)
            raise EngineBusy(str(self.folder), pid=pid) from None
        except OSError as error:
            os.close(fd)
            raise EngineError(f"cannot lock {self.path}: {error.strerror}") from error
        # A full disk must not keep an engine from starting: only the lock matters, the pid is a courtesy.
        with suppress(OSError):
            os.fchmod(fd, 0o600)
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd

    def release(self) -> None:
        """Release the lock; releasing it twice is not an error."""
        if self.held:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.release()


def _read_pid(fd: int) -> int:
    text = os.pread(fd, _MAX_PID_TEXT, 0).strip()
    return int(text) if text.isdigit() else 0
