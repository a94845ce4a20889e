"""The queue of one destination: which sessions are next, how many at once, and when to leave the destination alone.

Sans-IO: it holds ids, and is given the time (in seconds of a monotonic clock) instead of asking for it.

- The oldest session goes first; one that waits for its next attempt delays no other; none is in flight twice.
- What the destination asks for (``Retry-After``) is kept.
- Three sessions in a row whose cycle ended in a failure pause the destination, and so do refused credentials.  Then
  single sessions probe whether it is back, after 1 minute, doubling to 15.  A failed probe counts on the destination,
  not on its session.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from typing import Final, NamedTuple

from hl7core.engine.outbox.rules import Disposition, Failure, Outcome

__all__ = ["IN_A_ROW", "Batch", "DestinationQueue", "Key"]

Key = tuple[int, str]
"""The order of sessions in a queue: start in unix microseconds, then id."""

IN_A_ROW: Final = 3
FIRST_PROBE: Final = 60.0
LONGEST_PROBE: Final = 900.0
_BEHIND: Final = 1.0
"""How much longer than the others a session waits for which the destination asked to be left alone, in seconds."""


class Batch(NamedTuple):
    """The sessions of one attempt; ``probe``: it finds out whether a paused destination is back."""

    keys: tuple[Key, ...]
    probe: bool = False


class _Entry:
    """A session in the queue.

    ``due`` is the time of its next attempt, ``ready`` that this has come; ``in_flight`` while an attempt runs,
    ``dropped`` if it is not wanted any more after that.  ``next_cycle``: it waits for the next cycle.  ``held``: it
    waits because the destination asked for it; ``successes`` is the queue's count at that moment, -1 if it never asked.
    ``alone``: it is sent without others.  Its cycle ended at ``cycle_over`` (-1: it has had no attempt in this run),
    and the next one begins no earlier than at ``earliest``, whatever the interval.
    """

    __slots__ = (
        "alone", "cycle_over", "dropped", "due", "earliest", "held", "in_flight", "next_cycle", "ready", "start",
        "successes",
    )  # fmt: skip

    def __init__(self, start: int, due: float) -> None:
        self.start = start
        self.due = due
        self.cycle_over = self.earliest = -1.0
        self.ready = self.in_flight = self.dropped = self.next_cycle = self.alone = self.held = False
        self.successes = -1


class DestinationQueue:
    """The sessions that are still pending for one destination, as far as they are known.

    ``concurrency`` attempts may run at once, with ``batch_size`` sessions each.  ``failure`` is what is wrong with the
    destination, ``paused`` that it is only probed, at ``probe_at``; until ``hold_until`` it asked to be left alone.
    """

    def __init__(self, *, concurrency: int = 2, batch_size: int = 1) -> None:
        self.concurrency = concurrency
        self.batch_size = batch_size
        self.failure = Failure.NONE
        self.paused = False
        self.hold_until = 0.0
        self.probe_at = 0.0
        self.rejected_in_a_row = 0
        self._entries: dict[str, _Entry] = {}
        self._ready: list[Key] = []
        self._waiting: list[tuple[float, int, str]] = []
        self._attempts = 0
        self._in_flight = 0
        self._failed_in_a_row = 0
        self._successes = 0
        self._probe_wait = FIRST_PROBE
        self._probed: set[str] = set()

    def __len__(self) -> int:
        """How many sessions wait, without those in flight."""
        return len(self._entries) - self._in_flight

    def __contains__(self, session_id: object) -> bool:
        return session_id in self._entries

    @property
    def in_flight(self) -> int:
        """How many sessions are being submitted."""
        return self._in_flight

    @property
    def ready(self) -> int:
        """How many sessions are due (some may have been dropped since)."""
        return len(self._ready)

    def ids(self) -> list[str]:
        """Return the ids in the queue, with those in flight."""
        return list(self._entries)

    def reset(self) -> None:
        """Forget the destination's failures, pause and ``Retry-After``; the sessions stay.

        It was disabled and enabled again, and may be another one by now.
        """
        self._record_answer(rejected=False)
        self.hold_until = 0.0
        self.probe_at = 0.0

    # Which sessions are in the queue.

    def add(self, key: Key, due: float = 0.0) -> bool:
        """Add a session that is due at ``due``; return whether it is new here."""
        start, session_id = key
        entry = self._entries.get(session_id)
        if entry is not None:
            entry.dropped = False
            return False
        self._entries[session_id] = _Entry(start, due)
        self._schedule(session_id)
        return True

    def drop(self, ids: Iterable[str]) -> None:
        """Drop sessions; an attempt in flight goes on, but its session does not come back."""
        for session_id in ids:
            entry = self._entries.get(session_id)
            if entry is not None and entry.in_flight:
                entry.dropped = True
            else:
                self._entries.pop(session_id, None)
        if len(self._ready) + len(self._waiting) > 2 * len(self._entries) + 1000:
            self._remove_stale()

    def expedite(self, now: float, ids: Iterable[str] | None = None, *, probe: bool = True) -> None:
        """Make what waits for its next attempt due now, and probe a paused destination now.

        ``ids`` None: every session.  Without ``probe`` a pause goes on.  What the destination asked for is still kept.
        """
        if self.paused and probe:
            self.probe_at = min(self.probe_at, now)
        for session_id in list(self._entries if ids is None else ids):
            entry = self._entries.get(session_id)
            if entry is not None and not entry.in_flight and not entry.held and entry.due > now:
                entry.due = now
                entry.next_cycle = False
                self._schedule(session_id)

    def set_interval(self, seconds: float, now: float) -> None:
        """Wait ``seconds`` between two cycles from now on; what waits for its next cycle already follows."""
        for session_id, entry in self._entries.items():
            due = entry.due
            if entry.next_cycle:
                due = max(entry.cycle_over + seconds, entry.earliest)
            elif entry.cycle_over < 0:  # its next attempt was in the store, set by an earlier run
                due = min(entry.due, now + seconds)
            if due != entry.due and entry.due > now and not (entry.in_flight or entry.ready):
                entry.due = due
                self._schedule(session_id)

    # Which sessions are next.

    def next_batches(self, now: float) -> list[Batch]:
        """Return what to submit now, each batch in one attempt; it is in flight until ``attempt_over``."""
        self._promote(now)
        if now < self.hold_until:
            return []
        if self.paused:
            return self._next_probe(now)
        batches: list[Batch] = []
        while self._attempts < self.concurrency and (keys := self._claim_ready()):
            batches.append(self._launch(keys))
        return batches

    def wake_at(self) -> float | None:
        """Return when ``next_batches`` may have more, None if time alone does not change that."""
        if self._attempts >= (1 if self.paused else self.concurrency):
            return None
        while self._waiting and not self._is_waiting(self._waiting[0]):
            heappop(self._waiting)
        while self._ready and not self._is_ready(self._ready[0]):
            heappop(self._ready)
        if not (self._ready or self._waiting):
            return None
        due = 0.0 if self._ready else self._waiting[0][0]
        return max(due, self.hold_until, self.probe_at if self.paused else 0.0)

    def busy(self, now: float, patience: float) -> bool:
        """Return whether an attempt follows within ``patience`` seconds, the next cycle and later probes aside."""
        if self._in_flight:
            return True
        if self.paused:
            return bool(len(self)) and self.probe_at <= now and self.hold_until <= now
        if self.hold_until > now + patience:
            return False
        return any(not entry.next_cycle and entry.due <= now + patience for entry in self._entries.values())

    # How the attempts went.

    def record(self, session_id: str, outcome: Outcome, now: float, *, probe: bool = False) -> None:
        """Record the outcome of an attempt for ``session_id``."""
        entry = self._entries.get(session_id)
        if outcome.disposition in (Disposition.SENT, Disposition.REJECTED):
            self.remove(session_id)
            self._record_answer(rejected=outcome.disposition is Disposition.REJECTED)
            return
        hold = outcome.hold
        if entry is not None and hold and entry.successes not in (-1, self._successes):
            hold = 0.0  # others got through since it asked for this session: it means this one alone
        if hold:
            self.hold_until = max(self.hold_until, now + hold)
        if probe:
            self._probed.add(session_id)
            self._requeue(session_id, now)
            self._pause(outcome.failure, now)
            return
        if entry is not None and outcome.hold:
            entry.successes = self._successes
        if outcome.disposition is Disposition.FAILED:
            self.remove(session_id)
        else:
            due = now + outcome.delay + (_BEHIND if outcome.hold else 0.0)
            next_cycle = outcome.disposition is Disposition.NEXT_CYCLE
            if entry is not None:
                entry.cycle_over, entry.earliest = now, now + (outcome.hold + _BEHIND if outcome.hold else 0.0)
            self._requeue(session_id, due, next_cycle=next_cycle, held=outcome.hold > 0)
        if outcome.disposition is not Disposition.RETRY:
            self.failure = outcome.failure
            self._failed_in_a_row += 1
            if not self.paused and (outcome.failure is Failure.UNAUTHORIZED or self._failed_in_a_row >= IN_A_ROW):
                self._probe_wait = FIRST_PROBE
                self._pause(outcome.failure, now)

    def remove(self, session_id: str) -> None:
        """Remove a session, in flight or not."""
        entry = self._entries.pop(session_id, None)
        if entry is not None and entry.in_flight:
            self._in_flight -= 1

    def put_back(self, session_id: str, due: float, *, alone: bool = False) -> None:
        """Make a session due at ``due`` again, without counting an attempt; ``alone``: next time without others."""
        entry = self._entries.get(session_id)
        if entry is not None:
            entry.alone = entry.alone or alone
        self._requeue(session_id, due)

    def attempt_over(self) -> None:
        """One attempt is over, whatever became of its sessions."""
        self._attempts -= 1

    # Inside.

    def _schedule(self, session_id: str) -> None:
        entry = self._entries[session_id]
        heappush(self._waiting, (entry.due, entry.start, session_id))

    def _is_waiting(self, item: tuple[float, int, str]) -> bool:
        """Return whether an item of the heap of waiting sessions is still true."""
        entry = self._entries.get(item[2])
        return entry is not None and not (entry.in_flight or entry.ready) and entry.due == item[0]

    def _is_ready(self, key: Key) -> bool:
        """Return whether an item of the heap of due sessions is still true."""
        entry = self._entries.get(key[1])
        return entry is not None and entry.ready

    def _promote(self, now: float) -> None:
        """Move sessions that are due from the waiting heap to the ready heap."""
        while self._waiting and self._waiting[0][0] <= now:
            item = heappop(self._waiting)
            if self._is_waiting(item):
                entry = self._entries[item[2]]
                entry.ready, entry.next_cycle, entry.held = True, False, False
                heappush(self._ready, (entry.start, item[2]))

    def _claim_ready(self) -> tuple[Key, ...]:
        """Claim the oldest due sessions, as many as fit in one attempt."""
        keys: list[Key] = []
        while self._ready and len(keys) < self.batch_size:
            key = self._ready[0]
            if self._is_ready(key):
                entry = self._entries[key[1]]
                if entry.alone and keys:
                    break
                entry.ready, entry.in_flight = False, True
                keys.append(key)
                if entry.alone:
                    heappop(self._ready)
                    break
            heappop(self._ready)
        return tuple(keys)

    def _launch(self, keys: tuple[Key, ...], *, probe: bool = False) -> Batch:
        self._attempts += 1
        self._in_flight += len(keys)
        return Batch(keys, probe)

    def _next_probe(self, now: float) -> list[Batch]:
        """Choose one session to probe with: one that was not used for it before, as long as there is one."""
        if self._attempts or now < self.probe_at:
            return []
        passed: list[Key] = []
        batch_size, self.batch_size = self.batch_size, 1
        found: tuple[Key, ...] = ()
        while keys := self._claim_ready():
            if keys[0][1] not in self._probed:
                found = keys
                break
            passed += keys
        self.batch_size = batch_size
        if not found and passed:
            self._probed.clear()
            found, passed = (passed[0],), passed[1:]
        for key in passed:
            entry = self._entries[key[1]]
            entry.ready, entry.in_flight = True, False
            heappush(self._ready, key)
        return [self._launch(found, probe=True)] if found else []

    def _requeue(self, session_id: str, due: float, *, next_cycle: bool = False, held: bool = False) -> None:
        entry = self._entries.get(session_id)
        if entry is None:
            return
        if entry.dropped:
            self.remove(session_id)
            return
        if entry.in_flight:
            entry.in_flight = False
            self._in_flight -= 1
        entry.due, entry.next_cycle, entry.held = due, next_cycle, held
        self._schedule(session_id)

    def _record_answer(self, *, rejected: bool) -> None:
        """The destination answered: it works, even if it rejected the session."""
        self.rejected_in_a_row = self.rejected_in_a_row + 1 if rejected else 0
        self._failed_in_a_row = 0
        self._successes += 1
        self._probe_wait = FIRST_PROBE
        self._probed.clear()
        self.paused = False
        self.failure = Failure.NONE

    def _pause(self, failure: Failure, now: float) -> None:
        if not self.paused:  # a session that waits for another attempt may as well be the probe
            for session_id, entry in self._entries.items():
                if not (entry.in_flight or entry.ready or entry.held) and entry.due > now:
                    entry.due, entry.next_cycle = now, False
                    self._schedule(session_id)
        self.paused = True
        self.failure = failure
        self.probe_at = max(now + self._probe_wait, self.hold_until)
        self._probe_wait = min(2 * self._probe_wait, LONGEST_PROBE)

    def _remove_stale(self) -> None:
        """Remove the heap items of sessions that have left."""
        self._ready = [key for key in set(self._ready) if self._is_ready(key)]
        self._waiting = [item for item in set(self._waiting) if self._is_waiting(item)]
        heapify(self._ready)
        heapify(self._waiting)
