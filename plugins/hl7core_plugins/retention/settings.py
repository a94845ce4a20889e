"""The table ``[plugins.retention]``."""

from __future__ import annotations

from pydantic import ByteSize, Field

from hl7core import PluginSettings

__all__ = ["RetentionSettings"]


class RetentionSettings(PluginSettings):
    """When expired sessions are deleted, and how much disk space stored sessions may take."""

    enabled: bool = Field(default=True, description="Delete expired sessions.")
    cleanup_interval_hours: int = Field(
        default=24, ge=1, le=168, description="Hours between two cleanups. The first one runs at start."
    )
    dry_run: bool = Field(default=False, description="Only report what a cleanup would delete.")
    trash_days: int = Field(
        default=7,
        ge=0,
        le=3650,
        description="Days that deleted sessions stay in the trash before they are deleted permanently.",
    )
    pending_grace_days: int = Field(
        default=30,
        ge=0,
        le=3650,
        description="Days that a session still pending at a destination is kept beyond its expiry.",
    )
    max_disk: ByteSize = Field(
        default=ByteSize(0),
        ge=0,
        description="Bytes that the stored sessions may take, trash included, as a number or with a unit "
        '("20GB"). 0 means no limit. Above it, the trash is emptied early, then the oldest submitted sessions are '
        "deleted permanently; sessions still pending never are. Checked every hour.",
    )
