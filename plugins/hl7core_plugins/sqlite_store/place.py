"""The database's folder, its files and their modes.

The law: folders are created with mode 0700 and files with 0600, whatever the umask; SQLite gives ``-wal`` and ``-shm``
the mode of the database.  No link is followed.  The database is never opened here while SQLite has it open: closing any
descriptor of the file would drop SQLite's locks.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = [
    "FILES",
    "around",
    "device_for",
    "identity",
    "make_file",
    "make_folder",
    "network_kind",
    "size_of",
    "sync_folder",
]

logger = logging.getLogger(__name__)

FILES: Final = ("", "-wal", "-shm")
"""The endings of the database's files."""

_NETWORK: Final = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "gfs2", "glusterfs", "lustre", "ncpfs"}
    | {"nfs", "nfs4", "ocfs2", "smb3", "smbfs", "virtiofs"}
)


def make_folder(folder: Path) -> None:
    """Create ``folder`` and its missing parents, durably and with mode 0700.  Raises OSError."""
    if folder.is_dir():
        return
    if not folder.parent.is_dir():
        make_folder(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir(0o700)
        folder.chmod(0o700)
        sync_folder(folder.parent)
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))


def sync_folder(folder: Path) -> None:
    """Sync the names in ``folder`` to the disk.  Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_file(path: Path) -> bool:
    """Create an empty file of mode 0600, or set the mode of the existing one; return whether it is new.

    Raises OSError, also if ``path`` is a link or not a regular file.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with suppress(FileExistsError):  # another process was faster
            os.close(os.open(path, flags, 0o600))
            path.chmod(0o600)
            return True
        mode = path.lstat().st_mode
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file, or a link to one", str(path))
    for ending in FILES:
        file = path.with_name(path.name + ending)
        with suppress(FileNotFoundError):
            mode = stat.S_IMODE(file.lstat().st_mode)
            if mode & 0o077 and stat.S_ISREG(file.lstat().st_mode):
                file.chmod(0o600)
                logger.warning("%s holds patient data and had mode %o; it was changed to 600", file, mode)
    return False


def identity(path: Path) -> tuple[int, int] | None:
    """Return the device and inode of the file ``path``, None if there is none.  Raises OSError."""
    try:
        found = os.stat(path, follow_symlinks=False)  # noqa: PTH116 - called at every save: the faster one
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def size_of(path: Path) -> int:
    """Return a file's size in bytes, 0 if there is none.  Raises OSError."""
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


def around(folder: Path) -> frozenset[int]:
    """Return the devices of the file systems that enclose the one of ``folder``.  Raises OSError."""
    return frozenset(parent.stat().st_dev for parent in folder.parents) - {folder.stat().st_dev}


def device_for(folder: Path) -> int:
    """Return the device of the file system that ``folder`` is on, or would be once created.  Raises OSError."""
    for place in (folder, *folder.parents):
        with suppress(FileNotFoundError):
            return place.stat().st_dev
    return 0


def network_kind(folder: Path) -> str:
    """Return the type of the network file system that ``folder`` is on, "" if it is local or unknown."""
    try:
        device = folder.stat().st_dev
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # no /proc: unknown
        return ""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:
        mount, _, rest = line.partition(" - ")
        if mount.split()[2:3] == [wanted]:
            kind = rest.split()[0]
            return kind if kind in _NETWORK else ""
    return ""
