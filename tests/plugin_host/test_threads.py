import asyncio
import threading
import time

import pytest

from fakes import registry, session
from hl7core.hookspecs import hookimpl
from hl7core.model.events import Resync
from hl7core.plugin_host import dispatch as dispatch_module
from hl7core.plugin_host.calls import Calls, NotInService
from hl7core.plugin_host.helper_thread import HelperThread
from hl7core.plugin_host.hook_table import HookTable
from hl7core.plugin_host.threads import Lane, NewsThread, PluginThreads
from plugin_host.parts import FINDING, RUNTIME, notice, service, wait_for


def test_news_keeps_its_order_and_close_waits_for_it():
    heard = []

    def hear(self, event):
        time.sleep(0.0005)
        heard.append(event)

    with service(
        {"one": {"on_event": hear, "on_session_complete": lambda self, session: heard.append(session)}}
    ) as dispatch:
        news = []
        for number in range(100):
            news += [notice(number), session(number)]
            dispatch.event(notice(number))
            dispatch.session_complete(session(number))
        assert dispatch.close() == ()
        assert heard == news
        dispatch.event(notice(1))
        assert len(heard) == 200


def test_close_names_the_plugins_that_did_not_get_all_their_news_in_time():
    forever = threading.Event()
    with service({"slow": {"on_event": lambda self, event: forever.wait()}}) as dispatch:
        dispatch.event(notice(1))
        assert dispatch.close(0.05) == ("slow",)
    forever.set()


def test_a_slow_plugin_makes_nobody_wait_and_one_resync_reports_what_it_missed(monkeypatch):
    monkeypatch.setattr(NewsThread.__init__, "__defaults__", (5,))
    gate = threading.Event()
    slow, quick = [], []

    def crawl(self, event):
        slow.append(event)
        gate.wait()

    with service(
        {"slow": {"on_event": crawl}, "quick": {"on_event": lambda self, event: quick.append(event)}}
    ) as dispatch:
        dispatch.event(notice(0))
        wait_for(lambda: len(slow) == 1)
        for number in range(1, 21):
            dispatch.event(notice(number))
            wait_for(lambda number=number: len(quick) == number + 1)
        gate.set()
        wait_for(lambda: len(slow) == 7)
        assert slow == [*map(notice, range(6)), Resync(15)]
        dispatch.event(notice(21))
        wait_for(lambda: len(slow) == 8)


def test_a_plugin_out_of_service_gets_no_more_of_its_queued_news():
    gate = threading.Event()
    heard = []

    def hear(self, event):
        heard.append(event)
        gate.wait()

    with service({"one": {"on_event": hear}}) as dispatch:
        for number in range(10):
            dispatch.event(notice(number))
        wait_for(lambda: heard)
        assert dispatch.calls.watchdog.busy("one")
        dispatch.registry.fail("one", "enough")
        gate.set()
        wait_for(lambda: not dispatch.calls.watchdog.busy("one"))
        time.sleep(0.02)
        assert heard == [notice(0)]


def test_plugins_come_and_go_while_news_flows_and_the_others_miss_none():
    heard = []
    kinds = {"stays": {"on_event": lambda self, event: heard.append(event)}, "goes": {"on_event": lambda self: None}}
    with service(kinds) as dispatch:

        async def run():
            for _ in range(20):
                await dispatch.registry.disable("goes")
                await dispatch.registry.enable("goes")

        toggling = threading.Thread(target=asyncio.run, args=(run(),))
        toggling.start()
        sent = 0
        while toggling.is_alive():
            dispatch.event(notice(sent))
            sent += 1
            time.sleep(0.0002)
        toggling.join()
        assert dispatch.close() == ()
        assert heard == [notice(number) for number in range(sent)]


def test_a_diagnose_that_hangs_delays_the_caller_once(monkeypatch):
    monkeypatch.setattr(dispatch_module, "DIAGNOSE_SECONDS", 0.05)
    gate = threading.Event()

    def hang(self, session):
        gate.wait()
        return []

    with service({"bad": {"diagnose": hang}, "good": {"diagnose": lambda self: [FINDING]}}) as dispatch:
        assert dispatch.findings(session()) == (FINDING,)
        began = time.monotonic()
        for _ in range(20):
            assert dispatch.findings(session()) == (FINDING,)
        assert time.monotonic() - began < 1
        gate.set()
        time.sleep(0.05)
        assert dispatch.findings(session()) == (FINDING,)
        assert "no answer within" in dispatch.changes[-1].error


def test_a_helper_thread_that_has_ended_is_not_waited_for():
    helper = HelperThread("one")
    assert helper.ask(lambda: "heard", seconds=30) == "heard"
    helper.end()
    for _ in range(2):
        with pytest.raises(NotInService):
            helper.ask(lambda: "never heard", seconds=1_000_000)


def test_no_thread_is_started_to_ask_a_plugin_that_has_gone():
    def threads():
        return [thread.name for thread in threading.enumerate() if thread.name == "hl7core-ask-goes-rules"]

    made = registry({"goes": type("Plugin", (), {"diagnose": hookimpl(lambda self: [FINDING])})})
    plugin_threads = PluginThreads(Calls(made))
    table = HookTable(made, plugin_threads.follow)
    asyncio.run(made.start(RUNTIME))
    gone = table.of("goes", "diagnose")
    asyncio.run(made.disable("goes"))
    asyncio.run(made.enable("goes"))
    here = table.of("goes", "diagnose")
    assert plugin_threads.helper(here, Lane.RULES).ask(lambda: "asked", seconds=30) == "asked"
    with pytest.raises(NotInService):
        plugin_threads.helper(gone, Lane.RULES)
    assert len(threads()) == 1
    plugin_threads.close(time.monotonic())
    with pytest.raises(NotInService):
        plugin_threads.helper(here, Lane.RULES)
    wait_for(lambda: not threads())
