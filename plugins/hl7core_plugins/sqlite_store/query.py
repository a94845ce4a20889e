"""Finding sessions: SQLite selects the candidates, ``hl7core.matches`` decides.

The law: all matching sessions are found, whatever the indexes, and no others; a row that cannot be read is logged once
and skipped.  A query's values are always bound as parameters, never written into the SQL.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Final

from hl7core import SESSION_ID, Hl7coreError, Session, SessionQuery, StoreError, matches, session_from_json, sort_key
from hl7core_plugins.sqlite_store.rows import key_of, micros

__all__ = ["Complaints", "load"]

logger = logging.getLogger(__name__)

CURRENT: Final = 2
"""The major version whose writer escapes text as ``_escaped`` does."""
_PART: Final = 500


class Complaints:
    """The damaged rows that were logged."""

    def __init__(self) -> None:
        self._told: set[tuple[int, str]] = set()

    def tell(self, number: int, session_id: str, error: Exception) -> None:
        """Log once that a row cannot be read."""
        if (number, session_id) not in self._told:
            self._told.add((number, session_id))
            logger.error("the stored session %s cannot be read and is skipped: %s", session_id, error)


def load(connection: sqlite3.Connection, query: SessionQuery, complaints: Complaints) -> list[Session]:
    """Return at most ``query.limit`` matching sessions, in the query's order.  Raises sqlite3.Error."""
    if query.limit <= 0 or not _is_text(query):
        return []
    if not query.ids:
        return _taken(_sessions(connection, query, None, complaints), query)
    ids = [session_id for session_id in dict.fromkeys(query.ids) if SESSION_ID.fullmatch(session_id)]
    found: list[Session] = []
    for at in range(0, len(ids), _PART):
        found += _taken(_sessions(connection, query, ids[at : at + _PART], complaints), query)
    return sorted(found, key=sort_key, reverse=query.newest_first)[: query.limit]


def _taken(sessions: Iterator[Session], query: SessionQuery) -> list[Session]:
    taken = []
    for session in sessions:
        taken.append(session)
        if len(taken) == query.limit:
            break
    return taken


def _sessions(
    connection: sqlite3.Connection, query: SessionQuery, ids: Sequence[str] | None, complaints: Complaints
) -> Iterator[Session]:
    statement, values = _select(query, ids)
    for number, raw_id, data in connection.execute(statement, values):
        try:
            session = session_from_json(data)
            if session.id.encode() != raw_id:
                raise StoreError("it is another session's")
        except Hl7coreError as error:
            complaints.tell(number, raw_id.decode(errors="replace"), error)
            continue
        if matches(session, query):
            yield session


def _select(query: SessionQuery, ids: Sequence[str] | None) -> tuple[str, list[str | int | bytes]]:
    """Return the statement that selects the candidates, in order, and its parameters."""
    values: list[str | int | bytes] = []
    where: list[str] = []

    def also(condition: str, *given: str | int | bytes) -> None:
        where.append(condition)
        values.extend(given)

    keys = [
        (kind, key_of(value))
        for kind, value in (
            ("control_id", query.control_id),
            ("specimen", query.specimen),
            ("patient", query.patient),
            ("finding", query.finding),
            ("pending", query.pending_for),
        )
        if value
    ]
    source, start = "sessions s", "s.start_us"
    if keys:
        source, start = "found_by k CROSS JOIN sessions s ON s.number = k.session", "k.start_us"
        also("k.kind = ? AND k.value = ?", *keys[0])
        for key in keys[1:]:
            also("EXISTS (SELECT 1 FROM found_by WHERE session = s.number AND kind = ? AND value = ?)", *key)
    elif query.expired_at is not None and ids is None:
        source = "sessions s INDEXED BY sessions_expiry"
    also("s.trashed_us IS NULL")
    if ids is not None:
        also(f"s.id IN ({', '.join('?' * len(ids))})", *ids)
    if query.status:
        also(f"s.status IN ({', '.join('?' * len(query.status))})", *(status.value for status in query.status))
    for column, value in (("device", query.device), ("lis", query.lis), ("protocol", query.protocol)):
        if value:
            also(f"s.{column} = ?", value)
    if query.since is not None:
        also(f"{start} >= ?", micros(query.since))
    if query.until is not None:
        also(f"{start} < ?", micros(query.until))
    if query.expired_at is not None:
        also("s.persisted_until_us < ?", micros(query.expired_at))
    if query.after is not None:
        also(f"({start}, s.id) {'<' if query.newest_first else '>'} (?, ?)", micros(query.after[0]), query.after[1])
    if query.text:
        also("(s.major <> ? OR instr(CAST(s.json AS BLOB), ?) > 0)", CURRENT, _escaped(query.text))
    order = "DESC" if query.newest_first else "ASC"
    statement = (
        f"SELECT s.number, CAST(s.id AS BLOB), CAST(s.json AS BLOB) FROM {source} WHERE {' AND '.join(where)} "  # noqa: S608
        f"ORDER BY {start} {order}, s.id {order}"
    )
    return statement, values


def _is_text(query: SessionQuery) -> bool:
    """Return whether the query's texts are valid Unicode: no stored session has any other."""
    words = [query.device, query.lis, query.protocol, query.specimen, query.patient, query.control_id, query.finding]
    words += [query.text, query.pending_for, query.after[1] if query.after is not None else ""]
    try:
        "".join(words).encode()
    except UnicodeEncodeError:
        return False
    return True


def _escaped(text: str) -> bytes:
    """Return ``text`` as this version writes it in JSON."""
    return json.dumps(text, ensure_ascii=False)[1:-1].encode()
