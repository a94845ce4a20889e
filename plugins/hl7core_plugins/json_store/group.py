"""Group commit: one flush to the disk for many sessions.

The law: all drafts are on the disk before the first gets its final name, and all names before anything is reported as
saved.  On file systems that support it one ``syncfs`` syncs all drafts (Linux 5.8 and later report its errors through
descriptors opened before them); elsewhere each draft is synced.  If that fails, any draft may be incomplete, so all are
discarded and each session is written again on its own, to a new file.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import sys
from collections.abc import Callable, Collection, Sequence
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from hl7core_plugins.json_store import files

__all__ = ["Piece", "save_group"]

GROUP: Final = 256
"""How many drafts at most are open at once."""
_ALONE: Final = 2
"""Up to this many are synced one by one, which is cheaper: ``syncfs`` waits for other programs' data too."""
_SOUND: Final = frozenset({"btrfs", "ext2", "ext3", "ext4", "f2fs", "tmpfs", "xfs"})


class Piece(NamedTuple):
    """A session to save: its bytes and its final name."""

    session_id: str
    final: Path
    data: bytes
    replace: bool


def save_group(pieces: Sequence[Piece], give_way: Callable[[], None] = lambda: None) -> list[int | OSError]:
    """Save ``pieces`` (each of another name) durably; one entry each, in order: its inode, or why it was not saved.

    A piece that is not to replace a file that has its name counts as saved if one has it; its entry is 0 then.
    ``give_way`` is called after each step, to show progress.
    """
    outcomes: list[int | OSError] = []
    for at in range(0, len(pieces), GROUP):
        outcomes += _save(pieces[at : at + GROUP], give_way)
        give_way()
    return outcomes


def _save(pieces: Sequence[Piece], give_way: Callable[[], None]) -> list[int | OSError]:
    outcomes: list[int | OSError] = [0] * len(pieces)
    if len(pieces) <= _ALONE:
        return [_save_one(piece, give_way) for piece in pieces]
    handles = _handles({piece.final.parent for piece in pieces})
    drafts: dict[int, files.Draft] = {}
    try:
        for index, piece in enumerate(pieces):
            try:
                drafts[index] = files.open_draft(piece.final.parent, piece.session_id, piece.data)
            except OSError as error:
                outcomes[index] = error
            give_way()
        synced = _synced(handles, [draft.descriptor for draft in drafts.values()], give_way)
    finally:
        for descriptor in (*handles, *(draft.descriptor for draft in drafts.values())):
            files.close(descriptor)
    if not synced:
        for draft in drafts.values():
            files.discard(draft.path)
        for index in drafts:
            outcomes[index] = _save_one(pieces[index], give_way)
        return outcomes
    named: dict[int, Path] = {}
    for index, draft in drafts.items():
        piece = pieces[index]
        try:
            ours = (files.name_replace if piece.replace else files.name_insert)(draft.path, piece.final)
            outcomes[index] = draft.inode if ours else 0
            named[index] = piece.final.parent
        except OSError as error:
            files.discard(draft.path)
            outcomes[index] = error
    for folder in set(named.values()):
        try:
            files.sync_folder(folder)
        except OSError as error:
            for index in [i for i, parent in named.items() if parent == folder]:
                outcomes[index] = error
    return outcomes


def _save_one(piece: Piece, give_way: Callable[[], None]) -> int | OSError:
    try:
        return files.save(piece.final, piece.session_id, piece.data, replace=piece.replace)
    except OSError as error:
        return error
    finally:
        give_way()


def _synced(folders: Sequence[int], drafts: Sequence[int], give_way: Callable[[], None]) -> bool:
    """Sync the drafts to the disk, all at once if ``folders`` are given, else one by one."""
    try:
        if folders:
            for descriptor in folders:
                _syncfs(descriptor)
        else:
            for descriptor in drafts:
                os.fsync(descriptor)
                give_way()
    except OSError:  # what went wrong shows again, and is told, as each is written by itself
        return False
    return True


def _handles(folders: Collection[Path]) -> list[int]:
    """Open ``folders`` before anything is written to them; return an empty list if ``syncfs`` cannot be used."""
    handles: list[int] = []
    try:
        if all(_syncs_as_one(folder) for folder in folders):
            for folder in folders:
                handles.append(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC))  # noqa: PERF401 - what was opened is closed
    except OSError:  # each draft is synced by itself then, and says what is wrong
        while handles:
            files.close(handles.pop())
    return handles


def _syncfs(descriptor: int) -> None:
    library = _library()
    if library is None or library.syncfs(descriptor) != 0:
        raise OSError(ctypes.get_errno() or errno.ENOSYS, "syncfs failed")


@cache
def _library() -> ctypes.CDLL | None:
    """Return the C library if its ``syncfs`` reports errors."""
    release = re.match(r"(\d+)\.(\d+)", os.uname().release)
    if not sys.platform.startswith("linux") or release is None or (int(release[1]), int(release[2])) < (5, 8):
        return None
    library = ctypes.CDLL(None, use_errno=True)
    return library if hasattr(library, "syncfs") else None


def _syncs_as_one(folder: Path) -> bool:
    """Return whether ``syncfs`` works for ``folder``: on some network and FUSE file systems it does little."""
    return _library() is not None and _file_system(os.stat(folder).st_dev) in _SOUND  # noqa: PTH116


def _file_system(device: int) -> str:
    """Return the type of the file system ``device``, "" if unknown."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # no /proc: sync one by one
        return ""
    for line in lines:
        mount, _, kind = line.partition(" - ")
        if mount.split()[2:3] == [wanted]:
            return kind.split()[0]
    return ""
