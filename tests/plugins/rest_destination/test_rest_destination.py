"""The plugin: its life, and 10,000 sessions through a bad connection."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import subprocess
import sys

import pytest

from hl7core import DestinationUnreachable, Receipt
from hl7core.testing import FakeRuntime, make_session
from hl7core.testing.receiver import drops, hangs, receives
from hl7core_plugins.rest_destination import RestSettings
from plugins.rest_destination.parts import play


def test_without_an_endpoint_it_says_once_that_it_is_off(caplog):
    caplog.set_level(logging.INFO)

    async def scene(destination):
        destination.configure(RestSettings(concurrency=3))
        with pytest.raises(DestinationUnreachable, match="no endpoint"):
            await destination.submit_session(make_session(1))

    play(scene)
    assert caplog.text.count("has no endpoint") == 1


@pytest.mark.parametrize(("endpoint", "imported"), [("", False), ("https://lis.example/", True)])
def test_httpx_is_imported_only_for_an_endpoint(endpoint, imported):
    script = (
        "import sys\nfrom hl7core_plugins.rest_destination import RestDestination, RestSettings\n"
        f"RestDestination().configure(RestSettings(endpoint={endpoint!r}))\nprint('httpx' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str(imported)


def test_new_settings_close_the_old_connections_when_they_are_idle(receiver, tmp_path):
    async def scene(destination):
        loop = asyncio.get_running_loop()
        runtime = FakeRuntime(tmp_path)
        runtime.call = lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, loop)
        destination.start(runtime)
        await destination.submit_session(make_session(1))
        receiver.script = [hangs()]
        hanging = asyncio.ensure_future(destination.submit_session(make_session(2)))
        while len(receiver.requests) < 2:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(destination.configure, RestSettings(endpoint=receiver.url, performer="new"))
        await destination.submit_session(make_session(3))
        assert not hanging.done()  # it ends as it began
        hanging.cancel()
        await asyncio.gather(hanging, return_exceptions=True)
        assert destination._retired == []
        await destination.submit_session(make_session(4))

    play(scene, endpoint=receiver.url)
    assert "performer" not in receiver.requests[1].json
    assert all(request.json["performer"] == "new" for request in receiver.requests[2:])
    assert receiver.connections == 2


def test_a_stop_ends_what_is_under_way(receiver):
    async def scene(destination):
        receiver.behaviour = hangs()
        hanging = asyncio.ensure_future(destination.submit_session(make_session(1)))
        while not receiver.requests:
            await asyncio.sleep(0.01)
        await destination.stop()
        (ended,) = await asyncio.wait_for(asyncio.gather(hanging, return_exceptions=True), 10)
        assert isinstance(ended, DestinationUnreachable)
        with pytest.raises(DestinationUnreachable, match="stopped"):
            await destination.submit_session(make_session(2))

    play(scene, endpoint=receiver.url, timeout=60)


def test_a_large_session_goes_out_by_the_settings_it_began_with(receiver, monkeypatch):
    monkeypatch.setattr("hl7core_plugins.rest_destination._LARGE", 0)  # so that every body is made off the event loop

    async def scene(destination):
        await destination.submit_session(make_session(1))
        attempt = asyncio.ensure_future(destination.submit_session(make_session(2)))
        await asyncio.sleep(0)
        destination.configure(RestSettings(endpoint=receiver.url, performer="new"))
        await destination._close_retired()
        assert await attempt == Receipt()
        assert destination._retired == []

    play(scene, endpoint=receiver.url)
    assert "performer" not in receiver.requests[1].json


def test_10_000_sends_to_a_receiver_that_loses_a_third_of_its_answers(receiver):
    """None is lost, and none is doubled once the receiver has looked at the ids."""
    draw = random.Random(5)
    draws = [draw.random() < 1 / 3 for _ in range(100_000)]
    lose, take = drops(), receives()
    receiver.next = lambda: lose if draws.pop() else take
    template = make_session(1)
    sessions = [template._replace(id=make_session(1, start_ns=template.start_ns + n * 10**6).id) for n in range(10_000)]
    waiting = list(reversed(sessions))
    attempts = []

    async def scene(destination):
        async def one_after_the_other():
            while waiting:
                session = waiting.pop()
                for attempt in range(1, 100):
                    try:
                        await destination.submit_session(session)
                    except DestinationUnreachable:
                        continue
                    attempts.append(attempt)
                    break

        await asyncio.gather(*(one_after_the_other() for _ in range(10)))

    play(scene, endpoint=receiver.url, concurrency=10)
    assert len(attempts) == 10_000
    assert len(receiver.processed) == sum(attempts) > 14_000
    assert set(receiver.processed) == {session.id for session in sessions}
    bodies = {(request.key, request.body) for request in receiver.requests}
    assert len(bodies) == 10_000  # so by the key or by sessionId, what came again is the same
    assert all(key == json.loads(body)["sessionId"] for key, body in bodies)
