"""The engine: puts the rooms together, starts and stops them in the order that loses nothing.

Packets go source -> intake -> decoding -> ledger -> news and store -> destinations; nothing flows back up.  One engine
owns a data folder.  It starts stores before sources, and stops sources first, then decodes, then saves what waits
within a deadline, and names what it could not save.  Plugins come and go while it runs; what it holds in memory is not
theirs.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Final

from hl7core.contract import SourceRequest, State
from hl7core.engine.apply_settings import Settling
from hl7core.engine.control.server import Control
from hl7core.engine.decoding import Decoding
from hl7core.engine.intake import Intake
from hl7core.engine.keeper import Keeper, Policy
from hl7core.engine.ledger import Ledger
from hl7core.engine.lock import EngineLock
from hl7core.engine.news import Follower, News
from hl7core.engine.options import limits_of
from hl7core.engine.outbox.outbox import Outbox
from hl7core.engine.outbox.records import StoredRecords
from hl7core.engine.reloader import Reloader
from hl7core.engine.runtime import EngineRuntime
from hl7core.engine.sources import Sources, default_bpf
from hl7core.engine.stores import Shelf, reason_of
from hl7core.errors import EngineError, Hl7coreError
from hl7core.guard import in_thread
from hl7core.model.events import PluginChanged
from hl7core.model.session import Ending, Session
from hl7core.plugin_host.dispatch import Dispatch
from hl7core.plugin_host.registry import Registry
from hl7core.settings import reading
from hl7core.settings.reading import Settings

__all__ = ["Engine"]

logger = logging.getLogger(__name__)

STOP_DEADLINE: Final = 5.0
_WATCH_EVERY: Final = 1.0
_STUCK: Final = 5.0
_STORE_AGAIN: Final = 15.0
_SENDING: Final = 0.4
"""So much of the time for a stop is given to what is being handed on."""
_NOW: Final = partial(datetime.now, UTC)


class Engine:
    """A recorder: ``await run()``, or ``await start()`` and ``await stop()``, on one event loop.

    ``request`` says which packets a person wants (None: what the settings say).  ``settings_path`` is the file to watch
    and to change (default: where the settings came from; without one they stay).  ``overrides`` are settings of the
    command line, kept over each reload.  With ``until_end`` the engine stops when the packets end and all is saved.
    With ``hand_on`` false nothing is sent to destinations.  ``entry_points`` and ``only`` narrow down the plugins.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        request: SourceRequest | None = None,
        settings_path: Path | None = None,
        overrides: Mapping[str, Any] | None = None,
        until_end: bool = False,
        hand_on: bool = True,
        only: Sequence[str] | None = None,
        entry_points: Iterable[EntryPoint] | None = None,
        clock: Callable[[], datetime] = _NOW,
        sensor: str | None = None,
        stop_deadline: float = STOP_DEADLINE,
    ) -> None:
        self.settings = settings
        self.folder = settings.output_folder
        self.record = settings.core.store
        self.now = clock
        self.problems: tuple[str, ...] = ()
        self.unsaved: list[str] = []
        self.loop: asyncio.AbstractEventLoop
        self._request = request
        self._overrides = dict(overrides or {})
        self._until_end = until_end
        self._hand_on = hand_on
        self.sensor = socket.gethostname() if sensor is None else sensor
        self._stop_deadline = stop_deadline
        self.lock = EngineLock(self.folder)
        self.registry = Registry(settings, entry_points=entry_points)
        if only is not None:
            self.registry.load_only(only)
        self.dispatch = Dispatch(self.registry, self._plugin_changed)
        self.news = News(self.dispatch)
        self.ledger = Ledger(limits_of(settings.core), on_lost=self.news.given_up)
        self.shelf = Shelf(self.dispatch, self.ledger, record=lambda: self.record)
        self.keeper = Keeper(
            self.ledger, self.dispatch, self.shelf, self.news, policy=self._policy, now=clock, on_saved=self._saved
        )
        records = StoredRecords(self.keeper, self.shelf, lambda: self.settings.core.enable_persistence)
        self.outbox = Outbox(self.dispatch, records, self.news, now=clock)
        self.intake = Intake(on_drop=self.news.dropped, hold=lambda: self.ledger.pressed)
        self.decoding = Decoding(
            self.intake,
            on_sessions=self._ended,
            on_open=self.news.opened,
            on_trouble=lambda text: self.news.notice("decoding", text),
            listeners=self.dispatch.packet_listeners,
        )
        self.runtime = EngineRuntime(self)
        self.sources = Sources(self.dispatch, self.intake, self.news, on_ended=self._packets_ended)
        self.settling = Settling(self)
        self.control = Control(self)
        self.path = settings_path or settings.path
        path = self.path or settings.root / "settings.toml"
        self.reloader = Reloader(path, read=self.read_settings, apply=self.settling.apply, tell=self.settling.tell)
        self._stop_asked = asyncio.Event()
        self._stop_turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self.running = False
        self._encrypted_told = False
        self._stopped = False
        self._failure: Exception | None = None

    # Life.

    async def run(self) -> None:
        """Run until ``request_stop``, or with ``until_end`` until the packets end.

        Raises EngineBusy, what a source that a person asked for raises, and whatever else keeps it from running.
        """
        await self.start()
        await self.run_until_stopped()

    async def run_until_stopped(self) -> None:
        """Wait for the end of an engine that was started, and stop it in order; raises as ``run`` does."""
        try:
            await self._stop_asked.wait()
        finally:
            await self.stop()
        if self._failure is not None:
            raise self._failure

    async def start(self) -> None:
        """Start everything; if something that must run does not, stop what did and raise."""
        self.loop = asyncio.get_running_loop()
        self.lock.acquire()
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        self.keeper.start()
        self.decoding.start()
        self.running = True
        self.problems = tuple(await self.registry.start(self.runtime, self.runtime.of))
        self.settling.tell(self.problems, started=True)
        self.settling.persistence()
        await self.settling.decoding()
        self.keeper.submit(self.shelf.sweep)
        self.keeper.submit(lambda: self.shelf.fill(self.settings.core.memory_sessions))
        if self._hand_on:
            self.outbox.start()
        await self.control.start()
        if self.path is not None:
            self.reloader.start()
        self._task(self._watch())
        try:
            await self.capture(self._request or self.own_request())
        except Hl7coreError as error:
            if self._request is not None and not self._request.configured:
                raise
            self.news.notice("capture", f"no packets are captured: {reason_of(error)}")
        logger.info("the engine runs on %s", self.folder)

    async def capture(self, request: SourceRequest) -> None:
        """Capture what ``request`` says instead of what was captured so far.  Raises SourceError."""
        self.decoding.finite = bool(request.files)
        self.limit()
        await self.sources.start(request)

    def request_stop(self, failure: Exception | None = None) -> None:
        """Make ``run`` stop; called on the loop (where the loop's signal handlers are too)."""
        if self._failure is None:
            self._failure = failure
        self._stop_asked.set()

    async def stop(self) -> None:
        """Stop capturing, decode and save what is there within the deadline, end all plugins, let the folder go."""
        self._stop_asked.set()
        async with self._stop_turn:
            if self._stopped:
                return
            self._stopped = True
            until = time.monotonic() + self._stop_deadline
            await self.reloader.stop()
            if self.decoding.finite:
                self.intake.close()  # nobody waits to put what will not be decoded
            sending = asyncio.create_task(self.outbox.stop(_SENDING * self._stop_deadline))
            await self.sources.stop()
            left = max(0.5, until - time.monotonic() - 1.0)
            await asyncio.to_thread(self.decoding.stop, Ending.STOPPED, min(2.0, left))
            await sending
            self.unsaved = await asyncio.to_thread(self.keeper.stop, max(0.5, until - time.monotonic()))
            await self.control.stop()
            for task in list(self._tasks):
                if task is not asyncio.current_task():
                    task.cancel()
            self.runtime.end_jobs()
            late = await asyncio.to_thread(self.dispatch.close, max(0.5, until - time.monotonic()))
            if late:
                logger.warning("these plugins have not heard all the news: %s", ", ".join(late))
            await self.registry.stop()
            self.news.close()
            self.running = False
            self.lock.release()
            logger.info("the engine has stopped")

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop, or has stopped."""
        return self._stop_asked.is_set()

    def follow(self, limit: int | None = None) -> Follower:
        """Return what hears every event and ended session, on the running event loop; end it with ``news.unfollow``.

        ``limit`` is how many may wait for it (None: as many as for others); what does not fit it is not told of.
        """
        loop = asyncio.get_running_loop()
        return self.news.follow(loop) if limit is None else self.news.follow(loop, limit)

    def state(self) -> State:
        """Return the engine's state in numbers; called from any thread."""
        return self.runtime.state()

    # Settings.

    def read_settings(self) -> Settings:
        """Read the settings anew.  Raises SettingsError."""
        return reading.read(self.path if self.path is not None and self.path.exists() else None, self._overrides)

    def own_request(self) -> SourceRequest:
        """Return the request that the settings amount to."""
        return SourceRequest(default_bpf=default_bpf(self.settings.core))

    def limit(self) -> None:
        """Keep in memory what the settings say now."""
        self.ledger.limit(limits_of(self.settings.core, finite=self.decoding.finite))
        self.keeper.wake()
        self.outbox.wake()

    def _policy(self) -> Policy:
        return Policy(
            self.record,
            self.settings.core.retention_days,
            tuple(self.dispatch.destinations()),
            tuple(self.dispatch.stores.attached_stores()),
        )

    # What the rooms say.

    def _saved(self, sessions: Sequence[Session]) -> None:
        """A store holds these now (on the store thread)."""
        self.outbox.saved(sessions)

    def _ended(self, sessions: list[Session]) -> None:
        """Sessions ended: news first, then the store is woken (on the decoder thread)."""
        told = self.ledger.add(sessions)
        self.news.sessions(told)
        self.keeper.wake()

    def _plugin_changed(self, event: PluginChanged) -> None:
        """A plugin came, went or broke (on any thread)."""
        if event.state in ("disabled", "failed", "quarantined"):
            self.runtime.end_jobs(event.plugin)
        if event.state == "failed" and self.running:
            self.loop.call_soon_threadsafe(lambda: self._task(self.registry.retire(event.plugin)))
        self.news.event(event)

    def _packets_ended(self, error: Exception | None) -> None:
        """The last source has ended by itself (on the loop)."""
        request = self._request
        if self._until_end or self.decoding.finite:
            self._task(self._finish(error))
        elif error is not None and request is not None and not request.configured:
            self.request_stop(error)

    async def _finish(self, error: Exception | None) -> None:
        """All packets are here: decode them, end what is open, wait for the store, stop."""
        done = self.decoding.end_open(Ending.CAPTURE_END)
        await in_thread(done.wait, name="hl7core-end")
        self._say_encrypted()
        if not self._until_end:
            return
        patience = time.monotonic() + _STUCK
        while self.ledger.unsaved and self.settings.core.enable_persistence and time.monotonic() < patience:
            if not self.keeper.stuck:
                patience = time.monotonic() + _STUCK
            await asyncio.sleep(0.01)
        self.request_stop(error)

    async def _watch(self) -> None:
        generation = self.registry.generation
        tried = time.monotonic()
        while True:
            await asyncio.sleep(_WATCH_EVERY)
            self.sources.watch()
            if self.settings.core.store != self.record and time.monotonic() - tried >= _STORE_AGAIN:
                await self.settling.again()
                tried = time.monotonic()
            self._say_encrypted()
            if self.ledger.lost:
                self.news.notice("lost", f"{self.ledger.lost} sessions were given up: too many waited for the store")
            if generation != self.registry.generation:
                generation = self.registry.generation
                await self.settling.decoding()

    def _say_encrypted(self) -> None:
        """Say once that there are connections that cannot be read; the counter ``tls`` says how many."""
        if not self._encrypted_told and (sentence := self.decoding.encrypted):
            self._encrypted_told = True
            self.news.notice("tls", sentence)

    def _task(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a task of the engine broke: %s", reason_of(error))
            self.request_stop(EngineError(f"a task of the engine broke: {reason_of(error)}"))
