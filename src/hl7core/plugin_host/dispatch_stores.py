"""The dispatch, as far as it asks stores: saving, loading, deleting, and what lies in the trash.

Its law: all of it runs on the caller's thread (the store thread), and only the store that is named is asked.  What
goes wrong there is a StoreError, raised or as the entry of its session, and quotes nothing that is not ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar

from hl7core.errors import Hl7coreError, PluginError, StoreError
from hl7core.guard import describe
from hl7core.model.cleanup import CleanupReport
from hl7core.model.session import Session, SessionQuery
from hl7core.plugin_host.calls import Impl
from hl7core.plugin_host.hook_table import Switchboard

__all__ = ["StoreDispatch"]

T = TypeVar("T")


class StoreDispatch(Switchboard):
    """Calls the hooks of stores, and ``before_persist`` of whoever changes what is saved."""

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


def _aware(value: object) -> bool:
    return isinstance(value, datetime) and value.tzinfo is not None


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
