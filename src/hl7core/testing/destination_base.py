"""What the promises of :class:`hl7core.testing.DestinationContract` are tested with: a destination, and its other end.

The other end is what :class:`Receiver` describes; over HTTP it is an :class:`hl7core.testing.HttpReceiver`.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Final, Protocol, Self

import pytest

from hl7core.contract import PluginSettings
from hl7core.model.session import Session
from hl7core.testing.builders import make_session
from hl7core.testing.receiver import Behaviour, HttpReceiver, drops, hangs, receives
from hl7core.testing.runtime import FakeRuntime

__all__ = ["DestinationBase", "Mode", "Receiver", "all_logged", "call"]

_SAFE: Final = ("OPTIONS", "HEAD", "GET")
"""Methods that hand nothing over."""


class Mode(StrEnum):
    """How a receiver treats what comes next."""

    ACCEPT = "accept"
    """Takes it, and says so."""
    REJECT = "reject"
    """Will not have this session (HTTP 400)."""
    REFUSE = "refuse"
    """Will not have us (401)."""
    BUSY = "busy"
    """Says "later" (429)."""
    BREAK = "break"
    """Fails at its own fault (500)."""
    LOSE = "lose"
    """Takes it, and the connection ends before it has said so."""
    HANG = "hang"
    """Never answers."""


class Receiver(Protocol):
    """The other end, as the contract needs it: a context manager that listens while it is entered."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None: ...

    def behave(self, mode: Mode) -> bool:
        """Behave like that from now on; false if that cannot be done."""

    def attempts(self) -> Sequence[str]:
        """Return the idempotency key of each attempt that came, in order, whatever became of it."""

    def taken(self) -> Sequence[str]:
        """Return the session ids that it took, one entry each time."""


class _OverHttp(HttpReceiver):
    """An HttpReceiver that knows the modes."""

    _MODES: ClassVar[dict[Mode, Behaviour]] = {
        Mode.ACCEPT: receives(201, b'{"id":"r-1"}', {"Content-Type": "application/json"}),
        Mode.REJECT: receives(400),
        Mode.REFUSE: receives(401),
        Mode.BUSY: receives(429, headers={"Retry-After": "7"}),
        Mode.BREAK: receives(500),
        Mode.LOSE: drops(),
        Mode.HANG: hangs(),
    }

    def behave(self, mode: Mode) -> bool:
        self.behaviour = self._MODES[mode]
        return True

    def attempts(self) -> Sequence[str]:
        return [request.key for request in list(self.requests) if request.method not in _SAFE]

    def taken(self) -> Sequence[str]:
        return list(self.processed)


class DestinationBase(ABC):
    """How a destination is made, run and asked; see :class:`hl7core.testing.DestinationContract`."""

    secrets: ClassVar[tuple[str, ...]] = ()
    """Texts in the settings that must never be told: passwords, tokens."""

    @abstractmethod
    def make_destination(self) -> Any:
        """Return a destination plugin, neither configured nor started."""

    @abstractmethod
    def settings_for(self, receiver: Any, timeout: float) -> PluginSettings:
        """Return settings that hand sessions to ``receiver``, with ``timeout`` seconds for an attempt."""

    def make_receiver(self) -> Receiver:
        """Return a receiver, not entered yet."""
        return _OverHttp()

    # Helpers.

    def play(self, tmp_path: Path, scene: Callable[[Any, Any], Awaitable[None]], *, timeout: float = 20) -> None:
        """Run ``scene(destination, receiver)`` on an event loop, with both started before and stopped after."""

        async def whole(receiver: Receiver) -> None:
            destination = self.make_destination()
            await self.begin(destination, receiver, tmp_path, seconds=timeout)
            try:
                await scene(destination, receiver)
            finally:
                await call(destination, "stop")

        with self.make_receiver() as receiver:
            receiver.behave(Mode.ACCEPT)
            asyncio.run(whole(receiver))

    async def begin(self, destination: Any, receiver: Receiver, tmp_path: Path, *, seconds: float = 20) -> None:
        """Configure and start ``destination`` as the registry does."""
        await call(destination, "configure", self.settings_for(receiver, seconds))
        await call(destination, "start", FakeRuntime(tmp_path))

    def has(self, destination: Any, hook: str) -> None:
        """Skip what a destination without an optional hook cannot promise."""
        if not hasattr(destination, hook):
            pytest.skip(f"this destination has no {hook}")

    def can(self, receiver: Receiver, mode: Mode) -> None:
        """Let the receiver behave like that; skip what one that cannot do so cannot show."""
        if not receiver.behave(mode):
            pytest.skip(f"this receiver cannot {mode}")

    async def attempt(self, destination: Any, receiver: Receiver, number: int) -> asyncio.Task[Any]:
        """Hand a session on and return the task, once the receiver has heard of it; a call that ends before fails."""
        before = len(receiver.attempts())
        begun = asyncio.create_task(call(destination, "submit_session", make_session(number)))
        while len(receiver.attempts()) == before:
            assert not begun.done(), f"it ended, and the receiver heard nothing: {begun}"  # noqa: S101 - of the contract
            await asyncio.sleep(0.01)
        return begun

    async def failure(self, destination: Any, session: Session) -> Exception:
        """Hand ``session`` on and return what that raises."""
        try:
            await call(destination, "submit_session", session)
        except Exception as error:  # noqa: BLE001 - the test looks at it
            return error
        raise AssertionError("it was told as handed on, and was not")

    def is_async(self) -> bool:
        """Return whether attempts run on the event loop, so that they can be cancelled."""
        return inspect.iscoroutinefunction(self.make_destination().submit_session)


async def call(plugin: Any, hook: str, *values: Any) -> Any:
    """Call ``hook`` as the core does: ``def`` on a thread, ``async def`` here, and not at all if it is not there."""
    function = getattr(plugin, hook, None)
    if function is None:
        return None
    values = values[: len(inspect.signature(function).parameters)]
    if inspect.iscoroutinefunction(function):
        return await function(*values)
    return await asyncio.to_thread(function, *values)


@contextmanager
def all_logged(lines: list[str]) -> Iterator[None]:
    """Collect in ``lines`` all that anybody logs, at DEBUG."""

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(logging.Formatter().format(record))

    root, handler = logging.getLogger(), Collector()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
