"""Whether a session matches a query: one answer, for sessions in memory and in every store.

A query without conditions on messages reads no message.  A store that keeps an index returns exactly the sessions for
which ``matches`` is true.
"""

from __future__ import annotations

from datetime import datetime

from hl7core.hl7.keys import search_keys
from hl7core.model.delivery import DeliveryStatus
from hl7core.model.session import Session, SessionQuery

__all__ = ["matches", "sort_key"]


def sort_key(session: Session) -> tuple[datetime, str]:
    """Return the sort key of listings: the session's start (aware UTC), then its id."""
    return (session.started_at, session.id)


def matches(session: Session, query: SessionQuery) -> bool:
    """Return whether ``session`` matches every condition of ``query``; the limit is not one.  Never raises."""
    if query.ids and session.id not in query.ids:
        return False
    if query.status and session.status not in query.status:
        return False
    for wanted, address in ((query.device, session.device.address), (query.lis, session.lis.address)):
        if wanted and wanted != address:
            return False
    if query.protocol and query.protocol != session.protocol:
        return False
    if not _in_time(session, query):
        return False
    if query.finding and all(finding.code != query.finding for finding in session.findings):
        return False
    if query.pending_for and not _waits_for(session, query.pending_for):
        return False
    if query.control_id and all(message.control_id != query.control_id for message in session.messages):
        return False
    if query.text and all(query.text not in message.decoded()[0] for message in session.messages):
        return False
    return not (query.specimen or query.patient) or _is_about(session, query)


def _waits_for(session: Session, destination: str) -> bool:
    pending = DeliveryStatus.PENDING
    return not session.ignored and any(d.name == destination and d.status is pending for d in session.deliveries)


def _in_time(session: Session, query: SessionQuery) -> bool:
    start = session.started_at
    if (query.since is not None and start < query.since) or (query.until is not None and start >= query.until):
        return False
    until = session.persisted_until
    if query.expired_at is not None and (until is None or until >= query.expired_at):
        return False
    if query.after is None:
        return True
    return sort_key(session) < query.after if query.newest_first else sort_key(session) > query.after


def _is_about(session: Session, query: SessionQuery) -> bool:
    wanted = [value for value in (query.specimen, query.patient) if value]
    texts = [message.decoded()[0] for message in session.messages]
    if not all(any(value in text for text in texts) for value in wanted):  # a key is a part of its text
        return False
    keys = search_keys(session)
    return (not query.specimen or query.specimen in keys.specimens) and (
        not query.patient or query.patient in keys.patients
    )
