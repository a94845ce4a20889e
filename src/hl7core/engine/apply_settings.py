"""Settling: how new settings come into force, in a file's words or a person's.

What is right is applied, what is wrong changes nothing for whom it concerns and is named.  A change that a person asks
for is whole or not at all: if any of it is refused, the files are as they were.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hl7core.engine.store_probe import probe
from hl7core.engine.stores import reason_of
from hl7core.errors import Hl7coreError, SettingsError
from hl7core.guard import in_thread
from hl7core.model.events import SettingsChanged
from hl7core.settings import reading
from hl7core.settings.file import change, replace_file
from hl7core.settings.reading import Settings
from hl7core.wire.detect import unknown_pins

if TYPE_CHECKING:
    from hl7core.engine.engine import Engine

__all__ = ["Settling"]

logger = logging.getLogger(__name__)

_STORE = "core.store:"


class Settling:
    """Puts settings in force in ``engine``."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._turn = asyncio.Lock()

    async def apply(self, new: Settings) -> list[str]:
        """Put ``new`` in force as far as it is right; return a sentence for each thing that was refused."""
        engine = self._engine
        async with self._turn:
            applied = await engine.registry.apply(new)
            problems = list(applied.problems)
            problems += await self._store(new)
            if new.output_folder != engine.folder:
                problems.append(f"core.output_folder: {engine.folder} stays until the engine is started again")
            engine.settings = new
            engine.limit()
            self.persistence()
            problems += await self.decoding()
            request = engine.sources.request
            if request is not None and request.configured and not request.files:
                request = engine.own_request()._replace(interfaces=request.interfaces, bpf=request.bpf)
            try:
                await engine.sources.sync(self._with_sources(applied.changed), request)
            except Hl7coreError as error:
                engine.news.notice("capture", f"no packets are captured: {error}")
            engine.problems = tuple(problems)
            return problems

    def _with_sources(self, names: Sequence[str]) -> list[str]:
        """Return those of ``names`` that offer packets, or did."""
        engine = self._engine
        owners = engine.sources.owners()
        return [name for name in names if name in owners or "open_source" in engine.registry.info(name).hooks]

    async def change(self, changes: dict[str, Any]) -> None:
        """Write ``changes`` to the settings file and put them in force.  Raises SettingsError, changing nothing."""
        engine = self._engine
        blocked = reading.shadowed(engine.settings, changes)
        if blocked:
            raise SettingsError(*blocked)
        path = engine.path
        if path is None:
            raise SettingsError("there is no settings file to change; `hl7core settings init` makes one")
        files = (path, path.parent / ".secrets.toml")
        async with engine.reloader.turn:
            before = [await asyncio.to_thread(_content, file) for file in files]
            known, in_force = set(engine.problems), engine.settings
            try:
                secrets = await asyncio.to_thread(engine.registry.secret_keys, tuple(changes))
                await asyncio.to_thread(change, path, changes, secrets=secrets)
                problems = await self.apply(await asyncio.to_thread(engine.read_settings))
                refused = [problem for problem in problems if problem not in known]
                if refused:
                    raise SettingsError(*refused)  # noqa: TRY301 - undone like every other failure
            except BaseException:
                for file, content in zip(files, before, strict=True):
                    await asyncio.to_thread(_put_back, file, content)
                if engine.settings is not in_force:
                    await self.apply(in_force)
                raise
            await engine.reloader.adopt(problems)
        self.tell(tuple(problems))

    def tell(self, problems: Sequence[str], *, started: bool = False) -> None:
        """Say how settings were taken: what is wrong with them, or that they are in force."""
        news = self._engine.news
        if problems:
            news.notice("settings", "; ".join(problems))
        else:
            news.settle("settings", "the settings are right again")
        if not started:
            if not problems:
                logger.info("new settings are in force")
            news.event(SettingsChanged(tuple(problems)))

    async def decoding(self) -> list[str]:
        """Decode new connections as the settings and the plugins' dialects say now; say which pins nobody speaks."""
        engine = self._engine
        options = engine.settings.core.decoder_options(engine.sensor)._replace(watch_open=True)
        dialects = await in_thread(engine.dispatch.dialects, name="hl7core-dialects")
        engine.decoding.configure(options, dialects)
        problems = unknown_pins(options, dialects)
        if problems:
            engine.news.notice("protocols", "; ".join(problems))
        else:
            engine.news.settle("protocols", "every protocol that core.protocols names is spoken")
        return problems

    def persistence(self) -> None:
        """Say it once if nothing is saved."""
        news = self._engine.news
        if self._engine.settings.core.enable_persistence:
            news.settle("persistence", "sessions are saved")
        else:
            news.notice("persistence", "sessions are not saved: core.enable_persistence is false")

    async def again(self) -> None:
        """Try once more to go over to the store that the settings name, if that was refused."""
        engine = self._engine
        async with self._turn:
            settings = engine.settings
            before = [problem for problem in engine.problems if problem.startswith(_STORE)]
            if settings.core.store == engine.record or not before:
                return
            now = await self._store(settings)
            if now != before:
                rest = [problem for problem in engine.problems if problem not in before]
                engine.problems = (*rest, *now)
                self.tell(engine.problems)

    async def _store(self, new: Settings) -> list[str]:
        """Go over to another store of record if one can write to it; else the old one stays, and runs on.

        The registry holds the old one in service until then, whatever the settings say of it.
        """
        engine = self._engine
        old, wanted = engine.record, new.core.store
        if wanted == old:
            return []
        stays = f"{old} stays in force"
        if wanted not in engine.dispatch.stores.attached_stores():
            known = wanted in engine.registry.names()
            error = engine.registry.info(wanted).error if known else ""
            return [f"{_STORE} {wanted} does not run as a store{f' ({error})' if error else ''}; {stays}"]
        try:
            await asyncio.wrap_future(engine.keeper.submit(lambda: probe(engine.dispatch, wanted)))
        except Hl7coreError as error:
            return [f"{_STORE} {wanted} cannot be written to ({reason_of(error)}); {stays}"]
        engine.record = wanted
        engine.registry.hold(wanted)
        if old not in engine.registry.names():  # a name that was wrong from the start
            logger.info("sessions go to %s", wanted)
        elif engine.registry.wanted(old, new):
            logger.info("new sessions go to %s; %s stays attached while it is enabled", wanted, old)
        else:
            logger.info("new sessions go to %s; %s is disabled", wanted, old)
            await engine.registry.disable(old)
        return []


def _content(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None


def _put_back(file: Path, content: bytes | None) -> None:
    """Make ``file`` what it was, whole at every moment.  Raises SettingsError."""
    if _content(file) == content:
        return
    if content is None:
        file.unlink()
        return
    replace_file(file, content, new_mode=0o600)
