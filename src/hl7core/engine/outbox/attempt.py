"""One attempt: submits sessions as they are now, and records the result with them before it counts.

The deadline holds whatever the plugin does: a plugin that hangs is abandoned.  A session that is no longer pending when
the attempt starts is left alone.  An acknowledgement is kept until it could be recorded in the store.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple, Protocol

from hl7core.contract import DestinationSettings
from hl7core.engine.outbox.queue import Batch
from hl7core.engine.outbox.rules import Disposition, Failure, Outcome, after_attempt, delivery_of, open_at, outcome_of
from hl7core.errors import DestinationBroken, DestinationUnreachable, Hl7coreError, StoreError
from hl7core.model.delivery import Receipt
from hl7core.model.session import Session, SessionQuery
from hl7core.plugin_host.dispatch import Dispatch, NotInService

__all__ = ["AttemptResult", "Attempts", "Records"]

logger = logging.getLogger(__name__)

_GRACE: Final = 0.5
"""How many seconds after the plugin's own timeout an attempt is abandoned, so that the plugin's error comes first."""
_FIRST_WAIT: Final = 0.5
_LONGEST_WAIT: Final = 30.0


class Records(Protocol):
    """The stored sessions, as the outbox needs them.  The coroutines raise StoreError or EngineError."""

    @property
    def sound(self) -> bool:
        """Whether sessions can be saved now, so that a changed status is on disk at once."""

    async def load(self, query: SessionQuery) -> list[Session]:
        """Return the matching sessions as they are now."""

    async def change(self, ids: Sequence[str], how: Callable[[Session], Session]) -> list[str]:
        """Change sessions and have them saved; return the ids that were found.  If it raises, nothing has changed."""


class AttemptResult(NamedTuple):
    """What an attempt came to for one session; ``attempts`` is their number so far, ``at`` when this one ended.

    ``outcome`` None: no attempt was made; then ``requeue`` says whether the session stays in the queue, and ``alone``
    that it is sent without others next time.  With an outcome but no ``at`` it was a failed probe, which
    does not count on the session.
    """

    session_id: str
    outcome: Outcome | None = None
    attempts: int = 0
    at: datetime | None = None
    requeue: bool = False
    alone: bool = False


class Attempts:
    """Makes attempts.  ``cut`` ends those that are running; their sessions stay pending."""

    def __init__(self, dispatch: Dispatch, records: Records, now: Callable[[], datetime]) -> None:
        self._dispatch = dispatch
        self._records = records
        self._now = now
        self._cut: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._calls: set[asyncio.Task[Receipt | list[Receipt | Exception]]] = set()

    def cut(self) -> None:
        """Abandon the attempts that have no answer yet."""
        if not self._cut.done():
            self._cut.set_result(None)

    async def make(self, name: str, batch: Batch, settings: DestinationSettings) -> list[AttemptResult]:
        """Submit the sessions of ``batch`` to the destination ``name``; return the result for each."""
        ids = [session_id for _, session_id in batch.keys]
        try:
            found = await self._records.load(SessionQuery(ids=tuple(ids), limit=len(ids)))
        except Hl7coreError as error:
            logger.debug("sessions for %s cannot be loaded: %s", name, error)
            return [AttemptResult(session_id, requeue=True) for session_id in ids]
        sessions = [session for session in found if open_at(session, name) is not None]
        wanted = {session.id for session in sessions}
        results = [AttemptResult(session_id) for session_id in ids if session_id not in wanted]
        if sessions:
            results += await self._submit(name, sessions, settings, probe=batch.probe)
        return results

    async def _submit(
        self, name: str, sessions: list[Session], settings: DestinationSettings, *, probe: bool
    ) -> list[AttemptResult]:
        answers = await self._answers(name, sessions, settings)
        if answers is None or isinstance(answers[0], NotInService):
            return [AttemptResult(session.id, requeue=True) for session in sessions]
        known = dict(zip((session.id for session in sessions), answers, strict=True))
        if len(sessions) > 1 and isinstance(answers[0], Exception) and all(one is answers[0] for one in answers):
            whole = outcome_of(answers[0], 1, settings)
            if (
                whole.disposition is Disposition.REJECTED or whole.failure is Failure.BROKEN
            ):  # one of them may be to blame
                return [AttemptResult(session.id, requeue=True, alone=True) for session in sessions]
        if probe:
            outcome = outcome_of(answers[0], 1, settings)
            if outcome.disposition not in (Disposition.SENT, Disposition.REJECTED):
                return [AttemptResult(sessions[0].id, outcome)]
        return await self._record(name, known, settings)

    async def _answers(
        self, name: str, sessions: list[Session], settings: DestinationSettings
    ) -> Sequence[Receipt | Exception] | None:
        """Return the destination's answer for each session, or None if the attempt was cut."""
        call: asyncio.Task[Receipt | list[Receipt | Exception]] = asyncio.create_task(
            self._dispatch.submit_many(name, sessions)
            if len(sessions) > 1
            else self._dispatch.submit(name, sessions[0])
        )
        self._calls.add(call)
        call.add_done_callback(self._call_done)
        until: set[asyncio.Future[Any]] = {call, self._cut}
        await asyncio.wait(until, timeout=settings.timeout + _GRACE, return_when=asyncio.FIRST_COMPLETED)
        failure: Exception
        if not call.done():
            call.cancel()
            if self._cut.done():
                return None
            failure = DestinationUnreachable(f"no answer within {settings.timeout:g} seconds")
        elif call.cancelled():
            failure = DestinationBroken("the plugin cancelled its own call")
        else:
            error = call.exception()
            if error is None:
                result = call.result()
                return [result] if isinstance(result, Receipt) else result
            if not isinstance(error, Exception):
                raise error
            failure = error
        return [failure] * len(sessions)

    def _call_done(self, call: asyncio.Task[Receipt | list[Receipt | Exception]]) -> None:
        self._calls.discard(call)
        if not call.cancelled():
            call.exception()  # retrieved, so that asyncio does not log one that came after the deadline

    async def _record(
        self, name: str, answers: dict[str, Receipt | Exception], settings: DestinationSettings
    ) -> list[AttemptResult]:
        """Record what the destination answered, however long the store takes."""
        at = self._now()
        results: dict[str, AttemptResult] = {}

        def note(session: Session) -> Session:
            changed, outcome = after_attempt(session, name, answers[session.id], settings, at)
            delivery = delivery_of(changed, name)
            results[session.id] = AttemptResult(session.id, outcome, delivery.attempts if delivery else 0, at)
            return changed

        wait = _FIRST_WAIT
        while True:
            try:
                await self._records.change(list(answers), note)
                break
            except StoreError as error:
                logger.debug("the answer of %s cannot be recorded yet: %s", name, error)
                await asyncio.sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT)
        return [results.get(session_id, AttemptResult(session_id)) for session_id in answers]
