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
from hl7core.guard import describe, in_thread, reason_of
from hl7core.model.events import SettingsChanged
from hl7core.plugin_host.discovery import installed_stamp
from hl7core.settings.reading import Settings
from hl7core.wire.detect import unknown_pins

__all__ = ["SettingsApplier", "safe_mode_sentence"]

logger = logging.getLogger(__name__)

_STORE: Final = "core.store:"
_INSTALLED: Final = "installed-"
_LOOK: Final = 1.0


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
            self.report_installed()
            self.report_safe_mode(new)
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

    def _with_sources(self, names: Sequence[str]) -> list[str]:
        """Return those plugins of ``names`` that provide packets, or did before."""
        owners = self._parts.sources.owners()
        return [name for name in names if name in owners or "open_source" in self._parts.registry.info(name).hooks]

    async def follow_installed(self) -> None:
        """Take up plugins as they are installed, upgraded or removed, for as long as the engine runs."""
        if not self._parts.registry.follows_installed:
            return
        seen = await asyncio.to_thread(installed_stamp)
        while True:
            await asyncio.sleep(_LOOK)
            stamp = await asyncio.to_thread(installed_stamp)
            if stamp == seen:
                continue
            seen = stamp
            try:
                before = self._parts.in_force()
                problems = await self.apply(before.settings)
                if tuple(problems) != before.problems:
                    self.report(problems)
            except Exception as error:  # noqa: BLE001 - the next change is looked at again
                logger.error("what was installed cannot be taken up (%s)", describe(error))  # noqa: TRY400

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
            info = parts.registry.info(wanted) if wanted in parts.registry.names() else None
            reason = info.error or info.note if info is not None else ""
            return [f"{_STORE} {wanted} is not running as a store{f' ({reason})' if reason else ''}; {stays}"]
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

    def report_installed(self) -> None:
        """Raise a notice for each package that was upgraded or removed while its code is in use."""
        news, notes = self._parts.news, self._parts.registry.installed_notes()
        for package, note in notes.items():
            news.notice(f"{_INSTALLED}{package}", note)
        for key, _ in news.notices:
            if key.startswith(_INSTALLED) and key.removeprefix(_INSTALLED) not in notes:
                news.resolve(key, f"{key.removeprefix(_INSTALLED)} is in use as it is installed")

    def report_safe_mode(self, settings: Settings) -> None:
        """Raise a notice, in safe mode, that says which plugins are left out; it changes with ``settings``."""
        registry = self._parts.registry
        if registry.safe_mode:
            self._parts.news.notice("safe-mode", safe_mode_sentence(registry.left_out(settings)))

    def report_persistence(self) -> None:
        """Raise a notice while nothing is saved."""
        if self._parts.in_force().core.enable_persistence:
            self._parts.news.resolve("persistence", "sessions are saved")
        else:
            self._parts.news.notice("persistence", "sessions are not saved: core.enable_persistence is false")


def safe_mode_sentence(left_out: Sequence[str]) -> str:
    """Return what safe mode does; ``left_out`` are the plugins that the settings enable and that it leaves out."""
    if not left_out:
        return "safe mode: bundled plugins alone (the settings enable no others)"
    return f"safe mode: bundled plugins alone; left out: {', '.join(left_out)}"
