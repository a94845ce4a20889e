"""The output formats: what each writes, and which commands offer it.

To add a format, write its class and give it a row in ``FORMATS``: every command takes its choices from that table.

A format turns sessions into bytes and holds no stream: ``start``, then ``of`` for each session, then ``end`` joined are
the file.  So ``read``, ``capture`` and ``sessions`` write the same, and memory stays flat however many sessions come.
A :class:`Writer` puts a format on a stream.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, BinaryIO, ClassVar, Final, NamedTuple, TypeVar

import click

from hl7core.cli.output.text import colourful, columns, headline
from hl7core.model.schema import session_to_json
from hl7core.model.session import Message, Session
from hl7core.wire.connection import MessageSeen

__all__ = [
    "FORMATS",
    "Csv",
    "Format",
    "Hl7",
    "Json",
    "JsonLines",
    "Messages",
    "OutputFormat",
    "Text",
    "Writer",
    "chosen_format",
    "format_of_file",
    "formats_of",
    "output_option",
    "safe_cell",
    "writer_for",
    "writes_messages",
]


class Format(ABC):
    """A format of output.

    ``saved``: the sessions come from a store, so what a save or a submission added is written too.  ``width`` returns
    the terminal's columns, 0 where the output is no terminal.
    """

    messages_only: ClassVar[bool] = False
    """Whether it writes messages as each completes (``message``), not sessions."""
    for_people: ClassVar[bool] = False
    """Whether it is text for a terminal, in colour where the terminal has it."""

    def __init__(self, *, saved: bool = False, width: Callable[[], int] = lambda: 0) -> None:
        self.saved = saved
        self.width = width

    def start(self) -> bytes:
        """Return what stands before all sessions."""
        return b""

    @abstractmethod
    def of(self, session: Session) -> bytes:
        """Return one session."""

    def message(self, seen: MessageSeen) -> bytes:
        """Return one message; most formats have sessions alone."""
        return b""

    def end(self) -> bytes:
        """Return what stands after all sessions."""
        return b""


class Text(Format):
    """One line per session, for people; a stored session has its date and the first letters of its id too."""

    for_people = True

    def of(self, session: Session) -> bytes:
        """Return the line of one session."""
        width = self.width()
        if not self.saved:
            return f"{headline(session, width=width)}\n".encode()
        line = headline(session, dated=True, width=max(1, width - _ID - 1) if width else 0)
        return f"{click.style(session.id[:_ID], dim=True)} {line}\n".encode()


class JsonLines(Format):
    """One JSON object per session, each on a line."""

    def of(self, session: Session) -> bytes:
        """Return the line of one session."""
        return session_to_json(session, saved=self.saved) + b"\n"


class Json(Format):
    """One JSON array, with each session on a line."""

    def __init__(self, *, saved: bool = False, width: Callable[[], int] = lambda: 0) -> None:
        super().__init__(saved=saved, width=width)
        self._count = 0

    def of(self, session: Session) -> bytes:
        """Return one session, and the comma or bracket before it."""
        self._count += 1
        return (b",\n" if self._count > 1 else b"[\n") + session_to_json(session, saved=self.saved)

    def end(self) -> bytes:
        """Return the closing bracket."""
        return b"\n]\n" if self._count else b"[]\n"


class Messages(Format):
    """One JSON object per message, each on a line, as it completes or is given up."""

    messages_only = True

    def of(self, session: Session) -> bytes:
        """Return nothing: the messages have been written already."""
        return b""

    def message(self, seen: MessageSeen) -> bytes:
        """Return the line of one message."""
        message = seen.message
        reply = None
        if message.reply_to is not None:
            reply = {"controlId": message.reply_to, "sha256": seen.request.sha256 if seen.request is not None else None}
        line: dict[str, object] = {
            "sessionId": seen.session_id,
            "connection": seen.connection,
            "direction": f"{seen.source}->{seen.target}",
            "protocol": message.protocol,
            "controlId": message.control_id or None,
            "messageType": message.message_type,
            "sha256": message.sha256,
            "length": len(message.text),
            "timestamp": message.time_ns // 1_000_000,
            "complete": message.complete,
            "replyTo": reply,
            "ackCode": message.ack_code or None,
        }
        if seen.batch:
            line["batch"] = list(seen.batch)
        return json.dumps(line, ensure_ascii=False).encode() + b"\n"


class Hl7(Format):
    """Every message's exact bytes, each followed by a line feed."""

    def of(self, session: Session) -> bytes:
        """Return the messages of one session."""
        return b"".join([message.text + b"\n" for message in session.messages])


class Csv(Format):
    """One row per message, and one for a session without any; a spreadsheet takes no cell for a formula."""

    COLUMNS: Final = (
        "sessionId", "startTime", "endTime", "deviceIP", "lisIP", "protocol", "ending", "isComplete", "direction",
        "messageType", "controlId", "ackCode", "replyTo", "length", "sha256",
    )  # fmt: skip
    SAVED: Final = ("submissionStatus", "firstSavedAt", "persistedUntil")

    def start(self) -> bytes:
        """Return the row of headings."""
        return _row((*self.COLUMNS, *(self.SAVED if self.saved else ())))

    def of(self, session: Session) -> bytes:
        """Return the rows of one session."""
        return b"".join([_row(self._cells(session, message)) for message in session.messages or (None,)])

    def _cells(self, session: Session, message: Message | None) -> tuple[str, ...]:
        cells: tuple[str, ...] = (
            session.id,
            _iso(session.started_at),
            _iso(session.ended_at),
            session.device.address,
            session.lis.address,
            session.protocol,
            str(session.ending),
            str(session.is_complete).lower(),
        )
        if message is None:
            cells += ("",) * (len(self.COLUMNS) - len(cells))
        else:
            cells += (
                str(message.direction),
                message.message_type,
                message.control_id,
                message.ack_code,
                message.reply_to or "",
                str(len(message.text)),
                message.sha256,
            )
        return (
            (*cells, str(session.status), _iso(session.first_saved_at), _iso(session.persisted_until))
            if self.saved
            else cells
        )


class OutputFormat(NamedTuple):
    """One row of the table: the format's class, and the commands that offer it.

    ``make`` is None where the command itself writes the format, since more than sessions goes into it.
    """

    make: type[Format] | None
    commands: frozenset[str]


_ALL: Final = frozenset({"read", "capture", "list", "show", "export"})
FORMATS: Final[dict[str, OutputFormat]] = {
    "text": OutputFormat(Text, _ALL - {"export"}),  # `show` draws the conversation instead of one line
    "json": OutputFormat(Json, frozenset({"read", "export"})),
    "jsonl": OutputFormat(JsonLines, _ALL),
    "messages": OutputFormat(Messages, frozenset({"read"})),
    "hl7": OutputFormat(Hl7, frozenset({"read", "export"})),
    "csv": OutputFormat(Csv, frozenset({"read", "export"})),
    "pcapng": OutputFormat(None, frozenset({"export"})),  # original packets where they were kept
}
"""The formats by name, in the order in which help shows them.  An exported file's suffix is the name of its format."""

_Function = TypeVar("_Function", bound=Callable[..., Any])
_ID: Final = 13
"""So many letters of an id tell sessions apart: its start time in milliseconds."""


def formats_of(command: str) -> tuple[str, ...]:
    """Return the names of the formats that ``command`` offers (``list``, ``show``, ``export`` are of ``sessions``)."""
    return tuple(name for name, row in FORMATS.items() if command in row.commands)


def output_option(
    command: str, *, default: str | None = None, text: str = "Default: text on a terminal, else jsonl."
) -> Callable[[_Function], _Function]:
    """Return the option ``-o`` of ``command``, which is called with ``output``; ``text`` is its help."""
    return click.option("-o", "--output", type=click.Choice(formats_of(command)), default=default, help=text)


def chosen_format(output: str | None) -> str:
    """Return the format the user chose, or the default: text on a terminal, else jsonl."""
    return output or ("text" if sys.stdout.isatty() else "jsonl")


def writes_messages(name: str) -> bool:
    """Return whether the format ``name`` has messages as they complete, not sessions."""
    make = FORMATS[name].make
    return make is not None and make.messages_only


def format_of_file(suffix: str) -> str:
    """Return the format that an exported file's ``suffix`` (".csv") names, else jsonl."""
    name = suffix.lower().removeprefix(".")
    return name if name in formats_of("export") else "jsonl"


class Writer:
    """Writes one format to a binary stream, as sessions and messages come."""

    def __init__(self, form: Format, out: BinaryIO) -> None:
        self._form = form
        self._out = out
        self._colour = colourful(out)
        self._put(form.start())

    def sessions(self, sessions: Sequence[Session]) -> None:
        """Write sessions, all at once."""
        self._put(b"".join([self._form.of(session) for session in sessions]))

    def messages(self, messages: Sequence[MessageSeen]) -> None:
        """Write messages, as each completes or is given up."""
        self._put(b"".join([self._form.message(seen) for seen in messages]))

    def close(self) -> None:
        """Write what ends the output; the stream stays open."""
        self._put(self._form.end())
        self._out.flush()

    def _put(self, data: bytes) -> None:
        if not data:
            return
        if self._form.for_people:
            text = data.decode()
            if self._form.width():  # through sys.stdout, where a progress bar makes room for it
                sys.stdout.write(text if self._colour else click.unstyle(text))
                sys.stdout.flush()
                return
            data = click.unstyle(text).encode()
        self._out.write(data)
        self._out.flush()


def writer_for(name: str, out: BinaryIO, *, saved: bool = False) -> Writer:
    """Return a writer of the format ``name`` on ``out``; ``saved``: the sessions come from a store.

    Raises KeyError for a format that only a command can write (``pcapng``).
    """
    make = FORMATS[name].make
    if make is None:
        raise KeyError(name)
    return Writer(make(saved=saved, width=lambda: columns(out)), out)


def safe_cell(cell: str) -> str:
    """Return a cell that a spreadsheet shows as text: one that begins like a formula gets an apostrophe before it."""
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠") else cell  # noqa: RUF001


def _row(cells: Sequence[str]) -> bytes:
    line = io.StringIO()
    csv.writer(line).writerow([safe_cell(cell) for cell in cells])
    return line.getvalue().encode("utf-8", "replace")


def _iso(time: datetime | None) -> str:
    return "" if time is None else time.isoformat(timespec="milliseconds")
