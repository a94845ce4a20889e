"""The tests that every destination must pass, as a class to inherit from.

::

    class TestMyDestination(DestinationContract):
        def make_destination(self):
            return MyDestination()

        def settings_for(self, receiver, timeout):
            return MySettings(url=receiver.url, timeout=timeout)

That is all for a destination that submits over HTTP: the receiver is an :class:`hl7core.testing.HttpReceiver`.  For
anything else, return a receiver of your own from ``make_receiver``: a :class:`hl7core.testing.ReceivingEnd`, which has
three methods to define.

::

    class Folder(ReceivingEnd):
        def __init__(self): self.path = Path(mkdtemp()) / "drop"
        def open(self): self.path.mkdir(exist_ok=True)
        def close(self): self.path.rename(...)
        def taken(self): return [path.stem for path in self.path.iterdir()]

What the receiver cannot do, such as refusing a session, is not tested, and the skipped test says so.
"""

# ruff: noqa: D102, S101 - these are tests: their names are their docstrings, and they assert

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from hl7core.errors import (
    DestinationBroken,
    DestinationBusy,
    DestinationUnauthorized,
    DestinationUnreachable,
    SessionRejected,
    SubmitError,
)
from hl7core.model.delivery import Receipt
from hl7core.testing.builders import make_message, make_session
from hl7core.testing.destination_base import DestinationBase, Mode, Receiver, ReceivingEnd, all_logged, call

__all__ = ["DestinationContract", "Mode", "Receiver", "ReceivingEnd"]

_PATIENCE: Final = 30.0


_KINDS: Final[dict[Mode, type[SubmitError]]] = {
    Mode.REJECT: SessionRejected,
    Mode.REFUSE: DestinationUnauthorized,
    Mode.BUSY: DestinationBusy,
    Mode.BREAK: DestinationBroken,
    Mode.LOSE: DestinationUnreachable,
}


class DestinationContract(DestinationBase):
    """Inherit, define ``make_destination`` and ``settings_for``, and pytest does the rest."""

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
            self.has(destination, "submit_sessions")
            sessions = [make_session(number) for number in range(5)]
            entries = await call(destination, "submit_sessions", sessions)
            assert [type(entry) for entry in entries] == [Receipt] * 5
            assert list(receiver.taken()) == [session.id for session in sessions]

        self.play(tmp_path, scene)

    # Failing.

    def test_a_failure_says_what_kind_it_is(self, tmp_path: Path) -> None:
        async def scene(destination: Any, receiver: Receiver) -> None:
            for number, mode in enumerate(_some(receiver, *_KINDS)):
                kind = _KINDS[mode]
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
            for number, mode in enumerate(_some(receiver, *_KINDS)):
                before = len(receiver.attempts())
                await self.failure(destination, make_session(number))
                assert len(receiver.attempts()) == before + 1, mode

        self.play(tmp_path, scene)

    def test_the_key_is_the_same_at_every_attempt_and_another_for_each_session(self, tmp_path: Path) -> None:
        async def scene(destination: Any, receiver: Receiver) -> None:
            first, second = make_session(1), make_session(2)
            for mode in _some(receiver, Mode.BREAK, Mode.LOSE):
                assert await self.failure(destination, first), mode
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
            self.can(receiver, Mode.HANG)
            for _ in range(3):  # the best of three: a busy machine delays everything
                began = time.monotonic()
                assert isinstance(await self.failure(destination, make_session(1)), DestinationUnreachable)
                took.append(time.monotonic() - began)
                if took[-1] <= 2:
                    break
            receiver.behave(Mode.ACCEPT)
            await call(destination, "submit_session", make_session(2))

        self.play(tmp_path, scene, timeout=1)
        assert min(took) <= 2, "the call must end within a second after the timeout"

    def test_a_hanging_call_holds_up_no_other(self, tmp_path: Path) -> None:
        async def scene(destination: Any, receiver: Receiver) -> None:
            self.can(receiver, Mode.HANG)
            hanging = await self.attempt(destination, receiver, 1)
            receiver.behave(Mode.ACCEPT)
            await call(destination, "submit_session", make_session(2))
            assert not hanging.done()
            hanging.cancel()
            await asyncio.gather(hanging, return_exceptions=True)

        self.play(tmp_path, scene, timeout=60 if self.is_async() else 4)

    def test_a_cancelled_call_ends_and_leaves_nothing_behind(self, tmp_path: Path) -> None:
        async def scene(destination: Any, receiver: Receiver) -> None:
            if not self.is_async():
                pytest.skip("this destination's submit_session is a plain def, which cannot be cancelled")
            self.can(receiver, Mode.HANG)
            for number in range(12):  # more than a connection pool holds
                attempt = await self.attempt(destination, receiver, number)
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
            for _ in filter(receiver.behave, _KINDS):
                error: BaseException | None = await self.failure(destination, session)
                while error is not None:
                    told.append(f"{error!r} {error}")
                    error = error.__cause__ or error.__context__
            receiver.behave(Mode.ACCEPT)
            told.append(repr(await call(destination, "submit_session", session)))

        with all_logged(told):
            self.play(tmp_path, scene)
        assert told
        for text in ("CANARY", "PID|", *self.secrets):
            assert not [line for line in told if text in line], f"{text[:4]}... appears in a log line or an error"

    # Being asked whether the receiver can be reached.

    def test_asked_whether_it_can_be_reached_it_says_so_and_hands_nothing_on(self, tmp_path: Path) -> None:
        async def scene(destination: Any, receiver: Receiver) -> None:
            self.has(destination, "reach_destination")
            answer = await call(destination, "reach_destination", _PATIENCE)
            assert isinstance(answer, str)
            assert answer
            assert not [secret for secret in self.secrets if secret in answer]
            assert list(receiver.taken()) == list(receiver.attempts()) == []
            receiver.__exit__(None, None, None)
            try:
                with pytest.raises(DestinationUnreachable):
                    await call(destination, "reach_destination", _PATIENCE)
            finally:
                receiver.__enter__()
            assert list(receiver.taken()) == []

        self.play(tmp_path, scene)

    def test_asked_whether_a_receiver_that_hangs_can_be_reached_it_answers_in_time(self, tmp_path: Path) -> None:
        async def scene(destination: Any, receiver: Receiver) -> None:
            self.has(destination, "reach_destination")
            self.can(receiver, Mode.HANG)
            with pytest.raises(DestinationUnreachable):
                await asyncio.wait_for(call(destination, "reach_destination", 0.5), _PATIENCE)

        self.play(tmp_path, scene, timeout=300)

    # Lifecycle.

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
                attempts = [await self.attempt(destination, receiver, 1)] if receiver.behave(Mode.HANG) else []
                await call(destination, "configure", self.settings_for(other, 20))
                await call(destination, "submit_session", make_session(2))
                assert list(other.taken()) == [make_session(2).id]
                for attempt in attempts:
                    attempt.cancel()
                await asyncio.gather(*attempts, return_exceptions=True)

            self.play(tmp_path, scene, timeout=2)


def _some(receiver: Receiver, *modes: Mode) -> Iterator[Mode]:
    """Let ``receiver`` fail in each of these ways that it can, and yield it; skip the test if it can in none."""
    tried = False
    for mode in modes:
        if receiver.behave(mode):
            tried = True
            yield mode
    if not tried:
        pytest.skip(f"this receiver cannot fail ({', '.join(modes)})")
