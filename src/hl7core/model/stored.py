"""Reading a session's JSON, which comes from outside: every value is checked.

The result is a valid session whose messages have the SHA-256 that was written with them.  Anything else is refused with
a SessionRefused that says what is wrong and quotes nothing.  Unknown keys are ignored: later versions may add some.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import from_json

from hl7core.errors import SessionRefused
from hl7core.model.delivery import PREDECESSOR, Delivery, DeliveryStatus
from hl7core.model.finding import Finding
from hl7core.model.frame import Fault
from hl7core.model.packet import Endpoint
from hl7core.model.schema import SCHEMA_VERSION, end_within, from_millis, start_within, usual_framing
from hl7core.model.session import Element, Message, Session
from hl7core.model.stored_shape import StoredElement, StoredMessageInfo, StoredSession, refusal
from hl7core.model.text import codec_of

__all__ = ["schema_version_of", "session_from_json"]

_FIRST_VERSION: Final = "1.0.0"
_VERSION: Final = re.compile(r"\d{1,6}(\.\d{1,6}){0,2}")


def session_from_json(data: bytes | str, *, now: datetime | None = None) -> Session:
    """Return the session that ``data`` holds, in any schema version 1.x or 2.x.

    Of a higher version, the fields that 2.x knows are read.  A predecessor's file without ``_metadata`` counts as
    saved at ``now`` and is kept for 30 days (``now`` None: as never saved).  Raises SessionRefused, whose text quotes
    nothing of ``data``.
    """
    value = _parse(data)
    if _version_of(value).split(".")[0] in ("0", "1"):
        from hl7core.model import predecessor  # here: only old files need it

        return predecessor.read_session(value, now)
    try:
        return _session(StoredSession.model_validate(value))
    except ValidationError as error:
        raise refusal(error) from None


def schema_version_of(data: bytes | str) -> str:
    """Return the schema version of a session's JSON, such as "2.0.0"; "1.0.0" if it states none.

    Raises SessionRefused.
    """
    return _version_of(_parse(data))


def _parse(data: bytes | str) -> dict[str, Any]:
    """Return the JSON object that ``data`` is.  Raises SessionRefused."""
    try:
        value = from_json(data, allow_inf_nan=False)
    except ValueError:
        raise SessionRefused("not valid JSON, or cut off") from None
    if not isinstance(value, dict):
        raise SessionRefused("not a session: the JSON is no object")
    return value


def _version_of(value: dict[str, Any]) -> str:
    """Return the schema version that a session's JSON states.  Raises SessionRefused.

    The predecessor's files may state none.  Ours always do once saved; unsaved ones are recognized by ``messageInfo``.
    """
    metadata = value.get("_metadata")
    if metadata is None:
        return SCHEMA_VERSION if "messageInfo" in value else _FIRST_VERSION
    version = metadata.get("version") if isinstance(metadata, dict) else None
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        raise SessionRefused("_metadata holds no valid schema version")
    return version


def _session(stored: StoredSession) -> Session:
    if len(stored.messages) != len(stored.message_info):
        raise SessionRefused("messages and messageInfo differ in length")
    messages = tuple([_message(*pair) for pair in zip(stored.messages, stored.message_info, strict=True)])
    elements = tuple([_element(element, stored.protocol, messages) for element in stored.elements])
    return Session(
        id=stored.session_id,
        start_ns=start_within(stored.start_time, elements),
        end_ns=end_within(stored.end_time, elements, messages),
        device=Endpoint(stored.device_ip, stored.device_port),
        lis=Endpoint(stored.lis_ip, stored.lis_port),
        elements=elements,
        messages=messages,
        is_complete=stored.is_complete,
        protocol=stored.protocol,
        ending=stored.ending,
        connection=stored.connection,
        sensor=stored.sensor,
        findings=tuple([Finding(f.code, f.severity, f.text, f.element, f.offset) for f in stored.findings]),
        deliveries=_deliveries(stored),
        ignored=stored.submission_status is DeliveryStatus.IGNORED,
        first_saved_at=from_millis(stored.first_saved_at),
        saved_at=from_millis(stored.metadata.saved_at),
        persisted_until=from_millis(stored.persisted_until),
        retention_days=stored.metadata.retention_days,
        revision=stored.revision,
    )


def _message(text: str, info: StoredMessageInfo) -> Message:
    message = Message(
        _encoded(text, info.encoding),
        info.direction,
        info.protocol,
        _nanoseconds(info.timestamp),
        info.control_id,
        info.message_type,
        info.charset,
        info.complete,
        info.ack_code,
        info.reply_to,
    )
    if len(message.text) != info.length or message.sha256 != info.sha256:
        raise SessionRefused("a message does not match its length or sha256")
    return message


def _element(stored: StoredElement, protocol: str, messages: tuple[Message, ...]) -> Element:
    content, span = b"", (0, 0)
    before = bytes.fromhex(stored.before or "")
    after = bytes.fromhex(stored.after or "")
    if stored.message is not None:
        if stored.message >= len(messages):
            raise SessionRefused("an element refers to a message that does not exist")
        whole = messages[stored.message].text
        span = (0, len(whole)) if stored.span is None else stored.span
        if not span[0] <= span[1] <= len(whole):
            raise SessionRefused("an element's span lies outside its message")
        text = whole[span[0] : span[1]]
        if stored.before is None:
            before = usual_framing(protocol, b"", b"")[0]
        if stored.after is None:
            after = usual_framing(protocol, before, text)[1]
    elif stored.hex_data is not None:
        content = bytes.fromhex(stored.hex_data)
    elif stored.content is not None:
        content = _encoded(stored.content, stored.encoding)
    return Element(
        _nanoseconds(stored.timestamp),
        stored.direction,
        stored.type,
        stored.offset,
        before,
        content,
        after,
        stored.message,
        span,
        tuple([Fault(fault.code, fault.offset) for fault in stored.faults]),
        stored.late,
        stored.length,
    )


def _deliveries(stored: StoredSession) -> tuple[Delivery, ...]:
    listed = stored.deliveries or {}
    if not listed and stored.submission_status in (DeliveryStatus.SUBMITTED, DeliveryStatus.FAILED):
        return (
            Delivery(
                PREDECESSOR,
                stored.submission_status,
                stored.submission_attempts,
                None,
                from_millis(stored.submitted_at),
                stored.submission_error,
            ),
        )
    return tuple(
        [
            Delivery(name, d.status, d.attempts, from_millis(d.next_at), from_millis(d.submitted_at), d.error)
            for name, d in listed.items()
        ]
    )


def _encoded(text: str, encoding: str) -> bytes:
    """Return the bytes of ``text`` in a Python codec.  Raises SessionRefused."""
    codec = codec_of(encoding)
    try:
        return text.encode(codec or "undefined")
    except (UnicodeError, LookupError):
        raise SessionRefused("text cannot be encoded in its stated encoding") from None


def _nanoseconds(millis: float) -> int:
    """Return milliseconds with up to three decimals as whole nanoseconds."""
    return round(millis * 1000) * 1000
