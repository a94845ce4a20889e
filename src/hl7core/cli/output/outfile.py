"""Files that hold patient data: whole or absent, and readable by their owner alone."""

from __future__ import annotations

import os
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from hl7core.errors import StoreError

__all__ = ["output"]


@contextmanager
def output(name: str | None) -> Iterator[BinaryIO]:
    """Open ``name`` for writing; None or "-" is standard output.

    A file is written beside, with mode 0600, synced and renamed at the end; if anything fails, or nothing was written,
    what was there before stays.  A pipe or device is written to as it is.  Raises StoreError if it cannot be written.
    """
    if name is None or name == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(name)
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        if path.is_dir():
            raise StoreError(f"{path} is a folder; name a file in it")
        with path.open("wb") as file:
            yield file
        return
    beside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            written = file.tell()
            file.flush()
            os.fsync(file.fileno())
        if written:
            beside.replace(path)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        beside.unlink(missing_ok=True)
