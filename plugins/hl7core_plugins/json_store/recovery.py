"""Recovery at the start: drafts that a crash left behind, and files of the predecessor.

The law: no complete draft that is newer than the stored session is deleted, and no unreadable file except a draft is
touched.  A failure stops neither the rest nor the start of the store.  It runs under the engine's lock; still, another
live process (``read --store``) may be writing a draft, which is then left alone.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Container, Iterable
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

from hl7core import Hl7coreError, Session, StoreError, session_from_json, session_to_json
from hl7core_plugins.json_store import files
from hl7core_plugins.json_store.layout import Layout, is_session
from hl7core_plugins.json_store.versions import CURRENT, major_of

__all__ = ["Recovered", "migrate", "put_right", "recover"]

logger = logging.getLogger(__name__)

_BUSY_SECONDS: Final = 600
_BUDGET_SECONDS: Final = 3.0
_DONE: Final = ".schema-2"
"""A file in ``sessions/`` which means that every other file there has been checked once."""


class Recovered(NamedTuple):
    """How many drafts became sessions, and how many were removed."""

    recovered: int = 0
    cleaned: int = 0


def put_right(layout: Layout, now: datetime, known: Callable[[], Container[str]]) -> Recovered:
    """Call ``recover`` and ``migrate``; return what became of the drafts."""
    done = layout.sessions / _DONE
    seen = _exists(done)
    paths = _files(layout, lambda name: name.endswith((".tmp", ".json")) and not (seen and is_session(name)))
    drafts = [path for path in paths if path.name.endswith(".tmp")]
    recovered = recover(layout, drafts)
    old = [path for path in paths if path.name.endswith(".json")]
    current = frozenset[str]() if seen else known()
    complete = migrate(layout, [path for path in old if path.stem not in current], now)
    if complete and not seen and layout.sessions.is_dir():
        try:
            os.close(os.open(done, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        except OSError as error:  # then the next start looks again
            logger.debug("%s cannot be made: %s", done, error.strerror)
    return recovered


def recover(layout: Layout, drafts: Iterable[Path]) -> Recovered:
    """Finish or remove every draft that an interrupted run left behind."""
    recovered = cleaned = 0
    touched = set()
    for draft in drafts:
        if not _is_draft(draft.name):
            continue
        layout.give_way()
        try:
            if _is_busy(draft):
                continue
            session, data = _session(draft)
            final = layout.path_of(session.id) if session is not None else None
            if final is None or _is_no_older(final, draft):
                draft.unlink()
                cleaned += 1
            else:
                # Its bytes may never have reached the disk: write them again, durably, rather than trust the draft.
                files.save(final, final.stem, data, replace=True)
                draft.unlink()
                recovered += 1
            touched.add(draft.parent)
        except FileNotFoundError:  # its writer was alive, after all
            continue
        except OSError as error:
            logger.error("the draft %s cannot be recovered: %s", draft, error.strerror)  # noqa: TRY400
    for folder in touched:
        try:
            files.sync_folder(folder)
        except OSError as error:
            logger.error("%s cannot be synced to the disk: %s", folder, error.strerror)  # noqa: TRY400
    if recovered or cleaned:
        logger.warning("after an interrupted run: %d sessions recovered, %d drafts removed", recovered, cleaned)
    return Recovered(recovered, cleaned)


def migrate(
    layout: Layout, paths: Iterable[Path], now: datetime, *, clock: Callable[[], float] = time.monotonic
) -> bool:
    """Convert the predecessor's files to this schema; the originals go to ``predecessor/``.

    False if there are too many for one start: the next goes on, and by then the index knows those that need nothing.
    """
    deadline = clock() + _BUDGET_SECONDS
    migrated = 0
    complete = True
    for path in paths:
        if clock() > deadline:
            complete = False
            break
        layout.give_way()
        try:
            migrated += _bring_up(layout, path, now)
        except (OSError, Hl7coreError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            logger.error("%s is skipped: %s", path, reason)  # noqa: TRY400
    if migrated:
        logger.warning("%d files of an earlier version were converted; the originals are in %s", migrated,
                       layout.originals)  # fmt: skip
    return complete


def _bring_up(layout: Layout, path: Path, now: datetime) -> bool:
    """Save one file's session under its proper name and schema and move the original; false if it is current."""
    data = files.read(path)
    version = major_of(data)
    if version is not None and version >= CURRENT:
        if version > CURRENT:
            logger.warning("%s was written by a newer version: it is read but not rewritten", path)
        return False
    session = session_from_json(data, now=now)
    fresh = session_to_json(session)
    if session_from_json(fresh) != session:
        raise StoreError("converting the file would lose content")
    final = path.with_name(f"{session.id}.json")
    files.make_folder(layout.originals)
    if final == path:
        _keep_copy(layout, path, data)
        files.save(final, session.id, fresh, replace=True)
        return True
    files.save(final, session.id, fresh, replace=False)
    number = 0
    while not files.copy(path, _aside(layout, path, number)):
        number += 1
    files.sync_folder(layout.originals)
    path.unlink()
    files.sync_folder(path.parent)
    return True


def _keep_copy(layout: Layout, path: Path, data: bytes) -> None:
    number = 0
    while not files.save(_aside(layout, path, number), path.stem, data, replace=False):
        number += 1


def _aside(layout: Layout, path: Path, number: int) -> Path:
    return layout.originals / (f"{path.stem}-{number}{path.suffix}" if number else path.name)


def _session(draft: Path) -> tuple[Session | None, bytes]:
    """Return the session in a draft, None if it is incomplete or not the one in the draft's name."""
    data = files.read(draft)
    try:
        session = session_from_json(data)
    except Hl7coreError:
        return None, data
    named = files.DRAFT.fullmatch(draft.name)
    return (session if named is None or named["id"] == session.id else None), data


def _is_busy(draft: Path) -> bool:
    """Return whether another live process may still be writing this draft."""
    match = files.DRAFT.fullmatch(draft.name)
    if match is None or int(match["pid"]) == os.getpid():
        return False
    if abs(time.time() - draft.lstat().st_mtime) > _BUSY_SECONDS:
        return False
    try:
        os.kill(int(match["pid"]), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's process, and alive
        return True
    return True


def _exists(path: Path) -> bool:
    try:
        return files.is_file(path)
    except OSError:
        return False


def _is_draft(name: str) -> bool:
    """Return whether this is the name of a file that a save left behind, ours or the predecessor's."""
    return name.endswith(".json.tmp") or files.DRAFT.fullmatch(name) is not None


def _is_no_older(final: Path, draft: Path) -> bool:
    """Return whether the stored file is kept: it is as new as the draft, or of a newer version."""
    if not files.is_file(final):
        return False
    if final.lstat().st_mtime_ns >= draft.lstat().st_mtime_ns:
        return True
    return (major_of(files.read(final)) or 0) > CURRENT


def _files(layout: Layout, wanted: Callable[[str], bool]) -> list[Path]:
    """Return the files below ``sessions/`` whose names ``wanted`` accepts."""
    try:
        return layout.files(wanted)
    except OSError as error:
        logger.error("%s cannot be listed: %s", layout.sessions, error.strerror)  # noqa: TRY400
        return []
