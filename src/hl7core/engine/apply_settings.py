"""Applying settings: what is valid comes into force, what is not changes nothing for its plugin and is named."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from hl7core.atomic_file import replace_atomically
from hl7core.engine.capture.sources import own_request
from hl7core.engine.parts import InForce, Parts
from hl7core.engine.store_probe import PROBE_ID, probe_store
from hl7core.engine.stores import PAGE
from hl7core.errors import Hl7coreError
from hl7core.guard import describe, in_thread, reason_of
from hl7core.hl7.query import sort_key
from hl7core.model.events import SettingsChanged
from hl7core.model.session import Session, SessionQuery
from hl7core.plugin_host.discovery import installed_stamp
from hl7core.settings.reading import Settings
from hl7core.wire.detect import unknown_pins

__all__ = ["SettingsApplier", "hidden_sessions", "safe_mode_sentence"]

logger = logging.getLogger(__name__)

_STORE: Final = "core.store:"
_INSTALLED: Final = "installed-"
_HIDDEN: Final = "hidden-"
_HIDDEN_FILE: Final = "hidden.json"
_COUNTING: Final = 5.0
_LOOK: Final = 1.0


class _Hidden(NamedTuple):
    """How many sessions are out of sight; not ``exact``: there may be more."""

    sessions: int
    exact: bool = True

    def sentence(self, store: str) -> str:
        """Return what it means that ``store`` was switched off."""
        back = f"out of sight until it is enabled (hl7core plugins enable {store})"
        if not self.exact:
            least = f" ({self.sessions:,} were counted)" if self.sessions else ""
            return f"{store} is disabled: the sessions in it{least} are {back}"
        what = "session in it is" if self.sessions == 1 else "sessions in it are"
        return f"{store} is disabled: {self.sessions:,} {what} {back}"


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
            leaving = [name for name in self._attached() if not parts.registry.wanted(name, new)]
            counts = {name: await self._count_hidden(name, leaving) for name in leaving}
            applied = await parts.registry.apply(new)
            self.report_installed()
            self.report_safe_mode(new)
            problems = list(applied.problems)
            problems += await self._change_store(new)
            await self._report_hidden(counts)
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
            counts = {old: await self._count_hidden(old, [old])}
            await parts.registry.disable(old)
            await self._report_hidden(counts)
        return []

    # Stores that are switched off.

    def _attached(self) -> tuple[str, ...]:
        return self._parts.dispatch.stores.attached_stores()

    async def _count_hidden(self, store: str, leaving: Sequence[str]) -> _Hidden:
        """Count the sessions that only ``store`` holds, of the stores that stay when those ``leaving`` are gone.

        That takes a few seconds at most; then the number is not exact.
        """
        parts = self._parts
        load = parts.dispatch.stores.load
        others = [name for name in self._attached() if name not in leaving]
        count, until = 0, time.monotonic() + _COUNTING
        query = SessionQuery(limit=PAGE)

        def page() -> tuple[list[Session], int]:
            found = list(load(store, query) or ())
            only = {session.id for session in found}
            for other in others:
                if only:
                    held = load(other, SessionQuery(ids=tuple(only), limit=len(only))) or ()
                    only -= {session.id for session in held}
            return found, len(only - {PROBE_ID})

        try:
            while time.monotonic() < until:
                job = asyncio.wrap_future(parts.keeper.submit(page, gives_way=True))
                done, _ = await asyncio.wait({job}, timeout=until - time.monotonic())
                if not done:  # a store that hangs may be why it is switched off
                    job.cancel()
                    break
                found, more = job.result()
                count += more
                if len(found) < PAGE:
                    return _Hidden(count)
                query = query._replace(after=sort_key(found[-1]))
        except Hl7coreError as error:
            logger.warning("the sessions in %s cannot be counted: %s", store, reason_of(error))
        return _Hidden(count, exact=False)

    async def recall_hidden(self) -> None:
        """Raise the notices of earlier runs about stores that were switched off, as far as they still are."""
        attached = self._attached()
        for store, text in (await asyncio.to_thread(hidden_sessions, self._parts.folder)).items():
            if store not in attached:
                self._parts.news.notice(f"{_HIDDEN}{store}", text)
        await self._report_hidden({})

    async def _report_hidden(self, counts: Mapping[str, _Hidden]) -> None:
        """Raise a notice for each store that was switched off, if it holds sessions; withdraw it once it is back.

        The notices are kept in the data folder, for ``doctor`` and for the next start.
        """
        news, attached, today = self._parts.news, self._attached(), self._parts.now()
        for store, hidden in counts.items():
            if store not in attached and (hidden.sessions or not hidden.exact):
                news.notice(f"{_HIDDEN}{store}", f"{hidden.sentence(store)}; disabled on {today:%Y-%m-%d}")
        for key, _ in news.notices:
            if key.startswith(_HIDDEN) and key.removeprefix(_HIDDEN) in attached:
                news.resolve(key, f"{key.removeprefix(_HIDDEN)} is enabled again, and its sessions are found")
        texts = {key.removeprefix(_HIDDEN): text for key, text in news.notices if key.startswith(_HIDDEN)}
        try:
            await asyncio.to_thread(_keep, self._parts.folder, texts)
        except OSError as error:
            logger.warning("%s cannot be written (%s)", self._parts.folder / _HIDDEN_FILE, reason_of(error))

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
            self._parts.news.notice(
                "persistence", "sessions are not saved: core.enable_persistence is false, or --no-store was given"
            )


def safe_mode_sentence(left_out: Sequence[str]) -> str:
    """Return what safe mode does; ``left_out`` are the plugins that the settings enable and that it leaves out."""
    if not left_out:
        return "safe mode: bundled plugins alone (the settings enable no others)"
    return f"safe mode: bundled plugins alone; left out: {', '.join(left_out)}"


def hidden_sessions(folder: Path) -> dict[str, str]:
    """Return, by store, what the data folder remembers of sessions that were out of sight when it was disabled."""
    try:
        found = json.loads((folder / _HIDDEN_FILE).read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be read (%s)", folder / _HIDDEN_FILE, describe(error))
        return {}
    return {str(store): str(text) for store, text in found.items()} if isinstance(found, dict) else {}


def _keep(folder: Path, texts: dict[str, str]) -> None:
    if texts != hidden_sessions(folder):
        replace_atomically(folder / _HIDDEN_FILE, json.dumps(texts, indent=1).encode() + b"\n", mode=0o600)
