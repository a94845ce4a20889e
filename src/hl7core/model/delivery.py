"""The state of a session at each destination."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple

__all__ = ["PREDECESSOR", "Delivery", "DeliveryStatus", "Receipt", "overall_status"]

PREDECESSOR: Final = "predecessor"
"""The destination's name in a Delivery that was read from a file with a status but no destinations."""


class DeliveryStatus(StrEnum):
    """The state of a session at one destination, or over all of them."""

    PENDING = "pending"
    SUBMITTED = "submitted"
    FAILED = "failed"
    IGNORED = "ignored"


class Delivery(NamedTuple):
    """A session's state at the destination ``name``.

    ``attempts`` counts attempts since the first one, or since a person last asked for a retry.  ``next_at`` is when the
    next attempt is due, ``submitted_at`` when the destination acknowledged it (aware UTC datetimes).  ``error`` is the
    error of the last failed attempt and never holds message content.
    """

    name: str
    status: DeliveryStatus = DeliveryStatus.PENDING
    attempts: int = 0
    next_at: datetime | None = None
    submitted_at: datetime | None = None
    error: str = ""


class Receipt(NamedTuple):
    """A destination's answer to an attempt that it accepted, with a ``reference`` if it gave one."""

    reference: str = ""


def overall_status(deliveries: Iterable[Delivery], *, ignored: bool) -> DeliveryStatus:
    """Return the state of a session over all its destinations.

    IGNORED if a person ignored it (``ignored``); else FAILED if any delivery failed; else SUBMITTED if at least one is
    submitted and none is pending; else PENDING.
    """
    if ignored:
        return DeliveryStatus.IGNORED
    statuses = {delivery.status for delivery in deliveries}
    if DeliveryStatus.FAILED in statuses:
        return DeliveryStatus.FAILED
    if DeliveryStatus.SUBMITTED in statuses and not statuses & {DeliveryStatus.PENDING}:
        return DeliveryStatus.SUBMITTED
    return DeliveryStatus.PENDING
