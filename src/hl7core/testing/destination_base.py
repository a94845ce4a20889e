"""The helpers of :class:`hl7core.testing.DestinationContract`: a destination and the receiver it submits to.

Over HTTP the receiver is an :class:`hl7core.testing.HttpReceiver`.  For anything else (a folder, an MLLP port, a queue)
derive one from :class:`ReceivingEnd`; any object with the methods of :class:`Receiver` will do.
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

__all__ = ["DestinationBase", "Mode", "Receiver", "ReceivingEnd", "all_logged", "call"]

_SAFE: Final = ("OPTIONS", "HEAD", "GET")
"""HTTP methods that submit nothing."""


class Mode(StrEnum):
    """How a receiver treats the attempts that follow."""

    ACCEPT = "accept"
    """Accepts the session and answers."""
    REJECT = "reject"
    """Rejects this session (HTTP 400)."""
    REFUSE = "refuse"
    """Refuses our credentials (401)."""
    BUSY = "busy"
    """Asks for the session again later (429)."""
    BREAK = "break"
    """Fails with an error of its own (500)."""
    LOSE = "lose"
    """Accepts the session, but the connection breaks before the answer."""
    HANG = "hang"
    """Never answers."""


class Receiver(Protocol):
    """What the contract needs of a receiver: a context manager that listens inside its block."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None: ...

    def behave(self, mode: Mode) -> bool:
        """Behave as ``mode`` says from now on; return False if this receiver cannot."""

    def attempts(self) -> Sequence[str]:
        """Return the idempotency key of each attempt that arrived, in order, whatever its outcome."""

    def taken(self) -> Sequence[str]:
        """Return the ids of the sessions that were accepted, one entry each time."""


class ReceivingEnd(ABC):
    """The receiving end of a destination, to derive from: define ``open``, ``close`` and ``taken``.

    That tests everything but the answers of a receiver that fails.  What it can do of that is tested too if ``behave``
    says so; then ``attempts`` must count the attempts that fail.
    """

    @abstractmethod
    def open(self) -> None:
        """Begin to receive.  After a ``close`` it is the same receiver again, at the same place."""

    @abstractmethod
    def close(self) -> None:
        """Be gone: whoever submits now finds nobody there.  What was taken before still counts."""

    @abstractmethod
    def taken(self) -> Sequence[str]:
        """Return the ids of the sessions that were accepted, in the order in which they were.

        A session that was accepted twice appears twice if the receiver can tell, else once.
        """

    def behave(self, mode: Mode) -> bool:
        """Behave as ``mode`` says from now on; return False if this receiver cannot."""
        return mode is Mode.ACCEPT

    def attempts(self) -> Sequence[str]:
        """Return the id of the session in each attempt that arrived, in order, whatever its outcome."""
        return self.taken()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


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
    """How a destination is made and called; see :class:`hl7core.testing.DestinationContract`."""

    secrets: ClassVar[tuple[str, ...]] = ()
    """Texts in the settings that must never appear in logs or errors: passwords, tokens."""

    @abstractmethod
    def make_destination(self) -> Any:
        """Return a destination plugin, neither configured nor started."""

    @abstractmethod
    def settings_for(self, receiver: Any, timeout: float) -> PluginSettings:
        """Return settings that submit to ``receiver``, with ``timeout`` seconds per attempt."""

    def make_receiver(self) -> Receiver:
        """Return a receiver, not entered yet; the default speaks HTTP, for another protocol see ReceivingEnd."""
        return _OverHttp()

    # Helpers.

    def play(self, tmp_path: Path, scene: Callable[[Any, Any], Awaitable[None]], *, timeout: float = 20) -> None:
        """Run ``scene(destination, receiver)`` on an event loop; both are started before it and stopped after it."""

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
        """Skip the test if the destination does not implement this optional hook."""
        if not hasattr(destination, hook):
            pytest.skip(f"this destination has no {hook}")

    def can(self, receiver: Receiver, mode: Mode) -> None:
        """Let the receiver behave as ``mode`` says; skip the test if it cannot."""
        if not receiver.behave(mode):
            pytest.skip(f"this receiver cannot {mode}")

    async def attempt(self, destination: Any, receiver: Receiver, number: int) -> asyncio.Task[Any]:
        """Start submitting a session and return the task once the receiver has the attempt.

        Fails if the call ends before that.
        """
        before = len(receiver.attempts())
        begun = asyncio.create_task(call(destination, "submit_session", make_session(number)))
        while len(receiver.attempts()) == before:
            assert not begun.done(), f"the call ended before the receiver had an attempt: {begun}"  # noqa: S101 - a test
            await asyncio.sleep(0.01)
        return begun

    async def failure(self, destination: Any, session: Session) -> Exception:
        """Submit ``session`` and return the exception that is raised."""
        try:
            await call(destination, "submit_session", session)
        except Exception as error:  # noqa: BLE001 - the test looks at it
            return error
        raise AssertionError("submit_session returned a receipt, but the session was not accepted")

    def is_async(self) -> bool:
        """Return whether attempts run on the event loop, so that they can be cancelled."""
        return inspect.iscoroutinefunction(self.make_destination().submit_session)


async def call(plugin: Any, hook: str, *values: Any) -> Any:
    """Call ``hook`` as the core does, a ``def`` on a thread; do nothing if the plugin does not implement it."""
    function = getattr(plugin, hook, None)
    if function is None:
        return None
    values = values[: len(inspect.signature(function).parameters)]
    if inspect.iscoroutinefunction(function):
        return await function(*values)
    return await asyncio.to_thread(function, *values)


@contextmanager
def all_logged(lines: list[str]) -> Iterator[None]:
    """Collect in ``lines`` everything that is logged, from DEBUG up."""

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
