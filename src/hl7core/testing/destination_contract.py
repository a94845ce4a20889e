"""What every destination must do, as a class of tests to inherit from.

::

    class TestMyDestination(DestinationContract):
        def make_destination(self):
            return MyDestination()

        def settings_for(self, receiver, timeout):
            return MySettings(url=receiver.url, timeout=timeout)

That is all where sessions go over HTTP: they go to an :class:`hl7core.testing.HttpReceiver`.  Elsewhere override
``make_receiver`` too, and return what :class:`Receiver` describes.
"""

# ruff: noqa: D102, S101 - these are tests: their names are their docstrings, and they assert

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Final, Protocol, Self

from hl7core.contract import PluginSettings
from hl7core.errors import (
    DestinationBroken,
    DestinationBusy,
    DestinationUnauthorized,
    DestinationUnreachable,
    SessionRejected,
    SubmitError,
)
from hl7core.model.delivery import Receipt
from hl7core.model.session import Session
from hl7core.testing.builders import make_message, make_session
from hl7core.testing.receiver import Behaviour, HttpReceiver, drops, hangs, receives
from hl7core.testing.runtime import FakeRuntime

__all__ = ["DestinationContract", "Mode", "Receiver"]

_PATIENCE: Final = 30.0


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
        return [request.key for request in list(self.requests)]

    def taken(self) -> Sequence[str]:
        return list(self.processed)


_KINDS: Final[dict[Mode, type[SubmitError]]] = {
    Mode.REJECT: SessionRejected,
    Mode.REFUSE: DestinationUnauthorized,
    Mode.BUSY: DestinationBusy,
    Mode.BREAK: DestinationBroken,
    Mode.LOSE: DestinationUnreachable,
}


class DestinationContract(ABC):
    """Inherit, define ``make_destination`` and ``settings_for``, and pytest does the rest."""

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

    async def failure(self, destination: Any, session: Session) -> Exception:
        """Hand ``session`` on and return what that raises."""
        try:
            await call(destination, "submit_session", session)
        except Exception as error:  # noqa: BLE001 - the test looks at it
            return error
        raise AssertionError("it was told as handed on, and was not")

    # Succeeding.

    def test_what_was_taken_gives_a_receipt(self, tmp_path: Path) -> None:
        async def scene(destination: Any, receiver: Receiver) -> None:
            session = make_session(1)
            assert isinstance(await call(destination, "submit_session", session), Receipt)
            assert list(receiver.taken()) == [session.id]

        self.play(tmp_path, scene)

    def test_every_kind_of_session_can_be_handed_on(self, tmp_path: Path) -> None:
        async def scene(destination: Any, receiver: Receiver) -> None:
            odd = make_session(4, messages=(make_message(4, text=bytes(range(256)), complete=False),), elements=())
            sessions = [
                make_session(1),
                make_session(2, protocol="lis01"),
                make_session(3, protocol="plain"),
                odd._replace(is_complete=False),
                make_session(5, elements=(), messages=()),
                make_session(6, messages=(make_message(6, results=20_000),), elements=()),
            ]
            for session in sessions:
                assert isinstance(await call(destination, "submit_session", session), Receipt)
            assert list(receiver.taken()) == [session.id for session in sessions]

        self.play(tmp_path, scene)

    def test_several_at_once_all_arrive_once(self, tmp_path: Path) -> None:
        async def scene(destination: Any, receiver: Receiver) -> None:
            sessions = [make_session(number) for number in range(20)]
            receipts = await asyncio.gather(*(call(destination, "submit_session", session) for session in sessions))
            assert all(isinstance(receipt, Receipt) for receipt in receipts)
            assert sorted(receiver.taken()) == sorted(session.id for session in sessions)

        self.play(tmp_path, scene)

    def test_a_group_is_handed_on_one_entry_a_session(self, tmp_path: Path) -> None:
        async def scene(destination: Any, receiver: Receiver) -> None:
            if not hasattr(destination, "submit_sessions"):
                return
            sessions = [make_session(number) for number in range(5)]
            entries = await call(destination, "submit_sessions", sessions)
            assert [type(entry) for entry in entries] == [Receipt] * 5
            assert list(receiver.taken()) == [session.id for session in sessions]

        self.play(tmp_path, scene)

    # Failing.

    def test_a_failure_says_what_kind_it_is(self, tmp_path: Path) -> None:
        async def scene(destination: Any, receiver: Receiver) -> None:
            for number, (mode, kind) in enumerate(_KINDS.items()):
                if receiver.behave(mode):
                    error = await self.failure(destination, make_session(number))
                    assert type(error) is kind, (mode, type(error))
                    assert str(error), mode

        self.play(tmp_path, scene)

    def test_nobody_there_is_unreachable(self, tmp_path: Path) -> None:
        async def scene(destination: Any, receiver: Receiver) -> None:
            receiver.__exit__(None, None, None)
            try:
                assert isinstance(await self.failure(destination, make_session(1)), DestinationUnreachable)
            finally:
                receiver.__enter__()
            await call(destination, "submit_session", make_session(1))

        self.play(tmp_path, scene)

    def test_a_call_is_one_attempt(self, tmp_path: Path) -> None:
        async def scene(destination: Any, receiver: Receiver) -> None:
            for number, mode in enumerate(_KINDS):
                if receiver.behave(mode):
                    before = len(receiver.attempts())
                    await self.failure(destination, make_session(number))
                    assert len(receiver.attempts()) == before + 1, mode

        self.play(tmp_path, scene)

    def test_the_key_is_the_same_at_every_attempt_and_another_for_each_session(self, tmp_path: Path) -> None:
        async def scene(destination: Any, receiver: Receiver) -> None:
            first, second = make_session(1), make_session(2)
            receiver.behave(Mode.BREAK)
            await self.failure(destination, first)
            if receiver.behave(Mode.LOSE):
                await self.failure(destination, first)
            receiver.behave(Mode.ACCEPT)
            await call(destination, "submit_session", first)
            await call(destination, "submit_session", second)
            *tries, other = receiver.attempts()
            assert len(tries) >= 2
            assert set(tries) == {first.id}
            assert other == second.id

        self.play(tmp_path, scene)

    def test_a_receiver_that_hangs_ends_with_the_timeout(self, tmp_path: Path) -> None:
        took: list[float] = []

        async def scene(destination: Any, receiver: Receiver) -> None:
            if not receiver.behave(Mode.HANG):
                took.append(0)
                return
            for _ in range(3):  # the best of three: a busy machine delays everything
                began = time.monotonic()
                assert isinstance(await self.failure(destination, make_session(1)), DestinationUnreachable)
                took.append(time.monotonic() - began)
                if took[-1] <= 2:
                    break
            receiver.behave(Mode.ACCEPT)
            await call(destination, "submit_session", make_session(2))

        self.play(tmp_path, scene, timeout=1)
        assert min(took) <= 2, "it must be over a second after the timeout at the latest"

    def test_a_hanging_call_holds_up_no_other(self, tmp_path: Path) -> None:
        async def scene(destination: Any, receiver: Receiver) -> None:
            if not receiver.behave(Mode.HANG):
                return
            hanging = asyncio.ensure_future(self.failure(destination, make_session(1)))
            while not receiver.attempts():
                await asyncio.sleep(0.01)
            receiver.behave(Mode.ACCEPT)
            await call(destination, "submit_session", make_session(2))
            assert not hanging.done()
            hanging.cancel()
            await asyncio.gather(hanging, return_exceptions=True)

        self.play(tmp_path, scene, timeout=60 if self._is_async() else 4)

    def test_a_cancelled_call_ends_and_leaves_nothing_behind(self, tmp_path: Path) -> None:
        async def scene(destination: Any, receiver: Receiver) -> None:
            if not self._is_async() or not receiver.behave(Mode.HANG):
                return
            for number in range(12):  # more than any pool holds
                before = len(receiver.attempts())
                attempt = asyncio.ensure_future(call(destination, "submit_session", make_session(number)))
                while len(receiver.attempts()) == before:
                    await asyncio.sleep(0.01)
                attempt.cancel()
                (ended,) = await asyncio.wait_for(asyncio.gather(attempt, return_exceptions=True), _PATIENCE)
                assert isinstance(ended, asyncio.CancelledError)
            receiver.behave(Mode.ACCEPT)
            assert isinstance(await call(destination, "submit_session", make_session(99)), Receipt)

        self.play(tmp_path, scene, timeout=60)

    def test_no_secret_and_no_content_is_told(self, tmp_path: Path) -> None:
        message = make_message(1, patient="CANARY-PATIENT", specimen="CANARY-SPECIMEN")
        element = make_session(1).elements[0]._replace(span=(0, len(message.text)))
        session = make_session(1, messages=(message,), elements=(element,))
        told: list[str] = []

        async def scene(destination: Any, receiver: Receiver) -> None:
            for mode in _KINDS:
                if receiver.behave(mode):
                    error: BaseException | None = await self.failure(destination, session)
                    while error is not None:
                        told.append(f"{error!r} {error}")
                        error = error.__cause__ or error.__context__
            receiver.behave(Mode.ACCEPT)
            told.append(repr(await call(destination, "submit_session", session)))

        with _all_logged(told):
            self.play(tmp_path, scene)
        assert told
        for text in ("CANARY", "PID|", *self.secrets):
            assert not [line for line in told if text in line], f"{text[:4]}... was told"

    # Its life.

    def test_it_works_again_after_a_stop(self, tmp_path: Path) -> None:
        destination = self.make_destination()

        async def life(receiver: Receiver, number: int) -> None:
            await self.begin(destination, receiver, tmp_path)
            await call(destination, "submit_session", make_session(number))
            await call(destination, "stop")

        with self.make_receiver() as receiver:
            receiver.behave(Mode.ACCEPT)
            for number in range(3):  # each on an event loop of its own
                asyncio.run(life(receiver, number))
            assert len(receiver.taken()) == 3

    def test_new_settings_count_from_the_next_attempt_on(self, tmp_path: Path) -> None:
        with self.make_receiver() as other:
            other.behave(Mode.ACCEPT)

            async def scene(destination: Any, receiver: Receiver) -> None:
                hung = receiver.behave(Mode.HANG)
                attempt = asyncio.ensure_future(self.failure(destination, make_session(1)))
                while hung and not receiver.attempts():
                    await asyncio.sleep(0.01)
                await call(destination, "configure", self.settings_for(other, 20))
                await call(destination, "submit_session", make_session(2))
                assert list(other.taken()) == [make_session(2).id]
                attempt.cancel()
                await asyncio.gather(attempt, return_exceptions=True)

            self.play(tmp_path, scene, timeout=2)

    def _is_async(self) -> bool:
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
def _all_logged(lines: list[str]) -> Iterator[None]:
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
