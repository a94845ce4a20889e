"""The sessions in memory: the saved ones ordered by start, the unsaved ones by when they changed, and their size.

No lock: the ledger calls everything here under its own.  Every change of an entry's place or size goes through here, so
that the sums always agree.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from typing import Final, NamedTuple

from hl7core.engine.save_queue import Entry, SaveQueue
from hl7core.engine.session_state import size_of
from hl7core.model.session import Session

__all__ = ["Limits", "SessionMemory"]

_PRESSED: Final = 0.5


class Limits(NamedTuple):
    """How much is kept in memory, and whether sessions are saved at all.

    ``memory_sessions`` and ``memory_bytes`` limit the saved sessions; ``unsaved_sessions`` and, separately,
    ``memory_bytes`` those that wait to be saved.  With ``finite`` (packets from files, which can wait) no unsaved
    session is ever dropped.
    """

    memory_sessions: int = 1000
    memory_bytes: int = 256 << 20
    unsaved_sessions: int = 10_000
    saving: bool = True
    finite: bool = False


class SessionMemory:
    """Entries by session id.  ``queue`` holds the unsaved ones; ``pinned`` are ids that are not to be forgotten."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.queue = SaveQueue()
        self.pinned: set[str] = set()
        self._entries: dict[str, Entry] = {}
        self._saved: list[tuple[int, str]] = []
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, session_id: object) -> bool:
        return session_id in self._entries

    @property
    def pressed(self) -> bool:
        """Whether so much waits to be saved that sources which can wait should."""
        return self.limits.saving and self.filled >= _PRESSED

    @property
    def filled(self) -> float:
        """Which share of what may wait to be saved does wait: of the sessions or of the bytes, the larger one."""
        limits, queue = self.limits, self.queue
        return max(len(queue) / limits.unsaved_sessions, queue.size / limits.memory_bytes)

    def get(self, session_id: str) -> Entry | None:
        """Return the entry of a session, None if it is not in memory."""
        return self._entries.get(session_id)

    def entries(self, ids: Iterable[str]) -> list[Entry]:
        """Return the entries of those of ``ids`` that are in memory."""
        return [entry for session_id in ids if (entry := self._entries.get(session_id)) is not None]

    def all(self) -> list[Entry]:
        """Return all entries."""
        return list(self._entries.values())

    def not_as_stored(self) -> list[Entry]:
        """Return the entries that no store holds as they are now."""
        return [entry for entry in self._entries.values() if entry.dirty or not entry.stored]

    def saved_ids(self) -> list[str]:
        """Return the ids that need not be saved, ordered by start."""
        return [session_id for _, session_id in self._saved]

    def insert(self, entry: Entry, *, dirty: bool) -> None:
        """Add an entry; ``dirty``: its session must be saved."""
        session = entry.session
        self._entries[session.id] = entry
        self._bytes += entry.size
        if dirty:
            self.queue.add(entry)
        else:
            insort(self._saved, (session.start_ns, session.id))

    def replace(self, entry: Entry, session: Session) -> None:
        """Give ``entry`` another value of its session; whether that must be saved stays as it is."""
        if not entry.dirty and session.start_ns != entry.session.start_ns:
            self._saved.remove((entry.session.start_ns, session.id))
            insort(self._saved, (session.start_ns, session.id))
        size = size_of(session)
        self._bytes += size - entry.size
        if entry.dirty:
            self.queue.size += size - entry.size
        entry.session, entry.size = session, size

    def change(self, entry: Entry, session: Session, *, dirty: bool) -> None:
        """Give ``entry`` a new value that replaces the stored one; ``dirty``: at the next save."""
        self.replace(entry, session)
        entry.version += 1
        entry.replace = True
        entry.due_at_once()
        if dirty and not entry.dirty:
            self._remove_saved(session.start_ns, session.id)
            self.queue.add(entry)

    def mark_saved(self, entry: Entry) -> None:
        """``entry`` need not be saved any more."""
        if entry.dirty:
            self.queue.remove(entry)
            insort(self._saved, (entry.session.start_ns, entry.session.id))

    def forget(self, session_id: str) -> None:
        """Remove an entry that is in memory."""
        entry = self._entries.pop(session_id)
        self._bytes -= entry.size
        if entry.dirty:
            self.queue.remove(entry)
        else:
            self._remove_saved(entry.session.start_ns, session_id)

    def make_room(self) -> list[str]:
        """Forget the oldest saved sessions beyond the limits, then the oldest unsaved ones; return the latter's ids."""
        limits, saved, queue = self.limits, self._saved, self.queue
        count, room = len(saved), limits.memory_bytes + queue.size
        if count > limits.memory_sessions or self._bytes > room:
            kept: list[tuple[int, str]] = []
            at = 0
            while at < len(saved) and (count > limits.memory_sessions or self._bytes > room):
                if saved[at][1] in self.pinned:
                    kept.append(saved[at])
                else:
                    self._bytes -= self._entries.pop(saved[at][1]).size
                    count -= 1
                at += 1
            saved[:at] = kept
        lost: list[str] = []
        while (
            limits.saving
            and not limits.finite
            and (unsaved := len(queue)) > 1
            and (unsaved > limits.unsaved_sessions or queue.size > limits.memory_bytes)
        ):
            oldest = queue.oldest_idle()
            if oldest is None:
                break
            self.forget(oldest)
            lost.append(oldest)
        return lost

    def _remove_saved(self, start_ns: int, session_id: str) -> None:
        at = bisect_left(self._saved, (start_ns, session_id))
        if at < len(self._saved) and self._saved[at] == (start_ns, session_id):
            del self._saved[at]
