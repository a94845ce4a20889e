"""Sessions as text, for people at a terminal.

No character of a message reaches the terminal raw: one that could control it is replaced.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import IO, Any, Final

import click

from hl7core.cli.output.endings import ending_text
from hl7core.model.session import Direction, Element, ElementType, Message, Session, moment

__all__ = ["clean", "colourful", "columns", "duration", "headline", "ladder", "message_head", "size"]

_PROTOCOLS: Final = {"mllp": "MLLP", "lis01": "LIS01", "plain": "plain"}
_WIDE: Final = 124
_WIDE_DATED: Final = 136
_PORTS: Final = 96
"""The columns a headline needs to be full (without and with the date), and to be brief but have ports."""
_CONTROL: Final = {0x05: "ENQ", 0x06: "ACK", 0x15: "NAK", 0x04: "EOT"}


def colourful(stream: IO[Any]) -> bool:
    """Return whether ``stream`` is a terminal that should have colour (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def clean(text: str) -> str:
    """Return ``text`` with every character replaced that could control a terminal."""
    return "".join(c if c.isprintable() else "·" for c in text)


def counted(count: int, noun: str, *, digits: bool = False) -> str:
    """Return a number with what it counts: ``1 session``, ``2,000 sessions``, ``1 entry``, ``3 entries``.

    With ``digits`` there are no commas, for lines that scripts read too.
    """
    number = str(count) if digits else f"{count:,}"
    if count == 1:
        return f"{number} {noun}"
    return f"{number} {noun[:-1]}ies" if noun.endswith("y") else f"{number} {noun}s"


def size(count: int) -> str:
    """Return a number of bytes in words: ``812 B``, ``1.2 KiB``."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{count} B"


def duration(nanoseconds: int) -> str:
    """Return a span of time in words: ``3 ms``, ``1.5 s``, ``2 min``."""
    if nanoseconds < 1_000_000:
        return f"{nanoseconds / 1000:.0f} µs"
    if nanoseconds < 1_000_000_000:
        return f"{nanoseconds / 1e6:.0f} ms"
    seconds = nanoseconds / 1e9
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def columns(stream: IO[Any]) -> int:
    """Return how wide ``stream`` is if it is a terminal, else 0."""
    return shutil.get_terminal_size().columns if stream.isatty() else 0


def headline(session: Session, *, dated: bool = False, width: int = 0) -> str:
    """Return a session in one line: when, who, what, and how it ended.

    ``width`` is the terminal's (columns; 0: no limit).  If it is too small for the full line, a briefer one is returned
    and cut to it.
    """
    refused = sum(element.type is ElementType.NAK for element in session.elements)
    if not width or width >= (_WIDE_DATED if dated else _WIDE):
        return _line(_headed(session, refused, dated=dated), width)
    return _line(_headed_briefly(session, refused, dated=dated, ports=width >= _PORTS), width)


_Part = tuple[str, dict[str, Any]]


def _headed(session: Session, refused: int, *, dated: bool) -> Iterator[_Part]:
    local = session.started_at.astimezone()
    yield _mark(session, refused)
    yield f" {local:{'%Y-%m-%d %H:%M:%S' if dated else '%H:%M:%S'}}.{local.microsecond // 1000:03d}  ", {"dim": True}
    yield f"{_PROTOCOLS.get(session.protocol, session.protocol):<5}  ", {}
    yield f"{session.device!s:>21} {_arrow(session)} {session.lis!s:<21}  {_what(session):<34}  ", {}
    yield ending_text(session), {"fg": None if session.is_complete else "red"}
    notes = _notes(session, refused)
    yield f"  {notes}" if notes else "", {"fg": "yellow"}


def _headed_briefly(session: Session, refused: int, *, dated: bool, ports: bool) -> Iterator[_Part]:
    """Leave out milliseconds, the year, the word "complete", and without ``ports`` those too."""
    device, lis = (str(end) if ports else end.address for end in (session.device, session.lis))
    yield _mark(session, refused)
    yield f" {session.started_at.astimezone():{'%m-%d %H:%M:%S' if dated else '%H:%M:%S'}} ", {"dim": True}
    yield f"{_PROTOCOLS.get(session.protocol, session.protocol):<5} ", {}
    yield f"{device} {_arrow(session)} {lis} {_what(session)}", {}
    if not session.is_complete:
        yield f"  {ending_text(session)}", {"fg": "red"}
    notes = _notes(session, refused)
    yield f"  {notes}" if notes else "", {"fg": "yellow"}


def _line(parts: Iterable[_Part], width: int) -> str:
    """Join styled parts, cut at ``width``."""
    left, out = width or sys.maxsize, []
    for text, style in parts:
        if len(text) >= left:
            out.append(click.style(text[: left - 1] + ("…" if len(text) > left - 1 else ""), **style))
            break
        out.append(click.style(text, **style) if style else text)
        left -= len(text)
    return "".join(out)


def _mark(session: Session, refused: int) -> _Part:
    if not session.is_complete:
        return "✘", {"fg": "red"}
    return ("!", {"fg": "yellow"}) if refused else ("✔", {"fg": "green"})


def _arrow(session: Session) -> str:
    return "→" if not session.elements or session.elements[0].direction is Direction.FROM_DEVICE else "←"


def ladder(session: Session) -> Iterator[str]:
    """Yield a session's conversation, one line per element: the analyzer on the left, the LIS on the right."""
    protocol = _PROTOCOLS.get(session.protocol, session.protocol)
    ending = click.style(ending_text(session), fg=None if session.is_complete else "red")
    yield f"{click.style(session.id, bold=True)}  {protocol}  {ending}"
    yield f"{'':13}{'analyzer ' + str(session.device):<31}{'LIS ' + str(session.lis):>30}"
    previous = session.start_ns
    for element in session.elements:
        label = _label(session, element)
        stamp = _clock(moment(element.time_ns).astimezone())
        if element.direction is Direction.FROM_DEVICE:
            line = f"{label} ".ljust(60, "─") + "▶"
        else:
            line = "◀" + f" {label}".rjust(60, "─")
        if element.type is ElementType.NAK or element.faults:
            line = click.style(line, fg="yellow")
        since = "+" + duration(element.time_ns - previous)
        yield f"{click.style(stamp, dim=True)} {line} {click.style(since, dim=True)}"
        for fault in element.faults:
            yield click.style(f"{'':13}! {fault.code} at byte {fault.offset}", fg="yellow")
        previous = element.time_ns


def message_head(session: Session, index: int) -> Iterator[str]:
    """Yield the heading of message ``index`` (from 0): its type, sender, length, encoding and checksum."""
    message = session.messages[index]
    state = "" if message.complete else click.style("  incomplete", fg="red")
    yield click.style(f"message {index + 1} of {len(session.messages)}: {_named(message)}", bold=True) + state
    sender = "analyzer" if message.direction is Direction.FROM_DEVICE else "LIS"
    facts = f"from the {sender}, {size(len(message.text))}, {message.decoded()[1]}, sha256 {message.sha256[:16]}…"
    yield click.style(facts, dim=True)


def _clock(local: datetime) -> str:
    return local.strftime("%H:%M:%S") + f".{local.microsecond // 1000:03d}"


def _named(message: Message) -> str:
    parts = [clean(message.message_type) or "unknown type"]
    if message.control_id:
        parts.append(clean(message.control_id))
    if message.ack_code:
        parts.append(clean(message.ack_code))
    return " ".join(parts)


def _what(session: Session) -> str:
    requests = [message for message in session.messages if message.reply_to is None]
    if not session.messages:
        return "no message"
    first = (requests or list(session.messages))[0]
    text = f"{clean(first.message_type)[:12]} {clean(first.control_id)[:16]}".strip()
    return f"{text} +{len(requests) - 1}" if len(requests) > 1 else text


def _notes(session: Session, refused: int) -> str:
    notes = []
    replies = [message for message in session.messages if message.reply_to is not None]
    if session.protocol == "mllp" and replies and session.ended_at:
        codes = "/".join(clean(reply.ack_code) for reply in replies)
        asked = session.messages[0]
        after = f" after {duration(replies[-1].time_ns - asked.time_ns)}" if asked.reply_to is None else ""
        notes.append(f"{codes}{after}")
    if refused and session.protocol != "mllp":
        notes.append(f"{refused} NAK")
    faults = sorted({fault.code for element in session.elements for fault in element.faults})
    notes.extend(faults)
    notes.extend(finding.text for finding in session.findings)
    return ", ".join(notes)


def _label(session: Session, element: Element) -> str:
    if element.missing:
        return f"({element.missing} bytes missing)"
    text = session.text_of(element)
    raw = session.raw_of(element)
    if len(raw) == 1 and raw[0] in _CONTROL:
        return _CONTROL[raw[0]]
    name = clean(text[:28].decode("latin-1").strip("\r\n"))
    if element.message is not None and session.protocol == "mllp":
        name = _named(session.messages[element.message])
    return f"{name or element.type} ({size(len(raw))})"
