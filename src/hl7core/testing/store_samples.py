"""Sample sessions for testing stores: ones that use every field, ones that differ in every field, odd ones; bad ids.

All of it is invented.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from hl7core.model.delivery import Delivery, DeliveryStatus
from hl7core.model.finding import Finding, Severity
from hl7core.model.frame import Fault
from hl7core.model.packet import Endpoint
from hl7core.model.session import Ending, Session
from hl7core.testing.builders import make_message, make_session
from hl7core.testing.store_base import NOW

__all__ = ["NO_IDS", "ODD", "different_sessions", "odd_sessions", "sessions_of_all_kinds"]

NO_IDS: Final = ("../../etc/passwd", "", "x" * 36, "0" * 37, "%", "*", "0" * 35 + "\n", "/" + "0" * 35, "\0" * 36)
"""Strings that are not valid ids, which a careless store would use as a path, a pattern or part of a statement."""

ODD: Final = (
    ("specimen", "S 1"),
    ("specimen", "100%_off"),
    ("specimen", "O'Brien\"; DROP TABLE sessions; --"),
    ("specimen", "Ä-Größe"),
    ("patient", "漢字-7"),
    ("patient", "P\\T\\1"),
    ("patient", "*?[a-z]"),
    ("specimen", "S" * 250),
    ("patient", "\U0001f9ea-\x7f"),
    ("specimen", "a/b\tc"),
)


def odd_sessions() -> list[Session]:
    """Return sessions with identifiers that break a careless search, and a few ordinary ones."""
    sessions = [make_session(number) for number in range(1, 5)]
    for number, (field, value) in enumerate(ODD, 5):
        base = make_session(number)
        names: dict[str, Any] = {field: value}
        message = make_message(number, time_ns=base.start_ns, **names)
        message = message._replace(control_id=value, charset="UNICODE UTF-8")
        element = base.elements[0]._replace(span=(0, len(message.text)))
        session = base._replace(messages=(message, base.messages[1]), elements=(element, base.elements[1]))
        sessions.append(session._replace(findings=(Finding(value, Severity.INFO, "odd"),), protocol=value[:20]))
    return sessions


def sessions_of_all_kinds() -> list[Session]:
    """Return sessions that together use every field."""
    session = make_session(4)
    odd = bytes(range(256)) * 2
    element = session.elements[0]._replace(
        message=None, span=(0, 0), content=odd, faults=(Fault("no-end", 7),), late=True, missing=3
    )
    return [
        make_session(1),
        make_session(2, protocol="lis01"),
        make_session(3, protocol="plain"),
        session._replace(
            elements=(element, *session.elements[1:]),
            messages=(make_message(4, text=odd, charset="8859/1", complete=False), session.messages[1]),
            is_complete=False,
            ending=Ending.GAPPED,
            sensor="ward 7",
            findings=(Finding("gap", Severity.ERROR, "3 bytes were not captured", 0, 7),),
            deliveries=(
                Delivery("rest", DeliveryStatus.FAILED, 3, NOW, None, "HTTP 500"),
                Delivery("other", DeliveryStatus.SUBMITTED, 1, None, NOW),
            ),
            first_saved_at=NOW,
            saved_at=NOW + timedelta(hours=1),
            persisted_until=NOW + timedelta(days=30),
            retention_days=30,
            revision=2,
        ),
    ]


def different_sessions() -> list[Session]:
    """Return four sessions that differ in every field that a query can ask for."""
    first, second, third = (make_session(number) for number in (1, 2, 3))
    fourth = make_session(4, protocol="lis01", ignored=True)
    text = second.messages[0].text + 'NTE|1||"quoted" Größe\r'.encode()
    return [
        first._replace(
            deliveries=(Delivery("rest"), Delivery("other", DeliveryStatus.SUBMITTED)),
            findings=(Finding("slow-answer", Severity.WARNING, "the answer took 20 s"),),
            persisted_until=NOW - timedelta(hours=1),
        ),
        second._replace(
            messages=(second.messages[0]._replace(text=text), second.messages[1]),
            device=Endpoint("198.51.100.7", 5000),
            deliveries=(Delivery("rest", DeliveryStatus.SUBMITTED, 1, None, NOW),),
            persisted_until=NOW,
        ),
        third._replace(lis=Endpoint("198.51.100.8", 2575), deliveries=(Delivery("rest", DeliveryStatus.FAILED, 3),)),
        fourth._replace(deliveries=(Delivery("rest"),)),
    ]
