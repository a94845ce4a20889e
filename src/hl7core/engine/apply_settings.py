"""Applying settings: what is valid comes into force, what is not changes nothing for its plugin and is named."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from hl7core.engine.parts import InForce, Parts
from hl7core.engine.sources import own_request
from hl7core.engine.store_probe import probe_store
from hl7core.errors import Hl7coreError
from hl7core.guard import in_thread, reason_of
from hl7core.model.events import SettingsChanged
from hl7core.settings.reading import Settings
from hl7core.wire.detect import unknown_pins

__all__ = ["SettingsApplier"]

logger = logging.getLogger(__name__)

_STORE: Final = "core.store:"


class SettingsApplier:
    """Applies settings to the ``parts`` of an engine; ``put_in_force`` replaces what the engine goes by."""

    def __init__(self, parts: Parts, put_in_force: Callable[[InForce], None]) -> None:
        self._parts = parts
        self._put_in_force = put_in_force
        self._turn = asyncio.Lock()

    async def apply(self, new: Settings) -> list[str]:
        """Put ``new`` in force as far as it is valid; return one sentence for each thing that was refused."""
        parts = self._parts
        async with self._turn:
            applied = await parts.registry.apply(new)
            problems = list(applied.problems)
            problems += await self._change_store(new)
            if new.output_folder != parts.folder:
                problems.append(f"core.output_folder: {parts.folder} stays in use until the engine is restarted")
            self._put_in_force(parts.in_force()._replace(settings=new))
            self.report_persistence()
            problems += await self.configure_decoding()
            request = parts.sources.request
            if request is not None and request.configured and not request.files:
                request = own_request(new.core)._replace(interfaces=request.interfaces, bpf=request.bpf)
            try:
                await parts.sources.sync(self._with_sources(applied.changed), request)
            except Hl7coreError as error:
                parts.news.notice("capture", f"no packets are captured: {error}")
            self._put_in_force(parts.in_force()._replace(problems=tuple(problems)))
            return problems

    async def retry_plugin(self, name: str) -> None:
        """Enable a plugin again that has failed or was quarantined.  Raises PluginError or SettingsError."""
        parts = self._parts
        async with self._turn:
            await parts.registry.enable(name)
            await self.configure_decoding()
            await parts.sources.sync(self._with_sources([name]))

    def _with_sources(self, names: Sequence[str]) -> list[str]:
        """Return those plugins of ``names`` that provide packets, or did before."""
        owners = self._parts.sources.owners()
        return [name for name in names if name in owners or "open_source" in self._parts.registry.info(name).hooks]

    async def retry_store(self) -> None:
        """Try again to switch to the store that the settings name, if that was refused before."""
        async with self._turn:
            before = self._parts.in_force()
            refused = [problem for problem in before.problems if problem.startswith(_STORE)]
            if before.core.store == before.record or not refused:
                return
            now = await self._change_store(before.settings)
            if now != refused:
                rest = [problem for problem in before.problems if problem not in refused]
                self._put_in_force(self._parts.in_force()._replace(problems=(*rest, *now)))
                self.report((*rest, *now))

    async def _change_store(self, new: Settings) -> list[str]:
        """Make ``new.core.store`` the store of record if it can be written to; return why not if it cannot.

        Until then the registry keeps the old store running, even if the settings disable it.
        """
        parts = self._parts
        old, wanted = parts.in_force().record, new.core.store
        if wanted == old:
            return []
        stays = f"{old} stays the store of record"
        if wanted not in parts.dispatch.stores.attached_stores():
            error = parts.registry.info(wanted).error if wanted in parts.registry.names() else ""
            return [f"{_STORE} {wanted} is not running as a store{f' ({error})' if error else ''}; {stays}"]
        try:
            await asyncio.wrap_future(parts.keeper.submit(lambda: probe_store(parts.dispatch, wanted)))
        except Hl7coreError as error:
            return [f"{_STORE} {wanted} cannot be written to ({reason_of(error)}); {stays}"]
        self._put_in_force(parts.in_force()._replace(record=wanted))
        parts.registry.hold(wanted)
        if old not in parts.registry.names():  # a name that was wrong from the start
            logger.info("sessions are saved in %s", wanted)
        elif parts.registry.wanted(old, new):
            logger.info("new sessions are saved in %s; %s stays attached while it is enabled", wanted, old)
        else:
            logger.info("new sessions are saved in %s; %s is disabled", wanted, old)
            await parts.registry.disable(old)
        return []

    async def configure_decoding(self) -> list[str]:
        """Give the decoder the settings and the plugins' dialects; return which pinned protocols nobody decodes."""
        parts = self._parts
        options = parts.in_force().core.decoder_options(parts.sensor)._replace(watch_open=True)
        dialects = await in_thread(parts.dispatch.dialects, name="hl7core-dialects")
        parts.decoding.configure(options, dialects)
        problems = unknown_pins(options, dialects)
        if problems:
            parts.news.notice("protocols", "; ".join(problems))
        else:
            parts.news.resolve("protocols", "every protocol in core.protocols can be decoded")
        return problems

    def report(self, problems: Sequence[str], *, started: bool = False) -> None:
        """Report how settings were applied; ``problems`` is empty if all are in force."""
        news = self._parts.news
        if problems:
            news.notice("settings", "; ".join(problems))
        else:
            news.resolve("settings", "the settings are valid again")
        if not started:
            if not problems:
                logger.info("new settings are in force")
            news.event(SettingsChanged(tuple(problems)))

    def report_persistence(self) -> None:
        """Raise a notice while nothing is saved."""
        if self._parts.in_force().core.enable_persistence:
            self._parts.news.resolve("persistence", "sessions are saved")
        else:
            self._parts.news.notice("persistence", "sessions are not saved: core.enable_persistence is false")
