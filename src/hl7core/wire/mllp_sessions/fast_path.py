"""The fast path: a request in one sound block, and the one acknowledgement that completes it.

Nearly all MLLP traffic is that, so it is taken here without making a frame or an exchange.  Whatever is not certainly
of that kind is left untouched to :mod:`hl7core.wire.mllp_sessions.tracker`, which would make the same sessions of all
of it; tests hold the two, and the C extension, to equal results.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from hl7core.model.session import Element, ElementType, Ending, Message, Session
from hl7core.wire.connection import Connection, Half
from hl7core.wire.memory_budget import UNREPORTED, ConnectionMemory
from hl7core.wire.mllp_sessions.acknowledgement import POSITIVE, completes, completing
from hl7core.wire.peek import NO_REPLY

__all__ = ["FastExchange", "FastPath", "Make", "Reply", "Request", "exchange_session", "side_of_device"]

_HEAD: Final = b"\x0bMSH|^~\\&|"
_HEADER: Final = 200
MAX_ANSWERED: Final = 1300
_BETWEEN: Final = "\r"  # no field of a message holds one
_CONTROLS: Final = bytes([*range(13), *range(14, 32)])
"""The ASCII control characters except CR."""
_VT: Final = b"\x0b"
_END: Final = b"\x1c\r"
_MESSAGE: Final = ElementType.MESSAGE
_ACK: Final = ElementType.ACK
_NAK: Final = ElementType.NAK
_COMPLETE: Final = Ending.COMPLETE
_FROM_DEVICE: Final = ("ORU", "OUL", "QRY", "QBP", "SSU")
_TO_DEVICE: Final = ("ORM", "OML", "OMG")
_new = tuple.__new__  # faster than the constructor of a named tuple


class Request(NamedTuple):
    """A request in one block, with nothing unusual about it.

    ``offset`` is where the block begins in its stream, ``start_ns`` and ``end_ns`` are when its first and its last byte
    were captured (unix nanoseconds).  ``plain``: it is known to hold no control character but CR.
    """

    half: Half
    block: bytes
    offset: int
    start_ns: int
    end_ns: int
    control_id: str
    message_type: str
    charset: str
    plain: bool


class Reply(NamedTuple):
    """The acknowledgement of a request: the same fields, and ``code``, its MSA-1."""

    half: Half
    block: bytes
    offset: int
    start_ns: int
    end_ns: int
    control_id: str
    message_type: str
    charset: str
    plain: bool
    code: str


class FastExchange(NamedTuple):
    """An exchange that the fast path has seen whole."""

    connection: Connection
    request: Request
    reply: Reply


Make = Callable[[FastExchange], Any]
"""Makes of such an exchange what the decoder returns."""


class Terms(NamedTuple):
    """What a header says behind MSH-10.

    ``wants_none``: the message is complete without an acknowledgement.  ``completing`` says of each MSA-1 whether that
    acknowledgement alone completes the exchange.
    """

    wants_none: bool
    completing: dict[str, bool]
    charset: str


_MAX_TERMS: Final = 1000
TERMS: Final[dict[str, Terms]] = {}


def terms_of(rest: str) -> Terms:
    """Return what ``rest``, the text of a header behind MSH-10, says; a device repeats the same few of them."""
    terms = TERMS.get(rest)
    if terms is not None:
        return terms
    fields = ["", *rest.split("|", 8)]  # MSH-10 and on
    count = len(fields)
    accept, application = fields[5] if count > 5 else "", fields[6] if count > 6 else ""
    charset = fields[8] if count > 8 else ""
    terms = Terms(completes(accept, application, ()), completing(accept, application), charset)
    if len(TERMS) >= _MAX_TERMS:
        TERMS.clear()
    TERMS[rest] = terms
    return terms


class FastPath:
    """The fast path of one connection.

    ``ready`` says that nothing else of the connection waits: no exchange, no bytes outside of blocks.  ``request``
    waits for its acknowledgement here, or is None; ``terms`` are its terms.  ``longest`` is the length of the longest
    block (bytes), ``holds_last`` says that the last session is at hand.
    """

    __slots__ = (
        "_answered", "_connection", "_last", "_last_exchange", "_make", "_memory", "_recent", "_weight", "holds_last",
        "longest", "ready", "request", "terms",
    )  # fmt: skip

    def __init__(self, connection: Connection, recent: list[FastPath], make: Make, memory: ConnectionMemory) -> None:
        self._connection = connection
        self._memory = memory
        self._weight = 0  # of the request that waits, if it is heavy
        self._recent = recent
        self._make = make
        self.holds_last = False
        self._answered = ""  # MSA-2 and MSH-10 of the acknowledgements that came, each with a _BETWEEN behind it
        # The session that was emitted last, or the exchange that it is made of when somebody asks for it.
        self._last: Session | None = None
        self._last_exchange: FastExchange | None = None
        self.longest = connection.options.max_message + 3
        self.terms = Terms(False, {}, "")  # of no request yet
        self.request: Request | None = None
        self.ready = True

    def add_segment(self, half: Half, data: bytes, now: int, out: list[Any]) -> bool:
        """Add the bytes of a TCP segment, captured at ``now``, where no others of ``half`` wait; as ``add_block``.

        ``half.offset`` is where they begin.
        """
        size = len(data)
        if (
            not data.startswith(_HEAD) or not data.endswith(_END) or size > self.longest
            or len(data.translate(None, _CONTROLS)) != size - 2
            or not self._add(half, data, half.offset, now, now, out, True)
        ):  # fmt: skip
            return False
        half.framer.offset += size  # type: ignore[union-attr]  # a framer of MLLP, at rest
        return True

    def add_block(self, half: Half, raw: bytes, offset: int, start_ns: int, end_ns: int, out: list[Any]) -> bool:
        """Add a sound block, its first and last byte captured at ``start_ns`` and ``end_ns`` (unix nanoseconds).

        Returns True if it was taken: what it completes was added to ``out``, or a request waits here from now on.
        Returns False, and nothing has changed, if the slow path has to take it.
        """
        return raw.startswith(_HEAD) and self._add(half, raw, offset, start_ns, end_ns, out, False)

    def _add(
        self, half: Half, raw: bytes, offset: int, start_ns: int, end_ns: int, out: list[Any], plain: bool
    ) -> bool:
        end = raw.find(b"\r", 10, _HEADER)
        if end < 0 or raw.rfind(b"\rMSH") > 0:
            return False
        header = raw[10:end].decode("latin-1")
        fields = header.split("|", 8)  # MSH-3 and on
        if len(fields) < 9 or "~" in header or "\n" in header or '"' in header or "\\" in header:
            return False
        rest = fields[8]
        terms = TERMS.get(rest) or terms_of(rest)
        request = self.request
        if request is None:
            if terms.wants_none or raw[end + 1 : end + 4] not in NO_REPLY:
                return False
            if len(raw) > UNREPORTED:
                if not self._memory.has_room(len(raw)):
                    return False
                self._weight = len(raw)
                self._memory.add(self._weight)
            if self._connection.device_side < 0:
                self._connection.assign_roles(side_of_device(half.side, fields[6]))
            self.terms = terms
            self.request = _new(Request, (
                half, raw, offset, start_ns, end_ns, fields[7], fields[6], terms.charset, plain,
            ))  # fmt: skip
            return True
        if request.half is half or raw[end + 1 : end + 5] != b"MSA|":
            return False
        stop = raw.find(b"\r", end + 5, end + _HEADER)
        line = raw[end + 5 : stop].decode("latin-1")
        parts = line.split("|", 2)
        if (
            stop < 0
            or len(parts) < 2
            or parts[1] != request.control_id
            or "~" in line
            or "\n" in line
            or '"' in line
            or "\\" in line
        ):
            return False
        code = parts[0]
        if not self.terms.completing.get(code):
            return False  # more is to come, or the code is unknown
        reply = _new(Reply, (
            half, raw, offset, start_ns, end_ns, fields[7], fields[6], terms.charset, plain, code,
        ))  # fmt: skip
        self.emit(_new(FastExchange, (self._connection, request, reply)), parts[1], fields[7], out)
        return True

    def emit(self, exchange: FastExchange, control_id: str, reply_id: str, out: list[Any]) -> None:
        """Add what is made of an exchange to ``out``: the request that waits has been answered.

        ``control_id`` and ``reply_id`` are the MSH-10 of its request and its reply.
        """
        self.request = None
        if self._weight:
            self._release()
        self._last_exchange, self._last = exchange, None
        self.note_answer(control_id, reply_id)
        if not self.holds_last:
            self.holds_last = True
            self._recent.append(self)
        out.append(self._make(exchange))

    def hand_over(self) -> Request | None:
        """Return the request that waits, if there is one, and forget it: the slow path takes it over."""
        request, self.request = self.request, None
        if self._weight:
            self._release()
        return request

    def _release(self) -> None:
        self._memory.add(-self._weight)
        self._weight = 0

    # The session that was emitted last.

    def keep_last(self, session: Session) -> None:
        """Keep the session that was emitted last at hand, until ``forget``: something may still join it."""
        self._last, self._last_exchange = session, None
        if not self.holds_last:
            self.holds_last = True
            self._recent.append(self)

    @property
    def last(self) -> Session | None:
        """The session that was emitted last, while it is kept at hand."""
        if self._last_exchange is not None:
            self._last, self._last_exchange = exchange_session(self._last_exchange), None
        return self._last

    def forget(self) -> None:
        """Drop the last session: ten thousand idle connections would hold as many."""
        self._last = self._last_exchange = None
        self.holds_last = False
        self._connection.drop_caches()

    # The ids that were answered.

    def note_answer(self, request: str, reply: str) -> None:
        """Note that the message ``reply`` (MSH-10) has answered ``request`` (MSA-2)."""
        answered = f"{self._answered}{request}\r{reply}\r"
        if len(answered) > MAX_ANSWERED:
            ids = answered.split(_BETWEEN)
            answered = _BETWEEN.join(ids[len(ids) // 4 * 2 :])
        self._answered = answered

    def fault_of_reply(self, control_id: str) -> str:
        """Return the code of the fault of a reply that names ``control_id``, which nothing waits for."""
        if control_id and control_id in self._answered:
            ids = self._answered.split(_BETWEEN)
            if control_id in ids[::2]:
                return "duplicate-acknowledgement"
            if control_id in ids[1::2]:
                return "acknowledged-acknowledgement"
        return "unknown-request"


def side_of_device(side: int, message_type: str) -> int:
    """Return which side is the analyzer, as the first message's type tells, or -1."""
    if message_type.startswith(_FROM_DEVICE):
        return side
    return 1 - side if message_type.startswith(_TO_DEVICE) else -1


def exchange_session(exchange: FastExchange) -> Session:
    """Return an exchange of the fast path as a session."""
    connection, request, reply = exchange
    asking, asked, asked_offset, asked_ns, asked_end_ns, control_id, asked_type, asked_charset, _ = request
    half, raw, offset, start_ns, end_ns, own_id, own_type, charset, _, code = reply
    protocol, directions = connection.protocol, connection.directions
    there, back = directions[asking.side], directions[half.side]
    asked_text, text = asked[1:-2], raw[1:-2]
    elements = (
        _new(Element, (
            asked_ns, there, _MESSAGE, asked_offset, _VT, b"", _END, 0, (0, len(asked_text)), (), False, 0,
        )),
        _new(Element, (
            start_ns, back, _ACK if code in POSITIVE else _NAK, offset, _VT, b"", _END, 1, (0, len(text)), (), False, 0,
        )),
    )  # fmt: skip
    messages = (
        _new(Message, (
            asked_text, there, protocol, asked_end_ns, control_id, asked_type, asked_charset, True, "", None,
        )),
        _new(Message, (
            text, back, protocol, end_ns, own_id, own_type, charset, True, code, control_id,
        )),
    )  # fmt: skip
    return _new(Session, (
        connection.session_id(asking, asked_offset, asked, asked_ns), asked_ns,
        end_ns if end_ns > asked_end_ns else asked_end_ns, connection.device, connection.lis, elements, messages, True,
        protocol, _COMPLETE, connection.text, connection.options.sensor, (), (), False, None, None, None, None, 0,
    ))  # fmt: skip
