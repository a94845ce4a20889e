"""The dispatch: one typed method per hook; nobody else calls a plugin.

Whatever a plugin raises, returns or forgets, the caller gets what the method promises, and the other plugins are not
affected.  News (``session_complete``, ``event``) never makes the caller wait.  Work (``cleanup``, a source, and
``stores``) runs on the caller's thread and returns errors as values or raises our own; what destinations do is awaited
on the event loop.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final

from hl7core.contract import DestinationSettings, PacketSource, SourceRequest
from hl7core.errors import DestinationUnreachable, Hl7coreError, PluginError, SourceError
from hl7core.guard import contained, describe, in_thread
from hl7core.model.cleanup import CleanupReport
from hl7core.model.delivery import Receipt
from hl7core.model.events import Event, PluginChanged
from hl7core.model.finding import Finding
from hl7core.model.packet import Interface, Packet
from hl7core.model.session import Session
from hl7core.plugin_host.calls import DECODING_HOOKS, Calls, NotInService
from hl7core.plugin_host.dispatch_stores import StoreDispatch
from hl7core.plugin_host.guarded_framer import Ask, guarded_dialect
from hl7core.plugin_host.helper_thread import AnswerTimeout, HelperThread
from hl7core.plugin_host.hook_table import HookTable, Impl, Impls
from hl7core.plugin_host.redactors import Redactors
from hl7core.plugin_host.registry import Registry
from hl7core.plugin_host.threads import Lane, PluginThreads
from hl7core.plugin_host.watchdog import HANGING_AFTER, Limit, RunningCall
from hl7core.wire.framing.framer import Dialect

__all__ = ["Dispatch", "NotInService"]

_log = logging.getLogger(__name__)

DIAGNOSE_SECONDS: Final = 5.0
SUBMIT_THREADS: Final = 20
"""How many attempts of one destination may be on threads, including those that nobody waits for any more."""

_GRACE: Final = 0.5
"""Seconds that a destination asked for an answer gets beyond its limit, so that the plugin's own error comes first."""

_DEFAULTS: Final = DestinationSettings(enabled=True)


class Dispatch:
    """Calls the hooks of the plugins that ``registry`` has in service; safe to use from any thread.

    ``stores`` has the hooks of stores, ``redactors`` knows without which plugins nothing is saved.  ``on_change`` is
    called with every change of a plugin's state, and with its errors, on whichever thread they happen.  ``clock`` gives
    seconds for the watchdog and never goes back.
    """

    def __init__(
        self,
        registry: Registry,
        on_change: Callable[[PluginChanged], None] = lambda _change: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self.calls = Calls(registry, clock)
        registry.busy = self.calls.watchdog.busy
        registry.listen(on_change)
        self._threads = PluginThreads(self.calls)
        self._table = HookTable(registry, self._follow)
        self.redactors = Redactors(registry, registry.settings.output_folder)
        self.stores = StoreDispatch(self._table, self.calls, self._threads, registry, self.redactors)
        self._packet_listeners: tuple[Callable[[Sequence[Packet]], None], ...] = ()
        self._submitting: Counter[str] = Counter()
        self._submitting_lock = threading.Lock()

    @property
    def generation(self) -> int:
        """Changes whenever a plugin comes or goes: then ask for ``packet_listeners`` and ``dialects`` again."""
        return self._registry.generation

    def close(self, seconds: float = 5.0) -> tuple[str, ...]:
        """Deliver the queued news within ``seconds`` and stop; return the plugins that did not get all of theirs."""
        late = self._threads.close(time.monotonic() + seconds)
        self.calls.watchdog.close()
        return late

    def _follow(self, impls: Impls) -> None:
        """Adapt to a changed table; the table's lock is held."""
        self._threads.follow(impls)
        found = impls.get("on_packet", ())
        self._packet_listeners = tuple(
            partial(self._listen, impl, listen, running)
            for impl, (listen, running) in zip(found, self.calls.listeners(found), strict=True)
        )

    # News.

    def packet_listeners(self) -> tuple[Callable[[Sequence[Packet]], None], ...]:
        """Return the implementations of ``on_packet``, guarded, as functions of many packets; empty if there are none.

        Each runs on a thread of its plugin's and returns when that has heard all, or hangs and is out of service.
        """
        self._table.refresh()
        listeners = self._packet_listeners
        if listeners:
            self.calls.watchdog.start()
        return listeners

    def _listen(
        self, impl: Impl, listen: Callable[[Iterable[Packet]], None], running: RunningCall, packets: Sequence[Packet]
    ) -> None:
        try:
            self._threads.helper(impl, Lane.DECODING).ask(partial(listen, packets), running)
        except (AnswerTimeout, NotInService):  # the watchdog has reported it
            return

    def abandon_decoding(self, seconds: float) -> None:
        """Let decoding wait no longer for plugins that have not returned for ``seconds``: they are out of service."""
        self.calls.watchdog.abandon(DECODING_HOOKS, seconds)

    def session_complete(self, session: Session) -> None:
        """Queue ``session`` for every plugin that implements ``on_session_complete``."""
        self._publish("on_session_complete", session)

    def event(self, event: Event) -> None:
        """Queue ``event`` for every plugin that implements ``on_event``."""
        self._publish("on_event", event)

    def _publish(self, hook: str, value: Session | Event) -> None:
        self._table.refresh()
        self._threads.publish(hook, value)

    # Rules and dialects.

    def findings(self, session: Session) -> tuple[Finding, ...]:
        """Return the findings of every plugin about ``session``; each plugin has 5 seconds."""
        found: list[Finding] = []
        for impl in self._table.all("diagnose"):
            try:
                listed = impl._replace(function=_listed(impl.function))
                offered = self._threads.ask(Lane.RULES, listed, session, seconds=DIAGNOSE_SECONDS)
                if not all(isinstance(item, Finding) for item in offered):
                    raise PluginError(f"{impl.plugin}: diagnose must yield Finding values")  # noqa: TRY301
                found += offered
            except NotInService:
                continue
            except AnswerTimeout:
                late = PluginError(f"no answer within {DIAGNOSE_SECONDS:.0f} seconds, so its findings are missing")
                self.calls.report(impl, late, budget=False)  # the watchdog deals with what hangs
            except Exception as error:  # noqa: BLE001 - a plugin's failure is the plugin's
                self.calls.report(impl, error, budget=True)
        return tuple(found)

    def dialects(self) -> tuple[Dialect, ...]:
        """Return the dialects that plugins contribute, each guarded; a plugin that cannot say has failed."""
        found: list[Dialect] = []
        for impl in self._table.all("register_framers"):
            try:
                helper = self._threads.helper(impl, Lane.DECODING)
                offered = self._threads.ask(Lane.DECODING, impl._replace(function=_listed(impl.function)))
                if not all(isinstance(item, Dialect) for item in offered):
                    raise PluginError(f"{impl.plugin}: register_framers must yield Dialect values")  # noqa: TRY301
            except (AnswerTimeout, NotInService):
                continue
            except Exception as error:  # noqa: BLE001 - a plugin's failure is the plugin's
                self._fail(impl, error)
                continue
            ask = self._asker(impl, helper)
            found += [guarded_dialect(item, self._reporter(impl), ask) for item in offered]
        return tuple(found)

    def _asker(self, impl: Impl, helper: HelperThread) -> Ask:
        """Return how framers are called: on ``helper``, watched, also while their plugin is being disabled."""

        def ask(function: Callable[[], Any]) -> Any:
            call = RunningCall(impl.plugin, impl.hook, impl.owner)
            self.calls.watchdog.start()
            self.calls.watchdog.watch(call)
            began = call.began
            try:
                return helper.ask(function, call)
            finally:
                if not call.abandoned:
                    self.calls.watchdog.leave(call)
                    self.calls.trace(impl, self.calls.watchdog.clock() - began)

        return ask

    def _fail(self, impl: Impl, error: Exception) -> None:
        """Take a plugin out of service that could not do what the engine needs of it."""
        self._registry.fail(impl.plugin, f"{impl.hook}: {describe(error)}")

    def _reporter(self, impl: Impl) -> Callable[[BaseException], None]:
        def report(error: BaseException) -> None:
            if not contained(error):
                raise error
            self.calls.report(impl, error, budget=True)

        return report

    # Other work.

    def cleanup(
        self, now: datetime, dry_run: bool, confirmed: bool = False
    ) -> list[tuple[str, CleanupReport | Exception]]:
        """Call every plugin's ``cleanup``; return one entry per plugin: its report, or the error in its place."""
        entries: list[tuple[str, CleanupReport | Exception]] = []
        for impl in self._table.all("cleanup"):
            try:
                report = self._threads.ask(Lane.CLEANUP, impl, now, dry_run, confirmed, limit=Limit.SUSPEND)
                if not isinstance(report, CleanupReport):
                    raise PluginError(f"{impl.plugin}: cleanup must return a CleanupReport")  # noqa: TRY301
                entries.append((impl.plugin, report))
            except AnswerTimeout:  # the watchdog has reported it
                entries.append((impl.plugin, PluginError(f"{impl.plugin}: cleanup does not return")))
            except NotInService as error:
                entries.append((impl.plugin, error))
            except Exception as error:  # noqa: BLE001 - handed back
                self.calls.report(impl, error, budget=False)
                entries.append((impl.plugin, _ours(f"{impl.plugin}: cleanup", error)))
        return entries

    # Destinations.

    def destinations(self, *, inactive: bool = False) -> tuple[str, ...]:
        """Return the destinations in service that their settings make active; with ``inactive``, all in service."""
        names = (impl.plugin for impl in self._table.all("submit_session"))
        return tuple(name for name in names if inactive or self.destination_settings(name).active)

    def destination_settings(self, name: str) -> DestinationSettings:
        """Return the settings in force of the destination ``name``; the defaults if it has its own kind."""
        settings = self._registry.settings_of(name)
        return settings if isinstance(settings, DestinationSettings) else _DEFAULTS

    def takes_many(self, name: str) -> bool:
        """Return whether the destination ``name`` takes several sessions in one attempt."""
        return self._table.of(name, "submit_sessions") is not None

    async def submit(self, name: str, session: Session) -> Receipt:
        """Hand ``session`` to the destination ``name``: one attempt.

        An ``async def`` hook runs on this loop, a ``def`` hook on a thread of its own.  There is no deadline: if the
        caller cancels it, the thread is abandoned.  Raises what the plugin raises (SystemExit and its like as
        PluginError), and NotInService if there is no such destination.
        """
        answer = await self._hand_on("submit_session", name, session)
        if not isinstance(answer, Receipt):
            raise PluginError(f"{name}: submit_session must return a Receipt")
        return answer

    async def submit_many(self, name: str, sessions: Sequence[Session]) -> list[Receipt | Exception]:
        """Hand ``sessions`` to the destination ``name`` in one attempt; return one entry each.

        Raises what ``submit`` raises.
        """
        answer = await self._hand_on("submit_sessions", name, list(sessions))
        if not isinstance(answer, list | tuple) or len(answer) != len(sessions):
            raise PluginError(f"{name}: submit_sessions must return one entry for each session")
        if not all(isinstance(entry, Receipt | Exception) for entry in answer):
            raise PluginError(f"{name}: submit_sessions must return receipts or exceptions")
        return list(answer)

    async def reach(self, name: str, seconds: float) -> str | None:
        """Ask the destination ``name`` whether it can be reached; return its answer, None if it has no such hook.

        No session is handed on.  Raises what the plugin raises, and DestinationUnreachable after ``seconds``.
        """
        if self._table.of(name, "reach_destination") is None:
            return None
        try:
            async with asyncio.timeout(seconds + _GRACE) as limit:
                answer = await self._hand_on("reach_destination", name, seconds)
        except TimeoutError:
            if not limit.expired():
                raise
            raise DestinationUnreachable(f"no answer within {seconds:g} seconds") from None
        if not isinstance(answer, str):
            raise PluginError(f"{name}: reach_destination must return what answered")
        return answer

    async def _hand_on(self, hook: str, name: str, what: Session | Sequence[Session] | float) -> Any:
        impl = self._table.of(name, hook)
        if impl is None:
            raise NotInService(f"the destination {name} is not in service")
        hanging_after = self.destination_settings(name).timeout + HANGING_AFTER
        with self.calls.guard(impl, limit=Limit.NONE, hanging_after=hanging_after):
            if inspect.iscoroutinefunction(impl.function):
                return await impl(what)
            answer = await in_thread(lambda: self._on_thread(impl, what), name=f"hl7core-submit-{name}")
            return await answer if inspect.isawaitable(answer) else answer

    def _on_thread(self, impl: Impl, what: Session | Sequence[Session] | float) -> Any:
        """Call ``impl``, unless too many calls of it are running that nobody waits for any more."""
        with self._submitting_lock:
            if self._submitting[impl.plugin] >= SUBMIT_THREADS:
                raise DestinationUnreachable(f"{SUBMIT_THREADS} earlier attempts have not come back")
            self._submitting[impl.plugin] += 1
        try:
            return impl(what)
        finally:
            with self._submitting_lock:
                self._submitting[impl.plugin] -= 1

    # Sources.

    def open_source(self, request: SourceRequest) -> list[tuple[str, PacketSource]]:
        """Ask each plugin once for a source; return those offered, with the plugins' names.

        If there is none and a plugin raised an error, the first error is raised.
        """
        sources: list[tuple[str, PacketSource]] = []
        errors: list[Exception] = []
        for impl in self._table.all("open_source"):
            try:
                source = self._threads.ask(Lane.CAPTURE, impl, request)
                if source is None:
                    continue
                if not isinstance(source, PacketSource):
                    raise PluginError(f"{impl.plugin}: open_source must return a PacketSource or None")  # noqa: TRY301
                sources.append((impl.plugin, source))
            except AnswerTimeout:
                errors.append(SourceError(f"{impl.plugin}: open_source does not return"))
            except NotInService:
                continue
            except Exception as error:  # noqa: BLE001 - raised below, if there is no other source
                if isinstance(error, PluginError) or not isinstance(error, Hl7coreError):
                    self._fail(impl, error)
                errors.append(_ours(f"{impl.plugin}: open_source", error, SourceError))
        if errors and not sources:
            raise errors[0]
        for missing in errors:
            _log.warning("a source could not be opened: %s", describe(missing))
        return sources

    def list_interfaces(self) -> list[Interface]:
        """Return the interfaces that the sources can capture on; a source that fails is reported and left out."""
        found: dict[str, Interface] = {}
        for impl in self._table.all("list_interfaces"):
            try:
                listed = impl._replace(function=_listed(impl.function))
                offered = self._threads.ask(Lane.CAPTURE, listed, limit=Limit.SUSPEND)
                if not all(isinstance(item, Interface) for item in offered):
                    raise PluginError(f"{impl.plugin}: list_interfaces must return Interface values")  # noqa: TRY301
                for interface in offered:
                    found.setdefault(interface.name, interface)
            except (AnswerTimeout, NotInService):
                continue
            except Exception as error:  # noqa: BLE001 - the others still answer
                self.calls.report(impl, error, budget=False)
        return list(found.values())


def _listed(function: Callable[..., Any]) -> Callable[..., list[Any]]:
    return lambda *values: list(function(*values) or ())


def _ours(what: str, error: Exception, kind: type[Hl7coreError] = PluginError) -> Exception:
    """Return ``error`` if it is one of ours, else an error of ours that describes but does not quote it."""
    if isinstance(error, Hl7coreError):
        return error
    made = kind(f"{what}: {describe(error)}")
    made.__cause__ = error
    return made
