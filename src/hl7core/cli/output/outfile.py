"""Where an export goes: standard output, a pipe or device, or a file that is written atomically, readable by its owner.

Exported files hold patient data, hence their mode of 0600.
"""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from hl7core.atomic_file import replacing
from hl7core.errors import StoreError

__all__ = ["open_output"]


class _NothingWrittenError(Exception):
    """The file that was there before is to stay."""


@contextmanager
def open_output(name: str | None) -> Iterator[BinaryIO]:
    """Open ``name`` for writing; None or "-" is standard output.

    A file is replaced when the block ends: if anything fails, or nothing was written, what was there before stays.  A
    pipe or a device is written to as it is.  Raises StoreError if it cannot be written.
    """
    if name is None or name == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(name)
    try:
        if path.is_dir():
            raise StoreError(f"{path} is a folder; name a file in it")
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            with path.open("wb") as file:
                yield file
            return
        with replacing(path, mode=0o600) as file:
            yield file
            if not file.tell():
                raise _NothingWrittenError  # noqa: TRY301 - it takes the way of a failure: the old file stays
    except _NothingWrittenError:
        return
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}") from error
