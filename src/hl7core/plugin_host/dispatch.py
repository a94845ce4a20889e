"""The dispatch: a typed method for each hook.  Nobody else calls a plugin.

Its law: whatever a plugin raises, returns or forgets, the caller gets what the method says, and the other plugins
never notice.  News (``session_complete``, ``event``) never makes the caller wait.  Work (``cleanup``, a source, what
stores do) runs on the caller's thread and hands errors back as values or as our own exceptions; what destinations do is
waited for on the loop.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final

from hl7core.contract import DestinationSettings, PacketSource, SourceRequest
from hl7core.errors import DestinationUnreachable, Hl7coreError, PluginError, SourceError
from hl7core.guard import contained, describe, in_thread
from hl7core.model.cleanup import CleanupReport
from hl7core.model.delivery import Receipt
from hl7core.model.events import Event
from hl7core.model.finding import Finding
from hl7core.model.packet import Interface, Packet
from hl7core.model.session import Session
from hl7core.plugin_host.calls import HookCost, Impl, NotInService
from hl7core.plugin_host.dispatch_stores import StoreDispatch
from hl7core.plugin_host.guarded_framer import guarded_dialect
from hl7core.plugin_host.threads import Late
from hl7core.plugin_host.watchdog import HANGING_AFTER
from hl7core.wire.framing.framer import Dialect

__all__ = ["Dispatch", "HookCost", "NotInService"]

_log = logging.getLogger(__name__)

DIAGNOSE_SECONDS: Final = 5.0
SUBMIT_THREADS: Final = 20
"""So many attempts of a destination may be on threads, those included that nobody waits for any more."""

_GRACE: Final = 0.5
"""So much later than it was told an asked destination is given up, so that the plugin's own word comes first."""

_DEFAULTS: Final = DestinationSettings(enabled=True)


class Dispatch(StoreDispatch):
    """Calls the hooks of the plugins that are in service; safe to use from any thread."""

    # News.

    def packet_listeners(self) -> tuple[Callable[[Packet], None], ...]:
        """Return what wants to hear of each packet, guarded; empty if nobody does."""
        listeners = self._listening()
        if listeners:
            self.calls.watchdog.watch()
        return listeners

    def session_complete(self, session: Session) -> None:
        """Queue ``session`` for every plugin that implements ``on_session_complete``."""
        self._publish("on_session_complete", session)

    def event(self, event: Event) -> None:
        """Queue ``event`` for every plugin that implements ``on_event``."""
        self._publish("on_event", event)

    # Rules and framings.

    def findings(self, session: Session) -> tuple[Finding, ...]:
        """Return what all plugins find wrong with ``session``; each has 5 seconds."""
        found: list[Finding] = []
        for impl in self._impls("diagnose"):
            helper = self._helper(impl)
            try:
                found += helper.ask(partial(self._diagnosed, impl, session), DIAGNOSE_SECONDS)
            except NotInService:
                continue
            except Late:
                late = PluginError(f"no answer within {DIAGNOSE_SECONDS:.0f} seconds, so its findings are missing")
                self.calls.failed(impl, late, budget=False)  # the watchdog sees to what hangs
            except Exception as error:  # noqa: BLE001 - a plugin's failure is the plugin's
                self.calls.failed(impl, error, budget=True)
        return tuple(found)

    def _diagnosed(self, impl: Impl, session: Session) -> list[Finding]:
        with self.calls.running(impl):
            found = list(impl(session) or ())
        if not all(isinstance(item, Finding) for item in found):
            raise PluginError(f"{impl.plugin}: diagnose must yield Finding values")
        return found

    def dialects(self) -> tuple[Dialect, ...]:
        """Return the framings that plugins contribute, each guarded."""
        found: list[Dialect] = []
        for impl in self._impls("register_framers"):
            try:
                offered = self.calls.call(impl._replace(function=_listed(impl.function)))
                if not all(isinstance(item, Dialect) for item in offered):
                    raise PluginError(f"{impl.plugin}: register_framers must yield Dialect values")  # noqa: TRY301
                found += [guarded_dialect(item, self._reporter(impl)) for item in offered]
            except Exception as error:  # noqa: BLE001 - a plugin's failure is the plugin's
                self.calls.failed(impl, error, budget=True)
        return tuple(found)

    def _reporter(self, impl: Impl) -> Callable[[BaseException], None]:
        def report(error: BaseException) -> None:
            if not contained(error):
                raise error
            self.calls.failed(impl, error, budget=True)

        return report

    # Other work.

    def cleanup(
        self, now: datetime, dry_run: bool, confirmed: bool = False
    ) -> list[tuple[str, CleanupReport | Exception]]:
        """Let every plugin throw away what should go; one entry each, its report or why there is none."""
        entries: list[tuple[str, CleanupReport | Exception]] = []
        for impl in self._impls("cleanup"):
            try:
                report = self.calls.call(impl, now, dry_run, confirmed, patient=True)
                if not isinstance(report, CleanupReport):
                    raise PluginError(f"{impl.plugin}: cleanup must return a CleanupReport")  # noqa: TRY301
                entries.append((impl.plugin, report))
            except Exception as error:  # noqa: BLE001 - handed back
                self.calls.failed(impl, error, budget=False)
                entries.append((impl.plugin, _ours(f"{impl.plugin}: cleanup", error)))
        return entries

    # Destinations.

    def destinations(self, *, inactive: bool = False) -> tuple[str, ...]:
        """Return the plugins in service that hand sessions on and are active by their settings.

        With ``inactive`` also those that are not.
        """
        names = (impl.plugin for impl in self._impls("submit_session"))
        return tuple(name for name in names if inactive or self.destination_settings(name).active)

    def destination_settings(self, name: str) -> DestinationSettings:
        """Return the settings in force of the destination ``name``; the defaults if its model is none of ours."""
        settings = self._registry.settings_of(name)
        return settings if isinstance(settings, DestinationSettings) else _DEFAULTS

    def takes_many(self, name: str) -> bool:
        """Say whether the destination ``name`` takes several sessions in one attempt."""
        return any(impl.plugin == name for impl in self._impls("submit_sessions"))

    async def submit(self, name: str, session: Session) -> Receipt:
        """Hand ``session`` to the destination ``name``, once.

        ``async def`` runs on this loop, ``def`` on a thread of its own.  Raises what the plugin raises (SystemExit and
        its like as PluginError), and NotInService if there is no such destination.  It has no deadline: cancel it, and
        a thread is abandoned.
        """
        answer = await self._handed("submit_session", name, session)
        if not isinstance(answer, Receipt):
            raise PluginError(f"{name}: submit_session must return a Receipt")
        return answer

    async def submit_many(self, name: str, sessions: Sequence[Session]) -> list[Receipt | Exception]:
        """Hand ``sessions`` to the destination ``name`` in one attempt; return one entry each.  Raises likewise."""
        answer = await self._handed("submit_sessions", name, sessions)
        if not isinstance(answer, list | tuple) or len(answer) != len(sessions):
            raise PluginError(f"{name}: submit_sessions must return one entry for each session")
        if not all(isinstance(entry, Receipt | Exception) for entry in answer):
            raise PluginError(f"{name}: submit_sessions must return receipts or exceptions")
        return list(answer)

    async def reach(self, name: str, seconds: float) -> str | None:
        """Ask the destination ``name`` whether it can be reached; return what it says, None if it has no such hook.

        No session is handed on.  Raises what the plugin raises, and DestinationUnreachable after ``seconds``.
        """
        if not any(impl.plugin == name for impl in self._impls("reach_destination")):
            return None
        try:
            async with asyncio.timeout(seconds + _GRACE) as limit:
                answer = await self._handed("reach_destination", name, seconds)
        except TimeoutError:
            if not limit.expired():
                raise
            raise DestinationUnreachable(f"no answer within {seconds:g} seconds") from None
        if not isinstance(answer, str):
            raise PluginError(f"{name}: reach_destination must return what answered")
        return answer

    async def _handed(self, hook: str, name: str, what: Session | Sequence[Session] | float) -> Any:
        impl = next((impl for impl in self._impls(hook) if impl.plugin == name), None)
        if impl is None:
            raise NotInService(f"{name} is no destination in service")
        calm = self.destination_settings(name).timeout + HANGING_AFTER
        with self.calls.running(impl, patient=True, calm=calm):
            if inspect.iscoroutinefunction(impl.function):
                return await impl(what)
            answer = await in_thread(lambda: self._on_thread(impl, what), name=f"hl7core-submit-{name}")
            return await answer if inspect.isawaitable(answer) else answer

    def _on_thread(self, impl: Impl, what: Session | Sequence[Session] | float) -> Any:
        """Call ``impl``; so many abandoned calls that still run are enough."""
        with self._lock:
            if self._submitting[impl.plugin] >= SUBMIT_THREADS:
                raise DestinationUnreachable(f"{SUBMIT_THREADS} earlier attempts have not come back")
            self._submitting[impl.plugin] += 1
        try:
            return impl(what)
        finally:
            with self._lock:
                self._submitting[impl.plugin] -= 1

    # Sources.

    def open_source(self, request: SourceRequest) -> list[tuple[str, PacketSource]]:
        """Ask each plugin once for a source.  Raises the first error if no source came and there was one."""
        sources: list[tuple[str, PacketSource]] = []
        errors: list[Exception] = []
        for impl in self._impls("open_source"):
            try:
                source = self.calls.call(impl, request, patient=True)
                if source is None:
                    continue
                if not isinstance(source, PacketSource):
                    raise PluginError(f"{impl.plugin}: open_source must return a PacketSource or None")  # noqa: TRY301
                sources.append((impl.plugin, source))
            except Exception as error:  # noqa: BLE001 - raised below, if nobody else had a source
                if not isinstance(error, Hl7coreError):
                    self.calls.failed(impl, error, budget=False)
                errors.append(_ours(f"{impl.plugin}: open_source", error, SourceError))
        if errors and not sources:
            raise errors[0]
        for missing in errors:
            _log.warning("a source could not be opened: %s", describe(missing))
        return sources

    def list_interfaces(self) -> list[Interface]:
        """Ask each source which interfaces it could capture on; one that fails is told of and left out."""
        found: dict[str, Interface] = {}
        for impl in self._impls("list_interfaces"):
            try:
                for interface in self.calls.call(impl, patient=True) or ():
                    found.setdefault(interface.name, interface)
            except Exception as error:  # noqa: BLE001 - the others still answer
                self.calls.failed(impl, error, budget=False)
        return list(found.values())


def _listed(function: Callable[..., Any]) -> Callable[..., list[Any]]:
    return lambda *values: list(function(*values) or ())


def _ours(what: str, error: Exception, kind: type[Hl7coreError] = PluginError) -> Exception:
    """Return ``error`` if it is one of ours, else one of ours that does not quote it."""
    if isinstance(error, Hl7coreError):
        return error
    made = kind(f"{what}: {describe(error)}")
    made.__cause__ = error
    return made
