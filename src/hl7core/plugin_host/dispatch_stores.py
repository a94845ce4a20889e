"""The hooks of stores, one typed method each: saving, loading, deleting, and the trash.

Only the store that is named is asked, on a thread of its own, while the caller, the store thread, waits.  A store that
shows no progress for too long is suspended until its call returns; meanwhile every call fails at once.  What goes wrong
is a StoreError, raised or as the entry of its session; it quotes no error but our own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, TypeVar

from hl7core.errors import Hl7coreError, PluginError, StoreError
from hl7core.guard import describe
from hl7core.model.cleanup import CleanupReport
from hl7core.model.session import Session, SessionQuery
from hl7core.plugin_host.calls import Calls, NotInService
from hl7core.plugin_host.discovery import PluginState
from hl7core.plugin_host.helper_thread import AnswerTimeout
from hl7core.plugin_host.hook_table import HookTable, Impl
from hl7core.plugin_host.redactors import Redactors
from hl7core.plugin_host.registry import Registry
from hl7core.plugin_host.threads import Lane, PluginThreads
from hl7core.plugin_host.watchdog import Limit

__all__ = ["StoreDispatch"]

T = TypeVar("T")

FAILURES: Final = 10
"""So many failures of ``before_persist`` in a row take a plugin out of service that is not required."""


class StoreDispatch:
    """Calls the hooks of stores, and ``before_persist`` of the plugins that change what is saved."""

    def __init__(
        self, table: HookTable, calls: Calls, threads: PluginThreads, registry: Registry, redactors: Redactors
    ) -> None:
        self._table = table
        self._calls = calls
        self._threads = threads
        self._registry = registry
        self._redactors = redactors
        self._failures: Counter[str] = Counter()  # of before_persist, in a row

    def attached_stores(self) -> tuple[str, ...]:
        """Return the plugins in service that store sessions, in the order of the settings."""
        return tuple(impl.plugin for impl in self._table.all("persist_session"))

    def not_answering(self) -> dict[str, str]:
        """Return the stores that do not answer now, each with what is known of it."""
        infos = [self._registry.info(store) for store in self.attached_stores()]
        silent = (PluginState.HANGING, PluginState.SUSPENDED)
        return {info.name: f"{info.name} is {info.state}: {info.error}" for info in infos if info.state in silent}

    def persist(self, store: str, sessions: Sequence[Session], replace: bool) -> list[str | Exception]:
        """Save ``sessions`` in ``store``, changed by ``before_persist``.

        Returns one entry for each, in order: where it now lives, or the StoreError that says why it was not saved.
        """
        missing = self._redactors.missing()
        if missing is not None:
            return [StoreError(str(missing))] * len(sessions)
        entries: list[str | Exception] = []
        ready: list[tuple[int, Session]] = []
        for index, session in enumerate(sessions):
            entries.append("")
            try:
                ready.append((index, self._prepared(session)))
            except Exception as error:  # noqa: BLE001 - one session's failure does not affect the others
                entries[index] = _store_error("before_persist", error)
        outcome = self.persist_as_is(store, [session for _, session in ready], replace)
        for (index, _), entry in zip(ready, outcome, strict=True):
            entries[index] = entry
        return entries

    def persist_as_is(self, store: str, sessions: Sequence[Session], replace: bool) -> list[str | Exception]:
        """Save sessions that have been stored before, without ``before_persist``; returns entries as ``persist``."""
        if not sessions:
            return []
        try:
            single = self._impl("persist_session", store)
        except StoreError as error:
            return [error] * len(sessions)
        several = self._table.of(store, "persist_sessions")
        if several is None or len(sessions) == 1:
            return [self._persist_one(single, session, replace=replace) for session in sessions]
        try:
            entries = self._call(several, list(sessions), replace)
            return _checked_entries(store, entries, len(sessions))
        except Exception as error:  # noqa: BLE001 - handed back, for each session
            return [_store_error(f"{store}: persist_sessions", error)] * len(sessions)

    def load(self, store: str, query: SessionQuery) -> list[Session]:
        """Return the sessions of ``store`` that match ``query``.  Raises StoreError."""
        found = self._ask(store, "load_sessions", query)
        if found is None:
            return []
        return _list_of(Session, found, f"{store}: load_sessions must return a list of sessions")

    def delete(self, store: str, ids: Sequence[str], to_trash: bool, deleted_at: datetime) -> list[str]:
        """Remove sessions from ``store``; return the ids that were removed.  Raises StoreError."""
        removed = self._ask(store, "delete_sessions", list(ids), to_trash, deleted_at)
        return _list_of(str, removed, f"{store}: delete_sessions must return the ids that were removed")

    def restore(self, store: str, ids: Sequence[str]) -> list[str]:
        """Bring sessions back from the trash of ``store``; return the ids that came back.  Raises StoreError."""
        back = self._ask(store, "restore_sessions", list(ids))
        return _list_of(str, back, f"{store}: restore_sessions must return the ids that came back")

    def empty_trash(self, store: str, before: datetime, limit: int) -> CleanupReport:
        """Delete permanently at most ``limit`` sessions that went to the trash of ``store`` before that time.

        Raises StoreError.
        """
        report = self._ask(store, "empty_trash", before, limit)
        if not isinstance(report, CleanupReport):
            raise StoreError(f"{store}: empty_trash must return a CleanupReport")
        return report

    def list_trash(self, store: str) -> list[tuple[str, datetime]]:
        """Return the ids in the trash of ``store`` and when each went there, oldest first.  Raises StoreError."""
        otherwise = f"{store}: list_trash must return ids and aware times"
        found = _list_of(tuple, self._ask(store, "list_trash"), otherwise)
        if not all(len(entry) == 2 and isinstance(entry[0], str) and _aware(entry[1]) for entry in found):
            raise StoreError(otherwise)
        return found

    def store_size(self, store: str) -> int:
        """Return the bytes that the sessions of ``store`` take, its trash included.  Raises StoreError."""
        size = self._ask(store, "store_size")
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise StoreError(f"{store}: store_size must return a number of bytes")
        return size

    def _prepared(self, session: Session) -> Session:
        for impl in self._table.all("before_persist"):
            required = self._redactors.is_required(impl.plugin)
            if not required and self._calls.suspended(impl.plugin):
                continue
            try:
                changed = self._call(impl, session)
                if changed is not None and (not isinstance(changed, Session) or changed.id != session.id):
                    raise PluginError(  # noqa: TRY301
                        f"{impl.plugin}: before_persist must return the session, its id unchanged, or None"
                    )
            except Exception as error:
                self._prepare_failed(impl, error, required=required)
                raise
            del self._failures[impl.plugin]
            session = session if changed is None else changed
        return session

    def _prepare_failed(self, impl: Impl, error: Exception, *, required: bool) -> None:
        """Name a plugin whose ``before_persist`` failed; if it is not required, it is left out after some failures."""
        if isinstance(error, StoreError):  # it was not called, or does not return; the watchdog names it
            return
        self._calls.report(impl, error, budget=False)
        self._failures[impl.plugin] += 1
        if not required and self._failures[impl.plugin] >= FAILURES:
            text = f"taken out of service after {FAILURES} failures in a row; {impl.hook}: {describe(error)}"
            self._registry.fail(impl.plugin, text)

    def _persist_one(self, impl: Impl, session: Session, *, replace: bool) -> str | Exception:
        try:
            location = self._call(impl, session, replace)
        except Exception as error:  # noqa: BLE001 - handed back
            return _store_error(f"{impl.plugin}: persist_session", error)
        if location is not None and not isinstance(location, str):
            return StoreError(f"{impl.plugin}: persist_session must return where the session now lives")
        return location or ""

    def _impl(self, hook: str, store: str) -> Impl:
        impl = self._table.of(store, hook)
        if impl is not None:
            return impl
        if self._table.in_service(store):
            raise StoreError(f"{store} does not implement {hook}")
        raise StoreError(f"the store {store} is not in service")

    def _call(self, impl: Impl, *values: Any) -> Any:
        """Call ``impl`` on its plugin's thread; raise what it raises, and StoreError if it does not answer."""
        try:
            return self._threads.ask(Lane.SAVING, impl, *values, limit=Limit.SUSPEND)
        except AnswerTimeout:
            pass
        except NotInService:
            if not self._calls.suspended(impl.plugin):
                raise StoreError(f"{impl.plugin} is not in service") from None
        raise StoreError(f"{impl.plugin} does not answer: {self._registry.info(impl.plugin).error}")

    def _ask(self, store: str, hook: str, *values: Any) -> Any:
        impl = self._impl(hook, store)
        try:
            return self._call(impl, *values)
        except Exception as error:
            known = _store_error(f"{store}: {hook}", error)
            if known is error:
                raise
            raise known from error


def _aware(value: object) -> bool:
    return isinstance(value, datetime) and value.tzinfo is not None


def _store_error(what: str, error: Exception) -> StoreError:
    """Return ``error`` as a StoreError; an error that is not ours is described, not quoted."""
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
