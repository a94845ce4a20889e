"""Which captures were kept: ``captures.jsonl`` in the data folder, a line for each file that ``capture -w`` writes.

A line has the file's path and when it was begun.  The list serves ``sessions export`` alone: it may be deleted, and
names that lead nowhere any more are left out and, when the next capture begins, forgotten.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["CAPTURES_NAME", "kept_captures", "note_capture"]

CAPTURES_NAME: Final = "captures.jsonl"
_CLOCK: Final = 60.0
"""So far, in seconds, may a file's times and its packets' times differ."""


class _Entry(NamedTuple):
    path: str
    begun: float


def note_capture(folder: Path, capture: Path, begun: float, *, prune: bool) -> None:
    """Note that ``capture`` was begun (unix seconds); ``prune``: forget what is gone.  Raises OSError."""
    path = folder / CAPTURES_NAME
    line = json.dumps({"path": str(capture.absolute()), "begun": begun}) + "\n"
    kept = [one for one in _lines(path) if Path(one.path).exists()] if prune else []
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not prune or not path.exists():
        with open(path, "a", opener=_private) as file:
            file.write(line)
        return
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(beside, "w", opener=_private) as file:
        file.writelines(json.dumps(one._asdict()) + "\n" for one in kept)
        file.write(line)
    beside.replace(path)


def kept_captures(folder: Path, since: float, until: float) -> list[str]:
    """Return the captures that still exist and may hold packets from ``since`` to ``until``, oldest first.

    Times are unix seconds.
    """
    found: dict[str, float] = {}
    for entry in _lines(folder / CAPTURES_NAME):
        try:
            ended = Path(entry.path).stat().st_mtime
        except OSError:  # it was deleted, or lies where we may not look
            continue
        if entry.begun - _CLOCK <= until and ended + _CLOCK >= since:
            found[entry.path] = entry.begun
    return sorted(found, key=lambda path: found[path])


def _lines(path: Path) -> list[_Entry]:
    """Return the entries that can be read."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:  # no capture was kept so far
        return []
    found: list[_Entry] = []
    for line in lines:
        try:
            entry = json.loads(line)
            found.append(_Entry(str(entry["path"]), float(entry["begun"])))
        except (ValueError, TypeError, KeyError):  # cut short as it was written
            continue
    return found


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
