"""Whether a stored session fits a query.

The law: ``fits`` decides.  ``may_fit`` only spares the reading of files that cannot fit, from their bytes, and only
where this version's own writer wrote them.

Identifiers are looked up where the standards put them: PID-3, OBR-2, OBR-3 and SPM-2 of HL7 v2; P-3, P-4 and O-3 of
LIS02.  A whole field or one of its components must be equal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Final

from hl7core import DeliveryStatus, Message, Session, SessionQuery
from hl7core_plugins.json_store.versions import written_by_us

__all__ = ["fits", "may_fit"]

_PATIENT: Final = {"PID": (3,), "P": (2, 3)}
_SPECIMEN: Final = {"OBR": (2, 3), "SPM": (2,), "O": (2,)}
_BREAKS: Final = re.compile(r"[\r\n]+")


def may_fit(data: bytes, query: SessionQuery) -> bool:
    """Say whether the file ``data`` is worth reading for ``query``."""
    if not written_by_us(data):
        return True
    if query.status and not any(b'"submissionStatus":"%s"' % status.encode() in data for status in query.status):
        return False
    wanted = (
        (query.device, b'"deviceIP":"%s"'),
        (query.lis, b'"lisIP":"%s"'),
        (query.protocol, b'"protocol":"%s"'),
        (query.control_id, b'"controlId":"%s"'),
        (query.finding, b'"code":"%s"'),
        (query.pending_for, b'"%s":{"status":"pending"'),
        (query.specimen, b"%s"),
        (query.patient, b"%s"),
        (query.text, b"%s"),
    )
    return all(pattern % _escaped(value) in data for value, pattern in wanted if value)


def fits(session: Session, query: SessionQuery) -> bool:
    """Say whether ``session`` fits all that ``query`` gives, its limit aside."""
    if query.ids and session.id not in query.ids:
        return False
    if query.status and session.status not in query.status:
        return False
    exact = (
        (query.device, session.device.address),
        (query.lis, session.lis.address),
        (query.protocol, session.protocol),
    )
    if any(wanted and wanted != value for wanted, value in exact):
        return False
    if query.finding and all(finding.code != query.finding for finding in session.findings):
        return False
    if query.pending_for and not _waits_for(session, query.pending_for):
        return False
    return _in_time(session, query) and _in_messages(session, query)


def _waits_for(session: Session, destination: str) -> bool:
    pending = DeliveryStatus.PENDING
    return not session.ignored and any(d.name == destination and d.status is pending for d in session.deliveries)


def _in_time(session: Session, query: SessionQuery) -> bool:
    start = session.started_at
    if query.since is not None and start < query.since:
        return False
    if query.until is not None and start >= query.until:
        return False
    until = session.persisted_until
    if query.expired_at is not None and (until is None or until >= query.expired_at):
        return False
    if query.after is None:
        return True
    place = (start, session.id)
    return place < query.after if query.newest_first else place > query.after


def _in_messages(session: Session, query: SessionQuery) -> bool:
    if query.control_id and all(message.control_id != query.control_id for message in session.messages):
        return False
    if query.text and all(query.text not in message.decoded()[0] for message in session.messages):
        return False
    for wanted, places in ((query.patient, _PATIENT), (query.specimen, _SPECIMEN)):
        if wanted and not any(wanted in _values(message, places) for message in session.messages):
            return False
    return True


def _values(message: Message, places: dict[str, tuple[int, ...]]) -> Iterator[str]:
    """Yield the fields at ``places`` and their components, with the separators that the message declares."""
    text = message.decoded()[0]
    if text.startswith("MSH"):
        field, parts = text[3:4] or "|", text[4:5] + text[5:6] + text[7:8]
    else:
        field, parts = text[1:2] or "|", text[2:5]
    component = re.compile(f"[{re.escape(parts)}]") if parts.strip() else None
    for record in _BREAKS.split(text):
        fields = record.split(field)
        for place in places.get(fields[0].strip(), ()):
            if place < len(fields):
                yield fields[place]
                if component is not None:
                    yield from component.split(fields[place])


def _escaped(value: str) -> bytes:
    """Return ``value`` as it stands in our JSON; what UTF-8 cannot hold stands in none."""
    return json.dumps(value, ensure_ascii=False)[1:-1].encode(errors="surrogatepass")
