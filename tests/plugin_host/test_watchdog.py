import asyncio
import threading
import time
from types import SimpleNamespace

import pytest

from fakes import registry
from hl7core.errors import PluginError
from hl7core.hookspecs import hookimpl
from hl7core.model.cleanup import CleanupReport
from hl7core.plugin_host.watchdog import Limit, RunningCall, Watchdog
from plugin_host.parts import NOW, PACKET, Clock, notice, service, wait_for


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


def test_a_call_that_returns_while_the_watchdog_checks_leaves_no_mark(watched, monkeypatch):
    call = RunningCall("one", "cleanup", watched.owner, limit=Limit.NONE)
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


def test_a_quick_call_that_returns_while_the_watchdog_checks_does_not_count_from_time_zero(watched):
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


def test_replaced_listeners_are_watched_until_they_return(watched):
    old, new = (RunningCall("one", "on_packet", watched.owner) for _ in range(2))
    watched.dog.watch_listeners([old])
    old.began = watched.clock.now
    watched.dog.watch_listeners([new])
    assert watched.dog.busy("one")
    old.began = 0.0
    watched.dog.watch_listeners([new])
    old.began = watched.clock.now
    assert not watched.dog.busy("one"), "nobody watches it any more"


def test_an_error_while_checking_does_not_end_the_watchdog(watched, monkeypatch, caplog):
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


def test_a_plugin_whose_call_does_not_return_hangs_then_is_quarantined_and_can_be_enabled_again():
    clock, gate, entered = Clock(), threading.Event(), []
    heard = []

    def hear(self, event):
        entered.append(event)
        if event == notice(0):
            gate.wait()
        heard.append(event)

    with service({"one": {"on_event": hear}}, clock=clock) as dispatch:
        dispatch.event(notice(0))
        dispatch.event(notice(1))
        wait_for(lambda: entered)
        clock.now += 3
        dispatch.calls.watchdog.check()
        assert str(dispatch.registry.info("one").state) == "enabled"
        clock.now += 2
        dispatch.calls.watchdog.check()
        assert str(dispatch.registry.info("one").state) == "hanging"
        assert dispatch.registry.info("one").error == "on_event has been running for 4 seconds"
        clock.now += 25
        dispatch.calls.watchdog.check()
        assert str(dispatch.registry.info("one").state) == "quarantined"
        assert not dispatch.calls.watchdog.busy("one")
        asyncio.run(dispatch.registry.enable("one"))
        dispatch.event(notice(2))
        wait_for(lambda: heard == [notice(2)])
        gate.set()
        wait_for(lambda: len(heard) == 2)
        time.sleep(0.02)
        assert heard == [notice(2), notice(0)]
        assert str(dispatch.registry.info("one").state) == "enabled"
        assert [str(change.state) for change in dispatch.changes] == ["enabled", "hanging", "quarantined", "enabled"]


def test_a_plugin_that_is_suspended_is_back_once_its_call_returns():
    clock, gate, entered = Clock(), threading.Event(), threading.Event()

    def clean(self):
        entered.set()
        gate.wait()
        return CleanupReport()

    with service({"one": {"cleanup": clean}}, clock=clock) as dispatch:
        thread = threading.Thread(target=dispatch.cleanup, args=(NOW, False))
        thread.start()
        entered.wait()
        clock.now += 100
        dispatch.calls.watchdog.check()
        assert str(dispatch.registry.info("one").state) == "suspended"
        thread.join()
        ((name, error),) = dispatch.cleanup(NOW, False)
        assert (name, type(error)) == ("one", PluginError)
        gate.set()
        wait_for(lambda: str(dispatch.registry.info("one").state) == "enabled")
        ((_, report),) = dispatch.cleanup(NOW, False)
        assert report == CleanupReport()
        assert str(dispatch.registry.info("one").state) == "enabled"


def test_a_packet_listener_that_hangs_is_reported():
    clock, gate, entered = Clock(), threading.Event(), threading.Event()

    def hear(self):
        entered.set()
        gate.wait()

    with service({"one": {"on_packet": hear}}, clock=clock) as dispatch:
        (listen,) = dispatch.packet_listeners()
        thread = threading.Thread(target=listen, args=([PACKET],))
        thread.start()
        entered.wait()
        clock.now += 6
        dispatch.calls.watchdog.check()
        assert str(dispatch.registry.info("one").state) == "hanging"
        gate.set()
        thread.join()
        assert str(dispatch.registry.info("one").state) == "enabled"


def test_the_watchdog_checks_on_a_thread_of_its_own():
    gate, clock, entered = threading.Event(), Clock(), threading.Event()

    def hear(self):
        entered.set()
        gate.wait()

    with service({"one": {"on_event": hear}}, clock=clock) as dispatch:
        dispatch.event(notice(1))
        entered.wait()
        clock.now += 40
        wait_for(lambda: str(dispatch.registry.info("one").state) == "quarantined")
    gate.set()
