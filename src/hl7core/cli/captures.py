"""The captures on disk: ``captures.jsonl`` in the data folder, with one line per file that ``capture -w`` writes.

A line has the file's path and when it was begun.  Only ``sessions export`` reads the list, to find original packets, so
it may be deleted.  Files that no longer exist are skipped, and removed from the list when the next capture begins.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final, NamedTuple

from hl7core.atomic_file import replace_atomically

__all__ = ["CAPTURES_NAME", "captures_between", "note_capture"]

CAPTURES_NAME: Final = "captures.jsonl"
_CLOCK: Final = 60.0
"""A file's times and its packets' times may differ by so many seconds."""


class _Entry(NamedTuple):
    path: str
    begun: float


def note_capture(folder: Path, capture: Path, begun: float, *, prune: bool) -> None:
    """Add ``capture``, begun at ``begun`` (unix seconds), to the list in ``folder``.  Raises OSError.

    ``prune`` removes the files that no longer exist from the list.
    """
    path = folder / CAPTURES_NAME
    entry = _Entry(str(capture.absolute()), begun)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if prune:
        entries = [one for one in _entries(path) if Path(one.path).exists()]
        replace_atomically(path, b"".join(map(_line, [*entries, entry])), mode=0o600)
        return
    with open(path, "ab", opener=_private) as file:
        file.write(_line(entry))
        file.flush()
        os.fsync(file.fileno())


def captures_between(folder: Path, since: float, until: float) -> list[str]:
    """Return the captures that still exist and may hold packets from ``since`` to ``until``, oldest first.

    Times are unix seconds.
    """
    found: dict[str, float] = {}
    for entry in _entries(folder / CAPTURES_NAME):
        try:
            ended = Path(entry.path).stat().st_mtime
        except OSError:  # it was deleted, or lies where we may not look
            continue
        if entry.begun - _CLOCK <= until and ended + _CLOCK >= since:
            found[entry.path] = entry.begun
    return sorted(found, key=lambda path: found[path])


def _line(entry: _Entry) -> bytes:
    return json.dumps(entry._asdict()).encode() + b"\n"


def _entries(path: Path) -> list[_Entry]:
    """Return the entries that can be read."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:  # no capture has been kept yet
        return []
    found: list[_Entry] = []
    for line in lines:
        try:
            entry = json.loads(line)
            found.append(_Entry(str(entry["path"]), float(entry["begun"])))
        except (ValueError, TypeError, KeyError):  # a line cut short by a crash
            continue
    return found


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
