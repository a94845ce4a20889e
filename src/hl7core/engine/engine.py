"""The engine: assembles the rooms, starts them, and stops them in an order that loses nothing.

Packets go source -> intake -> decoding -> ledger -> news and store -> destinations; nothing flows back up.  One engine
owns a data folder.  Stores start before sources; sources stop first, then what they captured is decoded and saved
within a deadline, and sessions that could not be saved are named.  Plugins come and go while the engine runs; what it
holds in memory is its own.
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
from hl7core.engine.apply_settings import SettingsApplier
from hl7core.engine.capture.intake import Intake
from hl7core.engine.capture.sources import Sources, own_request
from hl7core.engine.change_settings import SettingsChanger
from hl7core.engine.control.server import Control
from hl7core.engine.decoding import Decoding
from hl7core.engine.keeper import Keeper, Policy
from hl7core.engine.ledger import Ledger
from hl7core.engine.lock import EngineLock
from hl7core.engine.news import Follower, News
from hl7core.engine.outbox.outbox import Outbox
from hl7core.engine.outbox.records import StoredRecords
from hl7core.engine.parts import InForce, Parts
from hl7core.engine.reloader import Reloader
from hl7core.engine.replay.replay import Replays
from hl7core.engine.runtime import EngineRuntime
from hl7core.engine.session_memory import Limits
from hl7core.engine.stores import AttachedStores
from hl7core.errors import EngineError, Hl7coreError, SettingsError
from hl7core.guard import in_thread, reason_of
from hl7core.model.events import PluginChanged
from hl7core.model.session import Ending, Session
from hl7core.plugin_host.dispatch import Dispatch
from hl7core.plugin_host.registry import Registry
from hl7core.settings import reading
from hl7core.settings.model import CoreSettings
from hl7core.settings.reading import Settings

__all__ = ["Engine"]

logger = logging.getLogger(__name__)

STOP_DEADLINE: Final = 5.0
_WATCH_EVERY: Final = 1.0
_STUCK: Final = 5.0
_STORE_AGAIN: Final = 15.0
_PATIENCE: Final = 0.5
"""For how many seconds a plugin may keep decoding from its end at the stop."""
_SENDING: Final = 0.4
"""The share of the stop deadline that attempts in flight at a destination may take."""
_REPLAY: Final = 0.5
"""The share of the stop deadline that a replay may take to hand on what it has decoded."""
_NOW: Final = partial(datetime.now, UTC)


class Engine:
    """A recorder: ``await run()``, or ``await start()`` and ``await stop()``, on one event loop.

    ``request`` says which packets to capture (None: what the settings say).  ``settings_path`` is the file to watch and
    to change (default: where ``settings`` came from; without one they stay).  ``overrides`` are settings of the command
    line, kept over each reload.  With ``until_end`` the engine stops once the packets end and all is saved.  With
    ``hand_on`` false nothing is submitted to destinations.  ``entry_points`` and ``only`` limit the plugins, and
    ``safe_mode`` limits them to the bundled ones.
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
        safe_mode: bool = False,
        entry_points: Iterable[EntryPoint] | None = None,
        clock: Callable[[], datetime] = _NOW,
        sensor: str | None = None,
        stop_deadline: float = STOP_DEADLINE,
    ) -> None:
        self.folder = settings.output_folder
        self.unsaved: list[str] = []
        self.unsaved_reason = ""
        self._plugins_started = False
        self.loop: asyncio.AbstractEventLoop
        self.running = False
        self._in_force = InForce(settings, settings.core.store)
        self._request = request
        self._overrides = dict(overrides or {})
        self._until_end = until_end
        self._hand_on = hand_on
        self._stop_deadline = stop_deadline
        self.lock = EngineLock(self.folder)
        self.registry = Registry(settings, entry_points=entry_points, safe_mode=safe_mode)
        if only is not None:
            self.registry.load_only(only)
        self.dispatch = Dispatch(self.registry, self._plugin_changed)
        self.news = News(self.dispatch)
        self.ledger = Ledger(_limits_of(settings.core), on_lost=self.news.lost)
        self.stores = AttachedStores(self.dispatch, self.ledger, record=lambda: self.record)
        self.keeper = Keeper(
            self.ledger, self.dispatch, self.stores, self.news, policy=self._policy, now=clock, on_saved=self._saved
        )
        records = StoredRecords(self.keeper, self.stores, lambda: self.settings.core.enable_persistence)
        self.outbox = Outbox(self.dispatch, records, self.news, now=clock)
        self.intake = Intake(on_drop=self.news.dropped, hold=lambda: self.ledger.pressed)
        self.decoding = Decoding(
            self.intake,
            on_sessions=self._ended,
            on_open=self.news.opened,
            on_fault=lambda text: self.news.notice("decoding", text),
            listeners=self.dispatch.packet_listeners,
        )
        self.sources = Sources(self.dispatch, self.intake, self.news, on_ended=self._packets_ended)
        self.parts = Parts(
            folder=self.folder,
            sensor=socket.gethostname() if sensor is None else sensor,
            now=clock,
            in_force=lambda: self._in_force,
            lock=self.lock,
            registry=self.registry,
            dispatch=self.dispatch,
            news=self.news,
            ledger=self.ledger,
            stores=self.stores,
            keeper=self.keeper,
            outbox=self.outbox,
            intake=self.intake,
            decoding=self.decoding,
            sources=self.sources,
        )
        self.replays = Replays(self.parts)
        self.runtime = EngineRuntime(self.parts, self)
        self._applier = SettingsApplier(self.parts, self._put_in_force)
        self.control = Control(
            self.parts,
            self.runtime,
            self.replays,
            problems=self.settings_problems,
            retry_plugin=self._applier.retry_plugin,
            request_stop=self.request_stop,
        )
        self.path = settings_path or settings.path
        self._reloader = Reloader(
            self.path or settings.root / "settings.toml",
            read=self._read_settings,
            apply=self._applier.apply,
            report=self._applier.report,
        )
        self._changer = SettingsChanger(
            self.path,
            read=self._read_settings,
            applier=self._applier,
            reloader=self._reloader,
            registry=self.registry,
            in_force=self.parts.in_force,
        )
        self._stop_asked = asyncio.Event()
        self._stop_turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._encrypted_reported = False
        self._stopped = False
        self._failure: Exception | None = None

    # What is in force.

    @property
    def settings(self) -> Settings:
        """The settings that were applied last."""
        return self._in_force.settings

    @property
    def record(self) -> str:
        """The store of record."""
        return self._in_force.record

    def settings_problems(self) -> list[str]:
        """Return what is wrong with the settings, one sentence each, empty if nothing is."""
        return list(dict.fromkeys((*self._in_force.problems, *self._reloader.problems)))

    async def change_settings(self, changes: dict[str, Any]) -> None:
        """Write ``changes`` to the settings file and put them in force.  Raises SettingsError, changing nothing."""
        await self._changer.change(changes)

    def _put_in_force(self, new: InForce) -> None:
        changed = new.settings is not self._in_force.settings
        self._in_force = new
        if changed:
            self._limit()

    def _limit(self) -> None:
        """Keep in memory what the settings say now."""
        self.ledger.limit(_limits_of(self.settings.core, finite=self.decoding.finite))
        self.keeper.wake()
        self.outbox.wake()

    def _read_settings(self) -> Settings:
        """Read the settings anew.  Raises SettingsError."""
        return reading.read(self.path if self.path is not None and self.path.exists() else None, self._overrides)

    def _policy(self) -> Policy:
        return Policy(
            self.record,
            self.settings.core.retention_days,
            tuple(self.dispatch.destinations()),
            tuple(self.dispatch.stores.attached_stores()),
        )

    # Life.

    async def run(self) -> None:
        """Run until ``request_stop`` is called, or with ``until_end`` until the packets end.

        Raises EngineBusy if another engine owns the folder, the error of a source that ``request`` named, and whatever
        else prevents the engine from running.
        """
        await self.start()
        await self.run_until_stopped()

    async def run_until_stopped(self) -> None:
        """Wait until a started engine is to stop, and stop it; raises as ``run`` does."""
        try:
            await self._stop_asked.wait()
        finally:
            await self.stop()
        if self._failure is not None:
            raise self._failure

    def check_store(self) -> None:
        """Raise SettingsError if safe mode leaves out the store of record: no session could be saved."""
        if self.settings.core.enable_persistence and self.record in self.registry.left_out():
            raise SettingsError(
                f"core.store: {self.record} is not bundled, so safe mode leaves it out, and no session could be saved; "
                "name a bundled store for this run (HL7CORE_CORE__STORE=json_store), or start without --safe-mode"
            )

    async def start(self) -> None:
        """Start everything.  If something essential does not start, stop what did and raise."""
        self.check_store()
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
        problems = await self.registry.start(self.runtime, self.runtime.of)
        await asyncio.to_thread(self.dispatch.redactors.remember)
        self._put_in_force(self._in_force._replace(problems=tuple(problems)))
        self._applier.report(problems, started=True)
        self._applier.report_safe_mode(self.settings)
        self._applier.report_persistence()
        self._plugins_started = True
        self._report_saving()
        await self._applier.recall_hidden()
        await self._applier.configure_decoding()
        self.keeper.submit(self.stores.remove_probes)
        self.keeper.submit(lambda: self.stores.fill(self.settings.core.memory_sessions))
        if self._hand_on:
            self.outbox.start()
        await self.control.start()
        if self.path is not None:
            self._reloader.start()
        self._task(self._watch())
        self._task(self._applier.follow_installed())
        try:
            await self.capture(self._request or own_request(self.settings.core))
        except Hl7coreError as error:
            if self._request is not None and not self._request.configured:
                raise
            self.news.notice("capture", f"no packets are captured: {reason_of(error)}")
        logger.info("the engine is running on %s", self.folder)

    async def capture(self, request: SourceRequest) -> None:
        """Capture what ``request`` says, instead of what is captured now.  Raises SourceError."""
        self.decoding.finite = bool(request.files)
        self._limit()
        await self.sources.start(request)

    def request_stop(self, failure: Exception | None = None) -> None:
        """Make ``run`` end, and raise ``failure`` if given.  Call it on the loop; signal handlers of the loop may."""
        if self._failure is None:
            self._failure = failure
        self._stop_asked.set()

    async def stop(self) -> None:
        """Stop capturing, decode and save what was captured within the deadline, stop plugins, release the folder."""
        self._stop_asked.set()
        async with self._stop_turn:
            if self._stopped:
                return
            self._stopped = True
            until = time.monotonic() + self._stop_deadline
            await self._reloader.stop()
            if self.decoding.finite:
                self.intake.close()  # releases the file reader: what it has left is not decoded
            sending = asyncio.create_task(self.outbox.stop(_SENDING * self._stop_deadline))
            replays = asyncio.create_task(self.replays.stop(_REPLAY * self._stop_deadline))
            await self.sources.stop()
            left = max(0.5, until - time.monotonic() - 1.0)
            await asyncio.to_thread(
                self.decoding.stop, Ending.STOPPED, min(2.0, left), lambda: self.dispatch.abandon_decoding(_PATIENCE)
            )
            await sending
            await replays
            problem = self.dispatch.redactors.problem()
            self.unsaved = await asyncio.to_thread(self.keeper.stop, max(0.5, until - time.monotonic()))
            self.unsaved_reason = problem
            await self.control.stop()
            for task in list(self._tasks):
                if task is not asyncio.current_task():
                    task.cancel()
            self.runtime.end_jobs()
            late = await asyncio.to_thread(self.dispatch.close, max(0.5, until - time.monotonic()))
            if late:
                logger.warning("these plugins did not receive all events before the stop: %s", ", ".join(late))
            await self.registry.stop()
            self.news.close()
            self.running = False
            self.lock.release()
            logger.info("the engine has stopped")

    @property
    def stopping(self) -> bool:
        """Whether the engine was asked to stop, or has stopped."""
        return self._stop_asked.is_set()

    def follow(self, limit: int | None = None) -> Follower:
        """Return a follower of every event and ended session, on the running event loop; end it with ``news.unfollow``.

        ``limit`` is how many items may wait for it (None: the default); items beyond it are dropped and counted.
        """
        loop = asyncio.get_running_loop()
        return self.news.follow(loop) if limit is None else self.news.follow(loop, limit)

    def state(self) -> State:
        """Return the engine's state in numbers; called from any thread."""
        return self.runtime.state()

    # What the rooms report.

    def _saved(self, sessions: Sequence[Session]) -> None:
        """A store holds ``sessions`` now (called on the store thread)."""
        self.outbox.saved(sessions)

    def _ended(self, sessions: list[Session]) -> None:
        """Sessions ended: report them, then wake the keeper (called on the decoder thread)."""
        self.news.sessions(self.ledger.add(sessions))
        self.keeper.wake()

    def _plugin_changed(self, event: PluginChanged) -> None:
        """A plugin was enabled, disabled or broke (called on any thread)."""
        if event.state in ("disabled", "failed", "quarantined"):
            self.runtime.end_jobs(event.plugin)
        if event.state == "failed" and self.running:
            self.loop.call_soon_threadsafe(lambda: self._task(self.registry.retire(event.plugin)))
        self.news.event(event)
        if self._plugins_started and not self._stopped:  # else plugins come and go because the engine does
            self._report_saving()
            if event.state in ("enabled", "disabled") and not event.error:
                self.keeper.retry()

    def _report_saving(self) -> None:
        """Raise a notice while a plugin keeps sessions from being saved or read (called on any thread)."""
        problem = self.dispatch.redactors.problem()
        if problem:
            self.news.notice("required", problem)
        else:
            self.news.resolve("required", "every required plugin runs again")
        silent = self.dispatch.stores.not_answering()
        if silent:
            text = "; ".join(silent.values())
            self.news.notice("silent", f"{text}. Sessions wait in memory, and `sessions list` shows only those")
        else:
            self.news.resolve("silent", "the stores answer again")

    def _packets_ended(self, error: Exception | None) -> None:
        """The last source ended by itself (called on the loop)."""
        request = self._request
        if self._until_end or self.decoding.finite:
            self._task(self._finish(error))
        elif error is not None and request is not None and not request.configured:
            self.request_stop(error)

    async def _finish(self, error: Exception | None) -> None:
        """All packets were read: decode them, end open sessions, wait until they are saved, stop."""
        done = self.decoding.end_open(Ending.CAPTURE_END)
        await in_thread(done.wait, name="hl7core-end")
        self._report_encrypted()
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
                await self._applier.retry_store()
                tried = time.monotonic()
            self._report_encrypted()
            if self.ledger.lost:
                self.news.notice("lost", f"{self.ledger.lost} sessions were lost: too many were waiting to be saved")
            if generation != self.registry.generation:
                generation = self.registry.generation
                self._report_saving()
                await asyncio.to_thread(self.dispatch.redactors.remember)
                await self._applier.configure_decoding()

    def _report_encrypted(self) -> None:
        """Raise a notice, once, that encrypted connections cannot be decoded; the counter ``tls`` says how many."""
        if not self._encrypted_reported and (sentence := self.decoding.encrypted):
            self._encrypted_reported = True
            self.news.notice("tls", sentence)

    def _task(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a task of the engine failed: %s", reason_of(error))
            self.request_stop(EngineError(f"a task of the engine failed: {reason_of(error)}"))


def _limits_of(core: CoreSettings, *, finite: bool = False) -> Limits:
    """Return how much is kept in memory; ``finite``: the packets come from files, which can wait."""
    return Limits(core.memory_sessions, core.memory_bytes, core.unsaved_sessions, core.enable_persistence, finite)
