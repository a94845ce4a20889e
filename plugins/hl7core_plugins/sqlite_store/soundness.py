"""Whether a session is beyond doubt one that can be read again once it is written.

The law: true only if it can; in doubt false, and then its JSON is read to find out.  Reading each session again costs
several times what writing it does, and those that come from the wire are sound.
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
"""Addresses and connections: what is written as it is."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def is_sound(session: Session) -> bool:
    """Say whether ``session`` is made of the right values, each within the bounds of the schema."""
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
            and all(_is_finding(finding) for finding in session.findings)
            and all(_is_delivery(delivery) for delivery in session.deliveries)
            and len({delivery.name for delivery in session.deliveries}) == len(session.deliveries)
            and _are_counts((session.revision, 0 if session.retention_days is None else session.retention_days))
            and type(session.start_ns) is type(session.end_ns) is int
            and 0 <= session.start_ns <= _LATEST_NS
            and 0 <= session.end_ns <= _LATEST_NS
            and _are_moments((session.first_saved_at, session.saved_at, session.persisted_until))
        )
    except (AttributeError, TypeError, ValueError):  # what looks like one of ours has values of the wrong kind in it
        return False


def _are_tuples(*values: object) -> bool:
    return all(type(value) is tuple for value in values)


def _are_counts(values: Iterable[int]) -> bool:
    return all(type(value) is int and 0 <= value < _COUNT for value in values)


def _are_moments(values: Iterable[datetime | None]) -> bool:
    return all(value is None or (type(value) is datetime and value >= _EPOCH) for value in values)


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
    return type(fault) is Fault and type(fault.code) is str and _are_counts((fault.offset,))


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
        and (finding.element is None or _are_counts((finding.element,)))
        and (finding.offset is None or _are_counts((finding.offset,)))
    )


def _is_delivery(delivery: Delivery) -> bool:
    return (
        type(delivery) is Delivery
        and type(delivery.status) is DeliveryStatus
        and type(delivery.name) is type(delivery.error) is str
        and _are_counts((delivery.attempts,))
        and _are_moments((delivery.next_at, delivery.submitted_at))
    )
