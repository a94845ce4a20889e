"""Finding a session by the first letters of its id, without reading all that is stored.

The first twelve hexadecimal digits of an id (UUID version 7) are the millisecond in which its session starts, so a
prefix is a span of time.  Only where no session of that span fits are all looked at: another program's ids may name
another time, or none.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final

from hl7core.cli.session_access import Desk, all_sessions
from hl7core.model.session import SESSION_ID, Session, SessionQuery

__all__ = ["MANY", "begins_with", "span_of"]

MANY: Final = 10
"""Of so many sessions that begin alike each is named; more are not looked for."""

_PREFIX: Final = re.compile(r"[0-9a-f-]{1,36}")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def begins_with(desk: Desk, prefix: str) -> list[Session]:
    """Return the sessions whose ids begin with ``prefix``, at most ``MANY + 1``."""
    prefix = prefix.strip().lower()
    if SESSION_ID.fullmatch(prefix):
        return list(desk.sessions(SessionQuery(ids=(prefix,), limit=1)))
    if not _PREFIX.fullmatch(prefix):
        return []
    for query in (span_of(prefix), SessionQuery()):
        fitting = (session for session in all_sessions(desk, query) if session.id.startswith(prefix))
        if found := list(islice(fitting, MANY + 1)):
            return found
    return []


def span_of(prefix: str) -> SessionQuery:
    """Return a query for the sessions that start when an id with ``prefix`` says (hexadecimal digits and dashes)."""
    digits = prefix.replace("-", "")[:12]
    spread = 1 << 4 * (12 - len(digits))
    first = int(digits or "0", 16) * spread
    return SessionQuery(since=_moment(first), until=_moment(first + spread))


def _moment(millis: int) -> datetime | None:
    """Return unix milliseconds as a time, None behind the end of the calendar."""
    try:
        return _EPOCH + timedelta(milliseconds=millis)
    except OverflowError:
        return None
