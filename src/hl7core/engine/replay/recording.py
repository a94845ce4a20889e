"""The sessions of a replay, on their way to the ledger: what is stored already is counted and goes no further.

It waits on the replay's own decoder thread, for the stores' answer and for room in memory, so that a replay never takes
the place that live sessions need.  What the ledger has taken is followed until it is saved.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from threading import Event as Flag
from threading import Lock
from typing import Final

from hl7core.engine.parts import Parts
from hl7core.engine.session_state import size_of
from hl7core.errors import EngineError, StoreError
from hl7core.guard import reason_of
from hl7core.model.session import Session, SessionQuery

__all__ = ["Recording"]

_SOME: Final = 100
"""How many sessions at most are looked up and added at once."""
_ROOM: Final = 0.1
"""The share of what may wait to be saved up to which a replay adds, and how much at once; the rest is for live ones."""
_POLL: Final = 0.02
_ASK_AGAIN: Final = 0.5
_QUIET: Final = 2.0
"""For how many seconds a store may save nothing before that is worth telling."""


class Recording:
    """Takes the decoded sessions with ``add``; ``stopped`` ends every wait.

    The counts are those of :class:`hl7core.ReplayReport`; ``detail`` says what it waits for, "" if it does not.
    """

    def __init__(self, parts: Parts, stopped: Flag) -> None:
        self._parts = parts
        self._stopped = stopped
        self._lock = Lock()
        self._pending: dict[str, bool] = {}  # ids that wait to be saved; whether the save is to be counted
        self._closed = False
        self.detail = ""
        self.sessions = 0
        self.saved = 0
        self.known = 0
        self.lost = 0
        self.unsaved = 0
        self.dropped = 0

    @property
    def waiting(self) -> int:
        """How many sessions wait to be saved."""
        return len(self._pending)

    def close(self) -> None:
        """Sessions that end from now on do so because the replay was stopped: count them, and keep none."""
        self._closed = True

    def add(self, sessions: Sequence[Session]) -> None:
        """Record sessions that ended (called on the replay's decoder thread)."""
        core = self._parts.in_force().core
        count, room = min(_SOME, max(1, int(core.unsaved_sessions * _ROOM))), int(core.memory_bytes * _ROOM)
        some: list[Session] = []
        size = 0
        for session in sessions:
            size += size_of(session)
            if some and (len(some) >= count or size > room):
                self._add(some)
                some, size = [], size_of(session)
            some.append(session)
        if some:
            self._add(some)

    def _add(self, sessions: Sequence[Session]) -> None:
        if self._closed or not self._wait_for_room():
            self.dropped += sum(not session.revision for session in sessions)
            return
        held = self._held(tuple({session.id: None for session in sessions}))
        fresh = []
        for session in sessions:
            self.sessions += not session.revision
            there = held.get(session.id)
            if there is None or (session.revision and len(session.elements) > len(there.elements)):
                fresh.append(session)
            elif not session.revision:
                self.known += 1
        news = self._parts.ledger.add(fresh)
        added = {session.id for session in news}
        ended = [session.id for session in fresh if not session.revision]
        first = added.intersection(ended)
        self.known += len(ended) - len(first)
        if self._parts.in_force().core.enable_persistence:
            with self._lock:
                for session_id in added:
                    self._pending[session_id] = self._pending.get(session_id, False) or session_id in first
        else:
            self.unsaved += len(first)
        self._parts.news.sessions(news)
        self._parts.keeper.wake()

    def _wait_for_room(self) -> bool:
        """Wait until there is room in memory; return false if the replay was stopped before there was."""
        parts = self._parts
        saved_at = time.monotonic()
        while True:
            if self.count_saved():
                saved_at = time.monotonic()
            if parts.keeper.down:
                self.detail = self.reason() or "the store does not save"
            elif parts.ledger.filled >= _ROOM and parts.in_force().core.enable_persistence:
                self.detail = "the store saves nothing" if time.monotonic() - saved_at > _QUIET else ""
            else:
                self.detail = ""
                return True
            if self._stopped.wait(_POLL):
                return False

    def _held(self, ids: tuple[str, ...]) -> dict[str, Session]:
        """Return those of ``ids`` that a store or memory holds; wait while the stores do not answer."""
        query = SessionQuery(ids=ids, limit=len(ids))
        while True:
            future = self._parts.keeper.submit(lambda: self._parts.stores.load(query), gives_way=True)
            try:
                held = self._answer(future)
            except StoreError as error:
                if self._stopped.wait(_ASK_AGAIN):
                    return {}  # a save still leaves what is stored as it is
                self.detail = f"the stored sessions cannot be read: {reason_of(error)}"
                continue
            except EngineError:  # the engine has stopped
                return {}
            self.detail = ""
            return {session.id: session for session in held}

    def _answer(self, future: Future[list[Session]]) -> list[Session]:
        """Wait for the answer; once the replay is stopped, only for a moment."""
        while True:
            stopped = self._stopped.is_set()
            try:
                return future.result(_ASK_AGAIN)
            except TimeoutError:
                if future.done():
                    raise
            self.detail = "the store does not answer yet"
            if stopped:
                future.cancel()
                return []

    def count_saved(self) -> bool:
        """Count what was saved since the last call; return whether that was anything.  Called from any thread."""
        ledger = self._parts.ledger
        with self._lock:
            done = self._pending.keys() - ledger.waiting(self._pending)
            lost = ledger.lost_among(done)
            for session_id in done:
                if self._pending.pop(session_id):
                    self.lost += session_id in lost
                    self.saved += session_id not in lost
        return bool(done)

    def reason(self) -> str:
        """Return why sessions are not saved now, as the engine's notices have it; "" if they do not say."""
        notices = dict(self._parts.news.notices)
        return next((notices[key] for key in ("store", "refused", "persistence") if key in notices), "")
