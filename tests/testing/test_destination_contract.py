"""The contract of destinations: one that goes over nothing like HTTP keeps it, and each way to break it is noticed."""

from __future__ import annotations

import asyncio
import logging
import threading
from uuid import uuid4

import pytest
from pydantic import ConfigDict

from hl7core import (
    DestinationBroken,
    DestinationBusy,
    DestinationSettings,
    DestinationUnauthorized,
    DestinationUnreachable,
    Hl7coreError,
    Receipt,
    SessionRejected,
)
from hl7core.testing import DestinationContract, make_session
from hl7core.testing.destination_contract import Mode

ERRORS = {
    Mode.REJECT: SessionRejected, Mode.REFUSE: DestinationUnauthorized, Mode.BUSY: DestinationBusy,
    Mode.BREAK: DestinationBroken, Mode.LOSE: DestinationUnreachable,
}  # fmt: skip


class Drawer:
    """A receiver in memory."""

    def __init__(self):
        self.mode = Mode.ACCEPT
        self.open = threading.Event()
        self.keys = []
        self.ids = []

    def __enter__(self):
        self.open.set()
        return self

    def __exit__(self, *_error):
        self.open.clear()

    def behave(self, mode):
        self.mode = mode
        return True

    def attempts(self):
        return list(self.keys)

    def taken(self):
        return list(self.ids)

    def put(self, session, key):
        if not self.open.is_set():
            raise DestinationUnreachable("the drawer is shut")
        self.keys.append(key)
        if self.mode in (Mode.ACCEPT, Mode.LOSE):
            self.ids.append(session.id)
        if self.mode is Mode.HANG:
            return False
        if self.mode in ERRORS:
            raise ERRORS[self.mode](f"the drawer says {self.mode}")
        return True


class DrawerSettings(DestinationSettings):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    drawer: Drawer


class Clerk:
    """A destination without ``async def``."""

    def configure(self, settings):
        self.settings = settings

    def submit_session(self, session):
        settings = self.settings
        if not settings.drawer.put(session, session.id):
            threading.Event().wait(settings.timeout)
            raise DestinationUnreachable("no answer in time")
        return Receipt()


class ClerkContract(DestinationContract):
    clerk = Clerk

    def make_receiver(self):
        return Drawer()

    def make_destination(self):
        return self.clerk()

    def settings_for(self, receiver, timeout):
        return DrawerSettings(drawer=receiver, timeout=timeout)


class TestClerk(ClerkContract):
    """Every promise, kept without HTTP and without an event loop."""


class TestAsyncClerk(ClerkContract):
    class clerk(Clerk):  # noqa: N801 - it stands where a class attribute does
        async def submit_session(self, session):
            settings = self.settings
            if not settings.drawer.put(session, session.id):
                await asyncio.sleep(settings.timeout)
                raise DestinationUnreachable("no answer in time")
            return Receipt()

        async def submit_sessions(self, sessions):
            return [await self.submit_session(session) for session in sessions]

        async def reach_destination(self, seconds):
            if self.settings.drawer.mode is Mode.HANG:
                await asyncio.sleep(seconds)
                raise DestinationUnreachable("it is stuck")
            if not self.settings.drawer.open.is_set():
                raise DestinationUnreachable("the drawer is shut")
            return "the drawer is open"


class Impatient(Clerk):
    def submit_session(self, session):
        for _ in range(3):
            try:
                return super().submit_session(session)
            except DestinationBroken as error:
                last = error
        raise last


class Optimist(Clerk):
    def submit_session(self, session):
        try:
            return super().submit_session(session)
        except DestinationBusy:
            return Receipt()


class Vague(Clerk):
    def submit_session(self, session):
        try:
            return super().submit_session(session)
        except SessionRejected:
            raise DestinationBroken("something went wrong") from None


class Forgetful(Clerk):
    def submit_session(self, session):
        self.settings.drawer.put(session, str(uuid4()))
        return Receipt()


class Sleepy(Clerk):
    def submit_session(self, session):
        if not self.settings.drawer.put(session, session.id):
            threading.Event().wait(4 * self.settings.timeout)
            raise DestinationUnreachable("no answer in time")
        return Receipt()


class Gossip(Clerk):
    def submit_session(self, session):
        try:
            return super().submit_session(session)
        except SessionRejected:
            raise SessionRejected(f"refused: {session.messages[0].text!r}") from None


class Diarist(Clerk):
    def submit_session(self, session):
        logging.getLogger("diary").debug("handing on %r", session.messages[0].text)
        return super().submit_session(session)


class Stubborn(Clerk):
    def configure(self, settings):
        self.settings = getattr(self, "settings", settings)


class Careless(Clerk):
    def submit_session(self, session):
        if len(session.messages) != 2:
            raise KeyError("no reply")
        return super().submit_session(session)


class Silent(Clerk):
    def submit_session(self, session):
        return Receipt()


class Pushy(Clerk):
    def reach_destination(self):
        self.submit_session(make_session(1))
        return "the drawer is open"


class Hopeful(Clerk):
    def reach_destination(self):
        return "the drawer is surely open"


@pytest.mark.parametrize(
    ("clerk", "promise"),
    [
        (Impatient, "test_a_call_is_one_attempt"),
        (Optimist, "test_a_failure_says_what_kind_it_is"),
        (Vague, "test_a_failure_says_what_kind_it_is"),
        (Forgetful, "test_the_key_is_the_same_at_every_attempt_and_another_for_each_session"),
        (Sleepy, "test_a_receiver_that_hangs_ends_with_the_timeout"),
        (Gossip, "test_no_secret_and_no_content_is_told"),
        (Diarist, "test_no_secret_and_no_content_is_told"),
        (Stubborn, "test_new_settings_count_from_the_next_attempt_on"),
        (Careless, "test_every_kind_of_session_can_be_handed_on"),
        (Pushy, "test_asked_whether_it_can_be_reached_it_says_so_and_hands_nothing_on"),
        (Hopeful, "test_asked_whether_it_can_be_reached_it_says_so_and_hands_nothing_on"),
        (Hopeful, "test_asked_whether_a_receiver_that_hangs_can_be_reached_it_answers_in_time"),
        (Silent, "test_a_hanging_call_holds_up_no_other"),
        (Silent, "test_new_settings_count_from_the_next_attempt_on"),
    ],
)
def test_a_broken_promise_is_noticed(clerk, promise, tmp_path):
    contract = ClerkContract()
    contract.clerk = clerk
    with pytest.raises((AssertionError, pytest.fail.Exception, KeyError, Hl7coreError)):
        getattr(contract, promise)(tmp_path)


class Obliging(Drawer):
    """One that can do nothing but accept."""

    def behave(self, mode):
        return mode is Mode.ACCEPT


@pytest.mark.parametrize(
    ("promise", "reason"),
    [
        ("test_a_failure_says_what_kind_it_is", "cannot fail"),
        ("test_a_call_is_one_attempt", "cannot fail"),
        ("test_the_key_is_the_same_at_every_attempt_and_another_for_each_session", "cannot fail"),
        ("test_a_receiver_that_hangs_ends_with_the_timeout", "cannot hang"),
        ("test_a_hanging_call_holds_up_no_other", "cannot hang"),
        ("test_a_cancelled_call_ends_and_leaves_nothing_behind", "plain def"),
        ("test_a_group_is_handed_on_one_entry_a_session", "no submit_sessions"),
    ],
)
def test_what_cannot_be_shown_is_skipped_with_the_reason(promise, reason, tmp_path):
    contract = ClerkContract()
    contract.make_receiver = Obliging
    with pytest.raises(pytest.skip.Exception, match=reason):
        getattr(contract, promise)(tmp_path)


@pytest.mark.parametrize("clerk", [Clerk, Diarist])
def test_what_is_told_is_looked_at_even_if_the_receiver_never_fails(clerk, tmp_path):
    contract = ClerkContract()
    contract.clerk, contract.make_receiver = clerk, Obliging
    if clerk is Clerk:
        contract.test_no_secret_and_no_content_is_told(tmp_path)
        return
    with pytest.raises(AssertionError):
        contract.test_no_secret_and_no_content_is_told(tmp_path)
