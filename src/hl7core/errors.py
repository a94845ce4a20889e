"""Every error that hl7core raises on purpose.

::

    Hl7coreError
    ├── SettingsError          a setting is wrong: which, its rule, what stays in force
    ├── CaptureFileError       a capture file cannot be read (on): where the damage lies
    ├── SourceError            packets cannot be had
    │   ├── PermissionMissing  ... for want of privileges; carries the remedy
    │   └── InterfaceMissing   ... no such interface; carries those that exist
    ├── StoreError             a session could not be saved, loaded or deleted
    │   └── SessionRefused     ... because it is not a valid session
    ├── SubmitError            an attempt to hand a session on failed; carries when to come again
    │   ├── DestinationUnreachable  ... the network, or no answer in time: the session stays pending
    │   ├── DestinationBusy         ... it says "later" (408, 425, 429): never makes a session failed
    │   ├── DestinationBroken       ... it is at fault (5xx): failed after the last attempt of a cycle
    │   ├── SessionRejected         ... it will not have this session (other 4xx, 3xx): failed at once
    │   └── DestinationUnauthorized ... it will not have us (401, 403): failed, and the destination pauses
    ├── PluginError            a plugin cannot be loaded, or broke the contract
    └── EngineError            the engine cannot run, or does not answer
        └── EngineBusy         another engine owns the data folder; carries its pid

No message of theirs holds message content: an error may be logged, a patient's data may not.
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
    """The root: catch it to catch whatever hl7core raises on purpose."""


class SettingsError(Hl7coreError):
    """A setting is wrong.

    ``problems`` has one sentence a wrong value, each naming the key (``plugins.json_store.enabled``) and its rule.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class CaptureFileError(Hl7coreError):
    """A capture file is damaged or no capture file.

    ``packet`` is the number (from 1) of the first packet that could not be read, 0 if not even the header could.
    """

    def __init__(self, message: str, *, packet: int = 0) -> None:
        super().__init__(message)
        self.packet = packet


class SourceError(Hl7coreError):
    """Packets cannot be had from a source."""


class PermissionMissing(SourceError):  # noqa: N818 - named for what is the matter, as PermissionError is
    """The process may not capture; ``remedy`` is what to do about it."""

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
    """What should be saved is no valid session."""


class SubmitError(Hl7coreError):
    """An attempt to hand a session on failed; raise one of its kinds, which say what becomes of the session.

    The text is kept with the session and shown: it says what the destination did (``HTTP 503``, ``connection
    refused``), never what it was sent.  ``retry_after`` is how many seconds the destination asked to be left alone,
    None if it did not; the outbox waits as long, one hour at most.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DestinationUnreachable(SubmitError):  # noqa: N818 - named for what is the matter
    """The network failed, or no answer came in time; the session stays pending and is tried again."""


class DestinationBusy(SubmitError):  # noqa: N818
    """It answered "later" (408, 425, 429); that never makes a session failed."""


class DestinationBroken(SubmitError):  # noqa: N818
    """It failed at its own fault (5xx); after the last attempt of a cycle the session is failed.

    Three sessions in a row that end so pause the destination.
    """


class SessionRejected(SubmitError):  # noqa: N818
    """It will not have this session (any other 4xx, 3xx): failed at once, and not repeated."""


class DestinationUnauthorized(SubmitError):  # noqa: N818
    """It will not have us (401, 403): the session is failed, the destination paused, the other sessions wait."""


class PluginError(Hl7coreError):
    """A plugin cannot be loaded or broke the contract; the others run on."""


class EngineError(Hl7coreError):
    """The engine cannot start, or does not answer."""


class EngineBusy(EngineError):  # noqa: N818
    """Another engine owns this data folder; ``pid`` is its process id (0 if unknown)."""

    def __init__(self, folder: str, *, pid: int) -> None:
        super().__init__(f"an engine (pid {pid}) already runs on {folder}; stop it or use another output_folder")
        self.pid = pid
