"""The line before one destination: who is next, how many at once, and when to leave it alone.

Sans-IO: it holds ids, is told what time it is (seconds of a clock that only goes forward), and never asks.  Its laws:
the oldest session goes first; one that waits for its next attempt holds up nobody; none is handed out twice at a time.
What the destination asks for (``Retry-After``) is kept.  Three sessions in a row whose cycle ended in trouble pause it,
and so does a refusal of our credentials; then one session at a time tries whether it is back, after a minute, then ever
less often, and that counts on the destination alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from typing import Final, NamedTuple

from hl7core.engine.outbox.rules import Fate, Outcome, Trouble

__all__ = ["IN_A_ROW", "Key", "Line", "Turn"]

Key = tuple[int, str]
"""A session's place in line: its start in unix microseconds, and its id."""

IN_A_ROW: Final = 3
FIRST_PROBE: Final = 60.0
LONGEST_PROBE: Final = 900.0
_BEHIND: Final = 1.0
"""So much later than the others a session goes for which the destination asked to be left alone."""


class Turn(NamedTuple):
    """Sessions to hand over in one attempt; ``probe``: to find out whether the destination is back."""

    keys: tuple[Key, ...]
    probe: bool = False


class _Place:
    """Where an id stands.

    ``due`` is when its turn may come, ``ready`` that it has; ``flying`` while an attempt runs, ``gone`` if nobody wants
    it any more by then.  ``later``: it waits for the next cycle.  ``asked``: the destination asked to wait so long with
    it; ``wins`` is how often the destination had answered well by then.  ``alone``: it goes without company.
    """

    __slots__ = ("alone", "asked", "due", "flying", "gone", "later", "ready", "start", "wins")

    def __init__(self, start: int, due: float) -> None:
        self.start = start
        self.due = due
        self.ready = self.flying = self.gone = self.later = self.alone = self.asked = False
        self.wins = -1


class Line:
    """The sessions that one destination has still to get, as far as they are known."""

    def __init__(self, *, concurrency: int = 2, batch: int = 1) -> None:
        self.concurrency = concurrency
        self.batch = batch
        self.trouble = Trouble.NONE
        self.paused = False
        self.hold_until = 0.0
        self.probe_at = 0.0
        self.rejected_in_a_row = 0
        self._places: dict[str, _Place] = {}
        self._ready: list[Key] = []
        self._waiting: list[tuple[float, int, str]] = []
        self._turns = 0
        self._flying = 0
        self._in_a_row = 0
        self._wins = 0
        self._probe_wait = FIRST_PROBE
        self._probed: set[str] = set()

    def __len__(self) -> int:
        """How many sessions wait; those in flight do not."""
        return len(self._places) - self._flying

    def __contains__(self, session_id: object) -> bool:
        return session_id in self._places

    @property
    def in_flight(self) -> int:
        """How many sessions are being handed over."""
        return self._flying

    @property
    def ready(self) -> int:
        """How many sessions wait for nothing but their turn (some may have left)."""
        return len(self._ready)

    def ids(self) -> list[str]:
        """Name the sessions in line, those in flight too."""
        return list(self._places)

    def begin_anew(self) -> None:
        """Forget what stands against the destination (its pause, what it asked for, its refusals); sessions stay.

        It was switched off and on again since, and may be another by now.
        """
        self._answered(rejected=False)
        self.hold_until = 0.0
        self.probe_at = 0.0

    # Who comes and goes.

    def add(self, key: Key, due: float = 0.0) -> bool:
        """Take in a session whose turn may come at ``due``; say whether it is new here."""
        start, session_id = key
        place = self._places.get(session_id)
        if place is not None:
            place.gone = False
            return False
        self._places[session_id] = _Place(start, due)
        self._line_up(session_id)
        return True

    def drop(self, ids: Iterable[str]) -> None:
        """Let go of sessions; an attempt that runs is not stopped, and does not bring its session back."""
        for session_id in ids:
            place = self._places.get(session_id)
            if place is not None and place.flying:
                place.gone = True
            else:
                self._places.pop(session_id, None)
        if len(self._ready) + len(self._waiting) > 2 * len(self._places) + 1000:
            self._tidy()

    def hurry(self, now: float, ids: Iterable[str] | None = None, *, probe: bool = True) -> None:
        """A person asks: what waits for its next attempt is due, and a paused destination is tried, at once.

        ``ids`` None: everything; without ``probe`` a pause lasts.  What the destination asked for is kept all the same.
        """
        if self.paused and probe:
            self.probe_at = min(self.probe_at, now)
        for session_id in list(self._places if ids is None else ids):
            place = self._places.get(session_id)
            if place is not None and not place.flying and not place.asked and place.due > now:
                place.due = now
                place.later = False
                self._line_up(session_id)

    # Whose turn it is.

    def take(self, now: float) -> list[Turn]:
        """Return what is to be handed over now; it is in flight until ``landed``."""
        self._promote(now)
        if now < self.hold_until:
            return []
        if self.paused:
            return self._probe(now)
        turns: list[Turn] = []
        while self._turns < self.concurrency and (keys := self._next()):
            turns.append(self._fly(keys))
        return turns

    def wake_at(self) -> float | None:
        """Return when ``take`` may have something that it has not now, None if only news can change that."""
        if self._turns >= (1 if self.paused else self.concurrency):
            return None
        while self._waiting and not self._stands(self._waiting[0]):
            heappop(self._waiting)
        while self._ready and not self._is_ready(self._ready[0]):
            heappop(self._ready)
        if not (self._ready or self._waiting):
            return None
        due = 0.0 if self._ready else self._waiting[0][0]
        return max(due, self.hold_until, self.probe_at if self.paused else 0.0)

    def busy(self, now: float, patience: float) -> bool:
        """Say whether more will be tried within ``patience`` seconds, the next cycle and later probes aside."""
        if self._flying:
            return True
        if self.paused:
            return bool(len(self)) and self.probe_at <= now and self.hold_until <= now
        if self.hold_until > now + patience:
            return False
        return any(not place.later and place.due <= now + patience for place in self._places.values())

    # How it went.

    def settle(self, session_id: str, outcome: Outcome, now: float, *, probe: bool = False) -> None:
        """An attempt with ``session_id`` is over."""
        place = self._places.get(session_id)
        if outcome.fate in (Fate.SENT, Fate.REJECTED):
            self.leave(session_id)
            self._answered(rejected=outcome.fate is Fate.REJECTED)
            return
        hold = outcome.hold
        if place is not None and hold and place.wins not in (-1, self._wins):
            hold = 0.0  # others got through since it asked for this session: it means this one alone
        if hold:
            self.hold_until = max(self.hold_until, now + hold)
        if probe:
            self._probed.add(session_id)
            self._back(session_id, now)
            self._pause(outcome.trouble, now)
            return
        if place is not None and outcome.hold:
            place.wins = self._wins
        if outcome.fate is Fate.FAILED:
            self.leave(session_id)
        else:
            due = now + outcome.delay + (_BEHIND if outcome.hold else 0.0)
            self._back(session_id, due, later=outcome.fate is Fate.LATER, asked=outcome.hold > 0)
        if outcome.fate is not Fate.AGAIN:
            self.trouble = outcome.trouble
            self._in_a_row += 1
            if not self.paused and (outcome.trouble is Trouble.UNAUTHORIZED or self._in_a_row >= IN_A_ROW):
                self._probe_wait = FIRST_PROBE
                self._pause(outcome.trouble, now)

    def leave(self, session_id: str) -> None:
        """It is here no more, whether an attempt ran or not."""
        place = self._places.pop(session_id, None)
        if place is not None and place.flying:
            self._flying -= 1

    def put_back(self, session_id: str, due: float, *, alone: bool = False) -> None:
        """The attempt was none: the session waits on, until ``due``; ``alone``: without company next time."""
        place = self._places.get(session_id)
        if place is not None:
            place.alone = place.alone or alone
        self._back(session_id, due)

    def landed(self) -> None:
        """A turn is over, whatever became of its sessions."""
        self._turns -= 1

    # Inside.

    def _line_up(self, session_id: str) -> None:
        place = self._places[session_id]
        heappush(self._waiting, (place.due, place.start, session_id))

    def _stands(self, entry: tuple[float, int, str]) -> bool:
        """Say whether an entry among those that wait still counts."""
        place = self._places.get(entry[2])
        return place is not None and not (place.flying or place.ready) and place.due == entry[0]

    def _is_ready(self, key: Key) -> bool:
        """Say whether an entry among those that are ready still counts."""
        place = self._places.get(key[1])
        return place is not None and place.ready

    def _promote(self, now: float) -> None:
        while self._waiting and self._waiting[0][0] <= now:
            entry = heappop(self._waiting)
            if self._stands(entry):
                place = self._places[entry[2]]
                place.ready, place.later, place.asked = True, False, False
                heappush(self._ready, (place.start, entry[2]))

    def _next(self) -> tuple[Key, ...]:
        """Take the oldest that are ready, as many as go together."""
        keys: list[Key] = []
        while self._ready and len(keys) < self.batch:
            key = self._ready[0]
            if self._is_ready(key):
                place = self._places[key[1]]
                if place.alone and keys:
                    break
                place.ready, place.flying = False, True
                keys.append(key)
                if place.alone:
                    heappop(self._ready)
                    break
            heappop(self._ready)
        return tuple(keys)

    def _fly(self, keys: tuple[Key, ...], *, probe: bool = False) -> Turn:
        self._turns += 1
        self._flying += len(keys)
        return Turn(keys, probe)

    def _probe(self, now: float) -> list[Turn]:
        """Choose one session to try with: not one that was used for it before, as long as there are others."""
        if self._turns or now < self.probe_at:
            return []
        passed: list[Key] = []
        batch, self.batch = self.batch, 1
        found: tuple[Key, ...] = ()
        while keys := self._next():
            if keys[0][1] not in self._probed:
                found = keys
                break
            passed += keys
        self.batch = batch
        if not found and passed:
            self._probed.clear()
            found, passed = (passed[0],), passed[1:]
        for key in passed:
            place = self._places[key[1]]
            place.ready, place.flying = True, False
            heappush(self._ready, key)
        return [self._fly(found, probe=True)] if found else []

    def _back(self, session_id: str, due: float, *, later: bool = False, asked: bool = False) -> None:
        place = self._places.get(session_id)
        if place is None:
            return
        if place.gone:
            self.leave(session_id)
            return
        if place.flying:
            place.flying = False
            self._flying -= 1
        place.due, place.later, place.asked = due, later, asked
        self._line_up(session_id)

    def _answered(self, *, rejected: bool) -> None:
        """The destination works."""
        self.rejected_in_a_row = self.rejected_in_a_row + 1 if rejected else 0
        self._in_a_row = 0
        self._wins += 1
        self._probe_wait = FIRST_PROBE
        self._probed.clear()
        self.paused = False
        self.trouble = Trouble.NONE

    def _pause(self, trouble: Trouble, now: float) -> None:
        if not self.paused:  # whoever waited for another attempt may as well be the one that tries
            for session_id, place in self._places.items():
                if not (place.flying or place.ready or place.asked) and place.due > now:
                    place.due, place.later = now, False
                    self._line_up(session_id)
        self.paused = True
        self.trouble = trouble
        self.probe_at = max(now + self._probe_wait, self.hold_until)
        self._probe_wait = min(2 * self._probe_wait, LONGEST_PROBE)

    def _tidy(self) -> None:
        """Forget the entries of those that have left."""
        self._ready = [key for key in set(self._ready) if self._is_ready(key)]
        self._waiting = [entry for entry in set(self._waiting) if self._stands(entry)]
        heapify(self._ready)
        heapify(self._waiting)
