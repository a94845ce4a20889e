"""Where the database lies: its folder, its files and their modes.

The law: folders are made with 0700 and files with 0600, whatever the umask says; SQLite gives ``-wal`` and ``-shm`` the
mode of the database.  No link is followed.  The database is never opened here once SQLite has it open: closing any
descriptor of it would drop SQLite's locks.
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
"""What stands behind the database's name in the names of its files."""

_NETWORK: Final = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "gfs2", "glusterfs", "lustre", "ncpfs"}
    | {"nfs", "nfs4", "ocfs2", "smb3", "smbfs", "virtiofs"}
)


def make_folder(folder: Path) -> None:
    """Make ``folder`` and its missing parents, each durably and 0700.  Raises OSError."""
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
    """Bring the names in ``folder`` to the disk.  Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_file(path: Path) -> bool:
    """Make an empty file of mode 0600 if nothing has that name, else close it to others; return whether it is new.

    Raises OSError, also if the name is a link or not a file.
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
                logger.warning("%s holds patient data and was open to others (mode %o): it is 600 now", file, mode)
    return False


def identity(path: Path) -> tuple[int, int] | None:
    """Return which file has that name (device and inode), None if none has.  Raises OSError."""
    try:
        found = os.stat(path, follow_symlinks=False)  # noqa: PTH116 - asked at every save: the quicker one
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
    """Return the file systems (their devices) that lie around the one that ``folder`` lies on.  Raises OSError."""
    return frozenset(parent.stat().st_dev for parent in folder.parents) - {folder.stat().st_dev}


def device_for(folder: Path) -> int:
    """Return the device of the file system that ``folder`` lies on, or would if it were made.  Raises OSError."""
    for place in (folder, *folder.parents):
        with suppress(FileNotFoundError):
            return place.stat().st_dev
    return 0


def network_kind(folder: Path) -> str:
    """Return the kind of the network file system that ``folder`` lies on, "" if it is none or cannot be told."""
    try:
        device = folder.stat().st_dev
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # no /proc: it cannot be told
        return ""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:
        mount, _, rest = line.partition(" - ")
        if mount.split()[2:3] == [wanted]:
            kind = rest.split()[0]
            return kind if kind in _NETWORK else ""
    return ""
