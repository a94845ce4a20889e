"""What an answer means: a receipt, or a kind of failure.

The law: nothing that the receiver wrote is quoted except a short printable reference, since it may repeat what it was
sent.  :data:`MEANING` is the whole table; a test compares ``docs/rest_destination.md`` with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from hl7core import (
    DestinationBroken,
    DestinationBusy,
    DestinationUnauthorized,
    DestinationUnreachable,
    Receipt,
    SessionRejected,
    SubmitError,
)

__all__ = ["LONGEST_WAIT", "MEANING", "Answer", "meaning_of", "meanings_of", "retry_after"]

LONGEST_WAIT: Final = 3600.0
"""Seconds; a longer ``Retry-After`` is cut to this."""

_LONGEST_REFERENCE: Final = 200

MEANING: Final[Mapping[str, tuple[type[SubmitError] | None, str]]] = {
    "2xx": (None, "accepted"),
    "3xx": (SessionRejected, "redirects are not followed: set endpoint to the new address"),
    "401": (DestinationUnauthorized, "the receiver does not accept auth_header"),
    "403": (DestinationUnauthorized, "auth_header lacks the permission to submit"),
    "404": (SessionRejected, "there is nothing at that path: check endpoint"),
    "408": (DestinationBusy, "the receiver waited too long for the request"),
    "409": (DestinationBusy, "the receiver is still processing this session"),
    "413": (SessionRejected, "this session is too large for the receiver"),
    "422": (SessionRejected, "the receiver does not accept this content, or had other content under the same key"),
    "425": (DestinationBusy, "the receiver asks for the request again later"),
    "429": (DestinationBusy, "the receiver has too many requests"),
    "4xx": (SessionRejected, "the receiver does not accept the request"),
    "5xx": (DestinationBroken, "the receiver failed"),
    "other": (DestinationBroken, "not a valid HTTP status"),
}
"""By status, else by its class: the failure (None: accepted) and its message."""


class Answer(NamedTuple):
    """An answer of the receiver: its status, its headers (names in lower case), and the body of a 2xx, if short."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""


def meaning_of(answer: Answer, now: datetime, *, through_proxy: bool = False) -> Receipt | SubmitError:
    """Return what ``answer`` means for everything that was sent; ``now`` (aware) is used for a ``Retry-After`` date."""
    if answer.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED and through_proxy:
        return DestinationUnreachable("HTTP 407: the proxy does not accept proxy_auth")
    return _meaning(answer.status, retry_after(answer.headers, now)) or Receipt(
        _reference(_parsed(answer)) or _printable(answer.headers.get("location", ""))
    )


def meanings_of(ids: Sequence[str], answer: Answer, now: datetime) -> list[Receipt | SubmitError] | None:
    """Return what ``answer`` to several sessions means for each of ``ids``, None if it has no status for each.

    It has if it is a JSON array with one entry per session: a status, or an object with ``status`` and optionally
    ``sessionId``, ``id`` or ``reference``.  If every entry has a ``sessionId`` they are matched by it, else by order.
    """
    entries = _parsed(answer)
    if _meaning(answer.status, None) is not None or not isinstance(entries, list) or len(entries) != len(ids):
        return None
    statuses: list[Any] = [entry.get("status") if isinstance(entry, dict) else entry for entry in entries]
    if not all(isinstance(status, int) and not isinstance(status, bool) for status in statuses):
        return None
    wait = retry_after(answer.headers, now)
    meanings = [
        _meaning(status, wait) or Receipt(_reference(entry)) for status, entry in zip(statuses, entries, strict=True)
    ]
    names: list[Any] = [entry.get("sessionId") if isinstance(entry, dict) else None for entry in entries]
    if all(isinstance(name, str) for name in names) and sorted(names) == sorted(ids):
        by_name = dict(zip(names, meanings, strict=True))
        return [by_name[session_id] for session_id in ids]
    return meanings


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return how many seconds ``Retry-After`` asks to wait, at most an hour; None if it is missing or unusable.

    A date is measured from the receiver's own ``Date``, so that a wrong clock on either side does not matter.
    """
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return LONGEST_WAIT if len(text) > 9 else min(float(text), LONGEST_WAIT)
    until = _date(text)
    if until is None:
        return None
    since = _date(headers.get("date", "")) or now
    return min(max((until - since).total_seconds(), 0.0), LONGEST_WAIT)


def _meaning(status: int, wait: float | None) -> SubmitError | None:
    group = f"{status // 100}xx" if 200 <= status <= 599 else "other"
    kind, text = MEANING.get(str(status)) or MEANING[group]
    return None if kind is None else kind(f"HTTP {status}: {text}", retry_after=wait)


def _date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _parsed(answer: Answer) -> Any:
    if answer.headers.get("content-encoding", "identity").strip().lower() != "identity":
        return None  # we asked for no compression, so nothing is decompressed
    try:
        return json.loads(answer.body)
    except (ValueError, RecursionError):
        return None


def _reference(found: Any) -> str:
    if not isinstance(found, dict):
        return ""
    for key in ("id", "reference"):
        value = found.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value) if abs(value) < 10**_LONGEST_REFERENCE else ""
        if isinstance(value, str) and _printable(value):
            return _printable(value)
    return ""


def _printable(text: str) -> str:
    return text if len(text) <= _LONGEST_REFERENCE and text.isprintable() else ""
