"""Where sessions lie: ``{output_folder}/sessions/{id}.json``, in folders below it too, the trash beside it.

The law: only a regular file whose name is an id and ``.json`` is a session; links are not followed, not even for
``sessions/`` itself.  Names of our own ids sort by time, so a listing opens no more files than it needs.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from hl7core import SESSION_ID, StoreError
from hl7core_plugins.json_store import files

__all__ = ["Layout", "millis_of", "told"]

logger = logging.getLogger(__name__)

_EARLIEST: Final = 946_684_800_000
"""An id whose first 48 bits say a time before the year 2000 tells no time."""
_NAME_LENGTH: Final = 36 + len(".json")


def told(error: OSError, what: str) -> StoreError:
    """Return an error of the system as one for people: what failed, and why, without any content."""
    return StoreError(f"{what}: {error.strerror or type(error).__name__}")


def millis_of(session_id: str) -> int | None:
    """Return the start that a time-ordered id names, in unix milliseconds; None if the id names none."""
    if session_id[14:15] != "7" or session_id[8:9] != "-":
        return None
    try:
        millis = int(session_id[:8] + session_id[9:13], 16)
    except ValueError:
        return None
    return millis if millis >= _EARLIEST else None


class Layout:
    """The folders of a store."""

    def __init__(self, output_folder: str) -> None:
        self.root = Path(output_folder).absolute()
        self.sessions = self.root / "sessions"
        self.trash = self.root / "trash"
        self.originals = self.root / "predecessor"
        self._below: tuple[Path, ...] = ()
        self._warned = False

    def prepare(self) -> None:
        """Make ``sessions/`` if it is missing.  Raises StoreError."""
        try:
            files.make_folder(self.sessions)
        except OSError as error:
            raise told(error, f"cannot make or use the folder {self.sessions}") from error
        if not self._warned:
            self._warned = True
            for folder in (self.sessions, self.trash):
                self._check_mode(folder)

    def _check_mode(self, folder: Path) -> None:
        try:
            mode = stat.S_IMODE(folder.lstat().st_mode)
        except OSError:  # not there yet, and ours will be 0700
            return
        if mode & 0o077:
            logger.warning("%s holds patient data and is open to others (mode %o): chmod 700 it", folder, mode)

    def path_of(self, session_id: str) -> Path:
        """Return where a session lies, or would.  Raises OSError if the folder cannot be looked into."""
        flat = self.sessions / f"{session_id}.json"
        if self._below and not files.is_file(flat):
            for folder in self._below:
                if files.is_file(folder / flat.name):
                    return folder / flat.name
        return flat

    def names(self) -> dict[str, Path]:
        """Return the stored sessions by id, each with the folder it lies in.

        Of two files with one id the one nearer to the top counts.  Raises OSError if ``sessions/`` is there and cannot
        be listed.
        """
        found: dict[str, Path] = {}
        for folder, name in self._walk():
            if len(name) == _NAME_LENGTH and name.endswith(".json") and SESSION_ID.fullmatch(name, 0, 36):
                found.setdefault(name[:36], folder)
        return found

    def files(self, ending: str) -> list[Path]:
        """Return every regular file below ``sessions/`` that ends so.  Raises OSError as ``names`` does."""
        return [folder / name for folder, name in self._walk() if name.endswith(ending)]

    def _walk(self) -> Iterator[tuple[Path, str]]:
        """Yield every regular file below ``sessions/``, the upper ones first: its folder and its name."""
        below: list[Path] = []
        waiting = [self.sessions]
        for folder in waiting:  # it grows while we go
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if entry.is_file(follow_symlinks=False):
                            yield folder, entry.name
                        elif entry.is_dir(follow_symlinks=False):
                            below.append(folder / entry.name)
                            waiting.append(below[-1])
            except FileNotFoundError:
                continue
            except OSError as error:
                if folder == self.sessions:
                    raise
                logger.error("%s cannot be listed (%s); the sessions in it are passed over", folder, error.strerror)  # noqa: TRY400
        self._below = tuple(below)
