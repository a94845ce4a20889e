"""The trash: ``{output_folder}/trash/cleanup-{time}/``, where deleted sessions wait.

The law: a session is in ``sessions/`` or in the trash, never in neither, whatever is cut off when.  Only folders whose
name says when they were filled are touched, and in them only sessions.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from hl7core import SESSION_ID, CleanupReport
from hl7core_plugins.json_store import files
from hl7core_plugins.json_store.layout import Layout, told

__all__ = ["empty", "remove", "restore"]

logger = logging.getLogger(__name__)

_FOLDER: Final = re.compile(r"cleanup-(\d{8}T\d{6}Z)(?:-(\d{1,9}))?")
_TIME: Final = "%Y%m%dT%H%M%SZ"
_FILE: Final = re.compile(rf"({SESSION_ID.pattern})\.json")


def remove(layout: Layout, ids: Sequence[str], now: datetime, *, to_trash: bool) -> list[str]:
    """Delete sessions, or move them to the trash; return the ids that were there.

    One that cannot be removed is logged and does not stop the rest.  Raises StoreError if the trash cannot be used.
    """
    found = [(session_id, path) for session_id, path in ((i, _path(layout, i)) for i in ids) if path is not None]
    if not found:
        return []
    folder = _new_folder(layout, now, [path.name for _, path in found]) if to_trash else None
    removed = []
    touched = set()
    for session_id, path in found:
        try:
            if folder is None:
                path.unlink()
            elif not files.move(path, folder / path.name):
                continue
        except FileNotFoundError:  # somebody else was faster
            continue
        except OSError as error:
            logger.error("session %s cannot be removed from %s: %s", session_id, path, error.strerror)  # noqa: TRY400
            continue
        removed.append(session_id)
        touched.add(path.parent)
    _sync(([folder] if folder is not None else []) + sorted(touched))
    return removed


def restore(layout: Layout, ids: Sequence[str]) -> list[str]:
    """Bring sessions back from the trash, the latest of each, never onto one that is stored; return who came back.

    Raises StoreError if ``sessions/`` cannot be used.
    """
    layout.prepare()
    folders = [path for path, _ in reversed(_folders(layout))]
    restored = []
    touched = set()
    for session_id in ids:
        if SESSION_ID.fullmatch(session_id) is None:
            continue
        name = f"{session_id}.json"
        try:
            source = next((folder / name for folder in folders if files.is_file(folder / name)), None)
            if source is None or files.is_file(layout.path_of(session_id)):
                continue
            if files.move(source, layout.sessions / name):
                restored.append(session_id)
                touched.add(source.parent)
        except OSError as error:
            logger.error("session %s cannot be restored: %s", session_id, error.strerror)  # noqa: TRY400
    if restored:
        _sync([layout.sessions, *sorted(touched)])
        for folder in touched:
            _remove_if_empty(folder)
    return restored


def empty(layout: Layout, before: datetime) -> CleanupReport:
    """Throw away for good what was moved to the trash before that time."""
    deleted = freed = failed = in_trash = 0
    for folder, when in _folders(layout):
        names = [path for path in _listed(folder) if _FILE.fullmatch(path.name)]
        if when >= before:
            in_trash += len(names)
            continue
        for path in names:
            try:
                size = path.lstat().st_size
                path.unlink()
            except OSError as error:
                logger.error("%s cannot be thrown away: %s", path, error.strerror)  # noqa: TRY400
                failed += 1
                in_trash += 1
                continue
            deleted += 1
            freed += size
        _remove_if_empty(folder)
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


def _new_folder(layout: Layout, now: datetime, names: Sequence[str]) -> Path:
    """Return a folder for ``names``, none of which it holds: one session may be deleted twice in a second."""
    stem = f"cleanup-{now.astimezone(UTC):{_TIME}}"
    folder = layout.trash / stem
    number = 1
    try:
        files.make_folder(folder)
        while any(files.is_file(folder / name) for name in names):
            number += 1
            folder = layout.trash / f"{stem}-{number}"
            files.make_folder(folder)
    except OSError as error:
        raise told(error, f"nothing is deleted, since the trash {layout.trash} cannot be used") from error
    return folder


def _folders(layout: Layout) -> list[tuple[Path, datetime]]:
    """Return the trash's folders and when each was filled, the oldest first."""
    found: list[tuple[datetime, int, Path]] = []
    for path in _listed(layout.trash):
        if (match := _FOLDER.fullmatch(path.name)) and path.is_dir() and not path.is_symlink():
            try:
                when = datetime.strptime(match[1], _TIME).replace(tzinfo=UTC)
            except ValueError:  # digits, but no date: not ours
                logger.warning("%s has a name that is no time; it is left alone", path)
                continue
            found.append((when, int(match[2] or 1), path))
    return [(path, when) for when, _, path in sorted(found)]


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        logger.error("%s cannot be listed: %s", folder, error.strerror)  # noqa: TRY400
        return []


def _remove_if_empty(folder: Path) -> None:
    if not _listed(folder):
        try:
            folder.rmdir()
        except OSError as error:
            logger.warning("the empty folder %s cannot be removed: %s", folder, error.strerror)


def _sync(folders: Sequence[Path]) -> None:
    for folder in folders:
        try:
            files.sync_folder(folder)
        except OSError as error:
            logger.error("%s cannot be brought to the disk: %s", folder, error.strerror)  # noqa: TRY400
