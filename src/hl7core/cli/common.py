"""What several commands share: the settings in force, and the store behind a running engine or without one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hl7core.engine.control.client import ControlClient
    from hl7core.settings.reading import Settings

__all__ = ["engine_client", "has_settings", "load_settings"]


def has_settings(explicit: str | None) -> bool:
    """Say whether anything at all is set, without importing what reads it."""
    if explicit or os.environ.get("HL7CORE_SETTINGS"):
        return True
    if any(name.startswith(("HL7CORE_CORE__", "HL7CORE_PLUGINS__")) for name in os.environ):
        return True
    if Path("settings.toml").exists() or Path("/etc/hl7core/settings.toml").exists():
        return True
    from platformdirs import user_config_dir

    return (Path(user_config_dir("hl7core")) / "settings.toml").exists()


def load_settings(explicit: str | None) -> Settings:
    """Return the settings in force.  Raises SettingsError."""
    from hl7core.settings import reading

    return reading.read(reading.find(explicit))


def engine_client(settings: Settings) -> ControlClient | None:
    """Return a connection to the engine that runs on the data folder, or None if there is none."""
    from hl7core.engine.control.client import ControlClient

    return ControlClient(settings.output_folder).connect()
