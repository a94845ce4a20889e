"""Stored sessions for commands, read and changed through the running engine, or through an engine of the command's own.

An engine of the command's own takes the data folder's lock, so that nothing else writes to the stores meanwhile, and
runs the enabled stores only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

from hl7core.cli.load_settings import load_settings
from hl7core.errors import EngineError, Hl7coreError
from hl7core.model.cleanup import CleanupReport
from hl7core.model.events import CleanupProgress
from hl7core.model.session import Session, SessionQuery

if TYPE_CHECKING:
    from hl7core.engine.control.client import ControlClient
    from hl7core.engine.engine import Engine
    from hl7core.engine.imports import ImportReport
    from hl7core.settings.reading import Settings

__all__ = [
    "SessionAccess",
    "all_sessions",
    "engine_client",
    "open_sessions",
    "own_engine",
    "plugins_with",
    "stores_of",
]

_PAGE: Final = 500


class SessionAccess(Protocol):
    """What commands can do with stored sessions.  ``note`` says what is missing from the last answer, if anything."""

    note: str

    def sessions(self, query: SessionQuery) -> Iterator[Session]:
        """Yield at most ``query.limit`` sessions."""

    def change(self, do: str, ids: list[str], **more: Any) -> list[str]:
        """Run ``do`` (``delete``, ``restore``, ``retry``, ``ignore``, ``unignore``) on ``ids``; return those found."""

    def trash(self) -> list[tuple[str, datetime]]:
        """Return the id of each session in the trash and when it was moved there, oldest first."""

    def clean(self, *, dry_run: bool, confirmed: bool, progress: Callable[[int], None]) -> list[CleanupReport]:
        """Run every plugin's cleanup; ``progress`` is called with the number of sessions deleted so far."""

    def import_sessions(
        self, *, source: str = "", files: Sequence[str] = (), empty: bool = False
    ) -> Iterator[ImportReport]:
        """Import from the store ``source`` or from ``files``; yield reports of progress, the last one final.

        ``empty`` deletes from ``source`` what was imported.
        """


def engine_client(settings: Settings) -> ControlClient | None:
    """Return a connection to the engine that runs on the data folder, or None if there is none."""
    from hl7core.engine.control.client import ControlClient

    return ControlClient(settings.output_folder).connect()


def all_sessions(access: SessionAccess, query: SessionQuery, limit: int | None = None) -> Iterator[Session]:
    """Yield all sessions that match ``query``, or the newest ``limit`` of them, oldest first."""
    if limit is not None:
        newest: list[Session] = []
        after = None
        while len(newest) < limit:
            page = list(
                access.sessions(query._replace(newest_first=True, limit=min(_PAGE, limit - len(newest)), after=after))
            )
            newest += page
            if not page:
                break
            after = (page[-1].started_at, page[-1].id)
        yield from reversed(newest)
        return
    after = None
    while True:
        page = list(access.sessions(query._replace(limit=_PAGE, after=after)))
        yield from page
        if len(page) < _PAGE:
            return
        after = (page[-1].started_at, page[-1].id)


def stores_of(settings: Settings) -> tuple[str, ...]:
    """Return the names of the enabled stores, the store of record first.  Imports the enabled plugins."""
    record = settings.core.store
    return (record, *(name for name in plugins_with(settings, "persist_session") if name != record))


def _redactors_of(settings: Settings) -> tuple[str, ...]:
    """Return the names of the enabled plugins that change what is saved.  Imports the enabled plugins."""
    return plugins_with(settings, "before_persist")


def plugins_with(settings: Settings, *hooks: str) -> tuple[str, ...]:
    """Return the names of the enabled plugins that implement one of ``hooks``.  Imports the enabled plugins."""
    from hl7core.plugin_host.registry import Registry

    registry = Registry(settings)
    found = []
    for name in registry.names():
        if not registry.wanted(name):
            continue
        try:
            registry.load(name)
        except Hl7coreError:  # the engine and `plugins list` report it
            continue
        if not set(hooks).isdisjoint(registry.info(name).hooks):
            found.append(name)
    return tuple(found)


class _Remote:
    """Sessions through the control socket of the running engine."""

    def __init__(self, client: ControlClient, *, or_memory: bool) -> None:
        self._client = client
        self._or_memory = or_memory
        self.note = ""

    def sessions(self, query: SessionQuery) -> Iterator[Session]:
        yield from self._client.sessions(query, or_memory=self._or_memory)
        self.note = self._client.note

    def change(self, do: str, ids: list[str], **more: Any) -> list[str]:
        found: list[str] = getattr(self._client, do)(ids, **more)
        return found

    def trash(self) -> list[tuple[str, datetime]]:
        return self._client.trash()

    def clean(self, *, dry_run: bool, confirmed: bool, progress: Callable[[int], None]) -> list[CleanupReport]:
        return self._client.cleanup(dry_run=dry_run, confirmed=confirmed, progress=progress)

    def import_sessions(
        self, *, source: str = "", files: Sequence[str] = (), empty: bool = False
    ) -> Iterator[ImportReport]:
        for item in self._client.stream("import", timeout=None, source=source, files=list(files), empty=empty):
            yield _report(item)
        yield _report(self._client.result)


class _Own:
    """Sessions through an engine in this process."""

    def __init__(self, runner: asyncio.Runner, engine: Engine) -> None:
        self._runner = runner
        self._engine = engine
        self.note = ""

    def sessions(self, query: SessionQuery) -> Iterator[Session]:
        yield from self._runner.run(self._engine.runtime.sessions(query))

    def change(self, do: str, ids: list[str], **more: Any) -> list[str]:
        work: Callable[..., Any] = getattr(self._engine.runtime, do)
        found: list[str] = self._runner.run(work(ids, **more))
        return found

    def trash(self) -> list[tuple[str, datetime]]:
        return self._runner.run(self._engine.runtime.trash())

    def clean(self, *, dry_run: bool, confirmed: bool, progress: Callable[[int], None]) -> list[CleanupReport]:
        from hl7core.engine.cleaning import clean

        async def tell(item: CleanupProgress) -> None:
            progress(item.deleted)

        return self._runner.run(
            clean(self._engine.runtime, self._engine.news, dry_run=dry_run, confirmed=confirmed, progress=tell)
        )

    def import_sessions(
        self, *, source: str = "", files: Sequence[str] = (), empty: bool = False
    ) -> Iterator[ImportReport]:
        from hl7core.engine.imports import Imports

        imports = Imports(self._engine.parts)
        pages = imports.from_store(source, empty=empty) if source else imports.from_files(files)
        while (report := self._runner.run(_next(pages))) is not None:
            yield report


async def _next(pages: AsyncIterator[ImportReport]) -> ImportReport | None:
    return await anext(pages, None)


def _report(item: Any) -> ImportReport:
    from hl7core.engine.imports import ImportReport

    if not isinstance(item, dict):
        raise EngineError("the answer on the control socket is not an engine's; stop the other program and try again")
    known = {field.name for field in fields(ImportReport)}
    return ImportReport(**{name: value for name, value in item.items() if name in known})


@contextmanager
def open_sessions(
    settings_path: str | None,
    *,
    also_store: str = "",
    plugins: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    or_memory: bool = False,
) -> Iterator[SessionAccess]:
    """Open the stored sessions, through the running engine if there is one.

    ``or_memory``: if its store does not answer, it may answer with the sessions in memory.
    The rest is for the case that none runs: ``also_store`` names a store to attach even if it is disabled, ``plugins``
    are loaded too (they submit nothing, and their periodic jobs do not run), ``overrides`` are settings for this time.
    Raises SettingsError, PluginError and EngineError.
    """
    from hl7core.settings import reading

    settings = load_settings(settings_path)
    client = engine_client(settings)
    if client is not None:
        with client:
            yield _Remote(client, or_memory=or_memory)
        return
    changed = {**(overrides or {}), **({f"plugins.{also_store}.enabled": True} if also_store else {})}
    if changed:
        settings = reading.read(settings.path, changed)
    wanted = (*stores_of(settings), *_redactors_of(settings), *plugins)
    with own_engine(settings, wanted, hand_on=False) as (runner, engine):
        engine.runtime.end_jobs()
        yield _Own(runner, engine)


@contextmanager
def own_engine(settings: Settings, plugins: Sequence[str], *, hand_on: bool) -> Iterator[tuple[asyncio.Runner, Engine]]:
    """Run an engine in this process with ``plugins`` only; it captures nothing.  ``hand_on``: it submits sessions."""
    from hl7core.contract import SourceRequest
    from hl7core.engine.engine import Engine

    engine = Engine(settings, only=plugins, request=SourceRequest(), hand_on=hand_on)
    logging.getLogger("hl7core.engine.news").setLevel(logging.ERROR)  # the command itself says what is wrong
    with asyncio.Runner() as runner:
        runner.run(engine.start())
        try:
            yield runner, engine
        finally:
            runner.run(engine.stop())
