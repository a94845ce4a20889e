"""Listing sessions: in order, by as few files as need be opened.

The law: a file that cannot be read is logged (once while it stays as it is) and skipped; it is never moved, and never
hides the others.  The ids of sessions name the millisecond of their start, so files are taken in that order and the
reading ends when enough have come; those of one millisecond are sorted by what is in them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Final

from hl7core import SESSION_ID, Hl7coreError, Session, SessionQuery, StoreError, session_from_json
from hl7core_plugins.json_store import files
from hl7core_plugins.json_store.layout import Layout, millis_of
from hl7core_plugins.json_store.query import fits, may_fit

__all__ = ["Reading"]

logger = logging.getLogger(__name__)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)


class Reading:
    """Reads stored sessions; safe to use from any thread."""

    def __init__(self) -> None:
        self._told: dict[Path, int] = {}  # damaged files that were logged, and their times
        self._odd: dict[str, int] = {}  # the starts of sessions whose ids name another time, or none

    def stored(self, session: Session) -> None:
        """Take note of a session that was saved or read."""
        millis = session.start_ns // 1_000_000
        if millis_of(session.id) != millis:
            self._odd[session.id] = millis

    def load(self, layout: Layout, query: SessionQuery, now: datetime) -> list[Session]:
        """Return what fits, in order.  Raises OSError if the folder cannot be listed."""
        asked = {i: layout.path_of(i).parent for i in query.ids if SESSION_ID.fullmatch(i)}
        folders = asked if query.ids else layout.names()
        found: list[Session] = []
        for group in self._by_time(folders, query, now):
            if len(found) >= query.limit:
                break
            loaded = [session for path in group if (session := self._read(path, query, now)) is not None]
            loaded.sort(key=lambda session: (session.started_at, session.id), reverse=query.newest_first)
            found += loaded
        return found[: max(0, query.limit)]

    def _by_time(self, folders: dict[str, Path], query: SessionQuery, now: datetime) -> Iterator[list[Path]]:
        """Yield the files that may fit, those that start in the same millisecond together, in the query's order."""
        first, last = _bounds(query)
        timed: list[tuple[int, str]] = []
        for session_id, folder in folders.items():
            millis = self._odd.get(session_id)
            if millis is None:
                millis = millis_of(session_id)
            if millis is None:
                session = self._read(folder / f"{session_id}.json", None, now)
                if session is None:
                    continue
                millis = session.start_ns // 1_000_000
            if first <= millis <= last:
                timed.append((millis, session_id))
        timed.sort(key=lambda pair: pair[0], reverse=query.newest_first)
        for _, group in groupby(timed, key=lambda pair: pair[0]):
            yield [folders[session_id] / f"{session_id}.json" for _, session_id in group]

    def _read(self, path: Path, query: SessionQuery | None, now: datetime) -> Session | None:
        """Return the session in ``path`` if it fits."""
        try:
            data = files.read(path)
            if query is not None and not may_fit(data, query):
                return None
            session = session_from_json(data, now=now)
            if session.id != path.stem:
                raise StoreError("its name is not its session's id")
        except FileNotFoundError:
            return None
        except (OSError, Hl7coreError) as error:
            self._complain(path, (error.strerror or "unreadable") if isinstance(error, OSError) else str(error))
            return None
        self.stored(session)
        return session if query is None or fits(session, query) else None

    def _complain(self, path: Path, reason: str) -> None:
        try:
            changed = path.lstat().st_mtime_ns
        except OSError:
            changed = 0
        if self._told.get(path) != changed:
            self._told[path] = changed
            logger.error("%s cannot be read and is skipped: %s", path, reason)


def _bounds(query: SessionQuery) -> tuple[int, int]:
    """Return the first and the last millisecond in which a session that fits may start."""
    first, last = 0, 1 << 63
    if query.since is not None:
        first = _millis(query.since)
    if query.until is not None:
        last = _millis(query.until)
    if query.after is not None:
        behind = _millis(query.after[0])
        if query.newest_first:
            last = min(last, behind)
        else:
            first = max(first, behind)
    return first, last


def _millis(time: datetime) -> int:
    return (time - _EPOCH) // _MILLISECOND
