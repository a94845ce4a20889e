"""Replacing a file atomically: after a crash or an error, its old content or its new one is there, never a part of it.

The new content is written to a temporary file in the same folder, brought to the disk (fsync), and renamed over the old
one; then the folder's entry is brought to the disk too.  Until the rename the old file is untouched, and if anything
fails the temporary file is removed.  The rename is atomic by POSIX rename(2).
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

__all__ = ["replace_atomically", "replacing"]

_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def replacing(path: Path, *, mode: int) -> Iterator[BinaryIO]:
    """Open a file to write to that takes the place of ``path`` when the block ends without an error.

    ``mode`` is the new file's, whatever the umask.  A ``path`` that is a symbolic link is replaced itself; what it
    points to stays.  If the block or the disk fails, what was there before stays.  Raises OSError.
    """
    temporary = path.with_name(f".hl7core.{os.getpid()}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, _NEW, mode & 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):  # the failure itself is raised, not that of the clearing up
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def replace_atomically(path: Path, content: bytes, *, mode: int) -> None:
    """Replace ``path`` by a file of ``content``; see :func:`replacing`.  Raises OSError."""
    with replacing(path, mode=mode) as file:
        file.write(content)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)
