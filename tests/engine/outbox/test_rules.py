"""What an answer makes of a session: one row an answer."""

from datetime import UTC, datetime, timedelta

import pytest

from engine.parts import session
from hl7core.contract import DestinationSettings
from hl7core.engine.outbox.rules import Disposition, Failure, after_attempt, delivery_of, open_at, outcome_of
from hl7core.engine.session_state import ignore, retry
from hl7core.errors import (
    DestinationBroken,
    DestinationBusy,
    DestinationUnauthorized,
    DestinationUnreachable,
    PluginError,
    SessionRejected,
    SubmitError,
)
from hl7core.model.delivery import Delivery, DeliveryStatus, Receipt

NOW = datetime(2026, 3, 1, tzinfo=UTC)
THREE = DestinationSettings(max_retries=3, interval_minutes=5)
FIVE = DestinationSettings(max_retries=5, interval_minutes=5)

SENT, REJECTED, AGAIN, LATER, FAILED = (
    Disposition.SENT,
    Disposition.REJECTED,
    Disposition.RETRY,
    Disposition.NEXT_CYCLE,
    Disposition.FAILED,
)
OK = Receipt("42")
REFUSED = DestinationUnreachable("connection refused")
BUSY = DestinationBusy("HTTP 429")
BROKEN = DestinationBroken("HTTP 503")
UNAUTHORIZED = DestinationUnauthorized("HTTP 401")


@pytest.mark.parametrize(
    ("answer", "attempt", "settings", "fate", "delay", "hold"),
    [
        (OK, 1, THREE, SENT, 0, 0),
        (OK, 7, THREE, SENT, 0, 0),
        # The network: never failed, counted, and for the next cycle after the last attempt of this one.
        (REFUSED, 1, THREE, AGAIN, 1, 0),
        (REFUSED, 2, THREE, AGAIN, 2, 0),
        (REFUSED, 3, THREE, LATER, 300, 0),
        (REFUSED, 4, THREE, AGAIN, 1, 0),
        (REFUSED, 6, THREE, LATER, 300, 0),
        (REFUSED, 300, THREE, LATER, 300, 0),
        (REFUSED, 3, FIVE, AGAIN, 4, 0),
        (REFUSED, 4, FIVE, AGAIN, 8, 0),
        (REFUSED, 5, FIVE, LATER, 300, 0),
        (REFUSED, 1, DestinationSettings(max_retries=1), LATER, 300, 0),
        (REFUSED, 19, DestinationSettings(max_retries=20), AGAIN, 900, 0),
        # Busy: never failed, and what it asks for is kept, an hour at most.
        (BUSY, 1, THREE, AGAIN, 1, 0),
        (BUSY, 3, THREE, LATER, 300, 0),
        (DestinationBusy("HTTP 429", retry_after=30), 1, THREE, AGAIN, 30, 30),
        (DestinationBusy("HTTP 429", retry_after=30), 3, THREE, LATER, 300, 30),
        (DestinationBusy("HTTP 429", retry_after=600), 3, THREE, LATER, 600, 600),
        (DestinationBusy("HTTP 429", retry_after=86_400), 1, THREE, AGAIN, 3600, 3600),
        (DestinationBusy("HTTP 429", retry_after=0), 1, THREE, AGAIN, 1, 0),
        (DestinationBusy("HTTP 429", retry_after=-5), 1, THREE, AGAIN, 1, 0),
        # Its own fault: failed with the last attempt of a cycle.
        (BROKEN, 1, THREE, AGAIN, 1, 0),
        (BROKEN, 2, THREE, AGAIN, 2, 0),
        (BROKEN, 3, THREE, FAILED, 0, 0),
        (BROKEN, 6, THREE, FAILED, 0, 0),
        (BROKEN, 1, DestinationSettings(max_retries=1), FAILED, 0, 0),
        (DestinationBroken("HTTP 503", retry_after=120), 1, THREE, AGAIN, 120, 120),
        (DestinationBroken("HTTP 503", retry_after=120), 3, THREE, FAILED, 0, 120),
        # What is no word of ours counts as its own fault.
        (SubmitError("something"), 1, THREE, AGAIN, 1, 0),
        (ValueError("canary"), 1, THREE, AGAIN, 1, 0),
        (ValueError("canary"), 3, THREE, FAILED, 0, 0),
        (PluginError("dest: submit_session must return a Receipt"), 3, THREE, FAILED, 0, 0),
        (TimeoutError(), 3, THREE, FAILED, 0, 0),
        # The session itself, or we, are refused: at once.
        (SessionRejected("HTTP 422"), 1, THREE, REJECTED, 0, 0),
        (SessionRejected("HTTP 302"), 3, THREE, REJECTED, 0, 0),
        (UNAUTHORIZED, 1, THREE, FAILED, 0, 0),
    ],
)
def test_an_answer_decides_what_becomes_of_the_session(answer, attempt, settings, fate, delay, hold):
    outcome = outcome_of(answer, attempt, settings)
    assert (outcome.disposition, outcome.delay, outcome.hold) == (fate, delay, hold)
    assert "canary" not in outcome.error


@pytest.mark.parametrize(
    ("answer", "trouble"),
    [
        (REFUSED, Failure.UNREACHABLE),
        (BUSY, Failure.BUSY),
        (BROKEN, Failure.BROKEN),
        (UNAUTHORIZED, Failure.UNAUTHORIZED),
        (ValueError(), Failure.BROKEN),
        (SessionRejected("HTTP 400"), Failure.NONE),
        (OK, Failure.NONE),
    ],
)
def test_an_answer_says_what_is_the_matter_with_the_destination(answer, trouble):
    assert outcome_of(answer, 1, THREE).failure is trouble


def pending(**changes):
    return session()._replace(first_saved_at=NOW, deliveries=(Delivery("other"), Delivery("dest", **changes)))


def test_an_acknowledged_session_is_submitted_and_says_when():
    changed, _ = after_attempt(pending(attempts=1, error="HTTP 503"), "dest", OK, THREE, NOW)
    assert delivery_of(changed, "dest") == Delivery("dest", DeliveryStatus.SUBMITTED, 2, submitted_at=NOW)


def test_the_attempt_its_error_and_the_next_try_stand_with_the_session():
    changed, _ = after_attempt(pending(attempts=1), "dest", REFUSED, THREE, NOW)
    assert delivery_of(changed, "dest") == Delivery(
        "dest", attempts=2, next_at=NOW + timedelta(seconds=2), error="connection refused"
    )


def test_another_destination_of_the_session_is_left_alone():
    changed, _ = after_attempt(pending(), "dest", OK, THREE, NOW)
    assert delivery_of(changed, "other") == Delivery("other")
    assert changed.status is DeliveryStatus.PENDING


def test_an_error_is_one_line_that_does_not_go_on_for_ever():
    outcome = outcome_of(DestinationBroken("HTTP 500\r\nX: " + "y" * 5000), 1, THREE)
    assert len(outcome.error) == 300
    assert outcome.error.isprintable()


def test_a_session_that_was_ignored_meanwhile_does_not_fail_but_keeps_an_acknowledgement():
    ignored = ignore(pending(attempts=2))
    failed, _ = after_attempt(ignored, "dest", BROKEN, THREE, NOW)
    assert delivery_of(failed, "dest").status is DeliveryStatus.PENDING
    assert failed.status is DeliveryStatus.IGNORED
    sent, _ = after_attempt(ignored, "dest", OK, THREE, NOW)
    assert delivery_of(sent, "dest").status is DeliveryStatus.SUBMITTED


def test_a_retry_that_was_asked_for_meanwhile_starts_the_count_anew():
    changed, outcome = after_attempt(retry(pending(attempts=2)), "dest", BROKEN, THREE, NOW)
    assert delivery_of(changed, "dest").attempts == 1
    assert outcome.disposition is AGAIN


def test_what_is_submitted_already_is_not_undone_by_a_slower_attempt():
    done, _ = after_attempt(pending(), "dest", OK, THREE, NOW)
    again, _ = after_attempt(done, "dest", BROKEN, THREE, NOW)
    assert again == done


@pytest.mark.parametrize(
    ("changed", "open_"),
    [
        (pending(), True),
        (pending(attempts=7), True),
        (pending(status=DeliveryStatus.SUBMITTED), False),
        (pending(status=DeliveryStatus.FAILED), False),
        (ignore(pending()), False),
        (pending()._replace(first_saved_at=None), False),
        (pending()._replace(deliveries=()), False),
    ],
)
def test_only_a_stored_pending_session_that_is_meant_for_the_destination_is_sent(changed, open_):
    assert (open_at(changed, "dest") is not None) is open_
