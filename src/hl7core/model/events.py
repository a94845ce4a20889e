"""The events of an engine: what a dashboard would show, without message content."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from hl7core.model.cleanup import CleanupReport
from hl7core.model.session import OpenSession

__all__ = [
    "CaptureChanged",
    "CleanupProgress",
    "CleanupSummary",
    "Event",
    "NoticeRaised",
    "PacketsDropped",
    "PluginChanged",
    "RecoveryDone",
    "Resync",
    "SessionSaved",
    "SessionUnsaved",
    "SessionUpdated",
    "SessionsRemoved",
    "SettingsChanged",
    "SubmissionProgress",
    "SubmissionResult",
]


@dataclass(frozen=True, slots=True)
class SessionUpdated:
    """An open session has changed."""

    session: OpenSession


@dataclass(frozen=True, slots=True)
class SessionSaved:
    """The store ``store`` has saved the session, at ``location``."""

    session_id: str
    store: str
    location: str


@dataclass(frozen=True, slots=True)
class SessionUnsaved:
    """A save failed, because of ``reason``.  The session stays in memory and is retried; ``waiting`` sessions do."""

    session_id: str
    reason: str
    waiting: int


@dataclass(frozen=True, slots=True)
class SessionsRemoved:
    """These sessions were deleted from their store, with ``to_trash`` to the trash."""

    session_ids: tuple[str, ...]
    to_trash: bool


@dataclass(frozen=True, slots=True)
class SubmissionProgress:
    """How busy the outbox is."""

    in_flight: int
    queue_size: int
    active_worker: bool


@dataclass(frozen=True, slots=True)
class SubmissionResult:
    """How an attempt to submit a session ended."""

    session_id: str
    destination: str
    success: bool
    submission_attempts: int
    error: str = ""
    submitted_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class CleanupProgress:
    """A cleanup is in progress: how many sessions it has deleted (with ``dry_run``: would have), and how many kept."""

    deleted: int
    kept: int
    dry_run: bool


@dataclass(frozen=True, slots=True)
class CleanupSummary:
    """A cleanup has ended."""

    report: CleanupReport
    start_time: datetime
    end_time: datetime


@dataclass(frozen=True, slots=True)
class PacketsDropped:
    """Packets were lost.  ``where`` is "kernel" or "intake"; ``count`` is how many since the last such event."""

    where: str
    source: str
    count: int
    total: int


@dataclass(frozen=True, slots=True)
class CaptureChanged:
    """A source started, stopped, paused, resumed, lost its interface or got it back; ``state`` says which."""

    source: str
    state: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class PluginChanged:
    """A plugin's state has changed: ``state`` as in ``plugins list``, ``error`` why (without message content)."""

    plugin: str
    state: str
    error: str = ""


@dataclass(frozen=True, slots=True)
class SettingsChanged:
    """New settings are in force (``problems`` is empty), or were refused and the old ones stay."""

    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RecoveryDone:
    """A store has recovered what an interrupted run left behind."""

    store: str
    recovered: int
    cleaned: int


@dataclass(frozen=True, slots=True)
class NoticeRaised:
    """Something a person should know, in one sentence.  ``key`` names the subject, so that it is reported once."""

    key: str
    text: str
    resolved: bool = False


@dataclass(frozen=True, slots=True)
class Resync:
    """``missed`` calls did not fit into this plugin's queue: read the current state again."""

    missed: int


Event = (
    CaptureChanged
    | CleanupProgress
    | CleanupSummary
    | NoticeRaised
    | PacketsDropped
    | PluginChanged
    | RecoveryDone
    | Resync
    | SessionSaved
    | SessionUnsaved
    | SessionUpdated
    | SessionsRemoved
    | SettingsChanged
    | SubmissionProgress
    | SubmissionResult
)
