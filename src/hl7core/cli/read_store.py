"""Saving the sessions that ``read --store`` decodes to the store of record, with or without a running engine.

Sessions that are stored already are not changed, except that a late acknowledgement is added.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime

import click

from hl7core.cli.load_settings import load_settings
from hl7core.cli.output.text import counted
from hl7core.cli.session_access import engine_client, stores_of
from hl7core.engine.engine import Engine
from hl7core.engine.session_state import carried, stamp
from hl7core.errors import EngineBusy, PluginError, StoreError
from hl7core.model.session import Session, SessionQuery
from hl7core.plugin_host.dispatch import Dispatch
from hl7core.plugin_host.redactors import Redactors
from hl7core.settings.reading import Settings

__all__ = ["Saver", "open_saver"]

_GROUP = 256


class Saver:
    """Saves sessions in groups.  ``saved``, ``known`` and ``failed`` count them; ``reason`` is the last failure."""

    def __init__(self, dispatch: Dispatch, settings: Settings) -> None:
        self._dispatch = dispatch
        self._settings = settings
        self._waiting: list[Session] = []
        self.saved = 0
        self.known = 0
        self.failed = 0
        self.reason = ""

    def save(self, sessions: Sequence[Session]) -> None:
        """Add sessions to be saved."""
        self._waiting += sessions
        while len(self._waiting) >= _GROUP:
            self._flush()

    def close(self) -> None:
        """Save the sessions that are still waiting."""
        while self._waiting:
            self._flush()

    def summary(self) -> str:
        """Return in one line what was saved."""
        text = f"{counted(self.saved, 'session')} saved to {self._settings.output_folder}"
        if self.known:
            text += f", {self.known:,} already stored"
        if self.failed:
            text += f", {self.failed:,} could not be saved: {self.reason}"
        return text

    def _flush(self) -> None:
        group, self._waiting = self._waiting[:_GROUP], self._waiting[_GROUP:]
        latest = {session.id: session for session in group}  # a late acknowledgement makes a newer version
        store, core = self._settings.core.store, self._settings.core
        known = self._known(tuple(latest))
        now = datetime.now(UTC)
        destinations = self._dispatch.destinations()
        work: dict[tuple[str, bool], list[Session]] = {}
        for session in latest.values():
            there, place = known.get(session.id, (None, store))
            if there is None:
                made = stamp(session, now, core.retention_days, destinations)
            elif session.revision and len(session.elements) > len(there.elements):
                made = stamp(carried(session, there), now, core.retention_days, ())
            else:
                self.known += 1
                continue
            work.setdefault((place, there is not None), []).append(made)
        for (place, replace), sessions in work.items():
            for result in self._dispatch.stores.persist(place, sessions, replace):
                if isinstance(result, Exception):
                    self.failed += 1
                    self.reason = str(result)
                else:
                    self.saved += 1

    def _known(self, ids: tuple[str, ...]) -> dict[str, tuple[Session, str]]:
        """Return the stored sessions among ``ids``, each with its store: an earlier store of record counts too."""
        record = self._settings.core.store
        found: dict[str, tuple[Session, str]] = {}
        for store in sorted(self._dispatch.stores.attached_stores(), key=lambda name: name != record):
            for session in self._dispatch.stores.load(store, SessionQuery(ids=ids, limit=len(ids))):
                found.setdefault(session.id, (session, store))
        return found


def _check(redactors: Redactors) -> None:
    """Raise StoreError if nothing may be saved, because a plugin that changes what is saved does not run."""
    problem = redactors.problem()
    if problem:
        raise StoreError(problem)


@contextmanager
def open_saver(settings_path: str | None) -> Iterator[Saver]:
    """Open the store of record for saving.  Raises SettingsError, and PluginError if the store does not start."""
    settings = load_settings(settings_path)
    core = settings.core
    # The engine is never started: it is the runtime of the store, and of plugins that change what is saved.
    engine = Engine(settings)
    registry = engine.registry
    hooks = {name for name in registry.names() if registry.wanted(name) and not registry.info(name).bundled}
    registry.load_only((*stores_of(settings), *hooks))
    with ExitStack() as stack:
        try:
            engine.lock.acquire()
            stack.callback(engine.lock.release)
        except EngineBusy:
            click.echo("an engine is running on this data folder; sessions are added to its store", err=True)
        runner = stack.enter_context(asyncio.Runner())
        problems = runner.run(registry.start(engine.runtime))
        stack.callback(lambda: runner.run(registry.stop()))
        if core.store not in engine.dispatch.stores.attached_stores():
            raise PluginError(f"the store {core.store} does not start: {'; '.join(problems)}")
        redactors = engine.dispatch.redactors
        _check(redactors)
        redactors.remember()
        saver = Saver(engine.dispatch, settings)
        yield saver
        saver.close()
        _check(redactors)
        if saver.saved and not engine.lock.held and (client := engine_client(settings)) is not None:
            with client:
                client.find_pending()  # the engine does not know of these sessions yet
