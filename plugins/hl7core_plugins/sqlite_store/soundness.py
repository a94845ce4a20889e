"""Whether a session can certainly be read back once it is written.

The law: true only if it can; if unsure, false, and the caller reads its JSON to find out.  Reading every session back
would take several times as long as writing it, and sessions from the wire are always sound.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from hl7core import (
    Delivery,
    DeliveryStatus,
    Direction,
    Element,
    ElementType,
    Ending,
    Endpoint,
    Fault,
    Finding,
    Message,
    Session,
    Severity,
)

__all__ = ["is_sound"]

_COUNT: Final = 1 << 63
_LATEST_NS: Final = (1 << 42) * 1_000_000
"""In the year 2109; the JSON's times are exact until then."""
_PLAIN: Final = re.compile(r"[0-9A-Za-z.:%_\[\]-]*")
"""Addresses and connections made of these characters are written unchanged."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def is_sound(session: Session) -> bool:
    """Return whether ``session`` has values of the right types, each within the bounds of the schema."""
    try:
        return (
            type(session.protocol) is type(session.connection) is type(session.sensor) is str
            and _PLAIN.fullmatch(session.connection) is not None
            and type(session.ending) is Ending
            and type(session.is_complete) is type(session.ignored) is bool
            and _is_end(session.device)
            and _is_end(session.lis)
            and _are_tuples(session.messages, session.elements, session.findings, session.deliveries)
            and _are_messages(session.messages)
            and _are_elements(session.elements, session.messages)
            and (not session.findings or all(_is_finding(finding) for finding in session.findings))
            and (not session.deliveries or _are_deliveries(session.deliveries))
            and _is_count(session.revision)
            and (session.retention_days is None or _is_count(session.retention_days))
            and type(session.start_ns) is type(session.end_ns) is int
            and 0 <= session.start_ns <= _LATEST_NS
            and 0 <= session.end_ns <= _LATEST_NS
            and _is_moment(session.first_saved_at)
            and _is_moment(session.saved_at)
            and _is_moment(session.persisted_until)
        )
    except (AttributeError, TypeError, ValueError):  # a value of the wrong type
        return False


def _are_tuples(*values: object) -> bool:
    return set(map(type, values)) == {tuple}


def _is_count(value: int) -> bool:
    return type(value) is int and 0 <= value < _COUNT


def _is_moment(value: datetime | None) -> bool:
    return value is None or (type(value) is datetime and value >= _EPOCH)


def _is_end(end: Endpoint) -> bool:
    return (
        type(end) is Endpoint
        and type(end.address) is str
        and _PLAIN.fullmatch(end.address) is not None
        and type(end.port) is int
        and 0 <= end.port <= 65535
    )


def _are_elements(elements: Iterable[Element], messages: tuple[Message, ...]) -> bool:
    for item in elements:
        if type(item) is not Element:
            return False
        time_ns, direction, kind, offset, before, content, after, message, (start, end), faults, late, missing = item
        if not (
            type(direction) is Direction
            and type(kind) is ElementType
            and type(before) is type(content) is type(after) is bytes
            and type(late) is bool
            and type(time_ns) is type(offset) is type(missing) is type(start) is type(end) is int
            and 0 <= time_ns <= _LATEST_NS
            and 0 <= offset < _COUNT
            and 0 <= missing < _COUNT
            and (
                message is None
                or (
                    type(message) is int
                    and 0 <= message < len(messages)
                    and 0 <= start <= end <= len(messages[message].text)
                )
            )
            and type(faults) is tuple
            and (not faults or all(_is_fault(fault) for fault in faults))
        ):
            return False
    return True


def _is_fault(fault: Fault) -> bool:
    return type(fault) is Fault and type(fault.code) is str and _is_count(fault.offset)


def _are_messages(messages: Iterable[Message]) -> bool:
    for item in messages:
        if type(item) is not Message:
            return False
        text, direction, protocol, time_ns, control_id, message_type, charset, complete, ack_code, reply_to = item
        if not (
            type(text) is bytes
            and type(direction) is Direction
            and type(protocol) is type(control_id) is type(message_type) is type(charset) is type(ack_code) is str
            and type(time_ns) is int
            and 0 <= time_ns <= _LATEST_NS
            and type(complete) is bool
            and (reply_to is None or type(reply_to) is str)
        ):
            return False
    return True


def _is_finding(finding: Finding) -> bool:
    return (
        type(finding) is Finding
        and type(finding.severity) is Severity
        and type(finding.code) is type(finding.text) is str
        and (finding.element is None or _is_count(finding.element))
        and (finding.offset is None or _is_count(finding.offset))
    )


def _are_deliveries(deliveries: tuple[Delivery, ...]) -> bool:
    return all(map(_is_delivery, deliveries)) and len({delivery.name for delivery in deliveries}) == len(deliveries)


def _is_delivery(delivery: Delivery) -> bool:
    return (
        type(delivery) is Delivery
        and type(delivery.status) is DeliveryStatus
        and type(delivery.name) is type(delivery.error) is str
        and _is_count(delivery.attempts)
        and _is_moment(delivery.next_at)
        and _is_moment(delivery.submitted_at)
    )
