"""What becomes of a session after an attempt.  Values in, values out: no clock, no queue.

The law: a session is submitted only if the destination said so.  What the network or a busy destination does never
makes a session failed; what the destination does at its own fault does, with the last attempt of a cycle; what it says
of the session does at once.  Where a session stands in its cycle follows from the attempts that are stored with it, so
a restart goes on where it stopped.
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

__all__ = ["LONGEST_PAUSE", "Fate", "Outcome", "Trouble", "after_attempt", "delivery_of", "open_at", "outcome_of"]

LONGEST_DELAY: Final = 900.0
"""The longest wait between two attempts of a cycle, in seconds."""
LONGEST_PAUSE: Final = 3600.0
"""So long at most a destination is left alone because it asked for it, in seconds."""
_LONGEST_ERROR: Final = 300


class Fate(StrEnum):
    """What becomes of the session."""

    SENT = "sent"
    REJECTED = "rejected"
    """The destination will not have it; it answers, though."""
    AGAIN = "again"
    """It gets another attempt in this cycle."""
    LATER = "later"
    """It stays pending for the next cycle."""
    FAILED = "failed"


class Trouble(StrEnum):
    """What is the matter with a destination."""

    NONE = ""
    UNREACHABLE = "cannot be reached"
    BUSY = "is busy"
    BROKEN = "fails"
    UNAUTHORIZED = "refuses our credentials"


class Outcome(NamedTuple):
    """How an attempt ended: for the session, and what it says of the destination.

    ``delay`` is how many seconds to wait before the next attempt; ``hold`` how long the destination asked to be left
    alone, 0 if it did not.
    """

    fate: Fate
    trouble: Trouble = Trouble.NONE
    error: str = ""
    delay: float = 0.0
    hold: float = 0.0


def delivery_of(session: Session, name: str) -> Delivery | None:
    """Return how far ``session`` has come at the destination ``name``, None if it is not meant for it."""
    return next((delivery for delivery in session.deliveries if delivery.name == name), None)


def open_at(session: Session, name: str) -> Delivery | None:
    """Return the Delivery of a stored session that the destination ``name`` has still to get, else None."""
    if session.ignored or session.first_saved_at is None:
        return None
    delivery = delivery_of(session, name)
    return delivery if delivery is not None and delivery.status is DeliveryStatus.PENDING else None


def outcome_of(answer: Receipt | Exception, attempts: int, settings: DestinationSettings) -> Outcome:
    """Say what follows from ``answer`` to the attempt with that number (from 1, counted over all cycles)."""
    if isinstance(answer, Receipt):
        return Outcome(Fate.SENT)
    error = _text_of(answer)
    if isinstance(answer, SessionRejected):
        return Outcome(Fate.REJECTED, error=error)
    trouble = _trouble_of(answer)
    asked = answer.retry_after if isinstance(answer, SubmitError) else None
    hold = min(max(0.0, asked), LONGEST_PAUSE) if asked is not None else 0.0
    if trouble is Trouble.UNAUTHORIZED:
        return Outcome(Fate.FAILED, trouble, error, hold=hold)
    done = (attempts - 1) % settings.max_retries + 1
    if done < settings.max_retries:
        return Outcome(Fate.AGAIN, trouble, error, max(min(2.0 ** (done - 1), LONGEST_DELAY), hold), hold)
    if trouble is Trouble.BROKEN:
        return Outcome(Fate.FAILED, trouble, error, hold=hold)
    return Outcome(Fate.LATER, trouble, error, max(settings.interval_minutes * 60.0, hold), hold)


def after_attempt(
    session: Session, name: str, answer: Receipt | Exception, settings: DestinationSettings, now: datetime
) -> tuple[Session, Outcome]:
    """Return ``session`` with the attempt that ended at ``now`` written down, and how it ended.

    Taken is the session as it stands at the end of the attempt: a retry that a person asked for meanwhile starts the
    count anew, and an ignored session stays out of the way unless it was acknowledged.
    """
    delivery = delivery_of(session, name) or Delivery(name)
    attempts = delivery.attempts + 1
    outcome = outcome_of(answer, attempts, settings)
    if outcome.fate is Fate.SENT:
        made = Delivery(name, DeliveryStatus.SUBMITTED, attempts, submitted_at=now)
    elif delivery.status is not DeliveryStatus.PENDING:
        return session, outcome  # another attempt of the same session was quicker
    elif outcome.fate in (Fate.FAILED, Fate.REJECTED) and not session.ignored:
        made = Delivery(name, DeliveryStatus.FAILED, attempts, error=outcome.error)
    else:
        next_at = now + timedelta(seconds=outcome.delay)
        made = Delivery(name, DeliveryStatus.PENDING, attempts, next_at, error=outcome.error)
    others = (one if one.name != name else made for one in session.deliveries)
    return session._replace(deliveries=tuple(others)), outcome


def _trouble_of(answer: Exception) -> Trouble:
    if isinstance(answer, DestinationUnreachable):
        return Trouble.UNREACHABLE
    if isinstance(answer, DestinationBusy):
        return Trouble.BUSY
    if isinstance(answer, DestinationUnauthorized):
        return Trouble.UNAUTHORIZED
    return Trouble.BROKEN


def _text_of(answer: Exception) -> str:
    """Say what went wrong, in one line; a foreign exception's text may hold message content, so its kind alone."""
    text = (str(answer) or type(answer).__name__) if isinstance(answer, SubmitError) else describe(answer)
    return "".join(letter if letter.isprintable() else " " for letter in text[:_LONGEST_ERROR])
