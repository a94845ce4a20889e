"""The save queue: which sessions must be saved, and when each is due.

One entry per session, in the order in which they changed; the newest value wins.  A save that fails is repeated after
0.5 s, doubling to 30 s.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from hl7core.model.session import Session

__all__ = ["Entry", "SaveQueue"]

_FIRST_WAIT: Final = 0.5
_LONGEST_WAIT: Final = 30.0


@dataclass(slots=True)
class Entry:
    """A session in memory.

    ``dirty``: it must be saved.  ``in_flight``: a save is running.  ``decoded``: it was decoded in this run.
    ``stored``: a store holds it, namely ``store``.  ``based``: what the stores hold of it is known.  ``diagnosed``:
    plugins have looked for findings.  ``replace``: a save must replace what is stored.  ``version`` grows with each
    change; ``attempts`` counts failed saves in a row, ``next_at`` is the monotonic time of the next one.
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

    def due_at_once(self) -> None:
        """Forget failed saves: the next one is due now."""
        self.attempts = 0
        self.next_at = 0.0

    def save_failed(self, now: float) -> int:
        """Note a failed save at ``now``; return how many have failed in a row."""
        self.in_flight = False
        self.attempts += 1
        self.next_at = now + min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** min(self.attempts - 1, 10))
        return self.attempts


class SaveQueue:
    """The dirty entries, the one that changed first in front; ``size`` is their size in bytes."""

    def __init__(self) -> None:
        self.size = 0
        self._entries: OrderedDict[str, Entry] = OrderedDict()  # a dict gets slow where its front was deleted

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def add(self, entry: Entry) -> None:
        """Append ``entry``; it is dirty now."""
        entry.dirty = True
        self._entries[entry.session.id] = entry
        self.size += entry.size

    def remove(self, entry: Entry) -> None:
        """Take ``entry`` out; it is no longer dirty."""
        entry.dirty = False
        del self._entries[entry.session.id]
        self.size -= entry.size

    def claim(self, limit: int, now: float) -> list[str]:
        """Return at most ``limit`` ids that are due, those that failed least often first, and mark them in flight."""
        due: list[Entry] = []
        failed: list[tuple[int, str]] = []
        for session_id, entry in self._entries.items():
            if entry.in_flight or entry.next_at > now:
                continue
            if entry.attempts:
                failed.append((entry.attempts, session_id))
            else:
                due.append(entry)
                if len(due) >= limit:
                    break
        due += [self._entries[session_id] for _, session_id in sorted(failed)[: limit - len(due)]]
        for entry in due:
            entry.in_flight = True
        return [entry.session.id for entry in due]

    def next_due(self) -> float | None:
        """Return the monotonic time at which the next entry is due, None if there is none."""
        return min((entry.next_at for entry in self._entries.values() if not entry.in_flight), default=None)

    def oldest_idle(self) -> str | None:
        """Return the id in front that is not being saved, None if there is none."""
        return next((session_id for session_id, entry in self._entries.items() if not entry.in_flight), None)

    def all_due(self) -> None:
        """Make every entry due now."""
        for entry in self._entries.values():
            entry.next_at = 0.0
