"""What the settings of ``[core]`` mean for the rooms of the engine."""

from __future__ import annotations

from hl7core.engine.session_memory import Limits
from hl7core.settings.model import CoreSettings

__all__ = ["limits_of", "parts_of"]


def limits_of(core: CoreSettings, *, finite: bool = False) -> Limits:
    """Return how much is kept in memory; ``finite``: the packets come from files, which can wait."""
    return Limits(core.memory_sessions, core.memory_bytes, core.unsaved_sessions, core.enable_persistence, finite)


def parts_of(text: str) -> tuple[str, ...]:
    """Return the comma-separated values in ``text``."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
