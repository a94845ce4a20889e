"""A session as a row: its JSON, the columns beside it, and its search keys.

The law: all columns are derived from the JSON as it will be read back, so they can always be rebuilt; a search by a
column finds what ``hl7core.matches`` finds.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from hl7core import (
    SESSION_ID,
    DeliveryStatus,
    Session,
    SessionRefused,
    search_keys,
    session_from_json,
    session_to_json,
)
from hl7core_plugins.sqlite_store.soundness import is_sound

__all__ = ["COLUMNS", "Row", "key_of", "major_of", "micros", "row_of", "stored_row", "time_of"]

COLUMNS: Final = (
    "id", "major", "start_us", "end_us", "status", "protocol", "device", "lis", "persisted_until_us", "json",
)  # fmt: skip
"""A row's columns besides its number and the time of its deletion."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_LONGEST_KEY: Final = 200
_VERSION: Final = re.compile(rb'"_metadata":\{"version":"(\d{1,6})\.[^{}]*\}\}$')


class Row(NamedTuple):
    """A session to write: the values of ``COLUMNS``, and its search keys as (kind, value)."""

    values: tuple[str | int | None, ...]
    keys: tuple[tuple[str, str], ...]
    major: int
    start_us: int


def micros(time: datetime) -> int:
    """Return an aware time as unix microseconds."""
    return (time - _EPOCH) // _MICROSECOND


def time_of(micros: int) -> datetime:
    """Return unix microseconds as an aware time."""
    return _EPOCH + micros * _MICROSECOND


def key_of(value: str) -> str:
    """Return ``value`` as it is indexed: only the beginning of a very long one."""
    return value[:_LONGEST_KEY]


def row_of(session: object) -> Row:
    """Return the row for a session.  Raises SessionRefused, which quotes nothing, if it could not be read back."""
    if not isinstance(session, Session) or SESSION_ID.fullmatch(session.id) is None:
        raise SessionRefused("the object to save is not a session with a valid id")
    try:
        data = session_to_json(session)
        return _row(data, session if is_sound(session) else session_from_json(data))
    except SessionRefused:
        raise
    except Exception as error:
        raise SessionRefused(f"session {session.id} is not valid ({type(error).__name__})") from error


def stored_row(data: bytes) -> Row:
    """Return the row for a session's JSON, which is stored unchanged.  Raises SessionRefused."""
    return _row(data, session_from_json(data))


def major_of(data: bytes) -> int:
    """Return the major version of the schema of a session's JSON that this or a later version wrote, 0 if unknown."""
    found = _VERSION.search(data, max(0, len(data) - 200))
    return int(found[1]) if found else 0


def _row(data: bytes, session: Session) -> Row:
    """Return the row for ``data``, the JSON of ``session``: times as they will be read back."""
    found = search_keys(session)
    keys = [("specimen", value) for value in found.specimens]
    keys += [("patient", value) for value in found.patients]
    keys += [("control_id", value) for value in found.control_ids]
    if session.findings:
        keys += [("finding", finding.code) for finding in session.findings]
    if not session.ignored:
        keys += [("pending", d.name) for d in session.deliveries if d.status is DeliveryStatus.PENDING]
    if session.findings or max([len(value) for _, value in keys], default=0) > _LONGEST_KEY:
        keys = list(dict.fromkeys([(kind, key_of(value)) for kind, value in keys]))
    millis, until, major = session.start_ns // 1_000_000, session.persisted_until, major_of(data)
    # As hl7core reads it back: the earliest element in the millisecond that the JSON says.
    elements = [element.time_ns for element in session.elements if element.time_ns // 1_000_000 == millis]
    start_us = min(elements) // 1000 if elements else millis * 1000
    values = (
        session.id,
        major,
        start_us,
        session.end_ns // 1_000_000 * 1000,
        session.status.value,
        session.protocol,
        session.device.address,
        session.lis.address,
        None if until is None else micros(until) // 1000 * 1000,
        data.decode(),
    )
    return Row(values, tuple(keys), major, start_us)
