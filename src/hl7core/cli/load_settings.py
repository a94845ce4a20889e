"""The settings that a command works with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from hl7core.settings.reading import Settings

__all__ = ["has_settings", "load_settings", "safe_mode_option"]

safe_mode_option = click.option(
    "--safe-mode", is_flag=True, help="Load bundled plugins alone; third-party ones are left out of this run."
)


def has_settings(explicit: str | None) -> bool:
    """Return whether anything is set at all, by file or environment, without importing what reads settings."""
    if explicit or os.environ.get("HL7CORE_SETTINGS"):
        return True
    if any(name.startswith(("HL7CORE_CORE__", "HL7CORE_PLUGINS__")) for name in os.environ):
        return True
    if Path("settings.toml").exists() or Path("/etc/hl7core/settings.toml").exists():
        return True
    from platformdirs import user_config_dir

    return (Path(user_config_dir("hl7core")) / "settings.toml").exists()


def load_settings(explicit: str | None) -> Settings:
    """Return the settings in force; ``explicit`` is the file that ``--settings`` names.  Raises SettingsError."""
    from hl7core.settings import reading

    return reading.read(reading.find(explicit))
