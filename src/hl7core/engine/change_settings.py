"""Changing settings on request: written to the settings file and put in force, completely or not at all.

If any part of a change is refused, the files are restored and the settings before it stay in force.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hl7core.engine.apply_settings import SettingsApplier
from hl7core.engine.parts import InForce
from hl7core.engine.reloader import Reloader
from hl7core.errors import SettingsError
from hl7core.plugin_host.registry import Registry
from hl7core.settings import reading
from hl7core.settings.file import change, replace_file
from hl7core.settings.reading import Settings

__all__ = ["SettingsChanger"]


class SettingsChanger:
    """Changes the settings file ``path`` (None: there is none).  ``read`` reads it anew or raises SettingsError."""

    def __init__(
        self,
        path: Path | None,
        *,
        read: Callable[[], Settings],
        applier: SettingsApplier,
        reloader: Reloader,
        registry: Registry,
        in_force: Callable[[], InForce],
    ) -> None:
        self._path = path
        self._read = read
        self._applier = applier
        self._reloader = reloader
        self._registry = registry
        self._in_force = in_force

    async def change(self, changes: dict[str, Any]) -> None:
        """Write ``changes`` ({"core.retention_days": 14}) to the settings file and put them in force.

        Raises SettingsError, and then nothing has changed.
        """
        before = self._in_force()
        blocked = reading.shadowed(before.settings, changes)
        if blocked:
            raise SettingsError(*blocked)
        path = self._path
        if path is None:
            raise SettingsError("there is no settings file to change; create one with `hl7core settings init`")
        files = (path, path.parent / ".secrets.toml")
        async with self._reloader.turn:
            contents = [await asyncio.to_thread(_content, file) for file in files]
            before = self._in_force()
            await self._registry.rediscover()  # what came or went in the meantime is no fault of this change
            known = {*before.problems, *self._registry.problems(before.settings)}
            try:
                secrets = await asyncio.to_thread(self._registry.secret_keys, tuple(changes))
                await asyncio.to_thread(change, path, changes, secrets=secrets)
                problems = await self._applier.apply(await asyncio.to_thread(self._read))
                refused = [problem for problem in problems if problem not in known]
                if refused:
                    raise SettingsError(*refused)  # noqa: TRY301 - undone like every other failure
            except BaseException:
                for file, content in zip(files, contents, strict=True):
                    await asyncio.to_thread(_restore, file, content)
                if self._in_force().settings is not before.settings:
                    await self._applier.apply(before.settings)
                raise
            await self._reloader.adopt(problems)
        self._applier.report(problems)


def _content(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None


def _restore(file: Path, content: bytes | None) -> None:
    """Give ``file`` its old content back, atomically; None: there was no file.  Raises SettingsError."""
    if _content(file) == content:
        return
    if content is None:
        file.unlink()
        return
    replace_file(file, content, new_mode=0o600)
