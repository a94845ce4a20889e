"""How far a session has come at each destination."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple

__all__ = ["PREDECESSOR", "Delivery", "DeliveryStatus", "Receipt", "overall_status"]

PREDECESSOR: Final = "predecessor"
"""The destination's name in a Delivery that was read from a file with a status but no destinations."""


class DeliveryStatus(StrEnum):
    """Where a session stands at a destination, or over all of them."""

    PENDING = "pending"
    SUBMITTED = "submitted"
    FAILED = "failed"
    IGNORED = "ignored"


class Delivery(NamedTuple):
    """A session's state at the destination ``name``.

    ``attempts`` counts tries since the first or the last retry asked for by a person; ``next_at`` is when the next is
    due, ``submitted_at`` when the destination acknowledged it, ``error`` what the last failed attempt said (never
    message content).
    """

    name: str
    status: DeliveryStatus = DeliveryStatus.PENDING
    attempts: int = 0
    next_at: datetime | None = None
    submitted_at: datetime | None = None
    error: str = ""


class Receipt(NamedTuple):
    """What a destination answers to an attempt that it accepted: an ``reference`` of its own, if it gave one."""

    reference: str = ""


def overall_status(deliveries: Iterable[Delivery], *, ignored: bool) -> DeliveryStatus:
    """Say where a session stands over all its destinations.

    ``ignored`` if a person said so; else failed if any delivery failed; else submitted if there is one and all are
    submitted or ignored; else pending.
    """
    if ignored:
        return DeliveryStatus.IGNORED
    statuses = {delivery.status for delivery in deliveries}
    if DeliveryStatus.FAILED in statuses:
        return DeliveryStatus.FAILED
    if DeliveryStatus.SUBMITTED in statuses and not statuses & {DeliveryStatus.PENDING}:
        return DeliveryStatus.SUBMITTED
    return DeliveryStatus.PENDING
