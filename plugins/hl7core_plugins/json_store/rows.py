"""Rows: what the index has of a session, one line each, and which rows may match a query.

The law: a row that is truncated, damaged or of a file that has changed is ignored.  A row may match a query that its
session does not match, never the other way round.  It has no content, only short digests of the values that can be
searched for, separate for each kind of value.

A line is a checksum of the rest; the id; the session's start in unix milliseconds, "-" if the id contains it; the
file's stamp; its expiry in unix milliseconds, "-" for never; the digests; and "=" if the file is, byte for byte, what
this version writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Final
from zlib import crc32

from hl7core import DeliveryStatus, Session, SessionQuery, search_keys
from hl7core_plugins.json_store.layout import millis_of

__all__ = ["FORMAT", "Row", "Sieve", "is_exact", "odd_starts", "row_of", "rows_in"]

FORMAT: Final = 1
"""Increase it whenever an old row would have another content now."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_START: Final = slice(46, 47)

Row = list[str]
"""The parts of a line, in order."""


def row_of(session: Session, stamp: str, *, exact: bool) -> bytes:
    """Return the row of a session whose file has ``stamp``, its line end included."""
    keys = search_keys(session)
    waiting = () if session.ignored else [d.name for d in session.deliveries if d.status is DeliveryStatus.PENDING]
    digests = (
        _digest("status", session.status),
        _digest("device", session.device.address),
        _digest("lis", session.lis.address),
        _digest("protocol", session.protocol),
        *_digests("finding", {finding.code for finding in session.findings}),
        *_digests("pending", waiting),
        *_digests("specimen", keys.specimens),
        *_digests("patient", keys.patients),
        *_digests("control", keys.control_ids),
    )
    start = session.start_ns // 1_000_000
    until = session.persisted_until
    line = (
        f"{session.id} {'-' if millis_of(session.id) == start else start} {stamp}"
        f" {'-' if until is None else _millis(until)} {' '.join(digests)}"
        f"{' =' if exact else ''}"
    ).encode()
    return b"%08x %b\n" % (crc32(line), line)


def rows_in(lines: Iterable[bytes], stamps: Mapping[str, str]) -> Iterator[Row]:
    """Yield the complete rows among ``lines`` whose files have these ``stamps``, each with the session's id."""
    stamp_of = stamps.get
    for line in lines:  # a hundred thousand times a query
        row = line.decode("latin-1").split(" ", 5)
        if len(row) == 6 and stamp_of(row[1]) == row[3] and row[0] == f"{crc32(line[9:-1]):08x}":
            yield row


def odd_starts(lines: Iterable[bytes]) -> dict[str, int]:
    """Return the start, in unix milliseconds, of the sessions whose ids do not contain it."""
    found: dict[str, int] = {}
    for line in lines:
        usual = line[_START] == b"-"
        if usual and not found:
            continue
        row = line.decode("latin-1").split(" ", 5)
        if len(row) != 6 or row[0] != f"{crc32(line[9:-1]):08x}":
            continue
        if usual:
            found.pop(row[1], None)
        else:
            found[row[1]] = int(row[2])
    return found


def is_exact(row: Row) -> bool:
    """Return whether the row's file is as this version writes it."""
    return row[5].endswith(" =\n")


class Sieve:
    """What a query asks of a row."""

    def __init__(self, query: SessionQuery) -> None:
        wanted = (
            ("device", query.device),
            ("lis", query.lis),
            ("protocol", query.protocol),
            ("finding", query.finding),
            ("pending", query.pending_for),
            ("specimen", query.specimen),
            ("patient", query.patient),
            ("control", query.control_id),
        )
        self._all = [_digest(kind, value) for kind, value in wanted if value]
        self._any = [_digest("status", status) for status in query.status]
        self._expired = None if query.expired_at is None else _millis(query.expired_at)

    def __bool__(self) -> bool:
        """Whether the query can exclude any row."""
        return bool(self._all or self._any or self._expired is not None)

    def passes(self, row: Row) -> bool:
        """Return whether the session of ``row`` may match."""
        expires, digests = row[4], row[5]
        for digest in self._all:
            if digest not in digests:
                return False
        if self._any and not any(digest in digests for digest in self._any):
            return False
        return self._expired is None or (expires != "-" and int(expires) <= self._expired)


def _digests(kind: str, values: Iterable[str]) -> list[str]:
    return [_digest(kind, value) for value in values]


def _digest(kind: str, value: str) -> str:
    return blake2b(f"{kind} {value}".encode(errors="surrogatepass"), digest_size=6).hexdigest()


def _millis(time: datetime) -> int:
    return (time - _EPOCH) // _MILLISECOND
