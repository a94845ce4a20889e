"""What an answer means: a receipt, or which failure.

The law: nothing that the receiver wrote is quoted but a short printable reference, since it may repeat what it was
sent.  :data:`MEANING` is the whole table; ``docs/rest_destination.md`` is held against it.
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
"""The most seconds that a ``Retry-After`` is honoured for."""

_LONGEST_REFERENCE: Final = 200

MEANING: Final[Mapping[str, tuple[type[SubmitError] | None, str]]] = {
    "2xx": (None, "accepted"),
    "3xx": (SessionRejected, "redirects are not followed: set the endpoint to where it leads"),
    "401": (DestinationUnauthorized, "it does not accept auth_header"),
    "403": (DestinationUnauthorized, "it does not allow what auth_header stands for"),
    "404": (SessionRejected, "there is nothing at that path: is the endpoint right?"),
    "408": (DestinationBusy, "it waited too long for the request"),
    "409": (DestinationBusy, "it still works on this session"),
    "413": (SessionRejected, "this session is too large for it"),
    "422": (SessionRejected, "it does not accept what is in this session, or knows its key with another content"),
    "425": (DestinationBusy, "it wants the request again later"),
    "429": (DestinationBusy, "it has too many requests"),
    "4xx": (SessionRejected, "it does not accept the request"),
    "5xx": (DestinationBroken, "it failed"),
    "other": (DestinationBroken, "that is no status of HTTP"),
}
"""By status, else by its class: the failure (None: none) and what to tell."""


class Answer(NamedTuple):
    """An answer of the receiver: its status, its headers (names in lower case), and of a 2xx what was read of it."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""


def meaning_of(answer: Answer, now: datetime, *, through_proxy: bool = False) -> Receipt | SubmitError:
    """Say what ``answer`` means for all that was sent; ``now`` (aware) is for a ``Retry-After`` that is a date."""
    if answer.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED and through_proxy:
        return DestinationUnreachable("HTTP 407: the proxy wants other credentials than proxy_auth")
    return _meaning(answer.status, retry_after(answer.headers, now)) or Receipt(
        _reference(_parsed(answer)) or _printable(answer.headers.get("location", ""))
    )


def meanings_of(ids: Sequence[str], answer: Answer, now: datetime) -> list[Receipt | SubmitError] | None:
    """Say what ``answer`` to several sessions means for each of ``ids``, None if it does not speak of each.

    It does if it is a JSON array with an entry a session: a status, or an object with ``status`` and perhaps
    ``sessionId``, ``id`` or ``reference``.  Entries that all name their session are taken by name, else in order.
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
    """Return how many seconds ``Retry-After`` asks to wait, at most an hour; None if it says nothing usable.

    A date is measured from the receiver's own ``Date``, so that a clock that is wrong here or there does not matter.
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
        return None  # we asked for none; what is not asked for is not unpacked
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
