"""Sessions as other programs read them: hl7, json, jsonl and csv.  Pure: sessions in, bytes out.

``start``, then ``of`` for each session, then ``end``: joined, they are the file.  So ``read``, ``capture`` and
``sessions export`` write the same, and memory stays flat whatever the count.
"""

from __future__ import annotations

import csv
import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from hl7core.model.schema import session_to_json
from hl7core.model.session import Message, Session

__all__ = ["FORMATS", "Csv", "Format", "Hl7", "Json", "JsonLines", "safe_cell"]


class Format(ABC):
    """A format; ``saved``: with what only a save or a submission adds."""

    def __init__(self, *, saved: bool = False) -> None:
        self.saved = saved

    def start(self) -> bytes:
        """Return what stands before all sessions."""
        return b""

    @abstractmethod
    def of(self, session: Session) -> bytes:
        """Return one session."""

    def end(self) -> bytes:
        """Return what stands behind all sessions."""
        return b""


class JsonLines(Format):
    """A session a line."""

    def of(self, session: Session) -> bytes:
        """Return one session."""
        return session_to_json(session, saved=self.saved) + b"\n"


class Json(Format):
    """One array, with a session a line."""

    def __init__(self, *, saved: bool = False) -> None:
        super().__init__(saved=saved)
        self._count = 0

    def of(self, session: Session) -> bytes:
        """Return one session, and the comma or bracket before it."""
        self._count += 1
        return (b",\n" if self._count > 1 else b"[\n") + session_to_json(session, saved=self.saved)

    def end(self) -> bytes:
        """Return the closing bracket."""
        return b"\n]\n" if self._count else b"[]\n"


class Hl7(Format):
    """Every message's exact bytes, each followed by a line feed."""

    def of(self, session: Session) -> bytes:
        """Return the messages of one session."""
        return b"".join([message.text + b"\n" for message in session.messages])


class Csv(Format):
    """A row a message, one for a session without any; no cell can be taken for a formula by a spreadsheet."""

    COLUMNS: Final = (
        "sessionId", "startTime", "endTime", "deviceIP", "lisIP", "protocol", "ending", "isComplete", "direction",
        "messageType", "controlId", "ackCode", "replyTo", "length", "sha256",
    )  # fmt: skip
    SAVED: Final = ("submissionStatus", "firstSavedAt", "persistedUntil")

    def start(self) -> bytes:
        """Return the heading."""
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


FORMATS: Final[dict[str, type[Format]]] = {"hl7": Hl7, "json": Json, "jsonl": JsonLines, "csv": Csv}


def safe_cell(cell: str) -> str:
    """Return a cell that a spreadsheet shows as text: one that begins like a formula gets an apostrophe before it."""
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠") else cell  # noqa: RUF001


def _row(cells: Sequence[str]) -> bytes:
    line = io.StringIO()
    csv.writer(line).writerow([safe_cell(cell) for cell in cells])
    return line.getvalue().encode("utf-8", "replace")


def _iso(time: datetime | None) -> str:
    return "" if time is None else time.isoformat(timespec="milliseconds")
