"""A destination that submits, and what came of it."""

from __future__ import annotations

import asyncio
import socket
from contextlib import contextmanager

from hl7core import Receipt, SubmitError
from hl7core.testing import HttpReceiver, make_session
from hl7core_plugins.rest_destination import RestDestination, RestSettings

LIMIT = 0.6
"""Seconds that an attempt gets where it is not to end before: fewer than the settings allow."""
SECRET = "Bearer SECRET-CANARY-8f3a"


def play(scene, *, seconds=None, **settings):
    """Run ``scene(destination)`` with a destination that has these settings; return what it returns.

    ``seconds``: a timeout shorter than the settings allow.
    """

    async def life():
        destination = RestDestination()
        made = RestSettings(**settings)
        destination.configure(made if seconds is None else made.model_copy(update={"timeout": seconds}))
        try:
            return await scene(destination)
        finally:
            await destination.stop()

    return asyncio.run(life())


def submitting(session=None, **settings):
    """Submit one session and return the receipt, or the error that was raised."""

    async def scene(destination):
        try:
            return await destination.submit_session(session or make_session(1))
        except SubmitError as error:
            return error

    return play(scene, **settings)


def check_outcome(behaviour, kind, text):
    with HttpReceiver() as receiver:
        receiver.behaviour = behaviour
        outcome = submitting(endpoint=receiver.url)
    assert len(receiver.requests) == 1
    assert type(outcome) is kind, outcome
    if kind is Receipt:
        assert outcome.reference == text
    else:
        assert text in str(outcome)
        assert "CANARY" not in str(outcome)
        assert outcome.retry_after is None


@contextmanager
def silent_port(*, full=False):
    """A port that accepts connections and says nothing; ``full``: whose queue of connections is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0 if full else 16)
        filling = []
        for _ in range(4 if full else 0):
            filling.append(socket.socket())
            filling[-1].setblocking(False)
            filling[-1].connect_ex(listener.getsockname())
        try:
            yield listener.getsockname()[1]
        finally:
            for connection in filling:
                connection.close()
