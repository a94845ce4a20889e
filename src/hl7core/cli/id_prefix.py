"""Finding a session by the first letters of its id, without reading all that is stored.

The first twelve hexadecimal digits of an id (UUID version 7) are the millisecond in which its session starts, so a
prefix is a span of time, and only the sessions of that span are read.  All are read only if none of those matches: ids
that another program made may encode another time, or none.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final

from hl7core.cli.session_access import SessionAccess, all_sessions
from hl7core.model.session import SESSION_ID, Session, SessionQuery

__all__ = ["MANY", "find_by_prefix", "span_of"]

MANY: Final = 10
"""The most sessions that are named when a prefix is ambiguous."""

_PREFIX: Final = re.compile(r"[0-9a-f-]{1,36}")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def find_by_prefix(access: SessionAccess, prefix: str) -> list[Session]:
    """Return the sessions whose ids begin with ``prefix`` (in any case), at most ``MANY + 1``."""
    prefix = prefix.strip().lower()
    if SESSION_ID.fullmatch(prefix):
        return list(access.sessions(SessionQuery(ids=(prefix,), limit=1)))
    if not _PREFIX.fullmatch(prefix):
        return []
    for query in (span_of(prefix), SessionQuery()):
        fitting = (session for session in all_sessions(access, query) if session.id.startswith(prefix))
        if found := list(islice(fitting, MANY + 1)):
            return found
    return []


def span_of(prefix: str) -> SessionQuery:
    """Return a query for the span of time that ``prefix`` (hexadecimal digits and dashes) encodes."""
    digits = prefix.replace("-", "")[:12]
    spread = 1 << 4 * (12 - len(digits))
    first = int(digits or "0", 16) * spread
    return SessionQuery(since=_moment(first), until=_moment(first + spread))


def _moment(millis: int) -> datetime | None:
    """Return unix milliseconds as a time, None if it is after the year 9999."""
    try:
        return _EPOCH + timedelta(milliseconds=millis)
    except OverflowError:
        return None
