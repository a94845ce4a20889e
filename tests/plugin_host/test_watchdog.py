import asyncio
import threading
import time
from types import SimpleNamespace

import pytest

from fakes import registry
from hl7core.hookspecs import hookimpl
from hl7core.plugin_host.watchdog import RunningCall, Watchdog


class Clock:
    """Time that moves when told."""

    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        return self.now


class Plugin:
    @hookimpl
    def on_packet(self, packet):
        raise NotImplementedError


@pytest.fixture
def watched():
    """A watchdog over one plugin ``one``, with the plugin as ``owner`` and what was told as ``told``."""
    made, clock, told = registry({"one": Plugin}), Clock(), []
    asyncio.run(made.start(SimpleNamespace()))
    made.listen(lambda change: told.append(str(change.state)))
    return SimpleNamespace(
        dog=Watchdog(made, clock), clock=clock, registry=made, told=told, owner=made.pm.get_plugin("one")
    )


def test_a_call_that_comes_back_while_the_watchdog_looks_leaves_no_mark(watched, monkeypatch):
    call = RunningCall("one", "cleanup", watched.owner, unlimited=True)
    assert watched.dog.enter(call)
    watched.clock.now += 6
    find = watched.registry.pm.get_plugin

    def comes_back(name):
        monkeypatch.undo()
        watched.dog.leave(call)
        return find(name)

    monkeypatch.setattr(watched.registry.pm, "get_plugin", comes_back)
    watched.dog.check()
    assert str(watched.registry.info("one").state) == "enabled"
    assert watched.told == ["hanging", "enabled"]


def test_a_quick_call_that_ends_while_the_watchdog_looks_is_no_call_since_the_beginning_of_time(watched):
    class Ends(RunningCall):
        """A call of a packet listener that ends as soon as somebody has seen that it runs."""

        @property
        def began(self):
            return self.times.pop() if self.times else 0.0

        @began.setter
        def began(self, value):
            self.times = [watched.clock.now - 0.001]

    watched.dog.watch_listeners([Ends("one", "on_packet", watched.owner)])
    watched.dog.check()
    assert watched.told == []


def test_the_next_call_of_a_listener_that_hung_is_a_new_one(watched):
    call = RunningCall("one", "on_packet", watched.owner)
    watched.dog.watch_listeners([call])
    call.began = watched.clock.now
    watched.clock.now += 6
    watched.dog.check()
    assert watched.told == ["hanging"]
    call.began = 0.0
    watched.dog.returned(call)
    call.began = watched.clock.now
    watched.dog.check()
    assert watched.told == ["hanging", "enabled"]


def test_listeners_that_were_let_go_of_are_watched_until_they_return(watched):
    old, new = (RunningCall("one", "on_packet", watched.owner) for _ in range(2))
    watched.dog.watch_listeners([old])
    old.began = watched.clock.now
    watched.dog.watch_listeners([new])
    assert watched.dog.busy("one")
    old.began = 0.0
    watched.dog.watch_listeners([new])
    old.began = watched.clock.now
    assert not watched.dog.busy("one"), "nobody watches it any more"


def test_a_fault_while_looking_does_not_end_the_watching(watched, monkeypatch, caplog):
    looks = []

    def breaks():
        looks.append(threading.current_thread().name)
        raise ValueError("canary")

    monkeypatch.setattr(watched.dog, "check", breaks)
    monkeypatch.setattr(watched.dog._closed, "wait", lambda _seconds: len(looks) >= 3)
    watched.dog.start()
    until = time.monotonic() + 30
    while len(looks) < 3 and time.monotonic() < until:
        time.sleep(0.002)
    watched.dog.close()
    assert looks == ["hl7core-watchdog"] * 3
    assert "checking for plugins that hang failed: ValueError" in caplog.text
    assert "canary" not in caplog.text
