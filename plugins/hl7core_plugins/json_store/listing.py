"""Listings: the sessions that may match a query, in order, so that the cost of a page depends only on its size.

The law: a listing has the order in which files are read, never their content.  Each file is read when its turn comes,
so a file that was edited, moved or removed meanwhile counts as it is then.  The first page of a query makes a new
listing; the next pages use it, and what this store saves meanwhile is added to it.  What other processes add to the
folder appears once the listing is made again: after 30 s, or twenty times as long as it took to make.
"""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from hl7core import SessionQuery
from hl7core_plugins.json_store import files
from hl7core_plugins.json_store.layout import Layout, stamp_of

__all__ = ["Bounds", "Listing", "Listings"]

_SERVES_SECONDS: Final = 30.0
_SERVES_TIMES: Final = 20.0
"""A listing is kept this many times as long as it took to make, so making them takes at most 5 % of the time."""
_MOST: Final = 4
"""How many listings are kept; one takes about 130 bytes per session."""


class Bounds(NamedTuple):
    """The first and the last millisecond in which a matching session may start."""

    first: int
    last: int


class Listing:
    """Sessions by their start in unix milliseconds; safe to use from any thread."""

    def __init__(self, top: Path, bounds: Bounds) -> None:
        self.bounds = bounds
        self._top = top
        self._lock = threading.Lock()
        self._times: list[int] = []
        self._ids: list[str] = []
        self._elsewhere: dict[str, Path] = {}  # the folders of those that do not lie in ``top``
        self._unknown: set[str] = set()
        self._stamps: dict[str, str] = {}
        self._late: list[tuple[str, int, int, Path]] | None = []  # what was saved before the listing was made

    # Making it.

    def make(
        self,
        timed: list[tuple[int, str]],
        folders: dict[str, Path],
        unknown: set[str] | None = None,
        stamps: dict[str, str] | None = None,
    ) -> None:
        """Take the starts of sessions, in any order, and the folder of each.

        The index does not know the files of the ``unknown``; those with ``stamps`` were as this version writes them.
        """
        timed.sort()
        with self._lock:
            self._times = [millis for millis, _ in timed]
            self._ids = [session_id for _, session_id in timed]
            self._elsewhere = {i: folder for i, folder in folders.items() if folder != self._top}
            self._unknown = unknown or set()
            self._stamps = stamps or {}
            late, self._late = self._late or [], None
        for saved in late:
            self.saved(*saved)

    def saved(self, session_id: str, millis: int, before: int, folder: Path) -> None:
        """Take in a session that was saved in ``folder`` and starts at ``millis``; ``before`` that, it seemed so."""
        with self._lock:
            if self._late is not None:
                self._late.append((session_id, millis, before, folder))
                return
            self._unknown.discard(session_id)
            if folder == self._top:
                self._elsewhere.pop(session_id, None)
            else:
                self._elsewhere[session_id] = folder
            if self._place(session_id, millis) is not None:
                return
            at = self._place(session_id, before)
            if at is not None:
                del self._times[at], self._ids[at]
            at = bisect_right(self._times, millis)
            self._times.insert(at, millis)
            self._ids.insert(at, session_id)

    def _place(self, session_id: str, millis: int) -> int | None:
        begin, end = bisect_left(self._times, millis), bisect_right(self._times, millis)
        try:
            return self._ids.index(session_id, begin, end)
        except ValueError:
            return None

    # Reading it.

    def groups(self, bounds: Bounds, *, newest_first: bool) -> Iterator[list[str]]:
        """Yield the sessions within ``bounds`` in order, those that start in the same millisecond together."""
        first, last = bounds
        while True:
            with self._lock:  # for what is saved while we wait to be asked for the next
                at = bisect_right(self._times, last) - 1 if newest_first else bisect_left(self._times, first)
                if not 0 <= at < len(self._times) or not first <= (millis := self._times[at]) <= last:
                    return
                group = self._ids[bisect_left(self._times, millis) : bisect_right(self._times, millis)]
            yield group
            if newest_first:
                last = millis - 1
            else:
                first = millis + 1

    def path_of(self, session_id: str) -> Path:
        """Return the path that the session's file had."""
        return self._elsewhere.get(session_id, self._top) / f"{session_id}.json"

    def is_unknown(self, session_id: str) -> bool:
        """Return whether the index does not know the session's file."""
        return session_id in self._unknown

    def is_exact(self, session_id: str, status: os.stat_result) -> bool:
        """Return whether the session's file is as this version writes it, and unchanged since it was listed."""
        return self._stamps.get(session_id) == stamp_of(status)


class _Kept:
    def __init__(self, listing: Listing, began: float) -> None:
        self.listing = listing
        self.began = began
        self.until = 0.0  # 0: it is in the making
        self.folder: tuple[int, int] | None = None


class Listings:
    """The listings kept for the next pages of queries; safe to use from any thread."""

    def __init__(self, layout: Layout, clock: Callable[[], float] = time.monotonic) -> None:
        self._layout = layout
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[SessionQuery, _Kept] = OrderedDict()

    def of(self, query: SessionQuery, bounds: Bounds, make: Callable[[Listing], None]) -> Listing:
        """Return a listing that serves ``query``: the one it goes on in, or one that ``make`` makes.

        Raises OSError if ``sessions/`` cannot be listed.
        """
        if query.after is None:
            listing = Listing(self._layout.sessions, bounds)
            make(listing)
            return listing
        folder = self._folder()
        key = _key(query)
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None and self._serves(kept, bounds, folder):
                self._kept.move_to_end(key)
                return kept.listing
            kept = self._kept[key] = _Kept(Listing(self._layout.sessions, bounds), self._clock())
            self._kept.move_to_end(key)
            while len(self._kept) > _MOST:
                self._kept.popitem(last=False)
        try:
            make(kept.listing)
        except BaseException:
            self.over(query)
            raise
        now = self._clock()
        kept.folder = folder
        kept.until = now + max(_SERVES_SECONDS, _SERVES_TIMES * (now - kept.began))
        return kept.listing

    def over(self, query: SessionQuery) -> None:
        """No further page of ``query`` will be asked for."""
        with self._lock:
            self._kept.pop(_key(query), None)

    def saved(self, session_id: str, millis: int, before: int, folder: Path) -> None:
        """Add what was saved, as ``Listing.saved`` does."""
        with self._lock:
            listings = [kept.listing for kept in self._kept.values()]
        for listing in listings:
            listing.saved(session_id, millis, before, folder)

    def forget(self) -> None:
        """Drop all listings, since files were added to the folder in another way."""
        with self._lock:
            self._kept.clear()

    def tidy(self) -> None:
        """Drop the listings that are too old."""
        now = self._clock()
        with self._lock:
            for key in [key for key, kept in self._kept.items() if kept.until and now >= kept.until]:
                del self._kept[key]

    def _serves(self, kept: _Kept, bounds: Bounds, folder: tuple[int, int] | None) -> bool:
        made_for = kept.listing.bounds
        return (
            self._clock() < kept.until
            and folder is not None
            and folder == kept.folder
            and made_for.first <= bounds.first
            and bounds.last <= made_for.last
        )

    def _folder(self) -> tuple[int, int] | None:
        """Return which folder ``sessions/`` is, None if it cannot be listed."""
        try:
            with files.opened(self._layout.sessions) as descriptor:
                status = os.fstat(descriptor)
        except OSError:  # listing it says what is wrong
            return None
        return status.st_dev, status.st_ino


def _key(query: SessionQuery) -> SessionQuery:
    """Return what the pages of a query have in common."""
    return query._replace(after=None, limit=0, ids=tuple(query.ids), status=tuple(query.status))  # a list does, too
