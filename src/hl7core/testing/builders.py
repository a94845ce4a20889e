"""Synthetic sessions and messages for tests; the patients are invented.

Each session has the bytes that a real one would have, framing and acknowledgements included.  Its id has the layout of
a UUID version 7 with the session's start as its time.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Final
from uuid import UUID

from hl7core.model.packet import Endpoint
from hl7core.model.session import Direction, Element, ElementType, Ending, Message, Session

__all__ = ["ANALYZER", "LIS", "START", "make_message", "make_session", "session_id_for"]

ANALYZER: Final = Endpoint("192.0.2.10", 49152)
LIS: Final = Endpoint("192.0.2.20", 2575)
START: Final = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
"""The start of session 0; session ``n`` starts ``n`` seconds later."""

_SECOND: Final = 1_000_000_000
_FROM_DEVICE: Final = Direction.FROM_DEVICE
_FROM_LIS: Final = Direction.FROM_LIS


def session_id_for(start_ns: int, salt: bytes | str = b"") -> str:
    """Return an id in the layout of a UUID version 7 for a start in unix nanoseconds; each ``salt`` gives another."""
    digest = blake2b(salt.encode() if isinstance(salt, str) else salt, digest_size=10).digest()
    number = int.from_bytes(digest)
    high, low = number >> 68, number & ((1 << 62) - 1)
    return str(UUID(int=(start_ns // 1_000_000) << 80 | 7 << 76 | high << 64 | 2 << 62 | low))


def make_message(number: int = 1, *, specimen: str = "", patient: str = "", results: int = 3, **fields: Any) -> Message:
    """Return an ORU^R01 message with ``results`` OBX segments.

    Control id, specimen and patient are derived from ``number``; ``fields`` override any field of the Message.
    """
    specimen = specimen or f"S-{number:04}"
    patient = patient or f"P-{number:04}"
    lines = [
        f"MSH|^~\\&|ANALYZER|LAB|LIS|LAB|20260102030405||ORU^R01|M{number:06}|P|2.5",
        f"PID|1||{patient}^^^LAB||TEST^PATIENT",
        f"OBR|1|{specimen}||GLU^Glucose",
        *(f"OBX|{n}|NM|GLU^Glucose||{5 + n / 10}|mmol/L|3.9-5.8|N|||F" for n in range(1, results + 1)),
    ]
    made = Message(
        text="".join(line + "\r" for line in lines).encode(),
        direction=_FROM_DEVICE,
        protocol="mllp",
        time_ns=_start_ns(number),
        control_id=f"M{number:06}",
        message_type="ORU^R01",
    )
    return made._replace(**fields)


def make_session(number: int = 1, *, protocol: str = "mllp", **fields: Any) -> Session:
    """Return a complete session of ``protocol`` (mllp, lis01 or plain), a different one for each ``number``.

    ``fields`` override any field of the Session.  If ``start_ns`` is given without an id, the id is derived from it.
    """
    start_ns = int(fields.get("start_ns", _start_ns(number)))
    make = {"mllp": _mllp, "lis01": _lis01, "plain": _plain}[protocol]
    elements, messages = make(number, start_ns)
    made = Session(
        id=session_id_for(start_ns, f"{protocol} {number}"),
        start_ns=start_ns,
        end_ns=elements[-1].time_ns,
        device=ANALYZER,
        lis=LIS,
        elements=elements,
        messages=messages,
        is_complete=True,
        protocol=protocol,
        ending=Ending.COMPLETE,
        connection=f"{ANALYZER}-{LIS}",
        sensor="",
    )
    return made._replace(**fields)


def _start_ns(number: int) -> int:
    return (int(START.timestamp()) + number) * _SECOND + START.microsecond * 1000


def _mllp(number: int, start_ns: int) -> tuple[tuple[Element, ...], tuple[Message, ...]]:
    request = make_message(number, time_ns=start_ns)
    answered_ns = start_ns + 20_000_000
    reply = Message(
        text=f"MSH|^~\\&|LIS|LAB|ANALYZER|LAB|20260102030405||ACK^R01|A{number:06}|P|2.5\r"
        f"MSA|AA|{request.control_id}\r".encode(),
        direction=_FROM_LIS,
        protocol="mllp",
        time_ns=answered_ns,
        control_id=f"A{number:06}",
        message_type="ACK^R01",
        ack_code="AA",
        reply_to=request.control_id,
    )
    frame = (b"\x0b", b"", b"\x1c\r")
    return (
        Element(start_ns, _FROM_DEVICE, ElementType.MESSAGE, 0, *frame, 0, (0, len(request.text))),
        Element(answered_ns, _FROM_LIS, ElementType.ACK, 0, *frame, 1, (0, len(reply.text))),
    ), (request, reply)


def _lis01(number: int, start_ns: int) -> tuple[tuple[Element, ...], tuple[Message, ...]]:
    records = [
        f"H|\\^&|A{number:06}||ANALYZER^1|||||LIS||P|LIS2-A2|20260102030405\r",
        f"P|1||P-{number:04}||TEST^PATIENT||19700101|F\r",
        f"O|1|S-{number:04}||^^^GLU|R\r",
        "R|1|^^^GLU|5.6|mmol/L|3.9-5.8|N||F||||20260102030405\r",
        "L|1|N\r",
    ]
    frames: list[tuple[bytes, bytes, bytes]] = []
    for index, record in enumerate(records, 1):
        head = b"%d" % (index % 8)
        text = record.encode()
        frames.append((b"\x02" + head, text, b"\x03%02X\r\n" % ((sum(head + text) + 3) & 0xFF)))
    return _turns(start_ns, frames, "lis01", f"A{number:06}", "HPORL")


def _plain(number: int, start_ns: int) -> tuple[tuple[Element, ...], tuple[Message, ...]]:
    message = make_message(number)
    return _turns(start_ns, [(b"\x02", message.text, b"\r\n")], "plain", message.control_id, message.message_type)


def _turns(
    start_ns: int, frames: Iterable[tuple[bytes, bytes, bytes]], protocol: str, control_id: str, kind: str
) -> tuple[tuple[Element, ...], tuple[Message, ...]]:
    """Return ENQ, ACK, each frame with its ACK, and EOT; 5 ms from one to the next."""
    elements: list[Element] = []
    offsets = dict.fromkeys(Direction, 0)
    text = b""

    def add(direction: Direction, element_type: ElementType, raw: bytes, **fields: Any) -> None:
        time_ns = start_ns + 5_000_000 * len(elements)
        elements.append(Element(time_ns, direction, element_type, offsets[direction], **fields))
        offsets[direction] += len(raw)

    add(_FROM_DEVICE, ElementType.START, b"\x05", content=b"\x05")
    add(_FROM_LIS, ElementType.ACK, b"\x06", content=b"\x06")
    for before, part, after in frames:
        span = (len(text), len(text) + len(part))
        text += part
        raw = before + part + after
        add(_FROM_DEVICE, ElementType.MESSAGE, raw, before=before, after=after, message=0, span=span)
        add(_FROM_LIS, ElementType.ACK, b"\x06", content=b"\x06")
    add(_FROM_DEVICE, ElementType.END, b"\x04", content=b"\x04")
    message = Message(text, _FROM_DEVICE, protocol, elements[-3].time_ns, control_id, kind)
    return tuple(elements), (message,)
