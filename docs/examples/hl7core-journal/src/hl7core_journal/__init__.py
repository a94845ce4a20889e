"""A journal: one line per session in a CSV file, without message content."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TextIO

from pydantic import Field

from hl7core import PluginSettings, Runtime, Session, SettingsError, hookimpl

__all__ = ["Journal", "JournalSettings"]


class JournalSettings(PluginSettings):
    """The table ``[plugins.journal]``."""

    path: str = Field(default="journal.csv", min_length=1, description="The file, relative to the data folder.")
    complete_only: bool = Field(default=False, description="Leave out incomplete sessions.")


class Journal:
    """The plugin.  It is constructed without arguments when it is enabled."""

    hook_api = ">=1.0,<2"

    def __init__(self) -> None:
        self._settings = JournalSettings()
        self._folder = Path()
        self._file: TextIO | None = None

    @hookimpl
    def register_settings(self) -> type[PluginSettings]:
        """Return the settings model."""
        return JournalSettings

    @hookimpl
    def configure(self, settings: JournalSettings) -> None:
        """Receive the settings: before ``start``, and whenever the table changes while the engine runs."""
        if settings.path.endswith(("/", "\\")):
            raise SettingsError("plugins.journal.path: must name a file, not a folder")
        self._settings = settings
        if self._file is not None:
            self._open()

    @hookimpl
    def start(self, runtime: Runtime) -> None:
        """Open the file.  ``runtime`` is the only access to the engine."""
        self._folder = Path(runtime.core().output_folder)
        self._open()

    @hookimpl
    def stop(self) -> None:
        """Close the file.  No other hook is called after this."""
        if self._file is not None:
            self._file.close()
            self._file = None

    @hookimpl
    def on_session_complete(self, session: Session) -> None:
        """Write a line.  This runs on the plugin's own thread, so a slow disk here delays nothing else."""
        if self._file is None or (self._settings.complete_only and not session.is_complete):
            return
        row = (
            session.started_at.isoformat(timespec="milliseconds"),
            session.id,
            session.device.address,
            session.lis.address,
            session.protocol,
            session.ending,
            len(session.messages),
        )
        csv.writer(self._file).writerow(row)
        self._file.flush()

    def _open(self) -> None:
        if self._file is not None:
            self._file.close()
        path = self._folder / self._settings.path
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = path.open("a", newline="", encoding="utf-8")
