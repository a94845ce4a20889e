"""What a plugin meets: its settings, the runtime it is handed, and what a source of packets must do.

A plugin is a class named by an entry point of the group ``hl7core``.  It is constructed without arguments when it is
enabled, and implements the hooks of :mod:`hl7core.hookspecs` that it wants, each marked ``@hookimpl``.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field

from hl7core.model.cleanup import CleanupReport
from hl7core.model.events import Event
from hl7core.model.packet import Interface, PacketBatch
from hl7core.model.session import Session, SessionQuery

__all__ = [
    "CoreView",
    "DestinationSettings",
    "PacketSource",
    "PluginSettings",
    "Runtime",
    "SourceRequest",
    "SourceStats",
    "State",
]

T = TypeVar("T")


class PluginSettings(BaseModel):
    """The base of a plugin's settings: the table ``[plugins.NAME]``.

    A field's description and bounds are what the settings page, ``settings.toml`` and error messages show.  Several
    values in one key are one string (``"eth0, eth1"``); a path is a ``str``; a secret is a ``SecretStr``.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, validate_default=True, use_attribute_docstrings=True
    )

    enabled: bool = Field(default=False, description="Whether the plugin is loaded at all.")


class DestinationSettings(PluginSettings):
    """The base of a destination's settings: what the outbox goes by.

    A destination whose settings are none of these is handed sessions by the defaults.
    """

    concurrency: int = Field(default=2, ge=1, le=10)
    """How many attempts may run at once."""
    max_retries: int = Field(default=3, ge=1, le=20)
    """How many attempts a session gets in a cycle, all told; between them the outbox waits 1, 2, 4, 8 s and so on."""
    interval_minutes: int = Field(default=5, ge=1, le=60)
    """Minutes between two cycles: how soon what stayed pending is tried again."""
    timeout: float = Field(default=30.0, ge=1, le=300)
    """Seconds that one attempt may take in all."""
    backlog: bool = True
    """Whether a destination that becomes active takes up the sessions that were pending before."""
    batch_size: int = Field(default=1, ge=1, le=100)
    """How many sessions are handed over in one attempt, if the destination takes several."""

    @property
    def active(self) -> bool:
        """Whether it is to be handed sessions at all; override it (``return bool(self.endpoint)``)."""
        return True


class SourceRequest(NamedTuple):
    """Which packets are wanted.

    ``files`` names capture files ("-" is standard input); else capture is live, on ``interfaces`` (empty: as the
    plugin's settings say).  ``bpf`` is a filter that the user wrote; ``default_bpf`` the one that the addresses and
    ports in the settings amount to, used if there is no other.  ``configured`` is true when the engine starts what the
    settings ask for, false when a person asked.
    """

    files: tuple[str, ...] = ()
    interfaces: tuple[str, ...] = ()
    bpf: str = ""
    default_bpf: str = ""
    promiscuous: bool = True
    configured: bool = True


class SourceStats(NamedTuple):
    """What a source has seen: packets handed on, packets that the kernel dropped, and, for files, bytes read of all.

    ``detail`` is one sentence for a person about its state ("eth0 is down, waiting"), empty if all is well.
    """

    received: int = 0
    dropped: int = 0
    position: int = 0
    size: int = 0
    detail: str = ""


@runtime_checkable
class PacketSource(Protocol):
    """Where packets come from.  ``run`` blocks, on a thread that the core owns."""

    @property
    def name(self) -> str:
        """What people call it: ``eth0``, ``day.pcap``."""

    def run(self, emit: Callable[[PacketBatch], None]) -> None:
        """Hand batches to ``emit`` until the packets end or ``stop`` is called.

        A live source hands on what it has at least every 100 ms.  Raises SourceError or CaptureFileError if packets
        cannot be had; what was emitted before counts.
        """

    def stop(self) -> None:
        """Make ``run`` hand on what it still holds and return; called from any thread, more than once."""

    def stats(self) -> SourceStats:
        """Say what it has seen so far; called from any thread."""

    def interfaces(self) -> Sequence[Interface]:
        """Name the interfaces it listens on, as far as known."""


class CoreView(NamedTuple):
    """What every plugin may know of ``[core]``: the data folder (absolute), and how long sessions are kept.

    ``destinations`` are those that sessions are handed on to now.
    ``owner`` is false where another process owns the data folder (an engine runs, and this one only adds sessions):
    then nothing that is already there may be recovered, moved or thrown away.
    """

    output_folder: str
    retention_days: int
    enable_persistence: bool
    store: str
    device_address: str
    lis_address: str
    lis_port: int
    owner: bool = True
    destinations: tuple[str, ...] = ()


class State(NamedTuple):
    """The engine's state in numbers, cheap to take."""

    running: bool
    paused: bool
    capturing: bool
    sources: tuple[tuple[str, SourceStats], ...]
    packets: int
    dropped_intake: int
    dropped_kernel: int
    open_sessions: int
    sessions: int
    sessions_in_memory: int
    unsaved: int
    counters: tuple[tuple[str, int], ...]
    notices: tuple[tuple[str, str], ...]


class Runtime(Protocol):
    """The only handle on the engine that a plugin gets (in ``start``).

    The coroutines run on the engine's event loop: from a thread use ``call``.  The plain methods may be called from
    any thread.
    """

    async def sessions(self, query: SessionQuery) -> list[Session]:
        """Return stored sessions, and those in memory that are not stored yet."""

    async def retry(self, ids: Sequence[str]) -> list[str]:
        """Make failed or submitted sessions pending again with no attempts; return the ids that were found."""

    async def ignore(self, ids: Sequence[str]) -> list[str]:
        """Mark sessions as never to be sent; return the ids that were found."""

    async def unignore(self, ids: Sequence[str]) -> list[str]:
        """Undo ``ignore``; return the ids that were found."""

    async def delete(
        self, ids: Sequence[str], *, to_trash: bool = True, deleted_at: datetime | None = None
    ) -> list[str]:
        """Remove sessions from memory and store; return the ids that were removed.

        ``deleted_at`` (None: now) is the time under which they lie in the trash; give one time to what belongs
        together.  Raises StoreError.
        """

    async def restore(self, ids: Sequence[str]) -> list[str]:
        """Bring sessions back from the trash; return the ids that came back.

        Their expiry is counted anew, from their first save and today's ``retention_days``.
        """

    async def empty_trash(self, before: datetime) -> CleanupReport:
        """Throw away for good what went to the trash before that time; ``in_trash`` tells what is left there.

        Raises StoreError.
        """

    async def trash(self) -> list[tuple[str, datetime]]:
        """Return the ids of the sessions in the trash and when each went there, oldest first.

        Raises StoreError, also if an attached store cannot say.
        """

    async def store_size(self) -> int:
        """Return the bytes on disk that the stored sessions take, the trash included.

        Raises StoreError, also if an attached store cannot say.
        """

    async def submit_now(self) -> int:
        """Try all that is pending at once; return how many sessions are known to be.

        Raises EngineError if no destination is active, or nothing is saved.
        """

    async def cleanup(self, *, dry_run: bool = False, confirmed: bool = False) -> list[CleanupReport]:
        """Run every plugin's ``cleanup``; return their reports, none while nothing is saved.

        ``confirmed``: a person has said yes to it, whatever the clock looks like.
        """

    async def change_settings(self, changes: dict[str, Any]) -> None:
        """Write ``changes`` ({"core.retention_days": 14}) to the settings file.

        Raises SettingsError, changing nothing.
        """

    async def interfaces(self) -> list[Interface]:
        """List the interfaces that can be captured on."""

    async def start_capture(self, interfaces: Sequence[str] = (), bpf: str = "") -> None:
        """Start capturing; nothing given: as the settings say.  Raises SourceError."""

    async def stop_capture(self) -> None:
        """Stop capturing and end the open sessions."""

    async def pause(self) -> None:
        """Stop decoding; packets that come are counted and let go, and a gap is marked."""

    async def resume(self) -> None:
        """Decode again."""

    async def clear(self) -> None:
        """Forget the sessions in memory that are stored; the store keeps them."""

    def publish(self, event: Event) -> None:
        """Tell every plugin that listens; a NoticeRaised stands, told once, until it is published as resolved."""

    def state(self) -> State:
        """Return the engine's state in numbers."""

    def core(self) -> CoreView:
        """Return what a plugin may know of ``[core]`` now."""

    def now(self) -> datetime:
        """Return the wall-clock time (aware, UTC); a test may set another."""

    def give_way(self) -> None:
        """Let what waits to be saved be saved before you go on: for a store that is long at reading.

        It costs next to nothing, so call it between any two steps of ``load_sessions`` and ``store_size``; your
        ``persist_sessions`` is called within it if need be.  Does nothing elsewhere.  Raises EngineError if the engine
        stops: nobody waits for the answer any more.
        """

    def call(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run ``coroutine`` on the event loop, from another thread."""

    def every(self, period: timedelta, job: Callable[[], None]) -> Callable[[], None]:
        """Run ``job`` each ``period`` on a worker thread until the returned function is called or the plugin stops."""
