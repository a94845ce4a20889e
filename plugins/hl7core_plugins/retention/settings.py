"""The table ``[plugins.retention]``."""

from __future__ import annotations

from pydantic import ByteSize, Field

from hl7core import PluginSettings

__all__ = ["RetentionSettings"]


class RetentionSettings(PluginSettings):
    """When expired sessions are deleted permanently, and how much disk space the stored sessions may use."""

    enabled: bool = Field(default=True, description="Delete expired sessions.")
    cleanup_interval_hours: int = Field(
        default=24, ge=1, le=168, description="Hours between two cleanups. The first one runs at start."
    )
    dry_run: bool = Field(default=False, description="Only report what a cleanup would delete.")
    trash_days: int = Field(
        default=7, ge=0, le=3650, description="Days in the trash before deleted sessions are removed permanently."
    )
    pending_grace_days: int = Field(
        default=30,
        ge=0,
        le=3650,
        description="Days after its expiry that a session still pending for a destination is kept.",
    )
    max_disk: ByteSize = Field(
        default=ByteSize(0),
        ge=0,
        description="Disk space for the stored sessions, trash included: bytes, or a number with a unit "
        '("20GB"); 0: no limit. Beyond it the trash is emptied early, then the oldest submitted sessions are deleted '
        "permanently; pending ones never are. Checked every hour.",
    )
