"""A session: one conversation between an analyzer and the LIS, with its elements and messages.

All of these are tuples: a plugin or thread that is handed one cannot change it for others, and makes a changed copy
with ``session._replace(...)``.
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
"""Every session id matches this in full, so that a store can use it as a file name as it is."""


def moment(time_ns: int) -> datetime:
    """Return unix nanoseconds as an aware UTC datetime, rounded down to microseconds."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000)


class Direction(StrEnum):
    """Who sent it.  The values are the predecessor's, in which ``pc`` is the LIS."""

    FROM_DEVICE = "device-to-pc"
    FROM_LIS = "pc-to-device"


class ElementType(StrEnum):
    """The role of an element in the conversation: ENQ is a start, EOT an end, stray bytes and gaps are other."""

    START = "start"
    MESSAGE = "message"
    ACK = "ack"
    NAK = "nak"
    END = "end"
    OTHER = "other"


class Ending(StrEnum):
    """How a session ended.

    ``complete``: as its protocol says.  ``silent``: its timeout passed.  ``closed``, ``reset``: its connection ended
    (FIN, RST).  ``gapped``: bytes are missing from the capture.  ``captureEnd``: the capture ended first.  ``stopped``:
    capturing was stopped.  ``evicted``: a memory bound let it go.
    """

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

    ``time_ns`` is the packet time of its first byte (unix nanoseconds), ``offset`` the offset of that byte in its
    stream.  Its bytes are ``before + text + after``.  If ``message`` is not None, the text is
    ``session.messages[message].text[span[0]:span[1]]``, else it is ``content``.  ``missing`` counts the bytes of a gap,
    which the capture does not hold.  ``late`` is true if it came after its session had ended.
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

    ``text`` is its exact bytes, ``time_ns`` the packet time of the last one (unix nanoseconds).  ``control_id`` is
    MSH-10 (LIS02: H-3), ``message_type`` MSH-9 (LIS02: the letters of its records, such as "HPORL"), ``charset`` MSH-18
    as declared; each is "" if the message has none.  In a reply ``ack_code`` is MSA-1 and ``reply_to`` MSA-2;
    ``reply_to`` is None if it is not a reply.  ``complete`` is false if part of it is missing.
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
        """Return its text as ``str`` and the Python codec whose ``encode`` gives its exact bytes back."""
        return decode(self.text, self.charset)

    @property
    def sha256(self) -> str:
        """The SHA-256 of its exact bytes, 64 hexadecimal digits."""
        return sha256(self.text).hexdigest()


class Session(NamedTuple):
    """One conversation.  LIS01 and the plain variant: ENQ to EOT.  MLLP: one exchange.

    ``start_ns`` and ``end_ns`` are the packet times of its first and last byte (unix nanoseconds).  ``device`` is the
    analyzer's end, ``lis`` the LIS's; ``connection`` names both ends of the TCP connection, the opener's first.
    ``protocol`` is "mllp", "lis01", "plain" or a dialect's name.  ``revision`` is 0 when the session ends and grows by
    one with each acknowledgement that joins it later.

    The fields from ``deliveries`` on change after its end: its state at each destination, whether a person ``ignored``
    it, when it was saved, until when it is kept and for how many days.  Their times are aware UTC datetimes.
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
        """Nanoseconds from the last byte of its request to the first byte of the first answer, by packet times.

        None if no message answers another, as in LIS01.
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
        """Its state over all destinations, as ``overall_status`` computes it."""
        return overall_status(self.deliveries, ignored=self.ignored)

    def text_of(self, element: Element) -> bytes:
        """Return the text of ``element``, which must be one of this session's."""
        if element.message is None:
            return element.content
        start, end = element.span
        return self.messages[element.message].text[start:end]

    def raw_of(self, element: Element) -> bytes:
        """Return every captured byte of ``element``, which must be one of this session's."""
        return element.before + self.text_of(element) + element.after


class OpenSession(NamedTuple):
    """A summary of a session that has not ended: counts, and its last element's type, direction and time."""

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
    """Which sessions to load: those that match every field that is set.

    ``device`` and ``lis`` are addresses.  ``since`` and ``until`` bound the start, ``since`` inclusive.  ``specimen``,
    ``patient``, ``control_id`` and ``finding`` (a code) match whole values; ``text`` matches part of any message.
    ``pending_for`` matches sessions still pending for the named destination, ``expired_at`` those whose
    ``persisted_until`` is earlier.  Times are aware datetimes.

    At most ``limit`` sessions are returned, oldest first, or newest first with ``newest_first``.  ``after`` continues a
    listing: the start and id of the last session of the previous page.
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
