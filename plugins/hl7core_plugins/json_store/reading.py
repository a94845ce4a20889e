"""Finding sessions, in order, by opening as few files as possible.

The law: a file that cannot be read is logged (once, until it changes) and skipped; it is never moved, and never hides
the others.  ``matches`` decides which files are found; the index only saves reading some of them, and a kept listing
saves listing the folder for each page.  A session's id contains the millisecond of its start, so files are read in that
order and reading ends once enough were found; those of one millisecond are sorted by their content.  Saves do not wait
for a query.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

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
from hl7core_plugins.json_store.listing import Bounds, Listing, Listings
from hl7core_plugins.json_store.rows import Sieve

__all__ = ["Reading"]

logger = logging.getLogger(__name__)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_A_WHILE: Final = 1000
"""How many names are looked at before others get a turn."""


class Reading:
    """Reads stored sessions; safe to use from any thread.  Between two files it may ``give_way`` to saves."""

    def __init__(
        self,
        layout: Layout,
        index: Index,
        give_way: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._layout = layout
        self._index = index
        self._give_way = give_way
        self.listings = Listings(layout, clock)
        self._told: dict[Path, int] = {}  # damaged files that were logged, and their times
        self._odd: dict[str, int] | None = None  # the starts of sessions whose ids name another time, or none

    def stored(self, session: Session, path: Path, inode: int) -> None:
        """Record a session that was saved in ``path``, in the file with that inode."""
        before = self._start_of(session.id)
        self._place(session)
        millis = session.start_ns // 1_000_000
        self.listings.saved(session.id, millis, millis if before is None else before, path.parent)
        try:
            status = path.lstat()
        except OSError:  # somebody was faster; what is there now is not what was saved
            return
        if status.st_ino == inode:
            self._index.note(session, stamp_of(status), exact=True)

    def _place(self, session: Session) -> None:
        """Remember when the session starts, if its id does not contain it."""
        starts = self._starts()
        millis = session.start_ns // 1_000_000
        if millis_of(session.id) != millis:
            starts[session.id] = millis
        else:
            starts.pop(session.id, None)

    def load(self, query: SessionQuery, now: datetime) -> list[Session]:
        """Return the matching sessions, in order.  Raises OSError if the folder cannot be listed."""
        bounds = _bounds(query)
        listing = self.listings.of(query, bounds, lambda listing: self._list(listing, query, now))
        found: list[Session] = []
        for group in listing.groups(bounds, newest_first=query.newest_first):
            if len(found) >= query.limit:
                break
            loaded = []
            for session_id in group:
                self._give_way()
                session = self._fitting(listing, session_id, query, now)
                if session is not None:
                    loaded.append(session)
            loaded.sort(key=sort_key, reverse=query.newest_first)
            found += loaded
        if len(found) < query.limit and query.after is not None:
            self.listings.over(query)
        return found[: max(0, query.limit)]

    def _list(self, listing: Listing, query: SessionQuery, now: datetime) -> None:
        """Fill ``listing`` with the sessions that may match, as far as is known without reading them."""
        if query.ids:
            asked = [i for i in dict.fromkeys(query.ids) if SESSION_ID.fullmatch(i)]
            folders = {i: self._layout.path_of(i).parent for i in asked}
            listing.make(self._timed(folders, listing.bounds, now), folders)
            return
        if not query.text and not Sieve(query):  # to look at all files would cost more than it spares
            folders = self._layout.names()
            timed = self._timed(folders, listing.bounds, now)
            listing.make(timed, {i: folders[i] for _, i in timed})
            return
        first, last = listing.bounds
        starts = self._starts()
        bound = query.since is not None or query.until is not None or query.after is not None
        seen = self._layout.seen((lambda i: first <= starts.get(i, millis_of(i) or first) <= last) if bound else None)
        known, exact = self._index.sift(seen.stamps, query)
        folders = {i: seen.folders[i] for i in seen.stamps}
        listing.make(
            self._timed(folders, listing.bounds, now),
            folders,
            seen.stamps.keys() - known,
            {i: seen.stamps[i] for i in exact} if query.text else None,
        )

    def _timed(self, folders: Mapping[str, Path], bounds: Bounds, now: datetime) -> list[tuple[int, str]]:
        """Return the sessions that start within ``bounds``, each with its start."""
        timed: list[tuple[int, str]] = []
        for number, session_id in enumerate(folders):
            if not number % _A_WHILE:
                self._give_way()
            millis = self._start_of(session_id)
            if millis is None:
                session = self._read(folders[session_id] / f"{session_id}.json", now)
                if session is None:
                    continue
                millis = session.start_ns // 1_000_000
            if bounds.first <= millis <= bounds.last:
                timed.append((millis, session_id))
        return timed

    def _start_of(self, session_id: str) -> int | None:
        """Return the start of a session in unix milliseconds, None if it is not known without reading it."""
        return self._starts().get(session_id) or millis_of(session_id)

    def _fitting(self, listing: Listing, session_id: str, query: SessionQuery, now: datetime) -> Session | None:
        """Return a session if it can be read and matches."""

        def needless(data: bytes, status: os.stat_result) -> bool:
            return bool(query.text) and listing.is_exact(session_id, status) and _escaped(query.text) not in data

        session = self._read(listing.path_of(session_id), now, needless, note=listing.is_unknown(session_id))
        return session if session is not None and matches(session, query) else None

    def _read(
        self,
        path: Path,
        now: datetime,
        needless: Callable[[bytes, os.stat_result], bool] = lambda _data, _status: False,
        *,
        note: bool = True,
    ) -> Session | None:
        """Return the session in a file if it can be read and is not ``needless``, judged by its bytes and state.

        ``note``: the index is told.
        """
        try:
            data, status = files.look(path)
            if needless(data, status):
                return None
            session = session_from_json(data, now=now)
            if session.id != path.stem:
                raise StoreError("its name is not its session's id")
        except FileNotFoundError:
            return None
        except (OSError, Hl7coreError) as error:
            self._complain(path, (error.strerror or "unreadable") if isinstance(error, OSError) else str(error))
            return None
        self._place(session)
        if note:
            self._index.found(session, data, status)
        return session

    def _starts(self) -> dict[str, int]:
        """Return the starts of sessions whose ids do not contain them; the index is asked once."""
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


def _bounds(query: SessionQuery) -> Bounds:
    """Return the first and the last millisecond in which a matching session may start."""
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
    return Bounds(first, last)


def _millis(time: datetime) -> int:
    return (time - _EPOCH) // _MILLISECOND


def _escaped(value: str) -> bytes:
    """Return ``value`` as we write it in JSON; text that is not valid Unicode occurs in no file."""
    return json.dumps(value, ensure_ascii=False)[1:-1].encode(errors="surrogatepass")
