"""The dispatch: a typed method for each hook.  Nobody else calls a plugin.

Its law: whatever a plugin raises, returns or forgets, the caller gets what the method says, and the other plugins
never notice.  News (``session_complete``, ``event``) never makes the caller wait.  Work (a store's hooks, ``cleanup``)
runs on the caller's thread and hands errors back as values or as our own exceptions.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final, TypeVar

from hl7core.calls import HANGING_AFTER, HookCost, Impl, NotInService
from hl7core.contract import DestinationSettings, PacketSource, SourceRequest
from hl7core.dialects import guarded_dialect
from hl7core.errors import DestinationUnreachable, Hl7coreError, PluginError, SourceError, StoreError
from hl7core.guard import contained, describe, in_thread
from hl7core.model.cleanup import CleanupReport
from hl7core.model.delivery import Receipt
from hl7core.model.events import Event
from hl7core.model.finding import Finding
from hl7core.model.packet import Interface, Packet
from hl7core.model.session import Session, SessionQuery
from hl7core.plugin_threads import Late
from hl7core.switchboard import Switchboard
from hl7core.wire.framing import Dialect

__all__ = ["Dispatch", "HookCost", "NotInService"]

_log = logging.getLogger(__name__)

DIAGNOSE_SECONDS: Final = 5.0
SUBMIT_THREADS: Final = 20
"""So many attempts of a destination may be on threads, those included that nobody waits for any more."""

_DEFAULTS: Final = DestinationSettings(enabled=True)

T = TypeVar("T")


class Dispatch(Switchboard):
    """Calls the hooks of the plugins that are in service; safe to use from any thread."""

    # News.

    def packet_listeners(self) -> tuple[Callable[[Packet], None], ...]:
        """Return what wants to hear of each packet, guarded; empty if nobody does."""
        listeners = self._listening()
        if listeners:
            self.calls.watch()
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

    # Stores.

    def attached_stores(self) -> tuple[str, ...]:
        """Return the plugins in service that remember sessions."""
        return tuple(impl.plugin for impl in self._impls("persist_session"))

    def persist(self, store: str, sessions: Sequence[Session], replace: bool) -> list[str | Exception]:
        """Save ``sessions`` in ``store``: one entry each, in order, where it now lives or why it could not be saved."""
        entries: list[str | Exception] = []
        ready: list[tuple[int, Session]] = []
        for index, session in enumerate(sessions):
            entries.append("")
            try:
                ready.append((index, self._prepared(session)))
            except Exception as error:  # noqa: BLE001 - one session's trouble is not the others'
                entries[index] = _store_error("before_persist", error)
        outcome = self._persisted(store, [session for _, session in ready], replace=replace)
        for (index, _), entry in zip(ready, outcome, strict=True):
            entries[index] = entry
        return entries

    def persist_as_is(self, store: str, sessions: Sequence[Session], replace: bool) -> list[str | Exception]:
        """Save what has been stored before, with nothing changed by ``before_persist``; entries as of ``persist``."""
        return self._persisted(store, list(sessions), replace=replace)

    def _prepared(self, session: Session) -> Session:
        for impl in self._impls("before_persist"):
            changed = self.calls.call(impl, session, patient=True)
            if changed is None:
                continue
            if not isinstance(changed, Session) or changed.id != session.id:
                raise PluginError(f"{impl.plugin}: before_persist must return the session, its id unchanged, or None")
            session = changed
        return session

    def _persisted(self, store: str, sessions: list[Session], *, replace: bool) -> list[str | Exception]:
        if not sessions:
            return []
        try:
            single = self._impl("persist_session", store)
        except StoreError as error:
            return [error] * len(sessions)
        several = next((impl for impl in self._impls("persist_sessions") if impl.plugin == store), None)
        if several is None or len(sessions) == 1:
            return [self._persisted_one(single, session, replace=replace) for session in sessions]
        try:
            entries = self.calls.call(several, sessions, replace, patient=True)
            return _checked_entries(store, entries, len(sessions))
        except Exception as error:  # noqa: BLE001 - handed back, for each session
            return [_store_error(f"{store}: persist_sessions", error)] * len(sessions)

    def _persisted_one(self, impl: Impl, session: Session, *, replace: bool) -> str | Exception:
        try:
            location = self.calls.call(impl, session, replace, patient=True)
        except Exception as error:  # noqa: BLE001 - handed back
            return _store_error(f"{impl.plugin}: persist_session", error)
        if location is not None and not isinstance(location, str):
            return StoreError(f"{impl.plugin}: persist_session must return where the session now lives")
        return location or ""

    def load(self, store: str, query: SessionQuery) -> list[Session]:
        """Return the sessions of ``store`` that fit.  Raises StoreError."""
        found = self._asked(store, "load_sessions", query)
        if found is None:
            return []
        return _list_of(Session, found, f"{store}: load_sessions must return a list of sessions")

    def delete(self, store: str, ids: Sequence[str], to_trash: bool, deleted_at: datetime) -> list[str]:
        """Remove sessions from ``store``; return the ids that were removed.  Raises StoreError."""
        removed = self._asked(store, "delete_sessions", ids, to_trash, deleted_at)
        return _list_of(str, removed, f"{store}: delete_sessions must return the ids that were removed")

    def restore(self, store: str, ids: Sequence[str]) -> list[str]:
        """Bring sessions back from the trash of ``store``; return the ids that came back.  Raises StoreError."""
        back = self._asked(store, "restore_sessions", ids)
        return _list_of(str, back, f"{store}: restore_sessions must return the ids that came back")

    def empty_trash(self, store: str, before: datetime, limit: int) -> CleanupReport:
        """Throw away for good what went to the trash of ``store`` before that time.  Raises StoreError."""
        report = self._asked(store, "empty_trash", before, limit)
        if not isinstance(report, CleanupReport):
            raise StoreError(f"{store}: empty_trash must return a CleanupReport")
        return report

    def list_trash(self, store: str) -> list[tuple[str, datetime]]:
        """Return what is in the trash of ``store`` and since when, oldest first.  Raises StoreError."""
        otherwise = f"{store}: list_trash must return ids and aware times"
        found = _list_of(tuple, self._asked(store, "list_trash"), otherwise)
        if not all(len(entry) == 2 and isinstance(entry[0], str) and _aware(entry[1]) for entry in found):
            raise StoreError(otherwise)
        return found

    def store_size(self, store: str) -> int:
        """Return the bytes that the sessions of ``store`` take, its trash included.  Raises StoreError."""
        size = self._asked(store, "store_size")
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise StoreError(f"{store}: store_size must return a number of bytes")
        return size

    def _asked(self, store: str, hook: str, *values: Any) -> Any:
        impl = self._impl(hook, store)
        try:
            return self.calls.call(impl, *values, patient=True)
        except Exception as error:
            known = _store_error(f"{store}: {hook}", error)
            if known is error:
                raise
            raise known from error

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

    async def _handed(self, hook: str, name: str, what: Session | Sequence[Session]) -> Any:
        impl = next((impl for impl in self._impls(hook) if impl.plugin == name), None)
        if impl is None:
            raise NotInService(f"{name} is no destination in service")
        calm = self.destination_settings(name).timeout + HANGING_AFTER
        with self.calls.running(impl, patient=True, calm=calm):
            if inspect.iscoroutinefunction(impl.function):
                return await impl(what)
            answer = await in_thread(lambda: self._on_thread(impl, what), name=f"hl7core-submit-{name}")
            return await answer if inspect.isawaitable(answer) else answer

    def _on_thread(self, impl: Impl, what: Session | Sequence[Session]) -> Any:
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


def _aware(value: object) -> bool:
    return isinstance(value, datetime) and value.tzinfo is not None


def _listed(function: Callable[..., Any]) -> Callable[..., list[Any]]:
    return lambda *values: list(function(*values) or ())


def _ours(what: str, error: Exception, kind: type[Hl7coreError] = PluginError) -> Exception:
    """Return ``error`` if it is one of ours, else one of ours that does not quote it."""
    if isinstance(error, Hl7coreError):
        return error
    made = kind(f"{what}: {describe(error)}")
    made.__cause__ = error
    return made


def _store_error(what: str, error: Exception) -> StoreError:
    """Return ``error`` as a StoreError that does not quote what is none of ours."""
    if isinstance(error, StoreError):
        return error
    made = StoreError(f"{what}: {error}" if isinstance(error, Hl7coreError) else f"{what}: {describe(error)}")
    made.__cause__ = error
    return made


def _checked_entries(store: str, entries: Any, count: int) -> list[str | Exception]:
    if not isinstance(entries, list) or len(entries) != count:
        raise StoreError(f"{store}: persist_sessions must return one entry for each session")
    made: list[str | Exception] = []
    for entry in entries:
        if isinstance(entry, str):
            made.append(entry)
        elif isinstance(entry, Exception):
            made.append(_store_error(f"{store}: persist_sessions", entry))
        else:
            made.append(StoreError(f"{store}: persist_sessions must return places or exceptions"))
    return made


def _list_of(kind: type[T], found: Any, otherwise: str) -> list[T]:
    if not isinstance(found, list | tuple) or not all(isinstance(item, kind) for item in found):
        raise StoreError(otherwise)
    return list(found)
