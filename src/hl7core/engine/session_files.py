"""Files of sessions: what ``sessions export`` writes as json or jsonl, and the files of the JSON store.

A file with one session per line is read line by line, so memory stays flat, and a line that is not a session affects
no other.  Any other JSON (formatted by another program, such as the predecessor's) is read whole, up to a limit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from hl7core.errors import SessionRefused, StoreError
from hl7core.model.session import Session
from hl7core.model.stored import session_from_json

__all__ = ["read_sessions", "session_files"]

_LONGEST: Final = 256 << 20
"""The limit for one session, and for a file that is read whole, in bytes."""


def session_files(paths: Sequence[str]) -> list[Path]:
    """Return the files in ``paths``, and all ``*.json`` and ``*.jsonl`` beneath the folders in it; links are skipped.

    Raises StoreError if there is no such file or folder.
    """
    found: list[Path] = []
    for name in paths:
        path = Path(name)
        if path.is_dir():
            for folder, folders, files in os.walk(path):
                folders.sort()
                places = (Path(folder) / file for file in sorted(files) if file.endswith((".json", ".jsonl")))
                found += [place for place in places if place.is_file() and not place.is_symlink()]
        elif path.is_file():
            found.append(path)
        else:
            raise StoreError(f"{path}: no such file or folder")
    return found


def read_sessions(path: Path) -> Iterator[Session | SessionRefused]:
    """Yield the sessions of one file, and for each entry that is not one, why.

    Raises StoreError if the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            if _one_per_line(file):
                yield from _lines(file, path)
            else:
                yield from _whole(file, path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from error


def _one_per_line(file: BinaryIO) -> bool:
    """Return whether the first line with content is a session, or at least an object; rewind the file."""
    line = b""
    while (data := file.readline(_LONGEST)) and not (line := _bare(data)):
        continue
    file.seek(0)
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return line.startswith(b"{") and line.endswith(b"}")


def _lines(file: BinaryIO, path: Path) -> Iterator[Session | SessionRefused]:
    number = 0
    while data := file.readline(_LONGEST):
        number += 1
        line = _bare(data)
        if line:
            yield _session(line, f"{path}, line {number}")


def _whole(file: BinaryIO, path: Path) -> Iterator[Session | SessionRefused]:
    if path.stat().st_size > _LONGEST:
        yield SessionRefused(f"{path}: not one session per line, and too large to be read whole")
        return
    try:
        value = json.loads(file.read())
    except (ValueError, RecursionError):
        yield SessionRefused(f"{path}: not valid JSON")
        return
    for number, item in enumerate(value if isinstance(value, list) else [value], 1):
        yield _session(json.dumps(item).encode(), f"{path}, entry {number}")


def _bare(line: bytes) -> bytes:
    """Return a line without the brackets and commas of an array around its entries."""
    bare = line.removeprefix(b"\xef\xbb\xbf").strip()
    if bare in (b"[", b"]", b"[]"):
        return b""
    return bare.removesuffix(b",")


def _session(data: bytes, place: str) -> Session | SessionRefused:
    try:
        return session_from_json(data)
    except SessionRefused as error:
        return SessionRefused(f"{place}: {error}")
