"""The sources: one thread per PacketSource, from the source to the intake.

A source that fails is always reported: to the person who named it, as the error itself; in a service, as a notice, and
there it is opened again with growing waits.  The sources of one plugin can be restarted alone; the gap is marked.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from threading import Thread
from typing import Final

from hl7core.contract import PacketSource, SourceRequest, SourceStats
from hl7core.engine.intake import Intake
from hl7core.engine.news import News
from hl7core.errors import Hl7coreError, SourceError
from hl7core.guard import in_thread, reason_of
from hl7core.model.events import CaptureChanged, PacketsDropped
from hl7core.model.packet import PacketBatch
from hl7core.plugin_host.dispatch import Dispatch
from hl7core.settings.model import CoreSettings, comma_separated

__all__ = ["Sources", "default_bpf", "own_request"]

logger = logging.getLogger(__name__)

_JOIN: Final = 2.0
_FIRST_RETRY: Final = 5.0
_LONGEST_RETRY: Final = 60.0


def default_bpf(core: CoreSettings) -> str:
    """Return the packet filter for the addresses and the port in the settings, "" if there are none."""
    terms: list[str] = []
    for addresses in (core.device_address, core.lis_address):
        hosts = comma_separated(addresses)
        if hosts:
            ends = " or ".join(f"{'net' if '/' in host else 'host'} {host}" for host in hosts)
            terms.append(f"({ends})")
    if core.lis_port:
        terms.append(f"port {core.lis_port}")
    return " and ".join(["tcp", *terms]) if terms else ""


def own_request(core: CoreSettings) -> SourceRequest:
    """Return the request for the sources that the settings configure."""
    return SourceRequest(default_bpf=default_bpf(core))


class _Running:
    """One source and its thread."""

    def __init__(self, plugin: str, source: PacketSource) -> None:
        self.plugin = plugin
        self.source = source
        self.name = source.name
        self.stopping = False
        self.ended = False
        self.error: Exception | None = None
        self.dropped_reported = 0
        self.detail = ""
        self.thread: Thread | None = None
        self.last_stats = SourceStats()

    def stats(self) -> SourceStats:
        """Return the source's statistics, or the last known ones if it fails."""
        try:
            self.last_stats = self.source.stats()
        except Exception as error:  # noqa: BLE001 - statistics must not end a capture
            logger.debug("source %s has no statistics: %s", self.name, reason_of(error))
        return self.last_stats


class Sources:
    """Opens, runs, restarts and stops packet sources.  Its coroutines run on the event loop.

    ``on_ended(error)`` is called on the loop when the last source has ended by itself, with the first error or None.
    """

    def __init__(
        self,
        dispatch: Dispatch,
        intake: Intake,
        news: News,
        *,
        on_ended: Callable[[Exception | None], None],
    ) -> None:
        self._dispatch = dispatch
        self._intake = intake
        self._news = news
        self._on_ended = on_ended
        self._running: list[_Running] = []
        self._turn = asyncio.Lock()
        self._retry: asyncio.Task[None] | None = None
        self._retry_wait = _FIRST_RETRY
        self._error: Exception | None = None
        self._dropped_before = 0
        self.request: SourceRequest | None = None
        self.tap: Callable[[PacketBatch], None] | None = None
        """Called with every batch before the intake gets it, on the source's thread; it must not block."""

    @property
    def capturing(self) -> bool:
        """Whether a source runs."""
        return any(not one.ended for one in self._running)

    def stats(self) -> tuple[tuple[str, SourceStats], ...]:
        """Return the statistics of each source, by name."""
        return tuple((one.name, one.stats()) for one in self._running)

    @property
    def dropped_kernel(self) -> int:
        """How many packets the kernel dropped, also for sources that have ended."""
        return self._dropped_before + sum(one.last_stats.dropped for one in self._running)

    def runs(self, source: PacketSource) -> bool:
        """Return whether ``source`` is running."""
        return any(one.source is source for one in self._running)

    def owners(self) -> set[str]:
        """Return the plugins whose sources are running."""
        return {one.plugin for one in self._running}

    async def start(self, request: SourceRequest) -> None:
        """Open the sources for ``request`` and run them.  Raises SourceError, or what opening them raises."""
        async with self._turn:
            await self._stop_sources(self._running)
            self.request = request
            self._error = None
            opened = await self._open(request)
            if not opened:
                raise SourceError("no enabled plugin has a source for this")
            self._news.resolve("capture", "packets are captured again")
            for plugin, source in opened:
                self._run(plugin, source)

    async def stop(self) -> None:
        """Stop all sources; the packets that they still hold go to the intake first."""
        async with self._turn:
            self._cancel_retry()
            self.request = None
            await self._stop_sources(self._running)

    async def sync(self, changed: Sequence[str], request: SourceRequest | None = None) -> None:
        """Restart the sources of the plugins in ``changed``, or all of them if ``request`` is a new one."""
        async with self._turn:
            if self.request is None:
                return
            if request is not None and request != self.request:
                self.request = request
                theirs = list(self._running)
                wanted: set[str] | None = None
            else:
                wanted = set(changed)
                theirs = [one for one in self._running if one.plugin in wanted]
                if not wanted:
                    return
            gaps = [(one.name, interface.name) for one in theirs for interface in one.source.interfaces()]
            await self._stop_sources(theirs)
            opened = await self._open(self.request)
            for plugin, source in opened:
                if (wanted is None or plugin in wanted) and not any(one.plugin == plugin for one in self._running):
                    self._run(plugin, source)
                elif not self.runs(source):
                    source.stop()
            for source_name, interface_name in gaps:
                self._intake.mark_gap(source_name, interface_name)
            if not self.capturing:
                self._news.notice("capture", "no packets are captured: no enabled plugin has a source")
            else:
                self._news.resolve("capture", "packets are captured again")

    def watch(self) -> None:
        """Report what changed in the statistics since the last call: kernel drops, a lost interface."""
        for one in self._running:
            stats = one.stats()
            if stats.dropped > one.dropped_reported:
                count, one.dropped_reported = stats.dropped - one.dropped_reported, stats.dropped
                self._news.event(PacketsDropped("kernel", one.name, count, self.dropped_kernel))
            if stats.detail != one.detail and not one.ended:
                one.detail = stats.detail
                self._news.event(CaptureChanged(one.name, "waiting" if stats.detail else "capturing", stats.detail))

    async def _open(self, request: SourceRequest) -> list[tuple[str, PacketSource]]:
        return await in_thread(self._dispatch.open_source, request, name="hl7core-open-source")

    def _run(self, plugin: str, source: PacketSource) -> None:
        loop = asyncio.get_running_loop()
        one = _Running(plugin, source)
        finite = bool(self.request and self.request.files)
        put, name = self._intake.put, one.name

        def emit(batch: PacketBatch) -> None:
            if self.tap is not None:
                self.tap(batch)
            put(batch, name, finite=finite)

        def run() -> None:
            try:
                source.run(emit)
            except Exception as error:  # noqa: BLE001 - reported below
                one.error = error
            except BaseException as error:  # noqa: BLE001 - a plugin's SystemExit must not end the engine
                one.error = SourceError(f"source {name} ended with {type(error).__name__}")
            one.ended = True
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._ended, one)

        self._running.append(one)
        self._news.event(CaptureChanged(name, "started"))
        one.thread = Thread(target=run, name=f"hl7core-source-{name}", daemon=True)
        one.thread.start()

    async def _stop_sources(self, theirs: Sequence[_Running]) -> None:
        theirs = list(theirs)
        for one in theirs:
            one.stopping = True
            one.source.stop()
        until = time.monotonic() + _JOIN
        for one in theirs:
            if one.thread is not None:
                await asyncio.to_thread(one.thread.join, max(0.0, until - time.monotonic()))
                if one.thread.is_alive():
                    logger.warning("source %s does not stop; its thread is abandoned", one.name)
            self._remove(one)
            self._news.event(CaptureChanged(one.name, "stopped"))

    def _remove(self, one: _Running) -> None:
        if one in self._running:
            self._dropped_before += one.stats().dropped
            self._running.remove(one)

    def _ended(self, one: _Running) -> None:
        """A source ended by itself (called on the loop)."""
        if one.stopping:
            return
        request = self.request
        self.watch()
        if one.error is None:
            self._news.event(CaptureChanged(one.name, "ended"))
            if request is not None and request.configured and not request.files and not self.capturing:
                self._news.notice("capture", f"no packets are captured: {one.name} has ended")
        else:
            reason = reason_of(one.error)
            logger.error("source %s failed: %s", one.name, reason)
            self._news.event(CaptureChanged(one.name, "failed", reason))
            if self._error is None:
                self._error = one.error
            if request is not None and request.configured and not request.files:
                self._news.notice("capture", f"capture on {one.name} failed and is tried again: {reason}")
                self._remove(one)
                self._retry_later(one.plugin)
                return
        if not self.capturing:
            self._on_ended(self._error)

    def _retry_later(self, plugin: str) -> None:
        if self._retry is None or self._retry.done():
            self._retry = asyncio.create_task(self._open_again(plugin), name="hl7core-source-retry")

    async def _open_again(self, plugin: str) -> None:
        wait = self._retry_wait
        while True:
            await asyncio.sleep(wait)
            self._retry_wait = wait = min(_LONGEST_RETRY, wait * 2)
            try:
                await self.sync([plugin])
            except Hl7coreError as error:
                logger.info("the source of plugin %s cannot be opened yet: %s", plugin, reason_of(error))
                continue
            return

    def _cancel_retry(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
