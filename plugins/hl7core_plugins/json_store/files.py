"""Files that are written atomically, and are on the disk before they are reported as saved.

The law of a durable save: write all bytes to a new draft in the same folder and fsync it; give it its final name; fsync
the folder; only then is it saved.  After a failed fsync the kernel may have dropped the data without a further error,
so that draft is never synced again: it is discarded, and the next attempt writes a new one.

No link is followed.  Folders have mode 0700 and files 0600, whatever the umask.
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
from typing import Final, NamedTuple

from hl7core import SESSION_ID

__all__ = [
    "DRAFT",
    "Draft",
    "close",
    "copy",
    "discard",
    "is_file",
    "look",
    "make_folder",
    "name_insert",
    "name_replace",
    "open_draft",
    "opened",
    "read",
    "save",
    "sync_folder",
]

DRAFT: Final = re.compile(rf"(?P<id>{SESSION_ID.pattern})\.(?P<pid>\d{{1,10}})\.[0-9a-f]{{16}}\.tmp")
"""The name of a draft: the session's id, the process that writes it, and a random part."""

_NO_LINKS_HERE: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS})
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_IN_THE_WAY: Final = "a folder, or a link, has the name of the file"
_LARGEST: Final = 1 << 30
"""No session is this large; reading such a file would only use up memory."""
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


def make_folder(folder: Path) -> None:
    """Create ``folder`` and its missing parents, durably and with mode 0700.  Raises OSError, also for a link."""
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
    """Sync the names in ``folder`` to the disk.  Raises OSError; the last changes may then be on the disk or not."""
    with opened(folder) as descriptor:
        os.fsync(descriptor)


class Draft(NamedTuple):
    """A file without its final name yet: its path, its open descriptor, and its inode."""

    path: Path
    descriptor: int
    inode: int


def open_draft(folder: Path, session_id: str, data: bytes) -> Draft:
    """Write ``data`` to a new draft in ``folder``, which is not synced yet.  Raises OSError."""
    draft = folder / f"{session_id}.{os.getpid()}.{secrets.token_hex(8)}.tmp"
    descriptor = os.open(draft, _CREATE, 0o600)
    try:
        status = os.fstat(descriptor)
        if status.st_mode & 0o777 != 0o600:
            os.fchmod(descriptor, 0o600)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    except BaseException:
        close(descriptor)
        discard(draft)
        raise
    return Draft(draft, descriptor, status.st_ino)


def close(descriptor: int) -> None:
    """Close a descriptor that was synced or is discarded, so that an error no longer matters."""
    with suppress(OSError):
        os.close(descriptor)


def name_replace(draft: Path, final: Path) -> bool:
    """Give a synced draft its final name, replacing the file there.  Raises OSError, also if a link is there."""
    try:
        if not stat.S_ISREG(final.lstat().st_mode):
            raise OSError(errno.EEXIST, _IN_THE_WAY, str(final))
    except FileNotFoundError:
        pass
    draft.replace(final)
    return True


def name_insert(draft: Path, final: Path) -> bool:
    """Give a synced draft its final name; false if a file has that name.  Raises OSError, also if a link has it."""
    try:
        os.link(draft, final, follow_symlinks=False)
    except FileExistsError:
        if not is_file(final):
            raise OSError(errno.EEXIST, _IN_THE_WAY, str(final)) from None
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


def save(final: Path, session_id: str, data: bytes, *, replace: bool) -> int:
    """Save ``data`` durably as ``final`` and return its inode; 0 if, without ``replace``, a file has that name.

    Raises OSError.
    """
    draft, descriptor, inode = open_draft(final.parent, session_id, data)
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
    return inode if saved else 0


def copy(source: Path, target: Path) -> bool:
    """Give a file a second name, never another's: false if ``target`` exists; where there are no links, copy it.

    The folder's sync is the caller's.  Raises OSError.
    """
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        return False
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in {*_NO_LINKS_HERE, errno.EXDEV}:
            raise
        return save(target, target.stem[:36], read(source), replace=False) != 0
    return True


def discard(draft: Path) -> None:
    """Remove a draft if possible; otherwise the next start removes it."""
    with suppress(OSError):
        draft.unlink()


def look(path: Path) -> tuple[bytes, os.stat_result]:
    """Return a file's bytes and its state before they were read, following no link.  Raises OSError."""
    descriptor = os.open(path, _READ | getattr(os, "O_NONBLOCK", 0))
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "no regular file", str(path))
        if status.st_size > _LARGEST:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
        data = os.read(descriptor, status.st_size + 1)
        if len(data) != status.st_size:
            parts = [data]
            while part := os.read(descriptor, 1 << 20):
                parts.append(part)
            data = b"".join(parts)
        return data, status
    finally:
        os.close(descriptor)


def read(path: Path) -> bytes:
    """Return a file's bytes, following no link.  Raises OSError."""
    return look(path)[0]


def is_file(path: Path) -> bool:
    """Return whether ``path`` is a regular file and not a link.  Raises OSError if it cannot be examined."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False


@contextmanager
def opened(folder: Path) -> Iterator[int]:
    """Open ``folder``, following no link, and yield its descriptor.  Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        close(descriptor)
