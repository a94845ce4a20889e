"""A file drop: each session becomes a JSON file in a folder that another program empties."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from pydantic import Field

from hl7core import (
    DestinationBroken,
    DestinationSettings,
    DestinationUnreachable,
    PluginSettings,
    Receipt,
    Session,
    hookimpl,
    session_to_json,
)

__all__ = ["FileDrop", "FileDropSettings"]

_FULL = (errno.ENOSPC, errno.EDQUOT)


class FileDropSettings(DestinationSettings):
    """The table ``[plugins.file_drop]``."""

    folder: str = Field(default="", description="The folder to write to, which must exist. Empty: off.")

    @property
    def active(self) -> bool:
        """Whether there is a folder to write to."""
        return bool(self.folder)


class FileDrop:
    """The plugin.  It makes ONE attempt; the outbox does the retrying, waiting and bookkeeping."""

    hook_api = ">=1.0,<2"

    def __init__(self) -> None:
        self._settings = FileDropSettings()

    @hookimpl
    def register_settings(self) -> type[PluginSettings]:
        """Return the settings model."""
        return FileDropSettings

    @hookimpl
    def configure(self, settings: FileDropSettings) -> None:
        """Receive the settings; they apply to the next attempt."""
        self._settings = settings

    @hookimpl
    def submit_session(self, session: Session) -> Receipt:
        """Write the session under a temporary name, and rename it once it is on the disk."""
        path = Path(self._settings.folder) / f"{session.id}.json"
        draft = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            with draft.open("xb") as file:
                file.write(session_to_json(session, saved=False))
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except OSError as error:
            with suppress(OSError):
                draft.unlink()
            kind = DestinationBroken if error.errno in _FULL else DestinationUnreachable
            raise kind(f"the folder cannot be written to ({error.strerror})") from None
        return Receipt(path.name)

    @hookimpl
    def reach_destination(self, seconds: float) -> str:
        """Check that the folder is there and can be written to, without writing a session."""
        folder = Path(self._settings.folder)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise DestinationUnreachable(f"{folder} is not there, or cannot be written to")
        return f"{folder} can be written to"
