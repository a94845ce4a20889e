"""Sessions in words and lines, for people at a terminal.  Nothing that a device sent reaches the terminal raw."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import IO, Any, Final

import click

from hl7core.model.session import Direction, Element, ElementType, Ending, Message, Session, moment

__all__ = ["clean", "colourful", "duration", "headline", "ladder", "size"]

_ENDINGS: Final = {
    Ending.COMPLETE: "complete",
    Ending.SILENT: "no answer came",
    Ending.CLOSED: "connection closed",
    Ending.RESET: "connection reset",
    Ending.GAPPED: "bytes missing from the capture",
    Ending.CAPTURE_END: "capture ended",
    Ending.STOPPED: "stopped",
    Ending.EVICTED: "let go for want of room",
}
_PROTOCOLS: Final = {"mllp": "MLLP", "lis01": "LIS01", "plain": "plain"}
_CONTROL: Final = {0x05: "ENQ", 0x06: "ACK", 0x15: "NAK", 0x04: "EOT"}


def colourful(stream: IO[Any]) -> bool:
    """Say whether ``stream`` is a terminal on which colour is wanted (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def clean(text: str) -> str:
    """Return ``text`` with every character replaced that could command a terminal."""
    return "".join(c if c.isprintable() else "·" for c in text)


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


def headline(session: Session, *, dated: bool = False) -> str:
    """Return a session in one line: when, who, what, how it ended."""
    local = session.started_at.astimezone()
    when = local.strftime("%Y-%m-%d %H:%M:%S" if dated else "%H:%M:%S") + f".{local.microsecond // 1000:03d}"
    arrow = "→" if not session.elements or session.elements[0].direction is Direction.FROM_DEVICE else "←"
    good = session.is_complete
    refused = sum(element.type is ElementType.NAK for element in session.elements)
    colour = "red" if not good else "yellow" if refused else "green"
    mark = click.style("✘" if not good else "!" if refused else "✔", fg=colour)
    ending = _ENDINGS[session.ending]
    if session.ending is Ending.COMPLETE and not good:
        ending = "incomplete"
    parts = [
        f"{mark} {click.style(when, dim=True)}",
        f"{_PROTOCOLS.get(session.protocol, session.protocol):<5}",
        f"{session.device!s:>21} {arrow} {session.lis!s:<21}",
        f"{_what(session):<34}",
        click.style(ending, fg=None if good else "red"),
    ]
    notes = _notes(session, refused)
    return "  ".join(parts) + (f"  {click.style(notes, fg='yellow')}" if notes else "")


def ladder(session: Session) -> Iterator[str]:
    """Draw a session's conversation, a line an element: the analyzer on the left, the LIS on the right."""
    protocol = _PROTOCOLS.get(session.protocol, session.protocol)
    yield f"{click.style(session.id, bold=True)}  {protocol}  {_ENDINGS[session.ending]}"
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
    for number, message in enumerate(session.messages, 1):
        yield ""
        state = "" if message.complete else click.style("  incomplete", fg="red")
        yield click.style(f"message {number} of {len(session.messages)}: {_named(message)}", bold=True) + state
        text, encoding = message.decoded()
        yield click.style(f"{len(message.text)} bytes, {encoding}, sha256 {message.sha256[:16]}…", dim=True)
        for segment in text.replace("\r\n", "\r").replace("\n", "\r").split("\r"):
            if segment:
                yield "  " + clean(segment)


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
        notes.append(f"{codes} after {duration(replies[-1].time_ns - session.messages[0].time_ns)}")
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


def write_lines(lines: Iterator[str]) -> None:
    """Print lines, in colour where the terminal wants it."""
    for line in lines:
        click.echo(line, color=colourful(sys.stdout))
