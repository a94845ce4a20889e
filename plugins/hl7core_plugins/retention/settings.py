"""The table ``[plugins.retention]``."""

from __future__ import annotations

from pydantic import ByteSize, Field

from hl7core import PluginSettings

__all__ = ["RetentionSettings"]


class RetentionSettings(PluginSettings):
    """How long what has expired is still there, and how much the stored sessions may take."""

    enabled: bool = Field(default=True, description="Throw away sessions whose time is over.")
    cleanup_interval_hours: int = Field(
        default=24, ge=1, le=168, description="Hours between two cleanups; the first runs at the start."
    )
    dry_run: bool = Field(default=False, description="Report what a cleanup would delete, and delete nothing.")
    trash_days: int = Field(
        default=7, ge=0, le=3650, description="Days that deleted sessions wait in the trash before they go for good."
    )
    pending_grace_days: int = Field(
        default=30,
        ge=0,
        le=3650,
        description="Days past its expiry that a session still waiting to be sent is kept.",
    )
    max_disk: ByteSize = Field(
        default=ByteSize(0),
        ge=0,
        description="Bytes that the stored sessions may take, the trash included, as a number or with a unit "
        '("20GB"); 0: no bound. Over it, the trash is emptied early, then the oldest submitted sessions go for good; '
        "what is still to be sent never does. Looked at each hour.",
    )
