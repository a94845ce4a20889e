"""The reloader: a changed settings file comes into force within a second; an invalid one changes nothing.

It watches the *folder*, because a watched file is lost at its second atomic replacement, and also looks every second,
because some file systems send no notifications.  Content decides: at any sign of a change the files are hashed, and
each new content is applied, or reported as invalid, once.  A file that is gone, empty or half written is read again
for half a second before it counts as invalid; then the settings in force stay in force.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from hl7core.errors import SettingsError
from hl7core.settings.reading import Settings

__all__ = ["Reloader"]

logger = logging.getLogger(__name__)

_POLL: Final = 1.0
_PATIENCE: Final = 0.5
_AGAIN: Final = 0.1
_DEBOUNCE_MS: Final = 50
_MAX_BYTES: Final = 4 << 20


class Reloader:
    """Watches the settings files that belong to ``path``.

    ``read`` returns Settings or raises SettingsError; ``apply`` puts them in force and returns what it refused;
    ``report`` is called with the problems of each new content, empty if there are none.
    """

    def __init__(
        self,
        path: Path,
        *,
        read: Callable[[], Settings],
        apply: Callable[[Settings], Awaitable[Sequence[str]]],
        report: Callable[[tuple[str, ...]], None],
    ) -> None:
        self._path = path
        self._files = (path, path.parent / ".secrets.toml", path.with_suffix(".local.toml"))
        self._read = read
        self._apply = apply
        self._report = report
        self._seen = self._digest()
        self._filled = bool(self._text(path).strip())
        self._turn = asyncio.Lock()
        self._sign = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._stop = asyncio.Event()
        self.problems: tuple[str, ...] = ()

    def start(self) -> None:
        """Start watching."""
        self._tasks = [
            asyncio.create_task(self._watch(), name="hl7core-settings-watch"),
            asyncio.create_task(self._run(), name="hl7core-settings"),
        ]

    async def stop(self) -> None:
        """Stop watching."""
        self._stop.set()
        self._sign.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def check(self) -> tuple[str, ...]:
        """Look at the files now; return the problems with their content."""
        async with self._turn:
            digest = await asyncio.to_thread(self._digest)
            if digest != self._seen:
                await self._apply_new(digest)
            return self.problems

    async def adopt(self, problems: Sequence[str]) -> None:
        """Note that the content of the files was put in force by the caller, with these problems."""
        self._seen = await asyncio.to_thread(self._digest)
        self.problems = tuple(problems)

    @property
    def turn(self) -> asyncio.Lock:
        """The lock to hold while changing the files, so that they are not read half changed."""
        return self._turn

    async def _run(self) -> None:
        while not self._stop.is_set():
            with suppress(TimeoutError):  # with or without a sign, it is time to look
                await asyncio.wait_for(self._sign.wait(), _POLL)
            self._sign.clear()
            try:
                await self.check()
            except Exception as error:  # noqa: BLE001 - the next change is looked at again
                logger.error("the settings files cannot be checked (%s)", type(error).__name__)  # noqa: TRY400

    async def _watch(self) -> None:
        from watchfiles import awatch  # a compiled module that most commands do not need

        names = {file.name for file in self._files}
        try:
            async for changes in awatch(
                self._path.parent, recursive=False, debounce=_DEBOUNCE_MS, step=20, stop_event=self._stop
            ):
                # A swapped symbolic link shows by another name, so only what is clearly another file is ignored.
                others = [name for _, name in changes if os.path.basename(name) not in names]  # noqa: PTH119
                if len(others) < len(changes) or not all(map(os.path.isfile, others)):
                    self._sign.set()
        except OSError as error:
            logger.warning(
                "%s cannot be watched (%s); it is checked every second instead", self._path.parent, type(error).__name__
            )

    async def _apply_new(self, digest: str) -> None:
        """Apply a content that was not seen before; an invalid one may still be being written, so wait a little."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _PATIENCE
        while True:
            try:
                settings = await asyncio.to_thread(self._read_nonempty)
                break
            except SettingsError as error:
                if loop.time() < until:
                    await asyncio.sleep(_AGAIN)
                    newer = await asyncio.to_thread(self._digest)
                    if newer == self._seen:
                        return  # it is back to what it was
                    if newer != digest:
                        digest, until = newer, min(until + _PATIENCE, loop.time() + _PATIENCE)
                    continue
                self._seen = digest
                self.problems = tuple(f"{problem}; the settings in force stay" for problem in error.problems)
                self._report(self.problems)
                return
        self._seen = digest
        self.problems = tuple(await self._apply(settings))
        self._report(self.problems)

    def _read_nonempty(self) -> Settings:
        filled = bool(self._text(self._path).strip())
        if self._filled and not filled:
            raise SettingsError(f"{self._path}: is gone or empty")
        settings = self._read()
        self._filled = filled
        return settings

    def _digest(self) -> str:
        """Return a hash over the files' content."""
        total = hashlib.blake2b(digest_size=16)
        for file in self._files:
            text = self._text(file)
            total.update(len(text).to_bytes(8, "big") + text)
        return total.hexdigest()

    @staticmethod
    def _text(file: Path) -> bytes:
        try:
            with file.open("rb") as opened:
                return opened.read(_MAX_BYTES)
        except OSError:
            return b""  # gone or unreadable: reported when it is read
