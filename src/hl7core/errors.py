"""Every error that hl7core raises on purpose.

::

    Hl7coreError
    ├── SettingsError          a setting is wrong; carries one sentence per wrong value
    ├── CaptureFileError       a capture file cannot be read; carries the packet where the damage begins
    ├── SourceError            packets cannot be had
    │   ├── PermissionMissing  ... because a privilege is missing; carries the remedy
    │   └── InterfaceMissing   ... because there is no such interface; carries those that exist
    ├── StoreError             a session could not be saved, loaded or deleted
    │   └── SessionRefused     ... because it is not a valid session
    ├── SubmitError            an attempt to submit a session failed; carries how long to wait
    │   ├── DestinationUnreachable  ... network failure, or no answer in time: the session stays pending
    │   ├── DestinationBusy         ... the answer is "later" (408, 425, 429): the session stays pending
    │   ├── DestinationBroken       ... the destination has an error (5xx): failed after the last attempt of a cycle
    │   ├── SessionRejected         ... it refuses this session (other 4xx, 3xx): failed at once
    │   └── DestinationUnauthorized ... it refuses our credentials (401, 403): failed, and the destination is paused
    ├── PluginError            a plugin cannot be loaded, or broke the contract
    └── EngineError            the engine cannot run, or does not answer
        └── EngineBusy         another engine owns the data folder; carries its pid

No message of these errors contains message content: errors are logged, and patient data must not be.
"""

from __future__ import annotations

__all__ = [
    "CaptureFileError",
    "DestinationBroken",
    "DestinationBusy",
    "DestinationUnauthorized",
    "DestinationUnreachable",
    "EngineBusy",
    "EngineError",
    "Hl7coreError",
    "InterfaceMissing",
    "PermissionMissing",
    "PluginError",
    "SessionRefused",
    "SessionRejected",
    "SettingsError",
    "SourceError",
    "StoreError",
    "SubmitError",
]


class Hl7coreError(Exception):
    """The base class of every error that hl7core raises on purpose."""


class SettingsError(Hl7coreError):
    """A setting is wrong.

    ``problems`` has one sentence per wrong value, which names the key (``plugins.json_store.enabled``) and its rule.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class CaptureFileError(Hl7coreError):
    """A capture file is damaged, or is not a capture file.

    ``packet`` is the number (from 1) of the first packet that could not be read, or 0 if the header could not.
    """

    def __init__(self, message: str, *, packet: int = 0) -> None:
        super().__init__(message)
        self.packet = packet


class SourceError(Hl7coreError):
    """A source cannot supply packets."""


class PermissionMissing(SourceError):  # noqa: N818 - named for what is missing
    """The process may not capture; ``remedy`` says what to do about it."""

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


class InterfaceMissing(SourceError):  # noqa: N818
    """There is no such interface; ``existing`` names those that exist."""

    def __init__(self, name: str, *, existing: tuple[str, ...]) -> None:
        listed = ", ".join(existing) or "none"
        super().__init__(f"no interface {name!r}; there are: {listed}")
        self.name = name
        self.existing = existing


class StoreError(Hl7coreError):
    """A store could not do what it was asked; the session stays where it was."""


class SessionRefused(StoreError):  # noqa: N818
    """What should be saved is not a valid session."""


class SubmitError(Hl7coreError):
    """An attempt to submit a session failed.  Raise one of the subclasses: they decide what happens to the session.

    The text is stored with the session and shown to people, so it says what the destination did (``HTTP 503``,
    ``connection refused``), never what it was sent.  ``retry_after`` is how many seconds the destination asked to be
    left alone, or None; the outbox waits that long, one hour at most.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DestinationUnreachable(SubmitError):  # noqa: N818 - named for what happened
    """The network failed, or no answer came in time.  The session stays pending and is retried."""


class DestinationBusy(SubmitError):  # noqa: N818
    """The destination answered "later" (408, 425, 429).  The session stays pending; this never makes it failed."""


class DestinationBroken(SubmitError):  # noqa: N818
    """The destination has an error (5xx).  The session is retried, and failed after the last attempt of a cycle.

    Three sessions in a row that fail like this pause the destination.
    """


class SessionRejected(SubmitError):  # noqa: N818
    """The destination refuses this session (other 4xx, 3xx).  It is failed at once and not retried."""


class DestinationUnauthorized(SubmitError):  # noqa: N818
    """The destination refuses our credentials (401, 403).

    The session is failed, the destination is paused, and the other sessions wait.
    """


class PluginError(Hl7coreError):
    """A plugin cannot be loaded, or broke the contract.  Other plugins are not affected."""


class EngineError(Hl7coreError):
    """The engine cannot start or run, or does not answer."""


class EngineBusy(EngineError):  # noqa: N818
    """Another engine owns this data folder; ``pid`` is its process id (0 if unknown)."""

    def __init__(self, folder: str, *, pid: int) -> None:
        super().__init__(f"an engine (pid {pid}) already runs on {folder}; stop it or use another output_folder")
        self.pid = pid
