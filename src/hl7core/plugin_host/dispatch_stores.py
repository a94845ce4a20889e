"""The hooks of stores, one typed method each: saving, loading, deleting, and the trash.

Only the store that is named is asked, on a thread of its own, while the caller, the store thread, waits.  A store that
shows no progress for too long is suspended until its call returns; meanwhile every call fails at once.  What goes wrong
is a StoreError, raised or as the entry of its session; it quotes no error but our own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

from hl7core.errors import EngineError, Hl7coreError, PluginError, StoreError
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
        entries: list[str | Exception] = [""] * len(sessions)
        ready = dict(enumerate(sessions))
        for impl in self._table.all("before_persist"):
            for index, error in self._prepare(impl, ready).items():
                del ready[index]
                known = isinstance(error, StoreError)
                entries[index] = error if known else StoreError(f"before_persist: {_reason(error)}")
        outcome = self.persist_as_is(store, list(ready.values()), replace)
        for index, entry in zip(ready, outcome, strict=True):
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
            return self._checked_entries(several, entries, len(sessions))
        except Exception as error:  # noqa: BLE001 - handed back, for each session
            return [self._failed(several, error)] * len(sessions)

    def load(self, store: str, query: SessionQuery) -> list[Session]:
        """Return the sessions of ``store`` that match ``query``.  Raises StoreError."""
        found = self._ask(
            store, "load_sessions", query,
            must="a list of sessions, or None", check=lambda answer: answer is None or _are(Session, answer),
        )  # fmt: skip
        return list(found or ())

    def delete(self, store: str, ids: Sequence[str], to_trash: bool, deleted_at: datetime) -> list[str]:
        """Remove sessions from ``store``; return the ids that were removed.  Raises StoreError."""
        return list(self._ask(
            store, "delete_sessions", list(ids), to_trash, deleted_at,
            must="the ids that were removed", check=lambda answer: _are(str, answer),
        ))  # fmt: skip

    def restore(self, store: str, ids: Sequence[str]) -> list[str]:
        """Bring sessions back from the trash of ``store``; return the ids that came back.  Raises StoreError."""
        return list(self._ask(
            store, "restore_sessions", list(ids),
            must="the ids that came back", check=lambda answer: _are(str, answer),
        ))  # fmt: skip

    def empty_trash(self, store: str, before: datetime, limit: int) -> CleanupReport:
        """Delete permanently at most ``limit`` sessions that went to the trash of ``store`` before that time.

        Raises StoreError.
        """
        report: CleanupReport = self._ask(
            store, "empty_trash", before, limit,
            must="a CleanupReport", check=lambda answer: isinstance(answer, CleanupReport),
        )  # fmt: skip
        return report

    def list_trash(self, store: str) -> list[tuple[str, datetime]]:
        """Return the ids in the trash of ``store`` and when each went there, oldest first.  Raises StoreError."""
        return list(self._ask(store, "list_trash", must="ids and aware times", check=_are_deletions))

    def store_size(self, store: str) -> int:
        """Return the bytes that the sessions of ``store`` take, its trash included.  Raises StoreError."""
        size: int = self._ask(
            store, "store_size",
            must="a number of bytes", check=lambda answer: type(answer) is int and answer >= 0,
        )  # fmt: skip
        return size

    def _prepare(self, impl: Impl, ready: dict[int, Session]) -> dict[int, Exception]:
        """Let ``impl`` change the sessions in ``ready``; return why it could not, for those that must not be saved."""
        required = self._redactors.is_required(impl.plugin)
        if not ready or (not required and self._calls.suspended(impl.plugin)):
            return {}
        try:
            answers = self._changed(impl, ready)
        except (AnswerTimeout, NotInService) as error:
            return dict.fromkeys(ready, self._silent(impl, error))
        failed: dict[int, Exception] = {}
        for index, answer in answers.items():
            if isinstance(answer, Exception):
                failed[index] = answer
                self._prepare_failed(impl, answer, required=required)
                continue
            if self._failures.pop(impl.plugin, 0) and required:
                self._redactors.works(impl.plugin)
            ready[index] = answer or ready[index]
        return failed

    def _changed(self, impl: Impl, sessions: dict[int, Session]) -> dict[int, Session | Exception | None]:
        """Return what ``impl`` answers for each of ``sessions``, or why there is none; all in one turn of its thread.

        Raises AnswerTimeout or NotInService.
        """
        answers: dict[int, Session | Exception | None] = {}
        guard = self._calls.guard(impl, limit=Limit.SUSPEND)

        def change_all() -> None:
            for index, session in sessions.items():
                if guard.running.abandoned:
                    return
                try:
                    with guard:
                        answer = impl(session)
                    if answer is not None and not (isinstance(answer, Session) and answer.id == session.id):
                        raise _must_return(impl, "the session, its id unchanged, or None")  # noqa: TRY301
                    answers[index] = answer
                except Exception as error:  # noqa: BLE001 - one session's failure does not affect the others
                    answers[index] = error

        self._threads.helper(impl, Lane.SAVING).ask(change_all, guard.running)
        return answers

    def _prepare_failed(self, impl: Impl, error: Exception, *, required: bool) -> None:
        """Name a plugin whose ``before_persist`` failed; if it is not required, it is left out after some failures."""
        self._failures[impl.plugin] += 1
        if required:
            self._redactors.fails(impl.plugin, f"{impl.hook}: {describe(error)}")
        self._calls.report(impl, error, budget=False)
        if not required and self._failures[impl.plugin] >= FAILURES:
            text = f"taken out of service after {FAILURES} failures in a row; {impl.hook}: {describe(error)}"
            self._registry.fail(impl.plugin, text)

    def _persist_one(self, impl: Impl, session: Session, *, replace: bool) -> str | Exception:
        try:
            location = self._call(impl, session, replace)
            if location is not None and not isinstance(location, str):
                raise _must_return(impl, "where the session now lives")  # noqa: TRY301
        except Exception as error:  # noqa: BLE001 - handed back
            return self._failed(impl, error)
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
        except (AnswerTimeout, NotInService) as error:
            raise self._silent(impl, error) from None

    def _silent(self, impl: Impl, error: Exception) -> StoreError:
        if isinstance(error, NotInService) and not self._calls.suspended(impl.plugin):
            return StoreError(f"{impl.plugin} is not in service")
        return StoreError(f"{impl.plugin} does not answer: {self._registry.info(impl.plugin).error}")

    def _ask(self, store: str, hook: str, *values: Any, must: str, check: Callable[[Any], bool]) -> Any:
        """Return what the store answers; raise StoreError if that fails, or is not what ``check`` holds it to."""
        impl = self._impl(hook, store)
        try:
            answer = self._call(impl, *values)
            if not check(answer):
                raise _must_return(impl, must)  # noqa: TRY301
        except Exception as error:
            known = self._failed(impl, error)
            if known is error:
                raise
            raise known from error
        return answer

    def _failed(self, impl: Impl, error: Exception) -> StoreError:
        """Return ``error`` as a StoreError; one that stores are not expected to raise is reported too."""
        if isinstance(error, StoreError):
            return error
        if not isinstance(error, EngineError):  # then the engine is stopping
            self._calls.report(impl, error, budget=False)
        what = f"{impl.plugin}: {impl.hook}"
        made = StoreError(str(error) if _is_ours(error, what) else f"{what}: {_reason(error)}")
        made.__cause__ = error
        return made

    def _checked_entries(self, impl: Impl, entries: Any, count: int) -> list[str | Exception]:
        if not isinstance(entries, list) or len(entries) != count:
            raise _must_return(impl, "one entry for each session")
        wrong = _must_return(impl, "places or exceptions")
        return [
            entry if isinstance(entry, str) else self._failed(impl, entry if isinstance(entry, Exception) else wrong)
            for entry in entries
        ]


def _must_return(impl: Impl, what: str) -> PluginError:
    return PluginError(f"{impl.plugin}: {impl.hook} must return {what}")


def _is_ours(error: Exception, what: str) -> bool:
    return isinstance(error, Hl7coreError) and str(error).startswith(what)


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, Hl7coreError) else describe(error)


def _are(kind: type, answer: Any) -> bool:
    return isinstance(answer, list | tuple) and all(isinstance(item, kind) for item in answer)


def _are_deletions(answer: Any) -> bool:
    return _are(tuple, answer) and all(
        len(entry) == 2 and isinstance(entry[0], str) and isinstance(entry[1], datetime) and entry[1].tzinfo is not None
        for entry in answer
    )
