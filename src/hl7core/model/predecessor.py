"""Reading the predecessor's session files: schema 1.x, or files without a version.

Every captured byte in such a file is kept, in its element.  An element may hold its bytes several times: ``rawBytes``
is preferred to ``hexData``, and that to text, which may have lost bytes in decoding.  The framing around a message's
text (VT and FS CR, STX and CR LF, that of a LIS01 frame) belongs to its element, as in our own sessions.

A session without a 36-character id gets one in the layout of a UUID version 7, made of its start and a BLAKE2b hash of
its addresses and bytes, so that the same file always gives the same id.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import AliasChoices, Field, ValidationError, field_validator

from hl7core.errors import SessionRefused
from hl7core.model.delivery import PREDECESSOR, Delivery, DeliveryStatus
from hl7core.model.packet import Endpoint
from hl7core.model.schema import at_stored_precision, from_millis
from hl7core.model.session import SESSION_ID, Direction, Element, ElementType, Ending, Message, Session
from hl7core.model.stored_shape import Micros, Millis, StoredModel, refusal

__all__ = ["read_session"]

RETENTION_DAYS: Final = 30
_LAST_YEAR: Final = 9000
_ID_VERSION: Final = b"\x01"
_TYPES: Final = frozenset(ElementType)
_LIS01: Final = re.compile(rb"(\x02[0-7])(.*)([\x03\x17][0-9A-Fa-f]{2}\r\n)", re.DOTALL)
_PLAIN: Final = re.compile(rb"(\x02)(.*?)(\r\n|\r|\n|\x03|)", re.DOTALL)
_MLLP: Final = re.compile(rb"(\x0b)(.*)(\x1c\r?)", re.DOTALL)
_FRAMES: Final = (("lis01", _LIS01), ("mllp", _MLLP), ("plain", _PLAIN))


class OldElement(StoredModel):
    """An element, whose bytes stand in one to four of the last fields."""

    timestamp: Micros
    direction: Direction
    type: str
    hex_data: str | None = None
    content: str | None = None
    decoded_message: str | None = None
    raw_bytes: list[Annotated[int, Field(ge=0, le=255)]] | None = None

    @field_validator("raw_bytes", mode="before")
    @classmethod
    def _unpack(cls, value: Any) -> Any:
        """Accept JavaScript's JSON of a buffer: ``{"type": "Buffer", "data": [...]}``."""
        return value.get("data") if isinstance(value, dict) else value


class OldMetadata(StoredModel):
    """When the file was saved, and for how many days it is kept."""

    saved_at: Micros | None = None
    retention_days: Annotated[int, Field(ge=1, le=36_500)] = RETENTION_DAYS


class OldSession(StoredModel):
    """A session as the predecessor wrote it."""

    session_id: Annotated[
        int | str | None, Field(validation_alias=AliasChoices("sessionId", "id"), union_mode="left_to_right")
    ] = None
    start_time: Micros
    end_time: Micros | None = None
    device_ip: Annotated[str, Field(alias="deviceIP")] = ""
    lis_ip: Annotated[str, Field(alias="lisIP")] = ""
    elements: tuple[OldElement, ...]
    messages: tuple[str, ...] = ()
    is_complete: bool = False
    persisted_until: Millis | None = None
    submission_status: DeliveryStatus = DeliveryStatus.PENDING
    submission_attempts: Annotated[int, Field(ge=0)] | None = None
    submitted_at: Millis | None = None
    submission_error: str | None = None
    metadata: Annotated[OldMetadata | None, Field(alias="_metadata")] = None


def read_session(value: dict[str, Any], now: datetime | None) -> Session:
    """Return the session in a predecessor's file; ``now`` is used as its time of saving if it has none.

    Raises SessionRefused.
    """
    try:
        old = OldSession.model_validate(value)
    except ValidationError as error:
        raise refusal(error) from None
    raws = [_raw(element) for element in old.elements]
    elements, messages, protocol = _joined(old, raws)
    saved_at = now
    if old.metadata is not None and old.metadata.saved_at is not None:
        saved_at = from_millis(int(old.metadata.saved_at))
    days = old.metadata.retention_days if old.metadata is not None else RETENTION_DAYS
    until = from_millis(old.persisted_until)
    if until is None and saved_at is not None and saved_at.year < _LAST_YEAR:
        until = saved_at + timedelta(days=days)
    start_ns = round(old.start_time * 1000) * 1000
    session = Session(
        id=_id(old, raws),
        start_ns=start_ns,
        end_ns=max([start_ns, round((old.end_time or 0) * 1000) * 1000, *(e.time_ns for e in elements)]),
        device=Endpoint(old.device_ip, 0),
        lis=Endpoint(old.lis_ip, 0),
        elements=elements,
        messages=messages,
        is_complete=old.is_complete,
        protocol=protocol,
        ending=Ending.COMPLETE if old.is_complete else Ending.CAPTURE_END,
        deliveries=_deliveries(old),
        ignored=old.submission_status is DeliveryStatus.IGNORED,
        first_saved_at=saved_at,
        saved_at=saved_at,
        persisted_until=until,
        retention_days=days,
    )
    return at_stored_precision(session)


def _raw(element: OldElement) -> bytes:
    if element.raw_bytes is not None:
        return bytes(element.raw_bytes)
    if element.hex_data is not None:
        try:
            return bytes.fromhex(element.hex_data)
        except ValueError:
            raise SessionRefused("an element's hexData is not hexadecimal") from None
    return (element.content or element.decoded_message or "").encode()


def _id(old: OldSession, raws: Sequence[bytes]) -> str:
    if isinstance(old.session_id, str) and SESSION_ID.fullmatch(old.session_id):
        return old.session_id
    digest = blake2b(_ID_VERSION, digest_size=16)
    for part in (old.device_ip.encode(), old.lis_ip.encode(), *(raws or [text.encode() for text in old.messages])):
        digest.update(len(part).to_bytes(8) + part)
    number = int.from_bytes(digest.digest())
    high, low = number >> 116, number & ((1 << 62) - 1)
    return str(UUID(int=(int(old.start_time) & ((1 << 48) - 1)) << 80 | 7 << 76 | high << 64 | 2 << 62 | low))


def _joined(old: OldSession, raws: Sequence[bytes]) -> tuple[tuple[Element, ...], tuple[Message, ...], str]:
    """Return the elements, the messages, and the protocol, which follows from the framing."""
    protocol = ""
    offsets = dict.fromkeys(Direction, 0)
    elements: list[Element] = []
    messages: list[Message] = []
    unplaced = list(old.messages)
    for stored, raw in zip(old.elements, raws, strict=True):
        kind = ElementType(stored.type) if stored.type in _TYPES else ElementType.OTHER
        time_ns = round(stored.timestamp * 1000) * 1000
        element = Element(time_ns, stored.direction, kind, offsets[stored.direction], content=raw)
        offsets[stored.direction] += len(raw)
        index = next((n for n, text in enumerate(unplaced) if _same(raw, text)), None)
        if index is not None:
            name, before, text, after = _parts(raw)
            protocol = protocol or name
            element = element._replace(
                before=before, content=b"", after=after, message=len(messages), span=(0, len(text))
            )
            messages.append(_message(text, stored.direction, name, time_ns))
            del unplaced[index]
        elements.append(element)
    last_ns = elements[-1].time_ns if elements else round(old.start_time * 1000) * 1000
    for rest in unplaced:  # joined from several elements, or from none in the file
        name, _, text, _ = _parts(rest.encode())
        protocol = protocol or name
        messages.append(_message(text, Direction.FROM_DEVICE, name, last_ns))
    return tuple(elements), tuple(messages), protocol or "plain"


def _same(raw: bytes, text: str) -> bool:
    """Return whether a message's string is an element's bytes, decoded in some way, with or without framing."""
    if len(raw) < 2:
        return False
    inner = _parts(raw)[2]
    return any(text in (part.decode("utf-8", "replace"), part.decode("latin-1")) for part in (raw, inner))


def _parts(raw: bytes) -> tuple[str, bytes, bytes, bytes]:
    """Return the protocol of the frame ``raw``, and the bytes before the text, the text and the bytes after it."""
    for name, frame in _FRAMES:
        if found := frame.fullmatch(raw):
            before, text, after = found.groups()
            return name, before, text, after
    return "plain", b"", raw, b""


def _message(text: bytes, direction: Direction, protocol: str, time_ns: int) -> Message:
    """Return a message, with the fields that its own header and MSA segment give."""
    control_id = kind = charset = ack_code = ""
    reply_to = None
    if text.startswith(b"MSH") and len(text) > 3:
        records = [line.split(text[3:4]) for line in re.split(rb"[\r\n]+", text)]
        head = [field.decode("latin-1") for field in (*records[0], *[b""] * 18)]
        kind, control_id, charset = head[8], head[9], head[17].split("~")[0]
        if answer := next((fields for fields in records if fields[0] == b"MSA" and len(fields) > 2), None):
            ack_code, reply_to = answer[1].decode("latin-1"), answer[2].decode("latin-1")
    elif text.startswith(b"H") and len(text) > 1:
        records = [line.split(text[1:2]) for line in re.split(rb"[\r\n]+", text) if line]
        kind = b"".join(fields[0][:1] for fields in records).decode("latin-1")
        control_id = records[0][2].decode("latin-1") if len(records[0]) > 2 else ""
    return Message(text, direction, protocol, time_ns, control_id, kind, charset, True, ack_code, reply_to)


def _deliveries(old: OldSession) -> tuple[Delivery, ...]:
    if old.submission_status not in (DeliveryStatus.SUBMITTED, DeliveryStatus.FAILED):
        return ()
    error = old.submission_error or ""
    attempts = old.submission_attempts or 0
    return (Delivery(PREDECESSOR, old.submission_status, attempts, None, from_millis(old.submitted_at), error),)
