"""The JSON of a session: its one writer, its version and the rules that writer and reader share.

Written JSON gives every captured byte back.  Keys stand in the order of the schema, times are unix milliseconds, and an
empty value is left out, except in the fields that every session has.  In detail:

* ``startTime`` and ``endTime`` are whole milliseconds, rounded down, and so are the times of saving and submission.
  The ``timestamp`` of an element or a message has up to three decimals (microseconds; exact until the year 2109).
  When read, a session starts with its earliest element in the millisecond ``startTime`` and ends with the latest time
  in ``endTime``, so that sessions sort the same before and after a save.
* A message's string and its ``encoding`` (a Python codec) give its exact bytes.  An element's bytes are
  ``before + text + after``, the outer two in hex.  Its text is bytes ``span[0]`` to ``span[1]`` of
  ``messages[message]`` (all of them without ``span``), or ``content`` under its ``encoding``, or ``hexData``, or empty.
* If an element refers to a message, a missing ``before`` or ``after`` stands for the usual framing of the session's
  protocol (``usual_framing``), and ``""`` for no bytes.  In other elements a missing one stands for no bytes.
* Left out when empty: ``sensor``, ``findings``, ``revision``, ``persistedUntil``, ``firstSavedAt``, ``submittedAt``,
  ``submissionError`` and ``deliveries``; in an element ``faults``, ``late`` and ``length`` (how many bytes are missing
  from the capture); in a message ``charset``, ``replyTo`` (None: not a reply) and ``ackCode``.

:mod:`hl7core.model.stored` reads versions 1.x (the predecessor's) and 2.x.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final

import orjson

from hl7core.errors import SessionRefused
from hl7core.model.delivery import Delivery
from hl7core.model.finding import Finding
from hl7core.model.native import SessionLine
from hl7core.model.session import Element, Message, Session
from hl7core.model.text import decode

__all__ = [
    "SCHEMA_VERSION",
    "at_stored_precision",
    "end_within",
    "from_millis",
    "session_to_dict",
    "session_to_json",
    "start_within",
    "to_millis",
    "usual_framing",
]

SCHEMA_VERSION: Final = "2.0.0"
"""The version in ``_metadata.version``.  Files with a higher major version are read, but never rewritten."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_CONTROLS: Final = bytes([*range(9), 11, 12, *range(14, 32), 127])
_MLLP: Final = (b"\x0b", b"\x1c\r")
_PLAIN: Final = (b"\x02", b"\r\n")
_NO_FRAMING: Final = (b"", b"")


def usual_framing(protocol: str, before: bytes, text: bytes) -> tuple[bytes, bytes]:
    """Return the bytes before and after ``text`` in a sound frame of ``protocol``; the JSON leaves them out.

    MLLP: VT and FS CR.  Plain: STX and CR LF.  LIS01: nothing before, since the frame number differs; after, ETX, the
    checksum of everything between STX and checksum, CR LF.  docs/wire.md names the sources.
    """
    if protocol == "mllp":
        return _MLLP
    if protocol == "lis01":
        return b"", b"\x03%02X\r\n" % ((sum(before[1:]) + sum(text) + 3) & 0xFF)
    return _PLAIN if protocol == "plain" else _NO_FRAMING


def at_stored_precision(session: Session) -> Session:
    """Return ``session`` with the precision that its JSON keeps: what reading the JSON returns."""
    elements = tuple([e._replace(time_ns=e.time_ns // 1000 * 1000) for e in session.elements])
    messages = tuple([m._replace(time_ns=m.time_ns // 1000 * 1000) for m in session.messages])
    return session._replace(
        start_ns=start_within(session.start_ns // 1_000_000, elements),
        end_ns=end_within(session.end_ns // 1_000_000, elements, messages),
        elements=elements,
        messages=messages,
        deliveries=tuple(
            d._replace(next_at=_whole(d.next_at), submitted_at=_whole(d.submitted_at)) for d in session.deliveries
        ),
        first_saved_at=_whole(session.first_saved_at),
        saved_at=_whole(session.saved_at),
        persisted_until=_whole(session.persisted_until),
    )


def start_within(millis: int, elements: Iterable[Element]) -> int:
    """Return a session's start (unix nanoseconds): its earliest element in ``millis``, else where ``millis`` begins."""
    times = [e.time_ns for e in elements if e.time_ns // 1_000_000 == millis]
    return min(times, default=millis * 1_000_000)


def end_within(millis: int, elements: Iterable[Element], messages: Iterable[Message]) -> int:
    """Return a session's end (unix nanoseconds): its latest time in ``millis``, else where ``millis`` begins."""
    times = [e.time_ns for e in elements] + [m.time_ns for m in messages]
    return max([time_ns for time_ns in times if time_ns // 1_000_000 == millis], default=millis * 1_000_000)


def session_to_json(session: Session, *, saved: bool = True) -> bytes:
    """Return ``session`` as one line of JSON in UTF-8, without a line end.

    With ``saved`` false, the fields that only a save or a submission adds are left out.  Raises SessionRefused if JSON
    cannot hold a value: text that is not Unicode (a lone surrogate), or a number beyond 64 bits.
    """
    if _extension is not None:
        line = _extension(session, saved)
        if line is not None:
            return line
    try:
        return orjson.dumps(session_to_dict(session, saved=saved))
    except orjson.JSONEncodeError:
        pass  # raised below, so that no error in the chain can quote the text
    raise SessionRefused(
        f"session {session.id} cannot be written as JSON: it has text that is not Unicode, or a number beyond 64 bits"
    )


def session_to_dict(session: Session, *, saved: bool) -> dict[str, Any]:
    """Return ``session`` as plain JSON values, keys in the order of the schema; ``saved`` as in ``session_to_json``."""
    protocol, messages = session.protocol, session.messages
    decoded = [message.decoded() for message in messages]
    device, lis = session.device, session.lis
    out: dict[str, Any] = {
        "sessionId": session.id,
        "startTime": session.start_ns // 1_000_000,
        "endTime": session.end_ns // 1_000_000,
        "deviceIP": device.address,
        "lisIP": lis.address,
        "devicePort": device.port,
        "lisPort": lis.port,
        "protocol": protocol,
        "connection": session.connection,
    }
    if session.sensor:
        out["sensor"] = session.sensor
    out["ending"] = session.ending
    out["isComplete"] = session.is_complete
    if session.revision:
        out["revision"] = session.revision
    out["elements"] = [_element(number, one, protocol, messages) for number, one in enumerate(session.elements)]
    out["messages"] = [text for text, _ in decoded]
    out["messageInfo"] = [_info(message, codec) for message, (_, codec) in zip(messages, decoded, strict=True)]
    if session.findings:
        out["findings"] = [_finding(finding) for finding in session.findings]
    if saved:
        _add_saved(out, session)
    return out


def _element(number: int, element: Element, protocol: str, messages: tuple[Message, ...]) -> dict[str, Any]:
    time_ns, direction, kind, offset, before, content, after, message, span, faults, late, missing = element
    out: dict[str, Any] = {
        "id": str(number),
        "timestamp": _millis(time_ns),
        "direction": direction,
        "type": kind,
        "offset": offset,
    }
    usual = _NO_FRAMING
    if message is not None:
        start, end = span
        text = messages[message].text
        out["message"] = message
        if start or end != len(text):
            out["span"] = [start, end]
        usual = _MLLP if protocol == "mllp" else usual_framing(protocol, before, text[start:end])
    elif content:
        out |= _content(content)
    if before != usual[0]:
        out["before"] = before.hex()
    if after != usual[1]:
        out["after"] = after.hex()
    if faults:
        out["faults"] = [{"code": code, "offset": at} for code, at in faults]
    if late:
        out["late"] = True
    if missing:
        out["length"] = missing
    return out


def _content(content: bytes) -> dict[str, str]:
    """Return the fields of an element's own bytes: as text if they are text, else in hex."""
    if len(content) > 1 and len(content.translate(None, _CONTROLS)) == len(content):
        text, encoding = decode(content)
        if encoding != "latin-1":  # latin-1 fits any bytes, so these are no text
            return {"content": text, "encoding": encoding}
    return {"hexData": content.hex()}


def _info(message: Message, encoding: str) -> dict[str, Any]:
    """Return a message's entry in ``messageInfo``."""
    text, direction, protocol, time_ns, control_id, message_type, charset, complete, ack_code, reply_to = message
    out: dict[str, Any] = {
        "encoding": encoding,
        "direction": direction,
        "protocol": protocol,
        "controlId": control_id,
        "messageType": message_type,
        "sha256": sha256(text).hexdigest(),
        "length": len(text),
        "complete": complete,
        "timestamp": _millis(time_ns),
    }
    if charset:
        out["charset"] = charset
    if reply_to is not None:
        out["replyTo"] = reply_to
    if ack_code:
        out["ackCode"] = ack_code
    return out


def _finding(finding: Finding) -> dict[str, Any]:
    out: dict[str, Any] = {"code": finding.code, "severity": finding.severity, "text": finding.text}
    if finding.element is not None:
        out["element"] = finding.element
    if finding.offset is not None:
        out["offset"] = finding.offset
    return out


def _add_saved(out: dict[str, Any], session: Session) -> None:
    """Add the fields that only a save or a submission adds."""
    deliveries = session.deliveries
    _add_time(out, "persistedUntil", session.persisted_until)
    _add_time(out, "firstSavedAt", session.first_saved_at)
    out["submissionStatus"] = session.status
    out["submissionAttempts"] = max([d.attempts for d in deliveries], default=0)
    _add_time(out, "submittedAt", max([d.submitted_at for d in deliveries if d.submitted_at is not None], default=None))
    error = next((d.error for d in deliveries if d.error), "")
    if error:
        out["submissionError"] = error
    if deliveries:
        out["deliveries"] = {delivery.name: _delivery(delivery) for delivery in deliveries}
    metadata: dict[str, Any] = {"version": SCHEMA_VERSION}
    _add_time(metadata, "savedAt", session.saved_at)
    if session.retention_days is not None:
        metadata["retentionDays"] = session.retention_days
    out["_metadata"] = metadata


def _delivery(delivery: Delivery) -> dict[str, Any]:
    out: dict[str, Any] = {"status": delivery.status, "attempts": delivery.attempts}
    _add_time(out, "nextAt", delivery.next_at)
    _add_time(out, "submittedAt", delivery.submitted_at)
    if delivery.error:
        out["error"] = delivery.error
    return out


def _add_time(out: dict[str, Any], key: str, time: datetime | None) -> None:
    if time is not None:
        out[key] = to_millis(time)


def _millis(time_ns: int) -> int | float:
    """Return unix nanoseconds as milliseconds with up to three decimals, exact until the year 2109."""
    micros = time_ns // 1000
    return micros / 1000 if micros % 1000 else micros // 1000


def to_millis(time: datetime) -> int:
    """Return an aware time as whole unix milliseconds, rounded down."""
    return (time - _EPOCH) // _MILLISECOND


def from_millis(millis: int | None) -> datetime | None:
    """Return unix milliseconds as an aware UTC datetime; None stays None."""
    return None if millis is None else _EPOCH + millis * _MILLISECOND


def _whole(time: datetime | None) -> datetime | None:
    return None if time is None else from_millis(to_millis(time))


_extension: Final = None if SessionLine is None else SessionLine(_content, _finding, SCHEMA_VERSION)
