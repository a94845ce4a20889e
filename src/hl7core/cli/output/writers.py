"""How decoded sessions are written: one writer a format, all to a binary stream."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import BinaryIO, Final, Protocol

import click

from hl7core.cli.output import formats
from hl7core.cli.output.text import colourful, columns, headline
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
    if name == "text":
        return _Text(out)
    return _Messages(out) if name == "messages" else _Sessions(name, out)


class _Base:
    def __init__(self, out: BinaryIO) -> None:
        self.out = out

    def sessions(self, sessions: Sequence[Session]) -> None:
        """Write nothing: this format has messages alone."""

    def messages(self, messages: Sequence[MessageSeen]) -> None:
        """Write nothing: this format has sessions alone."""

    def close(self) -> None:
        self.out.flush()


class _Sessions(_Base):
    """Sessions in one of the formats that exports have too."""

    def __init__(self, name: str, out: BinaryIO) -> None:
        super().__init__(out)
        self._format = formats.FORMATS[name]()
        self.out.write(self._format.start())

    def sessions(self, sessions: Sequence[Session]) -> None:
        if sessions:
            self.out.write(b"".join([self._format.of(session) for session in sessions]))
            self.out.flush()

    def close(self) -> None:
        self.out.write(self._format.end())
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


class _Text(_Base):
    """A line a session.  On a terminal it goes through ``sys.stdout``, where a progress bar makes room for it."""

    def __init__(self, out: BinaryIO) -> None:
        super().__init__(out)
        self._colour = colourful(out)
        self._width = columns(out)

    def sessions(self, sessions: Sequence[Session]) -> None:
        lines = [headline(session, width=self._width) for session in sessions]
        text = "".join([(line if self._colour else click.unstyle(line)) + "\n" for line in lines])
        if self._width and text:
            sys.stdout.write(text)
            sys.stdout.flush()
        else:
            self.out.write(text.encode())
            self.out.flush()
