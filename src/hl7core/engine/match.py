"""Whether a session in memory fits a query: the same question that a store answers of what it holds.

Specimen and patient are looked up where the standards put their identifiers: PID-3, SPM-2, OBR-2 and OBR-3 of HL7 v2,
P-3, P-4 and O-3 of LIS02.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Final

from hl7core.model.delivery import DeliveryStatus
from hl7core.model.session import Message, Session, SessionQuery

__all__ = ["matches", "sort_key"]

_PATIENT: Final = {"PID": (3,), "P": (2, 3)}
_SPECIMEN: Final = {"SPM": (2,), "OBR": (2, 3), "O": (2,)}
_PARTS: Final = re.compile(r"[~^&\\]")


def sort_key(session: Session) -> tuple[datetime, str]:
    """Return what listings are ordered by: the start, then the id."""
    return (session.started_at, session.id)


def matches(session: Session, query: SessionQuery) -> bool:
    """Say whether ``session`` fits all that ``query`` gives, its limit aside."""
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
    if query.pending_for and not any(
        d.name == query.pending_for and d.status is DeliveryStatus.PENDING and not session.ignored
        for d in session.deliveries
    ):
        return False
    return _in_messages(session, query)


def _in_time(session: Session, query: SessionQuery) -> bool:
    start = session.started_at
    if (query.since is not None and start < query.since) or (query.until is not None and start >= query.until):
        return False
    if query.expired_at is not None and (
        session.persisted_until is None or session.persisted_until >= query.expired_at
    ):
        return False
    if query.after is None:
        return True
    return sort_key(session) < query.after if query.newest_first else sort_key(session) > query.after


def _in_messages(session: Session, query: SessionQuery) -> bool:
    messages = session.messages
    if query.control_id and all(message.control_id != query.control_id for message in messages):
        return False
    if query.text and all(query.text not in message.decoded()[0] for message in messages):
        return False
    for wanted, places in ((query.patient, _PATIENT), (query.specimen, _SPECIMEN)):
        if wanted and not any(wanted in _values(message, places) for message in messages):
            return False
    return True


def _values(message: Message, places: dict[str, tuple[int, ...]]) -> Iterator[str]:
    """Yield the values at ``places``, whole fields and their components."""
    for line in re.split(r"[\r\n]+", message.decoded()[0]):
        fields = line.split("|")
        for place in places.get(fields[0].strip(), ()):
            if place < len(fields):
                yield fields[place]
                yield from _PARTS.split(fields[place])
