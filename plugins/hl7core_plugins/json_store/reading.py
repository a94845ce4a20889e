"""Listing sessions: in order, by as few files as need be opened.

The law: a file that cannot be read is logged (once while it stays as it is) and skipped; it is never moved, and never
hides the others.  What comes is what ``matches`` says of the files as they are; the index only spares the reading of
some.  The ids of sessions name the millisecond of their start, so files are taken in that order and the reading ends
when enough have come; those of one millisecond are sorted by what is in them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime, timedelta
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Final, NamedTuple

from hl7core import (
    SESSION_ID,
    Hl7coreError,
    Session,
    SessionQuery,
    StoreError,
    matches,
    session_from_json,
    sort_key,
)
from hl7core_plugins.json_store import files
from hl7core_plugins.json_store.index import Index
from hl7core_plugins.json_store.layout import Layout, millis_of, stamp_of
from hl7core_plugins.json_store.rows import Sieve

__all__ = ["Reading"]

logger = logging.getLogger(__name__)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)


class _Files(NamedTuple):
    """Sessions by id and the folder of each; those whose files the index knows, and those that are as we write them.

    ``known`` is None where the index was not asked.
    """

    folders: Mapping[str, Path]
    known: AbstractSet[str] | None = None
    exact: AbstractSet[str] = frozenset()


class Reading:
    """Reads stored sessions; safe to use from any thread."""

    def __init__(self, layout: Layout, index: Index) -> None:
        self._layout = layout
        self._index = index
        self._told: dict[Path, int] = {}  # damaged files that were logged, and their times
        self._odd: dict[str, int] | None = None  # the starts of sessions whose ids name another time, or none

    def stored(self, session: Session, path: Path, inode: int) -> None:
        """Take note of a session that was saved in ``path``, in the file with that inode."""
        self._place(session)
        try:
            status = path.lstat()
        except OSError:  # somebody was faster; what is there now is not what was saved
            return
        if status.st_ino == inode:
            self._index.note(session, stamp_of(status), exact=True)

    def _place(self, session: Session) -> None:
        """Remember when it starts, if its id does not tell."""
        starts = self._starts()
        millis = session.start_ns // 1_000_000
        if millis_of(session.id) != millis:
            starts[session.id] = millis
        else:
            starts.pop(session.id, None)

    def load(self, query: SessionQuery, now: datetime) -> list[Session]:
        """Return what fits, in order.  Raises OSError if the folder cannot be listed."""
        listed = self._listed(query)
        found: list[Session] = []
        for group in self._by_time(listed, query, now):
            if len(found) >= query.limit:
                break
            loaded = [s for i in group if (s := self._read(listed, i, now, query)) is not None]
            loaded.sort(key=sort_key, reverse=query.newest_first)
            found += loaded
        return found[: max(0, query.limit)]

    def _listed(self, query: SessionQuery) -> _Files:
        """Return the files that may fit, as far as can be told without reading them."""
        if query.ids:
            asked = [i for i in dict.fromkeys(query.ids) if SESSION_ID.fullmatch(i)]
            return _Files({i: self._layout.path_of(i).parent for i in asked})
        if not query.text and not Sieve(query):  # to look at all files would cost more than it spares
            return _Files(self._layout.names())
        first, last = _bounds(query)
        starts = self._starts()
        bound = query.since is not None or query.until is not None or query.after is not None
        seen = self._layout.seen((lambda i: first <= starts.get(i, millis_of(i) or first) <= last) if bound else None)
        known, exact = self._index.sift(seen.stamps, query)
        return _Files({i: seen.folders[i] for i in seen.stamps}, known, exact)

    def _by_time(self, listed: _Files, query: SessionQuery, now: datetime) -> Iterator[list[str]]:
        """Yield the sessions, those that start in the same millisecond together, in the query's order."""
        first, last = _bounds(query)
        starts = self._starts()
        timed: list[tuple[int, str]] = []
        for session_id in listed.folders:
            millis = starts.get(session_id) or millis_of(session_id)
            if millis is None:
                session = self._read(listed, session_id, now)
                if session is None:
                    continue
                millis = session.start_ns // 1_000_000
            if first <= millis <= last:
                timed.append((millis, session_id))
        timed.sort(key=itemgetter(0), reverse=query.newest_first)
        for _, group in groupby(timed, key=itemgetter(0)):
            yield [session_id for _, session_id in group]

    def _read(
        self, listed: _Files, session_id: str, now: datetime, query: SessionQuery | None = None
    ) -> Session | None:
        """Return a session if it can be read and fits."""
        path = listed.folders[session_id] / f"{session_id}.json"
        try:
            data, status = files.look(path)
            if query is not None and query.text and session_id in listed.exact and _escaped(query.text) not in data:
                return None
            session = session_from_json(data, now=now)
            if session.id != session_id:
                raise StoreError("its name is not its session's id")
        except FileNotFoundError:
            return None
        except (OSError, Hl7coreError) as error:
            self._complain(path, (error.strerror or "unreadable") if isinstance(error, OSError) else str(error))
            return None
        self._place(session)
        if query is None or (listed.known is not None and session_id not in listed.known):
            self._index.found(session, data, status)
        return session if query is None or matches(session, query) else None

    def _starts(self) -> dict[str, int]:
        """Return the starts that ids do not tell; what the index knows of them is looked up once."""
        if self._odd is None:
            self._odd = self._index.starts()
        return self._odd

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


def _escaped(value: str) -> bytes:
    """Return ``value`` as it stands in our JSON; what UTF-8 cannot hold stands in none."""
    return json.dumps(value, ensure_ascii=False)[1:-1].encode(errors="surrogatepass")
