"""One attempt: the sessions as they are now are handed over, and what came of it is written down before it counts.

The law: a deadline holds whatever the plugin does; a plugin that hangs is abandoned, never waited for.  A session that
is no longer pending when its turn comes is left alone.  Once a destination has acknowledged a session, that is kept
until it could be written down.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple, Protocol

from hl7core.contract import DestinationSettings
from hl7core.engine.outbox.queue import Turn
from hl7core.engine.outbox.rules import Fate, Outcome, Trouble, after_attempt, delivery_of, open_at, outcome_of
from hl7core.errors import DestinationBroken, DestinationUnreachable, Hl7coreError, StoreError
from hl7core.model.delivery import Receipt
from hl7core.model.session import Session, SessionQuery
from hl7core.plugin_host.dispatch import Dispatch, NotInService

__all__ = ["Attempts", "Ended", "Records"]

logger = logging.getLogger(__name__)

_GRACE: Final = 0.5
"""So much later than the settings say an attempt is given up, so that the plugin's own word comes first."""
_FIRST_WAIT: Final = 0.5
_LONGEST_WAIT: Final = 30.0


class Records(Protocol):
    """Where the sessions are, as far as the outbox is concerned.  The coroutines raise StoreError or EngineError."""

    @property
    def sound(self) -> bool:
        """Whether sessions are saved now, so that whatever changes of them is on disk at once."""

    async def load(self, query: SessionQuery) -> list[Session]:
        """Return the sessions that fit, as they stand now."""

    async def change(self, ids: Sequence[str], how: Callable[[Session], Session]) -> list[str]:
        """Change sessions and have them saved; return the ids that were found.  If it raises, nothing is changed."""


class Ended(NamedTuple):
    """What an attempt came to for one session.

    ``outcome`` None: it was no attempt; then ``back`` says whether the session waits on, and ``alone`` that it goes
    without company next time.
    """

    session_id: str
    outcome: Outcome | None = None
    attempts: int = 0
    at: datetime | None = None
    back: bool = False
    alone: bool = False


class Attempts:
    """Makes attempts.  ``cut`` ends those that run; what they would have brought about stays undone."""

    def __init__(self, dispatch: Dispatch, records: Records, now: Callable[[], datetime]) -> None:
        self._dispatch = dispatch
        self._records = records
        self._now = now
        self._cut: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asking: set[asyncio.Task[Receipt | list[Receipt | Exception]]] = set()

    def cut(self) -> None:
        """Give up what is not answered yet."""
        if not self._cut.done():
            self._cut.set_result(None)

    async def make(self, name: str, turn: Turn, settings: DestinationSettings) -> list[Ended]:
        """Hand the sessions of ``turn`` to the destination ``name``; return what it came to for each."""
        ids = [session_id for _, session_id in turn.keys]
        try:
            found = await self._records.load(SessionQuery(ids=tuple(ids), limit=len(ids)))
        except Hl7coreError as error:
            logger.debug("sessions for %s cannot be loaded: %s", name, error)
            return [Ended(session_id, back=True) for session_id in ids]
        sessions = [session for session in found if open_at(session, name) is not None]
        wanted = {session.id for session in sessions}
        ended = [Ended(session_id) for session_id in ids if session_id not in wanted]
        if sessions:
            ended += await self._handed(name, sessions, settings, probe=turn.probe)
        return ended

    async def _handed(
        self, name: str, sessions: list[Session], settings: DestinationSettings, *, probe: bool
    ) -> list[Ended]:
        answers = await self._answers(name, sessions, settings)
        if answers is None or isinstance(answers[0], NotInService):
            return [Ended(session.id, back=True) for session in sessions]
        known = dict(zip((session.id for session in sessions), answers, strict=True))
        if len(sessions) > 1 and isinstance(answers[0], Exception) and all(one is answers[0] for one in answers):
            whole = outcome_of(answers[0], 1, settings)
            if whole.fate is Fate.REJECTED or whole.trouble is Trouble.BROKEN:  # one of them may be to blame
                return [Ended(session.id, back=True, alone=True) for session in sessions]
        if probe:
            outcome = outcome_of(answers[0], 1, settings)
            if outcome.fate not in (Fate.SENT, Fate.REJECTED):
                return [Ended(sessions[0].id, outcome)]
        return await self._written(name, known, settings)

    async def _answers(
        self, name: str, sessions: list[Session], settings: DestinationSettings
    ) -> Sequence[Receipt | Exception] | None:
        """Return what the destination answers, an entry a session, or None if the attempt was cut."""
        asking: asyncio.Task[Receipt | list[Receipt | Exception]] = asyncio.create_task(
            self._dispatch.submit_many(name, sessions)
            if len(sessions) > 1
            else self._dispatch.submit(name, sessions[0])
        )
        self._asking.add(asking)
        asking.add_done_callback(self._asked)
        until: set[asyncio.Future[Any]] = {asking, self._cut}
        await asyncio.wait(until, timeout=settings.timeout + _GRACE, return_when=asyncio.FIRST_COMPLETED)
        failure: Exception
        if not asking.done():
            asking.cancel()
            if self._cut.done():
                return None
            failure = DestinationUnreachable(f"no answer within {settings.timeout:g} seconds")
        elif asking.cancelled():
            failure = DestinationBroken("the plugin gave up by itself")
        else:
            error = asking.exception()
            if error is None:
                result = asking.result()
                return [result] if isinstance(result, Receipt) else result
            if not isinstance(error, Exception):
                raise error
            failure = error
        return [failure] * len(sessions)

    def _asked(self, asking: asyncio.Task[Receipt | list[Receipt | Exception]]) -> None:
        self._asking.discard(asking)
        if not asking.cancelled():
            asking.exception()  # looked at, so that nobody complains of one that came after the deadline

    async def _written(
        self, name: str, answers: dict[str, Receipt | Exception], settings: DestinationSettings
    ) -> list[Ended]:
        """Write down what the destination answered, however long the store takes."""
        at = self._now()
        ended: dict[str, Ended] = {}

        def note(session: Session) -> Session:
            changed, outcome = after_attempt(session, name, answers[session.id], settings, at)
            delivery = delivery_of(changed, name)
            ended[session.id] = Ended(session.id, outcome, delivery.attempts if delivery else 0, at)
            return changed

        wait = _FIRST_WAIT
        while True:
            try:
                await self._records.change(list(answers), note)
                break
            except StoreError as error:
                logger.debug("what %s answered cannot be written down yet: %s", name, error)
                await asyncio.sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT)
        return [ended.get(session_id, Ended(session_id)) for session_id in answers]
