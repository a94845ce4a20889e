"""How decoded sessions are written: one writer a format, all to a binary stream."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import BinaryIO, Final, Protocol

import click

from hl7core.cli.text import colourful, headline
from hl7core.model.schema import session_to_json
from hl7core.model.session import Session
from hl7core.wire.connection import MessageSeen

__all__ = ["FORMATS", "Writer", "message_line", "writer_for"]

FORMATS: Final = ("text", "json", "jsonl", "messages", "hl7", "csv")


class Writer(Protocol):
    """Writes sessions as they end."""

    def sessions(self, sessions: Sequence[Session]) -> None:
        """Write sessions."""

    def messages(self, messages: Sequence[MessageSeen]) -> None:
        """Write messages, as each completes or is given up."""

    def close(self) -> None:
        """Write what ends the output."""


def writer_for(name: str, out: BinaryIO) -> Writer:
    """Return the writer of the format ``name`` (one of ``FORMATS``) on ``out``."""
    return {"text": _Text, "json": _Json, "jsonl": _JsonLines, "messages": _Messages, "hl7": _Hl7, "csv": _Csv}[name](
        out
    )


class _Base:
    def __init__(self, out: BinaryIO) -> None:
        self.out = out

    def sessions(self, sessions: Sequence[Session]) -> None:
        """Write nothing: this format has messages alone."""

    def messages(self, messages: Sequence[MessageSeen]) -> None:
        """Write nothing: this format has sessions alone."""

    def close(self) -> None:
        self.out.flush()


class _JsonLines(_Base):
    def sessions(self, sessions: Sequence[Session]) -> None:
        if sessions:
            self.out.write(b"\n".join([session_to_json(session, saved=False) for session in sessions]) + b"\n")
            self.out.flush()


class _Json(_Base):
    def __init__(self, out: BinaryIO) -> None:
        super().__init__(out)
        self._count = 0

    def sessions(self, sessions: Sequence[Session]) -> None:
        for session in sessions:
            self.out.write(b",\n" if self._count else b"[\n")
            self.out.write(session_to_json(session, saved=False))
            self._count += 1

    def close(self) -> None:
        self.out.write(b"\n]\n" if self._count else b"[]\n")
        super().close()


class _Messages(_Base):
    def messages(self, messages: Sequence[MessageSeen]) -> None:
        if messages:
            self.out.write(b"".join([message_line(seen) for seen in messages]))
            self.out.flush()


def message_line(seen: MessageSeen) -> bytes:
    """Return a message as a line of ``-o messages``."""
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


class _Hl7(_Base):
    """Every message's exact bytes, each followed by a line feed."""

    def sessions(self, sessions: Sequence[Session]) -> None:
        for session in sessions:
            for message in session.messages:
                self.out.write(message.text + b"\n")
        self.out.flush()


class _Csv(_Base):
    """A row a message; no cell can be taken for a formula by a spreadsheet."""

    COLUMNS: Final = (
        "sessionId", "startTime", "endTime", "deviceIP", "lisIP", "protocol", "ending", "isComplete", "direction",
        "messageType", "controlId", "ackCode", "replyTo", "length", "sha256",
    )  # fmt: skip

    def __init__(self, out: BinaryIO) -> None:
        super().__init__(out)
        self._row(self.COLUMNS)

    def sessions(self, sessions: Sequence[Session]) -> None:
        for session in sessions:
            head = (
                session.id,
                session.started_at.isoformat(timespec="milliseconds"),
                session.ended_at.isoformat(timespec="milliseconds"),
                session.device.address,
                session.lis.address,
                session.protocol,
                session.ending,
                str(session.is_complete).lower(),
            )
            for message in session.messages:
                self._row(
                    (
                        *head,
                        message.direction,
                        message.message_type,
                        message.control_id,
                        message.ack_code,
                        message.reply_to or "",
                        str(len(message.text)),
                        message.sha256,
                    )
                )
            if not session.messages:
                self._row((*head, *("",) * (len(self.COLUMNS) - len(head))))
        self.out.flush()

    def _row(self, cells: Sequence[str]) -> None:
        line = io.StringIO()
        csv.writer(line).writerow(
            [f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell for cell in cells]
        )
        self.out.write(line.getvalue().encode())


class _Text(_Base):
    def __init__(self, out: BinaryIO) -> None:
        super().__init__(out)
        self._colour = colourful(out)

    def sessions(self, sessions: Sequence[Session]) -> None:
        for session in sessions:
            line = headline(session)
            self.out.write((line if self._colour else click.unstyle(line)).encode() + b"\n")
        self.out.flush()
