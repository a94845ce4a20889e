"""The exit codes, and which error gives which."""

from __future__ import annotations

from typing import Final

from hl7core.errors import Hl7coreError, InterfaceMissing, PermissionMissing, SettingsError

__all__ = [
    "ERROR",
    "INTERFACE",
    "INTERRUPTED",
    "NOTHING",
    "OK",
    "PARTIAL",
    "PERMISSION",
    "SETTINGS",
    "USAGE",
    "exit_code",
]

OK: Final = 0
ERROR: Final = 1
USAGE: Final = 2
NOTHING: Final = 3
"""Nothing matched."""
PARTIAL: Final = 4
"""Part of the work failed: a damaged file, some of the sessions."""
SETTINGS: Final = 5
PERMISSION: Final = 6
INTERFACE: Final = 7
INTERRUPTED: Final = 130


def exit_code(error: Hl7coreError) -> int:
    """Return the exit code for ``error``."""
    if isinstance(error, SettingsError):
        return SETTINGS
    if isinstance(error, PermissionMissing):
        return PERMISSION
    if isinstance(error, InterfaceMissing):
        return INTERFACE
    return ERROR
