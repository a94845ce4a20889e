"""The contract between the core and a plugin: its settings, its runtime, and what a packet source must do.

A plugin is a class named by an entry point of the group ``hl7core``.  It is constructed without arguments when it is
enabled, and implements the hooks of :mod:`hl7core.hookspecs` that it needs, each marked ``@hookimpl``.
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
from hl7core.model.replay import ReplayReport
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
    """The base class of a plugin's settings, the table ``[plugins.NAME]``.

    The description and bounds of a field appear in ``docs/settings.md``, ``settings.toml``, ``plugins info`` and error
    messages.  Declare a path as ``str``, a secret as ``SecretStr``, and several values as one string (``"eth0,
    eth1"``).
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, validate_default=True, use_attribute_docstrings=True
    )

    enabled: bool = Field(default=False, description="Whether to load the plugin.")


class DestinationSettings(PluginSettings):
    """The base class of a destination's settings: how the outbox hands it sessions.

    A destination whose settings do not derive from this class gets the defaults.
    """

    concurrency: int = Field(default=2, ge=1, le=10)
    """How many attempts may run at the same time."""
    max_retries: int = Field(default=3, ge=1, le=20)
    """How many attempts a session gets in one cycle; between them the outbox waits 1, 2, 4, 8 seconds and so on."""
    interval_minutes: int = Field(default=5, ge=1, le=60)
    """Minutes between two cycles: how soon sessions that are still pending are tried again."""
    timeout: float = Field(default=30.0, ge=1, le=300)
    """How many seconds one attempt may take in total."""
    backlog: bool = True
    """Whether a destination that becomes active also gets the sessions that were already pending."""
    batch_size: int = Field(default=1, ge=1, le=100)
    """How many sessions to hand over in one attempt, if the destination accepts several."""

    @property
    def active(self) -> bool:
        """Whether to hand it sessions at all; override this, for example with ``return bool(self.endpoint)``."""
        return True


class SourceRequest(NamedTuple):
    """Which packets are wanted.

    ``files`` names capture files ("-" is standard input).  Without files, capture live on ``interfaces``; if those are
    empty too, as the plugin's settings say.  ``bpf`` is a filter written by the user.  ``default_bpf`` follows from the
    addresses and port in the settings and applies if there is no other filter.  ``promiscuous`` asks for packets
    addressed to other machines too.  ``configured`` is true if the engine starts what the settings ask for, false if a
    person asked.
    """

    files: tuple[str, ...] = ()
    interfaces: tuple[str, ...] = ()
    bpf: str = ""
    default_bpf: str = ""
    promiscuous: bool = True
    configured: bool = True


class SourceStats(NamedTuple):
    """What a source has seen so far.

    ``received`` counts the packets passed on, ``dropped`` those that the kernel dropped.  For files, ``position`` is
    how many of ``size`` bytes have been read.  ``detail`` describes the state in one sentence ("eth0 is down,
    waiting"); it is empty if all is well.
    """

    received: int = 0
    dropped: int = 0
    position: int = 0
    size: int = 0
    detail: str = ""


@runtime_checkable
class PacketSource(Protocol):
    """A source of packets.  ``run`` blocks, on a thread that the core owns."""

    @property
    def name(self) -> str:
        """The source's name for people: ``eth0``, ``day.pcap``."""

    def run(self, emit: Callable[[PacketBatch], None]) -> None:
        """Pass batches to ``emit`` until the packets end or ``stop`` is called.

        A live source passes on what it has at least every 100 ms.  Raises SourceError or CaptureFileError if packets
        cannot be had; batches emitted before count.
        """

    def stop(self) -> None:
        """Make ``run`` pass on what it still holds and return.  May be called from any thread, and more than once."""

    def stats(self) -> SourceStats:
        """Return what the source has seen so far.  May be called from any thread."""

    def interfaces(self) -> Sequence[Interface]:
        """Return the interfaces it listens on, as far as known."""


@runtime_checkable
class ListeningSource(PacketSource, Protocol):
    """A live source that says when it listens.

    With it the engine can put new settings of a capture in force without losing a packet: the new source listens before
    the old one ends.  Two sources that listen at once must give a packet the same time, as the kernel does.
    """

    @property
    def listening(self) -> bool:
        """Whether every packet that arrives from now on is captured.  May be asked from any thread."""


class CoreView(NamedTuple):
    """The part of ``[core]`` that plugins may see.

    ``output_folder`` is the data folder, an absolute path.  ``destinations`` are the destinations active now.
    ``owner`` is false if another process owns the data folder, because an engine runs there and this process only
    adds sessions: then do not recover, move or delete anything that is already in it.
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
    """The engine's state in numbers.  Taking it is cheap."""

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
    """A plugin's only access to the engine, passed to ``start``.

    The coroutines run on the engine's event loop; from another thread, use ``call``.  The plain methods may be called
    from any thread.
    """

    async def sessions(self, query: SessionQuery) -> list[Session]:
        """Return the matching sessions: those stored, and those in memory not stored yet.  Raises StoreError."""

    async def retry(self, ids: Sequence[str]) -> list[str]:
        """Make failed or submitted sessions pending again, with no attempts.  Return the ids that were found."""

    async def ignore(self, ids: Sequence[str]) -> list[str]:
        """Mark sessions as never to be submitted.  Return the ids that were found."""

    async def unignore(self, ids: Sequence[str]) -> list[str]:
        """Undo ``ignore``.  Return the ids that were found."""

    async def delete(
        self, ids: Sequence[str], *, to_trash: bool = True, deleted_at: datetime | None = None
    ) -> list[str]:
        """Delete sessions from memory and from their store.  Return the ids that were deleted.

        With ``to_trash`` they can be restored.  ``deleted_at`` (default: now) is the time under which they are filed in
        the trash; use the same time for sessions that belong together.  Raises StoreError.
        """

    async def restore(self, ids: Sequence[str]) -> list[str]:
        """Bring sessions back from the trash.  Return the ids that came back.

        Each gets a new expiry: its first save plus the current ``retention_days``.
        """

    async def empty_trash(self, before: datetime) -> CleanupReport:
        """Permanently delete what went to the trash before that time.

        The report's ``in_trash`` is how many sessions are left in the trash.  Raises StoreError.
        """

    async def trash(self) -> list[tuple[str, datetime]]:
        """Return the sessions in the trash as (id, when it went there), oldest first.

        Raises StoreError, also if an attached store does not implement ``list_trash``.
        """

    async def store_size(self) -> int:
        """Return how many bytes on disk the stored sessions take, trash included.

        Raises StoreError, also if an attached store does not implement ``store_size``.
        """

    async def submit_now(self) -> int:
        """Try every pending session now.  Return how many are known to be pending.

        Raises EngineError if no destination is active or sessions are not being saved.
        """

    async def cleanup(self, *, dry_run: bool = False, confirmed: bool = False) -> list[CleanupReport]:
        """Run every plugin's ``cleanup`` and return the reports; none while ``enable_persistence`` is false.

        ``confirmed`` says that a person has confirmed it, whatever the clock looks like.
        """

    async def change_settings(self, changes: dict[str, Any]) -> None:
        """Write ``changes``, for example {"core.retention_days": 14}, to the settings file and apply them.

        If any of them is refused, nothing changes and SettingsError is raised.
        """

    async def interfaces(self) -> list[Interface]:
        """Return the interfaces that can be captured on."""

    async def start_capture(self, interfaces: Sequence[str] = (), bpf: str = "") -> None:
        """Start capturing; without arguments, as the settings say.  Raises SourceError."""

    async def stop_capture(self) -> None:
        """Stop capturing and end the open sessions."""

    async def pause(self) -> None:
        """Stop decoding.  Packets that arrive are counted and dropped, and a gap is marked."""

    async def resume(self) -> None:
        """Resume decoding."""

    async def replay(
        self,
        files: Sequence[str],
        *,
        speed: str = "max",
        progress: Callable[[ReplayReport], None] = lambda _report: None,
    ) -> ReplayReport:
        """Replay capture files, given by absolute paths, through all plugins while the capture goes on.

        ``speed`` is "max" or "1" (the packets' own pace).  ``progress`` is called with a report about four times a
        second.  Return the final report, which also names the files that could not be read.  Cancelling the call stops
        the replay; what was decoded is kept.  Raises EngineError if a replay is running already.
        """

    async def clear(self) -> None:
        """Drop stored sessions from memory; the store keeps them."""

    def publish(self, event: Event) -> None:
        """Send ``event`` to every plugin that implements ``on_event``.

        A NoticeRaised is sent once per ``key`` and stands until it is published as resolved.
        """

    def state(self) -> State:
        """Return the engine's state in numbers."""

    def core(self) -> CoreView:
        """Return the part of ``[core]`` that plugins may see, as it is now."""

    def now(self) -> datetime:
        """Return the wall-clock time (aware, UTC).  Use this instead of the system clock, so that tests can set it."""

    def give_way(self) -> None:
        """Show that you are getting on, and let waiting sessions be saved.  For every hook that may take long.

        A call that shows no progress for 30 seconds is abandoned, so call it often, between any two steps: it costs
        next to nothing.  Inside ``load_sessions`` and ``store_size``, if sessions wait, your ``persist_sessions`` is
        called inside it, and it raises EngineError if the engine stops, because nobody waits for the answer any more.
        """

    def call(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run ``coroutine`` on the event loop.  For use from another thread."""

    def every(self, period: timedelta, job: Callable[[], None]) -> Callable[[], None]:
        """Run ``job`` every ``period`` on a worker thread, until the returned function is called or the plugin ends.

        If a setting says how often, do not keep its first value: in ``configure``, call the returned function and begin
        again, or let a short period look whether it is time.
        """
