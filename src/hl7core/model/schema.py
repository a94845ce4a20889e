"""The JSON of a session: its writer, its version and the rules that both sides share.

The law: what is written gives every captured byte back.  Keys stand in one order, times are unix milliseconds, and
what is empty is left out, except for the fields that the acceptance list names.  In full:

* ``startTime`` and ``endTime`` are whole milliseconds (rounded down), as are the times of saving and submission; an
  element's and a message's ``timestamp`` has up to three decimals (exact until the year 2109).  Read back, a session
  starts with its earliest element of that millisecond and ends with the last time in it: stored and new sort alike.
* A message's string and its ``encoding`` give its exact bytes.  An element's bytes are ``before + text + after``,
  the two in hex.  Its text is ``messages[message]``'s bytes from ``span[0]`` to ``span[1]`` (no ``span``: all of
  them), or ``content`` under its ``encoding``, or ``hexData``, or nothing.
* Where an element refers to a message, a missing ``before`` or ``after`` means the usual one of the session's protocol
  (``usual_framing``) and ``""`` none; elsewhere a missing one means none.
* Left out when empty: ``sensor``, ``findings``, ``revision``, ``persistedUntil``, ``firstSavedAt``, ``submittedAt``,
  ``submissionError``, ``deliveries``; of an element ``faults``, ``late``, ``length`` (bytes that were never captured);
  of a message ``charset``, ``replyTo`` (null when it is no reply), ``ackCode``.

Readers take any 1.x (the predecessor's) and 2.x; :mod:`hl7core.model.stored` has the reading side.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from json.encoder import encode_basestring as _quote
from typing import Any, Final

from hl7core.errors import SessionRefused
from hl7core.model.delivery import Delivery
from hl7core.model.native import SessionLine
from hl7core.model.session import Element, Message, Session
from hl7core.model.text import decode

__all__ = [
    "DECIMALS",
    "SCHEMA_VERSION",
    "TO_ESCAPE",
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
"""What ``_metadata.version`` says.  A higher first number is read, but never rewritten."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_CONTROLS: Final = bytes([*range(9), 11, 12, *range(14, 32), 127])
TO_ESCAPE: Final = bytes([*range(13), *range(14, 32)])
"""The control characters, but for CR: text without them is plain, as far as JSON is concerned."""
DECIMALS: Final = ["", *(f".{micros:03}".rstrip("0") for micros in range(1, 1000))]
"""What stands behind the whole milliseconds of a time, by its microseconds."""
_MLLP: Final = (b"\x0b", b"\x1c\r")
_PLAIN: Final = (b"\x02", b"\r\n")


def usual_framing(protocol: str, before: bytes, text: bytes) -> tuple[bytes, bytes]:
    """Return what stands around ``text`` in a sound frame of ``protocol``, and so is left out of the JSON.

    MLLP: VT and FS CR.  Plain: STX and CR LF.  LIS01: nothing is usual in front, since the frame's number stands
    there; behind come ETX, the checksum of what follows the STX, CR LF.
    """
    if protocol == "mllp":
        return _MLLP
    if protocol == "lis01":
        return b"", b"\x03%02X\r\n" % ((sum(before[1:]) + sum(text) + 3) & 0xFF)
    return _PLAIN if protocol == "plain" else (b"", b"")


def at_stored_precision(session: Session) -> Session:
    """Return ``session`` as its JSON gives it back: see the times in this module's law."""
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
    """Return a session's start in unix nanoseconds: its earliest element in that millisecond, else its beginning."""
    times = [e.time_ns for e in elements if e.time_ns // 1_000_000 == millis]
    return min(times, default=millis * 1_000_000)


def end_within(millis: int, elements: Iterable[Element], messages: Iterable[Message]) -> int:
    """Return a session's end in unix nanoseconds: the last of its times in that millisecond, else its beginning."""
    times = [e.time_ns for e in elements] + [m.time_ns for m in messages]
    return max([time_ns for time_ns in times if time_ns // 1_000_000 == millis], default=millis * 1_000_000)


def session_to_dict(session: Session, *, saved: bool) -> dict[str, Any]:
    """Return ``session`` as the schema has it, keys in its order; ``saved`` as in ``session_to_json``."""
    value: dict[str, Any] = json.loads(session_to_json(session, saved=saved))
    return value


def session_to_json(session: Session, *, saved: bool = True) -> bytes:
    """Return ``session`` as one line of JSON in UTF-8, without a line end.

    ``saved`` false leaves out what only a save or a submission adds.  Raises SessionRefused if some text of it is not
    Unicode (a lone surrogate).

    It is put together by hand: a dict and a JSON library take three times as long, and captures hold hundreds of
    thousands of sessions.  A test holds it against the reader's model.  Machine code does the same, where it is.
    """
    if _written is not None:
        line = _written(session, saved)
        if line is not None:
            return line
    protocol, messages = session.protocol, session.messages
    device, lis = session.device, session.lis
    texts = []
    infos = []
    for message in messages:
        text, info = _message(message)
        texts.append(text)
        infos.append(info)
    elements = [_element(number, element, protocol, messages) for number, element in enumerate(session.elements)]
    sensor = f',"sensor":{_quote(session.sensor)}' if session.sensor else ""
    revision = f',"revision":{session.revision}' if session.revision else ""
    findings = f',"findings":[{_findings(session)}]' if session.findings else ""
    out = (
        f'{{"sessionId":{_quote(session.id)},"startTime":{session.start_ns // 1_000_000}'
        f',"endTime":{session.end_ns // 1_000_000},"deviceIP":{_quote(device.address)},"lisIP":{_quote(lis.address)}'
        f',"devicePort":{device.port},"lisPort":{lis.port},"protocol":{_quote(protocol)}'
        f',"connection":{_quote(session.connection)}{sensor},"ending":"{session.ending!s}"'
        f',"isComplete":{"true" if session.is_complete else "false"}{revision}'
        f',"elements":[{",".join(elements)}],"messages":[{",".join(texts)}],"messageInfo":[{",".join(infos)}]{findings}'
        f"{_saved(session) if saved else ''}}}"
    )
    try:
        return out.encode()
    except UnicodeEncodeError:
        pass  # that error holds the text: it goes no further, not even as what the next one came of
    raise SessionRefused(f"session {session.id}: some text of it is not Unicode")


def _escaped(text: bytes) -> str:
    """Return UTF-8 in which only these three need an escape: to replace them beats to look at each character."""
    return text.replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\r", b"\\r").decode()


def _element(number: int, element: Element, protocol: str, messages: tuple[Message, ...]) -> str:
    time_ns, direction, kind, offset, before, content, after, message, span, faults, late, missing = element
    usual: tuple[bytes, bytes] = (b"", b"")
    if message is not None:
        start, end = span
        text = messages[message].text
        carried = f',"message":{message}' if not start and end == len(text) else _part(message, start, end)
        usual = _MLLP if protocol == "mllp" else usual_framing(protocol, before, text[start:end])
    else:
        carried = _content(content) if content else ""
    if before != usual[0]:
        carried += f',"before":"{before.hex()}"'
    if after != usual[1]:
        carried += f',"after":"{after.hex()}"'
    if faults:
        listed = ",".join([f'{{"code":{_quote(code)},"offset":{at}}}' for code, at in faults])
        carried += f',"faults":[{listed}]'
    if late:
        carried += ',"late":true'
    if missing:
        carried += f',"length":{missing}'
    return (
        f'{{"id":"{number}","timestamp":{_fine(time_ns)},"direction":"{direction!s}","type":"{kind!s}"'
        f',"offset":{offset}{carried}}}'
    )


def _part(message: int, start: int, end: int) -> str:
    return f',"message":{message},"span":[{start},{end}]'


def _content(content: bytes) -> str:
    """Return an element's own bytes: as text if they are text, else in hex."""
    if len(content) > 1 and len(content.translate(None, _CONTROLS)) == len(content):
        text, encoding = decode(content)
        if encoding != "latin-1":  # latin-1 always fits: it says that these are no letters
            return f',"content":{_quote(text)},"encoding":"{encoding}"'
    return f',"hexData":"{content.hex()}"'


def _message(message: Message) -> tuple[str, str]:
    """Return a message's string, and its entry in ``messageInfo``."""
    data = message.text
    text, encoding = message.decoded()
    if encoding == "utf-8" and len(data.translate(None, TO_ESCAPE)) == len(data):
        # As good as any message: to replace these three is twice as fast as to look at each character.
        quoted = f'"{_escaped(data)}"'
    else:
        quoted = _quote(text)
    more = f',"charset":{_quote(message.charset)}' if message.charset else ""
    if message.reply_to is not None:
        more += f',"replyTo":{_quote(message.reply_to)}'
    if message.ack_code:
        more += f',"ackCode":{_quote(message.ack_code)}'
    return quoted, (
        f'{{"encoding":"{encoding}","direction":"{message.direction!s}","protocol":{_quote(message.protocol)}'
        f',"controlId":{_quote(message.control_id)},"messageType":{_quote(message.message_type)}'
        f',"sha256":"{message.sha256}","length":{len(data)},"complete":{"true" if message.complete else "false"}'
        f',"timestamp":{_fine(message.time_ns)}{more}}}'
    )


def _findings(session: Session) -> str:
    listed = []
    for code, severity, text, element, offset in session.findings:
        place = f',"element":{element}' if element is not None else ""
        if offset is not None:
            place += f',"offset":{offset}'
        listed.append(f'{{"code":{_quote(code)},"severity":"{severity!s}","text":{_quote(text)}{place}}}')
    return ",".join(listed)


def _saved(session: Session) -> str:
    """Return what only a save or a submission adds."""
    deliveries = session.deliveries
    attempts = max([d.attempts for d in deliveries], default=0)
    sent = [d.submitted_at for d in deliveries if d.submitted_at is not None]
    error = next((f',"submissionError":{_quote(d.error)}' for d in deliveries if d.error), "")
    listed = f',"deliveries":{{{",".join([_delivery(d) for d in deliveries])}}}' if deliveries else ""
    retention = "" if session.retention_days is None else f',"retentionDays":{session.retention_days}'
    return (
        f"{_time('persistedUntil', session.persisted_until)}{_time('firstSavedAt', session.first_saved_at)}"
        f',"submissionStatus":"{session.status!s}","submissionAttempts":{attempts}'
        f"{_time('submittedAt', max(sent, default=None))}{error}{listed}"
        f',"_metadata":{{"version":"{SCHEMA_VERSION}"{_time("savedAt", session.saved_at)}{retention}}}'
    )


def _delivery(delivery: Delivery) -> str:
    error = f',"error":{_quote(delivery.error)}' if delivery.error else ""
    return (
        f'{_quote(delivery.name)}:{{"status":"{delivery.status!s}","attempts":{delivery.attempts}'
        f"{_time('nextAt', delivery.next_at)}{_time('submittedAt', delivery.submitted_at)}{error}}}"
    )


def _fine(time_ns: int) -> str:
    """Return unix nanoseconds as milliseconds with up to three decimals."""
    millis, micros = divmod(time_ns // 1000, 1000)
    return f"{millis}{DECIMALS[micros]}"


def _time(key: str, time: datetime | None) -> str:
    return "" if time is None else f',"{key}":{to_millis(time)}'


def to_millis(time: datetime) -> int:
    """Return an aware time as whole unix milliseconds, rounded down."""
    return (time - _EPOCH) // _MILLISECOND


def from_millis(millis: int | None) -> datetime | None:
    """Return unix milliseconds as an aware UTC datetime; None stays None."""
    return None if millis is None else _EPOCH + millis * _MILLISECOND


def _whole(time: datetime | None) -> datetime | None:
    return None if time is None else from_millis(to_millis(time))


_written: Final = None if SessionLine is None else SessionLine(_content, _findings, SCHEMA_VERSION)
