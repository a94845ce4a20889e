"""The sources: one thread per PacketSource, from the source to the intake.

A source that fails is always reported: to the person who named it, as the error itself; in a service, as a notice, and
there it is opened again with growing waits.  The sources of one plugin can be restarted alone.  Where sources say when
they listen, the new one does so before the old one ends, and each packet is taken from one of them: nothing is lost.
Elsewhere the gap is marked.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from hl7core.contract import PacketSource, SourceRequest, SourceStats
from hl7core.engine.capture.intake import Intake
from hl7core.engine.capture.running_source import RunningSource
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
_LISTENS_WITHIN: Final = 10.0
_MARGIN_NS: Final = 150_000_000
"""How far ahead the moment of a handover lies: until then the kernel gives both sources' packets the same times."""


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
        self._running: list[RunningSource] = []
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
        return any(not one.ended.is_set() for one in self._running)

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
            if not self.capturing:
                self.request = request  # so that it is opened once its settings are mended, if that fails now
            opened = await self._open(request)  # first: what is captured now goes on if this fails
            if not opened:
                raise SourceError("no enabled plugin has a source for this")
            await self._stop_sources(self._running)
            self.request = request
            self._error = None
            self._news.resolve("capture", "packets are captured again")
            await self._start([self._running_source(plugin, source) for plugin, source in opened])

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
            opened = await self._open_for(self.request, theirs, wanted)
            if opened is None:
                return
            if theirs and opened and all(one.tells for one in (*theirs, *opened)):
                if not await self._hand_over(theirs, opened):
                    return
            else:
                await self._replace(theirs, opened)
            if not self.capturing:
                self._news.notice("capture", "no packets are captured: no enabled plugin has a source")
            else:
                self._news.resolve("capture", "packets are captured again")

    async def _open_for(
        self, request: SourceRequest, theirs: Sequence[RunningSource], wanted: set[str] | None
    ) -> list[RunningSource] | None:
        """Open the sources that take the place of ``theirs``; None if that fails and ``theirs`` go on.

        Raises what opening raises if nothing runs that could go on.
        """
        try:
            opened = await self._open(request)
        except Hl7coreError as error:
            if not any(not one.ended.is_set() for one in theirs):
                raise
            self._keep(theirs, reason_of(error))
            return None
        fresh = []
        stay = {one.plugin for one in self._running if one not in theirs}
        for plugin, source in opened:
            if (wanted is None or plugin in wanted) and plugin not in stay:
                fresh.append(self._running_source(plugin, source))
            elif not self.runs(source):
                source.stop()
        return fresh

    def _keep(self, theirs: Sequence[RunningSource], reason: str) -> None:
        """Report that new settings of a capture could not be put in force, so that the old ones stay."""
        names = ", ".join(one.name for one in theirs)
        self._news.notice("capture", f"the capture on {names} goes on with its earlier settings: {reason}")

    async def _hand_over(self, theirs: Sequence[RunningSource], fresh: Sequence[RunningSource]) -> bool:
        """Let ``fresh`` take the place of ``theirs`` without losing a packet; return false if they do not listen."""
        for one in fresh:
            one.taking_over = True
            self._running.append(one)
            one.start(held=True)
        await _until(lambda: all(one.listening or one.ended.is_set() for one in fresh), _LISTENS_WITHIN)
        failed = next((one for one in fresh if not one.listening or one.ended.is_set()), None)
        if failed is not None:
            reason = reason_of(failed.error) if failed.error else f"{failed.name} does not start to listen"
            await self._stop_sources(fresh)
            self._keep(theirs, reason)
            return False
        moment = time.time_ns() + _MARGIN_NS
        for one in theirs:
            one.end_at(moment)
        await asyncio.sleep(2 * _MARGIN_NS / 1e9)  # until the old ones have captured what came before it
        await self._stop_sources(theirs)
        for one in fresh:
            one.release(moment)
            self._news.event(CaptureChanged(one.name, "started"))
            one.taking_over = False
            if one.ended.is_set():
                self._ended(one)
        return True

    async def _replace(self, theirs: Sequence[RunningSource], fresh: Sequence[RunningSource]) -> None:
        """End ``theirs``, then start ``fresh``; what comes between is lost, which is marked."""
        gaps = [(one.name, interface.name) for one in theirs for interface in one.source.interfaces()]
        await self._stop_sources(theirs)
        await self._start(fresh)
        for source_name, interface_name in gaps:
            self._intake.mark_gap(source_name, interface_name)

    async def _start(self, fresh: Sequence[RunningSource]) -> None:
        """Start sources, and report each once it listens, or after some time if it does not say."""
        for one in fresh:
            self._running.append(one)
            one.start()
        await _until(lambda: all(one.listening or one.ended.is_set() for one in fresh), _LISTENS_WITHIN)
        for one in fresh:
            if not one.ended.is_set():
                if one.tells:
                    logger.info("capturing on %s", one.name)
                self._news.event(CaptureChanged(one.name, "started"))

    def watch(self) -> None:
        """Report what changed in the statistics since the last call: kernel drops, a lost interface."""
        for one in self._running:
            stats = one.stats()
            if stats.dropped > one.dropped_reported:
                count, one.dropped_reported = stats.dropped - one.dropped_reported, stats.dropped
                self._news.event(PacketsDropped("kernel", one.name, count, self.dropped_kernel))
            if stats.detail != one.detail and not one.ended.is_set():
                one.detail = stats.detail
                self._news.event(CaptureChanged(one.name, "waiting" if stats.detail else "capturing", stats.detail))
                if stats.detail:
                    self._news.notice("waiting", stats.detail)
                else:
                    self._news.resolve("waiting", f"{one.name} is captured in full again")

    async def _open(self, request: SourceRequest) -> list[tuple[str, PacketSource]]:
        return await in_thread(self._dispatch.open_source, request, name="hl7core-open-source")

    def _running_source(self, plugin: str, source: PacketSource) -> RunningSource:
        loop = asyncio.get_running_loop()
        finite = bool(self.request and self.request.files)
        put, name = self._intake.put, source.name

        def hand_on(batch: PacketBatch) -> None:
            if self.tap is not None:
                self.tap(batch)
            put(batch, name, finite=finite)

        def ended(one: RunningSource) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._ended, one)

        return RunningSource(plugin, source, hand_on, ended)

    async def _stop_sources(self, theirs: Sequence[RunningSource]) -> None:
        theirs = list(theirs)
        for one in theirs:
            one.stopping = True
            one.source.stop()
        until = time.monotonic() + _JOIN
        for one in theirs:
            if not await asyncio.to_thread(one.join, max(0.0, until - time.monotonic())):
                logger.warning("source %s does not stop; its thread is abandoned", one.name)
            self._remove(one)
            self._news.event(CaptureChanged(one.name, "stopped"))

    def _remove(self, one: RunningSource) -> None:
        if one in self._running:
            self._dropped_before += one.stats().dropped
            self._running.remove(one)

    def _ended(self, one: RunningSource) -> None:
        """A source ended by itself (called on the loop)."""
        if one.stopping or one.taking_over:
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


async def _until(condition: Callable[[], bool], seconds: float) -> None:
    """Wait until ``condition`` is true, at most ``seconds``."""
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        await asyncio.sleep(0.01)
