"""The shape of a session's JSON: pydantic models of what a reader accepts, which also give the JSON Schema.

Fields stand in the order in which they are written.  What the models accept, :mod:`hl7core.model.stored` can read.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from hl7core.errors import SessionRefused
from hl7core.model.delivery import DeliveryStatus
from hl7core.model.finding import Severity
from hl7core.model.schema import SCHEMA_VERSION
from hl7core.model.session import SESSION_ID, Direction, ElementType, Ending

__all__ = [
    "Micros",
    "Millis",
    "StoredDelivery",
    "StoredElement",
    "StoredFault",
    "StoredFinding",
    "StoredMessageInfo",
    "StoredMetadata",
    "StoredModel",
    "StoredSession",
    "refusal",
]

_LATEST: Final = 253_402_300_799_999
"""The last millisecond of the year 9999."""

Millis = Annotated[int, Field(ge=0, le=_LATEST)]
Micros = Annotated[float, Field(ge=0, le=_LATEST)]
Count = Annotated[int, Field(ge=0, lt=1 << 63)]
Port = Annotated[int, Field(ge=0, le=65535)]
Hex = Annotated[str, Field(pattern=r"^([0-9A-Fa-f]{2})*$")]


class StoredModel(BaseModel):
    """Base of all models: keys in camelCase, unknown keys ignored, no input in error messages."""

    model_config = ConfigDict(
        alias_generator=to_camel, extra="ignore", frozen=True, hide_input_in_errors=True, allow_inf_nan=False
    )


class StoredFault(StoredModel):
    """A deviation from the framing's rules, at a byte offset in the stream."""

    code: str
    offset: Count


class StoredElement(StoredModel):
    """An element: its text is part of a message, or is ``content`` or ``hexData``."""

    id: str
    timestamp: Micros
    direction: Direction
    type: ElementType
    offset: Count
    message: Count | None = None
    span: tuple[Count, Count] | None = None
    content: str | None = None
    encoding: str = "utf-8"
    hex_data: Hex | None = None
    before: Hex | None = None
    after: Hex | None = None
    faults: tuple[StoredFault, ...] = ()
    late: bool = False
    length: Count = 0


class StoredMessageInfo(StoredModel):
    """The fields of a message other than its text."""

    encoding: str
    direction: Direction
    protocol: str
    control_id: str
    message_type: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    length: Count
    complete: bool
    timestamp: Micros
    charset: str = ""
    reply_to: str | None = None
    ack_code: str = ""


class StoredFinding(StoredModel):
    """Something wrong with the session."""

    code: str
    severity: Severity
    text: str
    element: Count | None = None
    offset: Count | None = None


class StoredDelivery(StoredModel):
    """The session's state at one destination."""

    status: DeliveryStatus
    attempts: Count = 0
    next_at: Millis | None = None
    submitted_at: Millis | None = None
    error: str = ""


class StoredMetadata(StoredModel):
    """The schema version of the file, when it was saved and for how many days it is kept."""

    version: str
    saved_at: Millis | None = None
    retention_days: Count | None = None


class StoredSession(StoredModel):
    """A session in schema version 2."""

    session_id: Annotated[str, Field(pattern=f"^{SESSION_ID.pattern}$")]
    start_time: Millis
    end_time: Millis
    device_ip: Annotated[str, Field(alias="deviceIP")]
    lis_ip: Annotated[str, Field(alias="lisIP")]
    device_port: Port
    lis_port: Port
    protocol: str
    connection: str = ""
    sensor: str = ""
    ending: Ending
    is_complete: bool
    revision: Count = 0
    elements: list[StoredElement]
    messages: list[str]
    message_info: list[StoredMessageInfo]
    findings: tuple[StoredFinding, ...] = ()
    persisted_until: Millis | None = None
    first_saved_at: Millis | None = None
    submission_status: DeliveryStatus = DeliveryStatus.PENDING
    submission_attempts: Count = 0
    submitted_at: Millis | None = None
    submission_error: str = ""
    deliveries: dict[str, StoredDelivery] | None = None
    metadata: Annotated[StoredMetadata, Field(alias="_metadata")] = StoredMetadata(version=SCHEMA_VERSION)


def refusal(error: ValidationError) -> SessionRefused:
    """Return a SessionRefused that names the wrong fields and how each is wrong.

    It quotes no value, nor a key that the schema does not know: in a foreign file a key may be content.
    """
    known = StoredSession.model_fields.values()
    names = {field.alias for field in known} | {"data"}
    wrong = {
        f"{first if (first := str(problem['loc'][0])) in names else 'a field'} ({problem['type']})"
        for problem in error.errors(include_input=False, include_context=False, include_url=False)
        if problem["loc"]
    }
    return SessionRefused(f"no valid session: {', '.join(sorted(wrong)[:5]) or 'not an object'}")
