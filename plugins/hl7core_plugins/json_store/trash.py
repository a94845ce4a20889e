"""The trash: ``{output_folder}/trash/cleanup-{time}/`` has the deleted sessions, one folder per cleanup.

The law: a session is always in ``sessions/`` or in the trash, even after a crash: it gets its new name, that name is
synced to the disk, and only then the old name is removed.  Only folders named by a time are touched, and in them only
sessions.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Final

from hl7core import SESSION_ID, CleanupReport
from hl7core_plugins.json_store import files
from hl7core_plugins.json_store.layout import Layout, told

__all__ = ["empty", "entries", "remove", "restore", "size"]

logger = logging.getLogger(__name__)

_PREFIX: Final = "cleanup-"
_TIME: Final = "%Y%m%dT%H%M%SZ"
_FOLDER: Final = re.compile(rf"{_PREFIX}(\d{{8}}T\d{{6}}Z)(?:-(\d{{1,9}}))?")
_PART: Final = 500
"""How many names are read before the first file is removed: no folder changes while it is read."""
_FILE: Final = re.compile(rf"({SESSION_ID.pattern})\.json")


def remove(layout: Layout, ids: Sequence[str], deleted_at: datetime, *, to_trash: bool) -> list[str]:
    """Delete sessions, or move them to the trash's folder of that time; return the ids that were stored.

    One that cannot be removed is logged and does not stop the rest.  Raises StoreError if the trash cannot be used.
    """
    found = [(session_id, path) for session_id, path in ((i, _path(layout, i)) for i in ids) if path is not None]
    if not found:
        return []
    removed = []
    folder = None
    if to_trash:
        folder = _new_folder(layout, deleted_at, [path.name for _, path in found])
        found = [(i, path) for i, path in found if _copied(layout, path, folder / path.name, "removed")]
        try:
            files.sync_folder(folder)
        except OSError as error:
            raise told(error, f"nothing is deleted, since the trash {layout.trash} cannot be used") from error
    for session_id, path in found:
        layout.give_way()
        try:
            path.unlink()
        except FileNotFoundError:  # somebody else was faster
            continue
        except OSError as error:
            logger.error("session %s cannot be removed from %s: %s", session_id, path, error.strerror)  # noqa: TRY400
            if folder is not None:
                files.discard(folder / path.name)
            continue
        removed.append((session_id, path))
    _sync({path.parent for _, path in removed})
    return [session_id for session_id, _ in removed]


def restore(layout: Layout, ids: Sequence[str]) -> list[str]:
    """Restore the latest of each session from the trash unless it is stored; return the ids that were restored.

    Raises StoreError if ``sessions/`` cannot be used.
    """
    layout.prepare()
    folders = [path for path, _ in reversed(_folders(layout))]
    restored: dict[str, Path] = {}
    for session_id in dict.fromkeys(ids):
        if SESSION_ID.fullmatch(session_id) is None:
            continue
        name = f"{session_id}.json"
        try:
            source = next((folder / name for folder in folders if files.is_file(folder / name)), None)
            if source is None or files.is_file(layout.path_of(session_id)):
                continue
        except OSError as error:
            logger.error("session %s cannot be looked up: %s", session_id, error.strerror)  # noqa: TRY400
            continue
        if _copied(layout, source, layout.sessions / name, "restored"):
            restored[session_id] = source
    if not restored:
        return []
    try:
        files.sync_folder(layout.sessions)
    except OSError as error:
        raise told(error, f"nothing is restored, since {layout.sessions} cannot be used") from error
    for source in restored.values():
        files.discard(source)
    touched = {source.parent for source in restored.values()}
    _sync(touched)
    for folder in touched:
        _remove_if_empty(folder)
    return list(restored)


def entries(layout: Layout) -> list[tuple[str, datetime]]:
    """Return the ids of the sessions in the trash with the time of their deletion, oldest first."""
    return [(name[:36], when) for folder, when in _folders(layout) for name in sorted(_names(folder))]


def size(layout: Layout) -> int:
    """Return the size in bytes of the sessions in the trash."""
    total = 0
    for folder, _ in _folders(layout):
        for name in _names(folder):
            layout.give_way()
            try:
                total += (folder / name).lstat().st_size
            except OSError:  # gone since the folder was read, or as good as gone
                continue
    return total


def empty(layout: Layout, before: datetime, limit: int) -> CleanupReport:
    """Delete permanently what was moved to the trash before that time, at most ``limit`` sessions.

    What is left is counted when there is nothing more to throw away: each part costs what it throws away.
    """
    deleted = freed = failed = in_trash = 0
    folders = _folders(layout)
    for folder, when in folders:
        if when >= before:
            continue
        tried: set[str] = set()
        while deleted < limit:
            names = list(islice((n for n in _names(folder) if n not in tried), min(_PART, limit - deleted)))
            if not names:
                break
            for name in names:
                layout.give_way()
                try:
                    size = (folder / name).lstat().st_size
                    (folder / name).unlink()
                except OSError as error:
                    tried.add(name)
                    if not isinstance(error, FileNotFoundError):  # else somebody else was faster
                        logger.error("%s cannot be deleted: %s", folder / name, error.strerror)  # noqa: TRY400
                        failed += 1
                    continue
                deleted += 1
                freed += size
        _remove_if_empty(folder)
    if deleted < limit:
        in_trash = sum(1 for folder, _ in folders for _ in _names(folder))
    return CleanupReport(deleted=deleted, freed=freed, in_trash=in_trash, failed=failed)


def _path(layout: Layout, session_id: str) -> Path | None:
    if SESSION_ID.fullmatch(session_id) is None:
        return None
    try:
        path = layout.path_of(session_id)
        return path if files.is_file(path) else None
    except OSError as error:
        logger.error("session %s cannot be looked up: %s", session_id, error.strerror)  # noqa: TRY400
        return None


def folder_name(deleted_at: datetime, number: int) -> str:
    """Return the name of the folder for sessions deleted at that time; ``number`` counts those of one second, from 1.

    ``_time_and_number`` reads it back.
    """
    name = f"{_PREFIX}{deleted_at.astimezone(UTC):{_TIME}}"
    return name if number == 1 else f"{name}-{number}"


def _time_and_number(name: str) -> tuple[datetime, int] | None:
    """Return what ``folder_name`` was given for ``name``, None if it is not such a name.  Raises ValueError."""
    match = _FOLDER.fullmatch(name)
    return (datetime.strptime(match[1], _TIME).replace(tzinfo=UTC), int(match[2] or 1)) if match else None


def _new_folder(layout: Layout, deleted_at: datetime, names: Sequence[str]) -> Path:
    """Return a folder that has none of ``names``: a session may be deleted twice within a second."""
    stem = f"cleanup-{deleted_at.astimezone(UTC):{_TIME}}"
    folder = layout.trash / stem
    number = 1
    folder = layout.trash / folder_name(deleted_at, number)
    try:
        files.make_folder(folder)
        while any(files.is_file(folder / name) for name in names):
            number += 1
            folder = layout.trash / folder_name(deleted_at, number)
            files.make_folder(folder)
    except OSError as error:
        raise told(error, f"nothing is deleted, since the trash {layout.trash} cannot be used") from error
    return folder


def _folders(layout: Layout) -> list[tuple[Path, datetime]]:
    """Return the trash's folders with their times, oldest first."""
    found: list[tuple[datetime, int, Path]] = []
    for name in _listed(layout.trash):
        path = layout.trash / name
        if (match := _FOLDER.fullmatch(name)) and path.is_dir() and not path.is_symlink():
            try:
                when = datetime.strptime(match[1], _TIME).replace(tzinfo=UTC)
            except ValueError:  # digits, but no date: not ours
                logger.warning("%s is ignored: its name has no valid time", path)
                continue
            found.append((when, int(match[2] or 1), path))
    return [(path, when) for when, _, path in sorted(found)]


def _names(folder: Path) -> Iterator[str]:
    """Yield the names of the sessions in a folder, unsorted: there may be 100,000, and few are needed."""
    return (name for name in _listed(folder) if _FILE.fullmatch(name))


def _listed(folder: Path) -> Iterator[str]:
    try:
        with os.scandir(folder) as found:
            for entry in found:
                yield entry.name
    except FileNotFoundError:
        return
    except OSError as error:
        logger.error("%s cannot be listed: %s", folder, error.strerror)  # noqa: TRY400


def _remove_if_empty(folder: Path) -> None:
    if any(True for _ in _listed(folder)):
        return
    try:
        folder.rmdir()
    except OSError as error:
        logger.warning("the empty folder %s cannot be removed: %s", folder, error.strerror)


def _copied(layout: Layout, source: Path, target: Path, what: str) -> bool:
    """Give a session's file the name ``target`` too; if that fails, log it and return False."""
    layout.give_way()
    try:
        return files.copy(source, target)
    except FileNotFoundError:  # somebody else was faster
        return False
    except OSError as error:
        logger.error("session %s cannot be %s: %s", source.stem, what, error.strerror)  # noqa: TRY400
        return False


def _sync(folders: Collection[Path]) -> None:
    for folder in folders:
        try:
            files.sync_folder(folder)
        except OSError as error:
            logger.error("%s cannot be synced to the disk: %s", folder, error.strerror)  # noqa: TRY400
