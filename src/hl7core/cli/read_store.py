"""Saving what ``read --store`` decodes: through the enabled store, insert only, beside a running engine or alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime

import click

from hl7core.cli.common import engine_client, load_settings
from hl7core.cli.session_access import stores_of
from hl7core.engine.engine import Engine
from hl7core.engine.session_state import carried, stamp
from hl7core.errors import EngineBusy, PluginError
from hl7core.model.session import Session, SessionQuery
from hl7core.plugin_host.dispatch import Dispatch
from hl7core.settings.reading import Settings

__all__ = ["Saver", "open_saver"]

_GROUP = 256


class Saver:
    """Saves sessions that are not stored yet; one that is stored keeps its status."""

    def __init__(self, dispatch: Dispatch, settings: Settings) -> None:
        self._dispatch = dispatch
        self._settings = settings
        self._waiting: list[Session] = []
        self.saved = 0
        self.known = 0
        self.failed = 0
        self.reason = ""

    def save(self, sessions: Sequence[Session]) -> None:
        """Take sessions; they are saved in groups."""
        self._waiting += sessions
        while len(self._waiting) >= _GROUP:
            self._flush()

    def close(self) -> None:
        """Save what waits."""
        while self._waiting:
            self._flush()

    def summary(self) -> str:
        """Say in one line what was saved."""
        text = f"{self.saved} sessions saved to {self._settings.output_folder}"
        if self.known:
            text += f", {self.known} were stored already"
        if self.failed:
            text += f", {self.failed} could not be saved: {self.reason}"
        return text

    def _flush(self) -> None:
        group, self._waiting = self._waiting[:_GROUP], self._waiting[_GROUP:]
        latest = {session.id: session for session in group}  # a late acknowledgement makes a newer one
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
        """Return what the stores hold of ``ids``, and which: what an earlier store of record holds counts too."""
        record = self._settings.core.store
        found: dict[str, tuple[Session, str]] = {}
        for store in sorted(self._dispatch.stores.attached_stores(), key=lambda name: name != record):
            for session in self._dispatch.stores.load(store, SessionQuery(ids=ids, limit=len(ids))):
                found.setdefault(session.id, (session, store))
        return found


@contextmanager
def open_saver(settings_path: str | None) -> Iterator[Saver]:
    """Open the enabled store for saving.  Raises PluginError if it does not start."""
    settings = load_settings(settings_path)
    core = settings.core
    # An engine that is not started serves as the runtime of the store, and of plugins that change what is saved.
    engine = Engine(settings)
    registry = engine.registry
    hooks = {name for name in registry.names() if registry.wanted(name) and not registry.info(name).bundled}
    registry.load_only((*stores_of(settings), *hooks))
    with ExitStack() as stack:
        try:
            engine.lock.acquire()
            stack.callback(engine.lock.release)
        except EngineBusy:
            click.echo("an engine runs on this folder: sessions are added beside it", err=True)
        runner = stack.enter_context(asyncio.Runner())
        problems = runner.run(registry.start(engine.runtime))
        stack.callback(lambda: runner.run(registry.stop()))
        if core.store not in engine.dispatch.stores.attached_stores():
            raise PluginError(f"the store {core.store} does not start: {'; '.join(problems)}")
        saver = Saver(engine.dispatch, settings)
        yield saver
        saver.close()
        if saver.saved and not engine.lock.held and (client := engine_client(settings)) is not None:
            with client:
                client.find_pending()  # it has not seen them come
