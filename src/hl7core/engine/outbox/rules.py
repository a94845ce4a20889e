"""What becomes of a session after an attempt.  Values in, values out: no clock, no queue.

- A session is submitted only if the destination acknowledged it.
- A network error or a busy destination never makes a session failed; it stays pending.
- A fault of the destination makes it failed at the last attempt of a cycle; a rejection of the session, at once.

The position in a cycle follows from the attempts stored with the session, so a restart continues where it stopped.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple

from hl7core.contract import DestinationSettings
from hl7core.errors import (
    DestinationBusy,
    DestinationUnauthorized,
    DestinationUnreachable,
    SessionRejected,
    SubmitError,
)
from hl7core.guard import describe
from hl7core.model.delivery import Delivery, DeliveryStatus, Receipt
from hl7core.model.session import Session

__all__ = [
    "LONGEST_PAUSE",
    "Disposition",
    "Failure",
    "Outcome",
    "after_attempt",
    "delivery_of",
    "open_at",
    "outcome_of",
]

LONGEST_DELAY: Final = 900.0
"""The longest wait between two attempts of a cycle, in seconds."""
LONGEST_PAUSE: Final = 3600.0
"""The longest ``Retry-After`` that is kept, in seconds."""
_LONGEST_ERROR: Final = 300


class Disposition(StrEnum):
    """What becomes of the session."""

    SENT = "sent"
    REJECTED = "rejected"
    """The destination works, but does not accept this session."""
    RETRY = "retry"
    """It gets another attempt in this cycle."""
    NEXT_CYCLE = "next cycle"
    """It stays pending until the next cycle."""
    FAILED = "failed"


class Failure(StrEnum):
    """What is wrong with a destination."""

    NONE = ""
    UNREACHABLE = "cannot be reached"
    BUSY = "is busy"
    BROKEN = "fails"
    UNAUTHORIZED = "refuses our credentials"


class Outcome(NamedTuple):
    """How an attempt ended for the session, and what it says about the destination.

    ``delay`` is how many seconds to wait before the next attempt; ``hold`` for how many the destination asked to be
    left alone, 0 if it did not.
    """

    disposition: Disposition
    failure: Failure = Failure.NONE
    error: str = ""
    delay: float = 0.0
    hold: float = 0.0


def delivery_of(session: Session, name: str) -> Delivery | None:
    """Return the Delivery of ``session`` for the destination ``name``, None if there is none."""
    return next((delivery for delivery in session.deliveries if delivery.name == name), None)


def open_at(session: Session, name: str) -> Delivery | None:
    """Return the Delivery of ``session`` if it is stored and still pending for the destination ``name``, else None."""
    if session.ignored or session.first_saved_at is None:
        return None
    delivery = delivery_of(session, name)
    return delivery if delivery is not None and delivery.status is DeliveryStatus.PENDING else None


def outcome_of(answer: Receipt | Exception, attempts: int, settings: DestinationSettings) -> Outcome:
    """Return what follows from ``answer`` to the attempt number ``attempts`` (from 1, counted over all cycles)."""
    if isinstance(answer, Receipt):
        return Outcome(Disposition.SENT)
    error = _text_of(answer)
    if isinstance(answer, SessionRejected):
        return Outcome(Disposition.REJECTED, error=error)
    failure = _failure_of(answer)
    asked = answer.retry_after if isinstance(answer, SubmitError) else None
    hold = min(max(0.0, asked), LONGEST_PAUSE) if asked is not None else 0.0
    if failure is Failure.UNAUTHORIZED:
        return Outcome(Disposition.FAILED, failure, error, hold=hold)
    done = (attempts - 1) % settings.max_retries + 1
    if done < settings.max_retries:
        return Outcome(Disposition.RETRY, failure, error, max(min(2.0 ** (done - 1), LONGEST_DELAY), hold), hold)
    if failure is Failure.BROKEN:
        return Outcome(Disposition.FAILED, failure, error, hold=hold)
    return Outcome(Disposition.NEXT_CYCLE, failure, error, max(settings.interval_minutes * 60.0, hold), hold)


def after_attempt(
    session: Session, name: str, answer: Receipt | Exception, settings: DestinationSettings, now: datetime
) -> tuple[Session, Outcome]:
    """Return ``session`` with the attempt that ended at ``now`` recorded in its Delivery, and how it ended.

    ``session`` is as it is at the end of the attempt: a retry that a person asked for meanwhile has started the count
    anew, and an ignored session changes only if it was acknowledged.
    """
    delivery = delivery_of(session, name) or Delivery(name)
    attempts = delivery.attempts + 1
    outcome = outcome_of(answer, attempts, settings)
    if outcome.disposition is Disposition.SENT:
        made = Delivery(name, DeliveryStatus.SUBMITTED, attempts, submitted_at=now)
    elif delivery.status is not DeliveryStatus.PENDING:
        return session, outcome  # another attempt for the same session ended first
    elif outcome.disposition in (Disposition.FAILED, Disposition.REJECTED) and not session.ignored:
        made = Delivery(name, DeliveryStatus.FAILED, attempts, error=outcome.error)
    else:
        next_at = now + timedelta(seconds=outcome.delay)
        made = Delivery(name, DeliveryStatus.PENDING, attempts, next_at, error=outcome.error)
    others = (one if one.name != name else made for one in session.deliveries)
    return session._replace(deliveries=tuple(others)), outcome


def _failure_of(answer: Exception) -> Failure:
    if isinstance(answer, DestinationUnreachable):
        return Failure.UNREACHABLE
    if isinstance(answer, DestinationBusy):
        return Failure.BUSY
    if isinstance(answer, DestinationUnauthorized):
        return Failure.UNAUTHORIZED
    return Failure.BROKEN


def _text_of(answer: Exception) -> str:
    """Return what went wrong, in one line; a foreign exception may hold message content, so only its class is named."""
    text = (str(answer) or type(answer).__name__) if isinstance(answer, SubmitError) else describe(answer)
    return "".join(letter if letter.isprintable() else " " for letter in text[:_LONGEST_ERROR])
