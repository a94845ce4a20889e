"""Files that are whole or absent, and on the disk before anyone is told so.

The law of a durable save: a draft of its own in the same folder, all bytes, fsync; then its final name; then the
folder's fsync; then, and not before, it counts.  After a failed fsync the kernel may have thrown the data away and
forgotten it, so such a draft is never synced again: it is discarded, and the next attempt writes a new one.

No link is followed, folders are 0700 and files 0600 whatever the umask says.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from hl7core import SESSION_ID

__all__ = [
    "DRAFT",
    "close",
    "discard",
    "is_file",
    "make_folder",
    "move",
    "name_insert",
    "name_replace",
    "open_draft",
    "read",
    "save",
    "sync_folder",
]

DRAFT: Final = re.compile(rf"(?P<id>{SESSION_ID.pattern})\.(?P<pid>\d{{1,10}})\.[0-9a-f]{{16}}\.tmp")
"""The name of a draft: the session's id, the process that writes it, and a random part."""

_NO_LINKS_HERE: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS})
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


def make_folder(folder: Path) -> None:
    """Make ``folder`` and its missing parents, each durably and 0700.  Raises OSError, for a link too."""
    try:
        mode = folder.lstat().st_mode
    except FileNotFoundError:
        if not folder.parent.is_dir():
            make_folder(folder.parent)
        with suppress(FileExistsError):
            folder.mkdir(0o700)
            folder.chmod(0o700)
            sync_folder(folder.parent)
        mode = folder.lstat().st_mode
    if not stat.S_ISDIR(mode):
        raise NotADirectoryError(errno.ENOTDIR, "not a folder, or a link to one", str(folder))


def sync_folder(folder: Path) -> None:
    """Bring the names in ``folder`` to the disk.  Raises OSError: which of the last changes are there is unknown."""
    with _opened(folder) as descriptor:
        os.fsync(descriptor)


def open_draft(folder: Path, session_id: str, data: bytes) -> tuple[Path, int]:
    """Write ``data`` to a new draft in ``folder``; return it and its descriptor, not synced yet.  Raises OSError."""
    draft = folder / f"{session_id}.{os.getpid()}.{secrets.token_hex(8)}.tmp"
    descriptor = os.open(draft, _CREATE, 0o600)
    try:
        if os.fstat(descriptor).st_mode & 0o777 != 0o600:
            draft.chmod(0o600)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    except BaseException:
        close(descriptor)
        discard(draft)
        raise
    return draft, descriptor


def close(descriptor: int) -> None:
    """Close what was synced already, or is to be discarded: an error now says nothing that counts."""
    with suppress(OSError):
        os.close(descriptor)


def name_replace(draft: Path, final: Path) -> bool:
    """Give a synced draft its final name, in place of what had it.  Raises OSError."""
    draft.replace(final)
    return True


def name_insert(draft: Path, final: Path) -> bool:
    """Give a synced draft its final name if nothing has it; false if something has.  Raises OSError."""
    try:
        os.link(draft, final, follow_symlinks=False)
    except FileExistsError:
        discard(draft)
        return False
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LINKS_HERE:
            raise
        if is_file(final):  # no hard links on this file system: look, then rename
            discard(draft)
            return False
        return name_replace(draft, final)
    discard(draft)
    return True


def save(final: Path, session_id: str, data: bytes, *, replace: bool) -> bool:
    """Save ``data`` durably as ``final``; false if, without ``replace``, something has that name.  Raises OSError."""
    draft, descriptor = open_draft(final.parent, session_id, data)
    try:
        try:
            os.fsync(descriptor)
        finally:
            close(descriptor)
        saved = name_replace(draft, final) if replace else name_insert(draft, final)
    except BaseException:
        discard(draft)
        raise
    sync_folder(final.parent)
    return saved


def move(source: Path, target: Path) -> bool:
    """Move a file, never onto another: false if ``target`` exists.  The folders' syncs are the caller's.

    Raises OSError.
    """
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        return False
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in {*_NO_LINKS_HERE, errno.EXDEV}:
            raise
        if is_file(target):
            return False
        if isinstance(error, OSError) and error.errno == errno.EXDEV:  # the trash is mounted on its own
            if not save(target, target.stem[:36], read(source), replace=False):
                return False
        else:
            source.replace(target)
            return True
    source.unlink()
    return True


def discard(draft: Path) -> None:
    """Remove a draft if it can be; what stays behind is swept up at the next start."""
    with suppress(OSError):
        draft.unlink()


def read(path: Path) -> bytes:
    """Return a file's bytes, following no link.  Raises OSError."""
    descriptor = os.open(path, _READ | getattr(os, "O_NONBLOCK", 0))
    try:
        size = os.fstat(descriptor).st_size
        data = os.read(descriptor, size + 1)
        if len(data) == size:
            return data
        parts = [data]
        while part := os.read(descriptor, 1 << 20):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def is_file(path: Path) -> bool:
    """Say whether ``path`` is a file, and no link to one.  Raises OSError if that cannot be told."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        close(descriptor)
