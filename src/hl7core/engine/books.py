"""The books of the ledger: which sessions are in memory, which are due to be saved, and what they cost.

Every change of an entry's place or size goes through here, under the ledger's lock, so that the sums always agree.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from threading import Lock
from typing import Final, NamedTuple

from hl7core.engine.session_state import size_of
from hl7core.model.session import Session

__all__ = ["Books", "Entry", "Limits"]

_FIRST_WAIT: Final = 0.5
_LONGEST_WAIT: Final = 30.0


class Limits(NamedTuple):
    """How much is kept in memory, and whether sessions are saved at all.

    ``memory_sessions`` and ``memory_bytes`` bound the stored ones; ``unsaved_sessions``, and again ``memory_bytes``,
    those that wait for a store.  With ``finite`` (packets from files, which wait instead) no unsaved session has to go.
    """

    memory_sessions: int = 1000
    memory_bytes: int = 256 << 20
    unsaved_sessions: int = 10_000
    saving: bool = True
    finite: bool = False


@dataclass(slots=True)
class Entry:
    """A session in memory.

    ``decoded``: in this run.  ``stored``: a store holds it.  ``based``: what the store holds of it is known.
    ``replace``: a save must replace what is stored.  ``version`` grows with each change; ``attempts`` and ``next_at``
    say how saving it went.
    """

    session: Session
    size: int
    dirty: bool = False
    in_flight: bool = False
    decoded: bool = True
    stored: bool = False
    based: bool = False
    diagnosed: bool = False
    replace: bool = False
    store: str = ""
    version: int = 0
    attempts: int = 0
    next_at: float = 0.0


class Books:
    """Sessions by id, the saved ones ordered by start, the unsaved ones by when they became so."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lock = Lock()
        self._entries: dict[str, Entry] = {}
        self._clean: list[tuple[int, str]] = []
        self._dirty: OrderedDict[str, None] = OrderedDict()
        self._kept: set[str] = set()
        self._bytes = 0
        self._dirty_bytes = 0
        self.lost = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, session_id: object) -> bool:
        return session_id in self._entries

    @property
    def unsaved(self) -> int:
        """How many sessions wait to be saved."""
        return len(self._dirty)

    @property
    def pressed(self) -> bool:
        """Whether so much waits to be saved that sources which can wait should."""
        limits = self._limits
        return limits.saving and (
            2 * len(self._dirty) >= limits.unsaved_sessions or 2 * self._dirty_bytes >= limits.memory_bytes
        )

    def unsaved_ids(self) -> list[str]:
        """Name the sessions that wait to be saved, oldest change first."""
        with self._lock:
            return list(self._dirty)

    # When to save what.

    def take_dirty(self, limit: int, now: float) -> list[str]:
        """Return at most ``limit`` ids that are due to be saved, the least often tried first; they are in flight."""
        with self._lock:
            if not self._limits.saving:
                return []
            due: list[str] = []
            again: list[tuple[int, str]] = []
            for session_id in self._dirty:
                entry = self._entries[session_id]
                if entry.in_flight or entry.next_at > now:
                    continue
                if entry.attempts:
                    again.append((entry.attempts, session_id))
                else:
                    due.append(session_id)
                    if len(due) >= limit:
                        break
            due += [session_id for _, session_id in sorted(again)[: limit - len(due)]]
            for session_id in due:
                self._entries[session_id].in_flight = True
            return due

    def next_due(self) -> float | None:
        """Return the monotonic time at which the next unsaved session is due, None if there is none."""
        with self._lock:
            if not self._limits.saving:
                return None
            return min((self._entries[i].next_at for i in self._dirty if not self._entries[i].in_flight), default=None)

    def failed(self, session_id: str, now: float) -> int:
        """A save failed: it stays dirty and is due again later; return how often it has failed in a row."""
        with self._lock:
            entry = self._entries.get(session_id)
            if entry is None:
                return 0
            entry.in_flight = False
            entry.attempts += 1
            entry.next_at = now + min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** min(entry.attempts - 1, 10))
            return entry.attempts

    def released(self, ids: Iterable[str]) -> None:
        """These were taken but not tried; they are due as before."""
        with self._lock:
            for session_id in ids:
                entry = self._entries.get(session_id)
                if entry is not None:
                    entry.in_flight = False

    def due_now(self) -> None:
        """The store works again: whatever waits is due at once."""
        with self._lock:
            for session_id in self._dirty:
                self._entries[session_id].next_at = 0.0

    # Places and sizes.

    def _insert(self, entry: Entry, *, dirty: bool) -> None:
        session = entry.session
        self._entries[session.id] = entry
        self._bytes += entry.size
        entry.dirty = dirty
        if dirty:
            self._dirty[session.id] = None
            self._dirty_bytes += entry.size
        else:
            insort(self._clean, (session.start_ns, session.id))

    def _value(self, entry: Entry, session: Session) -> None:
        if not entry.dirty and session.start_ns != entry.session.start_ns:
            self._clean.remove((entry.session.start_ns, session.id))
            insort(self._clean, (session.start_ns, session.id))
        size = size_of(session)
        self._bytes += size - entry.size
        self._dirty_bytes += size - entry.size if entry.dirty else 0
        entry.session, entry.size = session, size

    def _change(self, entry: Entry, session: Session, *, dirty: bool) -> None:
        self._value(entry, session)
        entry.version += 1
        entry.attempts = 0
        entry.next_at = 0.0
        entry.replace = True
        if dirty and not entry.dirty:
            self._unclean(session.start_ns, session.id)
            entry.dirty = True
            self._dirty[session.id] = None
            self._dirty_bytes += entry.size

    def _settle(self, entry: Entry) -> None:
        if entry.dirty:
            entry.dirty = False
            del self._dirty[entry.session.id]
            self._dirty_bytes -= entry.size
            insort(self._clean, (entry.session.start_ns, entry.session.id))

    def _unclean(self, start_ns: int, session_id: str) -> None:
        at = bisect_left(self._clean, (start_ns, session_id))
        if at < len(self._clean) and self._clean[at] == (start_ns, session_id):
            del self._clean[at]

    def _forget(self, session_id: str) -> None:
        entry = self._entries.pop(session_id)
        self._bytes -= entry.size
        if entry.dirty:
            del self._dirty[session_id]
            self._dirty_bytes -= entry.size
        else:
            self._unclean(entry.session.start_ns, session_id)

    def _make_room(self) -> list[str]:
        """Forget the oldest that are saved; past the bound for unsaved ones, the oldest of those: return these."""
        limits = self._limits
        clean, kept = self._clean, []
        count, room = len(clean), limits.memory_bytes + self._dirty_bytes
        at = 0
        while at < len(clean) and (count > limits.memory_sessions or self._bytes > room):
            if clean[at][1] in self._kept:
                kept.append(clean[at])
            else:
                self._bytes -= self._entries.pop(clean[at][1]).size
                count -= 1
            at += 1
        clean[:at] = kept
        lost: list[str] = []
        while (
            limits.saving
            and not limits.finite
            and len(self._dirty) > 1
            and (len(self._dirty) > limits.unsaved_sessions or self._dirty_bytes > limits.memory_bytes)
        ):
            oldest = next((i for i in self._dirty if not self._entries[i].in_flight), None)
            if oldest is None:
                break
            self._forget(oldest)
            lost.append(oldest)
        self.lost += len(lost)
        return lost
