"""A session: one complete conversation between an analyzer and the LIS.

The law of these values: they are tuples, so no plugin or thread that is given one can change it for the others.  A
change is a new value (``session._replace(...)``).  They hold no clock and no file.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from typing import Final, NamedTuple

from hl7core.model.delivery import Delivery, DeliveryStatus, overall_status
from hl7core.model.finding import Finding
from hl7core.model.frame import Fault
from hl7core.model.packet import Endpoint
from hl7core.model.text import decode

__all__ = [
    "SESSION_ID",
    "Direction",
    "Element",
    "ElementType",
    "Ending",
    "Message",
    "OpenSession",
    "Session",
    "SessionQuery",
    "moment",
]

SESSION_ID: Final = re.compile(r"[0-9a-f-]{36}")
"""What every session id matches whole, so that no store has to sanitise a path."""


def moment(time_ns: int) -> datetime:
    """Return unix nanoseconds as an aware UTC datetime (microseconds are its resolution)."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000)


class Direction(StrEnum):
    """Who sent it.  The names are the predecessor's: ``pc`` is the LIS."""

    FROM_DEVICE = "device-to-pc"
    FROM_LIS = "pc-to-device"


class ElementType(StrEnum):
    """What an element is in the conversation."""

    START = "start"
    MESSAGE = "message"
    ACK = "ack"
    NAK = "nak"
    END = "end"
    OTHER = "other"


class Ending(StrEnum):
    """How a session ended."""

    COMPLETE = "complete"
    SILENT = "silent"
    CLOSED = "closed"
    RESET = "reset"
    GAPPED = "gapped"
    CAPTURE_END = "captureEnd"
    STOPPED = "stopped"
    EVICTED = "evicted"


class Element(NamedTuple):
    """A frame placed in a session.

    ``time_ns`` is the packet time (unix nanoseconds) of its first byte, ``offset`` that byte's place in its stream.
    Its bytes are ``before + text + after``: the text is ``messages[message].text[span[0]:span[1]]`` where it is part
    of a message, else ``content``.  ``missing`` counts bytes that the capture does not hold (a gap).  ``late`` is
    true if it came after its session had ended.
    """

    time_ns: int
    direction: Direction
    type: ElementType
    offset: int
    before: bytes = b""
    content: bytes = b""
    after: bytes = b""
    message: int | None = None
    span: tuple[int, int] = (0, 0)
    faults: tuple[Fault, ...] = ()
    late: bool = False
    missing: int = 0


class Message(NamedTuple):
    """Application data joined from frames: HL7 v2, or LIS02 (ASTM) records.

    ``text`` is its exact bytes, ``time_ns`` the packet time of the last one.  ``charset`` is MSH-18 as declared.
    ``control_id`` is MSH-10 (ASTM: H-3) or "", ``message_type`` MSH-9 (ASTM: the letters of its records).
    ``ack_code`` is MSA-1 and ``reply_to`` MSA-2 of a reply; ``reply_to`` is None for what is no reply.
    """

    text: bytes
    direction: Direction
    protocol: str
    time_ns: int
    control_id: str = ""
    message_type: str = ""
    charset: str = ""
    complete: bool = True
    ack_code: str = ""
    reply_to: str | None = None

    def decoded(self) -> tuple[str, str]:
        """Return its text as ``str`` and the codec that gives its exact bytes back."""
        return decode(self.text, self.charset)

    @property
    def sha256(self) -> str:
        """The SHA-256 of its exact bytes, in hex."""
        return sha256(self.text).hexdigest()


class Session(NamedTuple):
    """LIS01 and the plain variant: ENQ to EOT.  MLLP: one exchange.

    ``start_ns`` and ``end_ns`` are the packet times of its first and last byte.  ``connection`` names both ends of its
    TCP connection, the opener's first.  ``revision`` is 0 when the session ends and grows by one with each
    acknowledgement that joins it later.
    """

    id: str
    start_ns: int
    end_ns: int
    device: Endpoint
    lis: Endpoint
    elements: tuple[Element, ...]
    messages: tuple[Message, ...]
    is_complete: bool
    protocol: str
    ending: Ending
    connection: str = ""
    sensor: str = ""
    findings: tuple[Finding, ...] = ()
    deliveries: tuple[Delivery, ...] = ()
    ignored: bool = False
    first_saved_at: datetime | None = None
    saved_at: datetime | None = None
    persisted_until: datetime | None = None
    retention_days: int | None = None
    revision: int = 0

    @property
    def started_at(self) -> datetime:
        """The packet time of its first byte."""
        return moment(self.start_ns)

    @property
    def ended_at(self) -> datetime:
        """The packet time of its last byte."""
        return moment(self.end_ns)

    @property
    def latency_ns(self) -> int | None:
        """How long a request waited for its first answer: from its last byte to that one's first, by packet times.

        Nanoseconds; None if no message answers another, as in LIS01.
        """
        asked = next((message for message in self.messages if message.reply_to is None), None)
        for element in self.elements:
            if asked is not None and element.message is not None:
                answer = self.messages[element.message]
                if answer.reply_to is not None and answer.direction is not asked.direction:
                    return max(0, element.time_ns - asked.time_ns)
        return None

    @property
    def status(self) -> DeliveryStatus:
        """Where it stands over all its destinations."""
        return overall_status(self.deliveries, ignored=self.ignored)

    def text_of(self, element: Element) -> bytes:
        """Return the text that ``element`` (one of its own) carries."""
        if element.message is None:
            return element.content
        start, end = element.span
        return self.messages[element.message].text[start:end]

    def raw_of(self, element: Element) -> bytes:
        """Return every captured byte of ``element`` (one of its own)."""
        return element.before + self.text_of(element) + element.after


class OpenSession(NamedTuple):
    """The light summary of a session that still goes on: counts and the last element, never content."""

    id: str
    start_ns: int
    device: Endpoint
    lis: Endpoint
    protocol: str
    elements: int
    messages: int
    last_type: ElementType
    last_direction: Direction
    last_ns: int


class SessionQuery(NamedTuple):
    """Which sessions to load.  A session matches if it matches every field that is given.

    ``since`` and ``until`` limit the start (``since`` included, ``until`` not).  ``expired_at`` selects sessions whose
    ``persisted_until`` is before it, ``pending_for`` those still pending for that destination.  ``specimen``,
    ``patient``, ``control_id`` and ``finding`` match whole values, ``text`` any part of a message.  ``after`` (the
    start and id of a session) continues a listing after that session.  At most ``limit`` sessions are returned, oldest
    first, or newest first with ``newest_first``.
    """

    ids: tuple[str, ...] = ()
    status: tuple[DeliveryStatus, ...] = ()
    device: str = ""
    lis: str = ""
    protocol: str = ""
    since: datetime | None = None
    until: datetime | None = None
    specimen: str = ""
    patient: str = ""
    control_id: str = ""
    finding: str = ""
    text: str = ""
    pending_for: str = ""
    expired_at: datetime | None = None
    after: tuple[datetime, str] | None = None
    newest_first: bool = False
    limit: int = 1000
