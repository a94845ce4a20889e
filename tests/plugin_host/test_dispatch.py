import asyncio
import contextlib
import logging
import threading
import time
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from fakes import registry, session, settings
from hl7core.contract import DestinationSettings, SourceRequest, SourceStats
from hl7core.errors import DestinationUnreachable, InterfaceMissing, PluginError, SourceError, StoreError
from hl7core.hookspecs import hookimpl
from hl7core.model.cleanup import CleanupReport
from hl7core.model.delivery import Receipt
from hl7core.model.events import NoticeRaised, Resync
from hl7core.model.finding import Finding, Severity
from hl7core.model.frame import Frame, FrameKind
from hl7core.model.packet import Interface, Packet
from hl7core.model.session import SessionQuery
from hl7core.plugin_host import dispatch as dispatch_module
from hl7core.plugin_host.dispatch import Dispatch, NotInService
from hl7core.plugin_host.threads import HelperThread, NewsThread
from hl7core.wire.framing.framer import Dialect

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PACKET = Packet(b"x", 1, 1, Interface())
RUNTIME = SimpleNamespace()
ERRORS = [
    ValueError("canary"),
    SystemExit("canary"),
    GeneratorExit("canary"),
    StopIteration("canary"),
    asyncio.CancelledError("canary"),
]


class Clock:
    """Time that moves when told."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@contextlib.contextmanager
def service(plugins, tables=None, clock=time.monotonic):
    """A dispatch over running plugins, given as classes or as dicts of hooks; ``told`` collects what changed."""
    kinds = {
        name: kind if isinstance(kind, type) else type("Plugin", (), {hook: hookimpl(do) for hook, do in kind.items()})
        for name, kind in plugins.items()
    }
    made = registry(kinds, tables)
    told = []
    dispatch = Dispatch(made, told.append, clock)
    dispatch.told = told
    dispatch.registry = made
    asyncio.run(made.start(RUNTIME))
    assert all(str(info.state) == "enabled" for info in made.infos() if info.enabled), made.infos()
    try:
        yield dispatch
    finally:
        dispatch.close(0)


def wait_for(condition, seconds=5.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.002)


def notice(number):
    return NoticeRaised(str(number), "text")


class Source:
    """Enough of a source."""

    name = "fake"

    def run(self, emit):
        """Emit nothing."""

    def stop(self):
        """Nothing to stop."""

    def stats(self):
        return SourceStats()

    def interfaces(self):
        return ()


def dialect(**changes):
    made = Dialect("vendor", lambda opener, other: 3, lambda largest, offset: Lines(offset), turns=True)
    return made._replace(**changes)


class Lines:
    """A framer of lines."""

    name = "vendor"

    def __init__(self, offset):
        self.start = offset
        self.data = b""

    @property
    def pending(self):
        return len(self.data)

    def feed(self, data):
        self.data += data
        frames = []
        while b"\n" in self.data:
            raw, _, self.data = self.data.partition(b"\n")
            frames.append(Frame(FrameKind.BLOCK, self.start, raw + b"\n"))
            self.start += len(raw) + 1
        return frames

    def skip(self, count):
        frames = [*self.close(), Frame(FrameKind.GAP, self.start, b"", missing=count)]
        self.start += count
        return frames

    def settle(self):
        return []

    def close(self):
        raw, self.data = self.data, b""
        frames = [Frame(FrameKind.STRAY, self.start, raw)] if raw else []
        self.start += len(raw)
        return frames


# A plugin that raises costs nobody else anything.

FINDING = Finding("odd", Severity.INFO, "odd")


def good(said):
    return {
        "on_packet": lambda self, packet: said.append(packet),
        "on_session_complete": lambda self, session: said.append(session),
        "on_event": lambda self, event: said.append(event),
        "persist_session": lambda self, session, replace: "here",
        "load_sessions": lambda self, query: [session(1)],
        "delete_sessions": lambda self, ids: list(ids),
        "restore_sessions": lambda self, ids: list(ids),
        "empty_trash": lambda self, before: CleanupReport(deleted=1),
        "submit_session": lambda self, session: Receipt("r"),
        "cleanup": lambda self, now, dry_run: CleanupReport(deleted=2),
        "open_source": lambda self, request: Source(),
        "register_framers": lambda self: [dialect()],
        "diagnose": lambda self, session: [FINDING],
    }


def everything(dispatch, said):
    """Ask for all that the good plugin offers; return the answers."""
    for listen in dispatch.packet_listeners():
        listen(PACKET)
    dispatch.session_complete(session(7))
    dispatch.event(notice(7))
    wait_for(lambda: len(said) == 3)
    entries = dict(dispatch.cleanup(NOW, False))
    return (
        said,
        dispatch.stores.load("good", SessionQuery()),
        dispatch.stores.delete("good", ["a"], True, NOW),
        dispatch.stores.restore("good", ["a"]),
        dispatch.stores.empty_trash("good", NOW, 100),
        asyncio.run(dispatch.submit("good", session())),
        entries["good"],
        [name for name, _ in dispatch.open_source(SourceRequest())],
        [item.name for item in dispatch.dialects()],
        dispatch.findings(session()),
        dispatch.stores.persist("good", [session()], False),
    )


HOOKS = sorted({*good([]), "persist_sessions"})


HOSTILE = [(hook, error) for hook in HOOKS for error in ERRORS] + [
    (hook, KeyboardInterrupt("canary")) for hook in ("on_session_complete", "on_event", "diagnose")
]  # elsewhere it is Ctrl-C, which passes: see below


@pytest.mark.parametrize(("hook", "error"), HOSTILE, ids=[f"{hook}-{type(error).__name__}" for hook, error in HOSTILE])
def test_whatever_a_plugin_raises_in_whichever_hook_the_others_get_all_they_offer(hook, error, caplog):
    def fail(self):
        raise error

    said = []
    with service({"bad": {hook: fail}, "good": good(said)}) as dispatch:
        answers = everything(dispatch, said)
    heard, loaded, deleted, restored, emptied, receipt, cleaned, sources, dialects, findings, places = answers
    assert sorted(map(str, heard)) == sorted(map(str, [PACKET, session(7), notice(7)]))
    assert (loaded, deleted, restored) == ([session(1)], ["a"], ["a"])
    assert (emptied.deleted, receipt, cleaned.deleted) == (1, Receipt("r"), 2)
    assert (sources, dialects, findings, places) == (["good"], ["vendor"], (FINDING,), ["here"])
    assert "canary" not in caplog.text
    assert "canary" not in str(dispatch.told)


@pytest.mark.parametrize(
    ("hook", "ask"),
    [
        ("on_packet", lambda dispatch: dispatch.packet_listeners()[0](PACKET)),
        ("cleanup", lambda dispatch: dispatch.cleanup(NOW, False)),
    ],
)
def test_ctrl_c_passes_on_the_main_thread(hook, ask):
    def fail(self):
        raise KeyboardInterrupt

    with service({"bad": {hook: fail}}) as dispatch, pytest.raises(KeyboardInterrupt):
        ask(dispatch)


# News.


def test_nobody_listens_to_packets_then_nothing_is_called():
    with service({"one": {"on_event": lambda self, event: None}}) as dispatch:
        assert dispatch.packet_listeners() == ()


def test_a_listener_comes_and_goes_with_its_plugin_and_the_generation_says_so():
    heard = []
    with service({"one": {"on_packet": lambda self, packet: heard.append(packet)}}) as dispatch:
        (listen,) = dispatch.packet_listeners()
        before = dispatch.generation
        assert dispatch.packet_listeners()[0] is listen
        asyncio.run(dispatch.registry.disable("one"))
        assert dispatch.generation != before
        listen(PACKET)
        assert heard == []
        assert dispatch.packet_listeners() == ()


def test_a_listener_may_take_no_argument():
    heard = []
    with service({"one": {"on_packet": lambda self: heard.append(1)}}) as dispatch:
        dispatch.packet_listeners()[0](PACKET)
    assert heard == [1]


def test_news_keep_their_order_and_close_waits_for_them():
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


def test_close_names_who_did_not_hear_all_in_time():
    forever = threading.Event()
    with service({"slow": {"on_event": lambda self, event: forever.wait()}}) as dispatch:
        dispatch.event(notice(1))
        assert dispatch.close(0.05) == ("slow",)
    forever.set()


def test_a_slow_plugin_makes_nobody_wait_and_one_resync_stands_for_what_it_missed(monkeypatch):
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


def test_a_plugin_out_of_service_hears_nothing_more_of_what_was_queued():
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


def test_ten_errors_within_a_minute_take_a_listener_out_of_service():
    clock = Clock()

    def fail(self):
        raise ValueError("canary")

    with service({"bad": {"on_packet": fail}}, clock=clock) as dispatch:
        (listen,) = dispatch.packet_listeners()
        for _ in range(9):
            listen(PACKET)
        clock.now += 61
        for _ in range(9):
            listen(PACKET)
        assert dispatch.registry.running() == ("bad",)
        listen(PACKET)
        assert dispatch.registry.running() == ()
        assert dispatch.packet_listeners() == ()
        info = dispatch.registry.info("bad")
        assert str(info.state) == "failed"
        assert info.error.startswith("taken out of service after 10 errors within a minute; on_packet: ValueError at")
        assert dispatch.told[-1].state == "failed"


def test_an_error_is_told_once_a_minute(caplog):
    clock = Clock()

    def fail(self):
        raise ValueError("canary")

    with service({"bad": {"cleanup": fail}}, clock=clock) as dispatch:
        caplog.clear()
        for _ in range(5):
            dispatch.cleanup(NOW, False)
        clock.now += 60
        dispatch.cleanup(NOW, False)
        lines = [record.message for record in caplog.records]
        assert len(lines) == 2
        assert lines[0].startswith("plugin bad: cleanup: ValueError at test_dispatch.py:")
        assert lines[1].endswith("(and 4 more like it since the last report)")


# Plugins that do not come back.


def test_a_call_that_does_not_return_marks_then_quarantines_its_plugin_and_enabling_brings_it_back():
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
        clock.now += 4
        dispatch.calls.watchdog.check()
        assert str(dispatch.registry.info("one").state) == "enabled"
        clock.now += 2
        dispatch.calls.watchdog.check()
        assert str(dispatch.registry.info("one").state) == "hanging"
        assert dispatch.registry.info("one").error == "on_event has been running for 5 seconds"
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
        assert [str(change.state) for change in dispatch.told] == ["enabled", "hanging", "quarantined", "enabled"]


def test_a_call_that_returns_after_all_ends_the_hanging():
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
        assert str(dispatch.registry.info("one").state) == "hanging", "a cleanup may take long: no quarantine"
        gate.set()
        thread.join()
        assert str(dispatch.registry.info("one").state) == "enabled"


def test_a_packet_listener_that_hangs_is_named():
    clock, gate, entered = Clock(), threading.Event(), threading.Event()

    def hear(self):
        entered.set()
        gate.wait()

    with service({"one": {"on_packet": hear}}, clock=clock) as dispatch:
        (listen,) = dispatch.packet_listeners()
        thread = threading.Thread(target=listen, args=(PACKET,))
        thread.start()
        entered.wait()
        clock.now += 6
        dispatch.calls.watchdog.check()
        assert str(dispatch.registry.info("one").state) == "hanging"
        gate.set()
        thread.join()
        assert str(dispatch.registry.info("one").state) == "enabled"


def test_the_watchdog_looks_by_itself():
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


def test_a_rule_that_hangs_costs_its_seconds_once(monkeypatch):
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
        assert "no answer within" in dispatch.told[-1].error


def test_a_rule_whose_plugin_has_just_gone_is_not_waited_for():
    helper = HelperThread("one", object())
    assert helper.ask(lambda: "heard", 30) == "heard"
    helper.end()
    for _ in range(2):
        with pytest.raises(NotInService):
            helper.ask(lambda: "never heard", 1_000_000)


@pytest.mark.parametrize("answer", [5, ["text"], [None], (FINDING, 1)])
def test_a_rule_that_answers_nonsense_is_not_heard(answer):
    kinds = {"bad": {"diagnose": lambda self: answer}, "good": {"diagnose": lambda self: (item for item in [FINDING])}}
    with service(kinds) as dispatch:
        assert dispatch.findings(session()) == (FINDING,)


def test_a_rule_may_yield_and_may_find_nothing():
    def rules(self, session):
        yield FINDING
        yield FINDING

    with service({"a": {"diagnose": rules}, "b": {"diagnose": lambda self: None}}) as dispatch:
        assert dispatch.findings(session()) == (FINDING, FINDING)


# Stores.


def store(**hooks):
    return {"persist_session": lambda self, session, replace: f"{session.id[:8]} {replace}", **hooks}


def test_only_the_store_that_is_named_is_asked():
    with service({"a": store(), "b": store(persist_session=lambda self: "b")}) as dispatch:
        assert dispatch.stores.attached_stores() == ("a", "b")
        assert dispatch.stores.persist("b", [session()], True) == ["b"]
        assert dispatch.stores.persist("a", [session(3)], True) == ["00000003 True"]
        assert dispatch.stores.persist("a", [], True) == []


def test_a_store_that_is_not_there_or_cannot_is_an_error_in_every_entry():
    with service({"a": store(), "b": {"on_event": lambda self: None}}) as dispatch:
        entries = dispatch.stores.persist("gone", [session(1), session(2)], False)
        assert [str(entry) for entry in entries] == ["the store gone is not in service"] * 2
        assert str(dispatch.stores.persist("b", [session()], False)[0]) == "b does not implement persist_session"
        with pytest.raises(StoreError, match="a does not implement load_sessions"):
            dispatch.stores.load("a", SessionQuery())


def test_several_are_saved_by_the_group_commit_if_there_is_one():
    asked = []

    def several(self, sessions, replace):
        asked.append((len(sessions), replace))
        return ["x", StoreError("full"), ValueError("canary")]

    with service({"a": store(persist_sessions=several)}) as dispatch:
        entries = dispatch.stores.persist("a", [session(1), session(2), session(3)], True)
    assert asked == [(3, True)]
    assert entries[0] == "x"
    assert str(entries[1]) == "full"
    assert isinstance(entries[2], StoreError)
    assert str(entries[2]) == "a: persist_sessions: ValueError"


@pytest.mark.parametrize("answer", [None, [], ["a"], ["a", "b", "c"], ("a", "b"), "ab", [1, 2], 5])
def test_a_group_commit_that_answers_nonsense_saved_nothing(answer):
    with service({"a": store(persist_sessions=lambda self: answer)}) as dispatch:
        entries = dispatch.stores.persist("a", [session(1), session(2)], True)
    assert [type(entry) for entry in entries] == [StoreError, StoreError]


def test_one_session_that_cannot_be_saved_does_not_hinder_the_next():
    def persist(self, session, replace):
        if session.start_ns == 1:
            raise OSError(28, "canary")
        if session.start_ns == 2:
            raise StoreError("refused")
        if session.start_ns == 3:
            return 5
        return None

    with service({"a": store(persist_session=persist)}) as dispatch:
        entries = dispatch.stores.persist("a", [session(number) for number in range(1, 5)], False)
    assert "No space left" in str(entries[0])
    assert "canary" not in str(entries[0])
    assert str(entries[1]) == "refused"
    assert "must return where" in str(entries[2])
    assert entries[3] == ""


def test_what_is_saved_may_be_changed_on_the_way_in_the_order_of_the_tables():
    saved = []
    kinds = {
        "a": {"before_persist": lambda self, session: session._replace(sensor=session.sensor + "a")},
        "b": {"before_persist": lambda self, session: session._replace(sensor=session.sensor + "b")},
        "c": {"before_persist": lambda self, session: None},
        "s": store(persist_session=lambda self, session: saved.append(session) or "x"),
    }
    tables = {name: {"enabled": True} for name in ("b", "c", "a", "s")}
    with service(kinds, tables) as dispatch:
        dispatch.registry.settings = settings(tables)
        dispatch.registry.generation += 1
        assert dispatch.stores.persist("s", [session()], False) == ["x"]
    assert saved == [session(sensor="ba")]


@pytest.mark.parametrize("error", [*ERRORS, None], ids=lambda error: type(error).__name__)
def test_a_session_that_could_not_be_prepared_is_not_saved(error):
    saved = []

    def prepare(self, session):
        if session.start_ns == 2:
            if error is None:
                return session._replace(id="another")
            raise error
        return None

    kinds = {
        "a": {"before_persist": prepare},
        "s": store(persist_session=lambda self, session: saved.append(session) or "x"),
    }
    with service(kinds) as dispatch:
        entries = dispatch.stores.persist("s", [session(1), session(2), session(3)], False)
    assert [entries[0], entries[2]] == ["x", "x"]
    assert isinstance(entries[1], StoreError)
    assert "canary" not in str(entries[1])
    assert saved == [session(1), session(3)]


@pytest.mark.parametrize(
    ("hook", "ask"),
    [
        ("load_sessions", lambda dispatch: dispatch.stores.load("a", SessionQuery())),
        ("delete_sessions", lambda dispatch: dispatch.stores.delete("a", ["x"], True, NOW)),
        ("restore_sessions", lambda dispatch: dispatch.stores.restore("a", ["x"])),
        ("empty_trash", lambda dispatch: dispatch.stores.empty_trash("a", NOW, 100)),
        ("list_trash", lambda dispatch: dispatch.stores.list_trash("a")),
    ],
)
@pytest.mark.parametrize("answer", [*ERRORS, 5, [1], "text"], ids=str)
def test_a_store_that_raises_or_answers_nonsense_is_a_store_error(hook, ask, answer):
    def reply(self):
        if isinstance(answer, BaseException):
            raise answer
        return answer

    with service({"a": {hook: reply}}) as dispatch, pytest.raises(StoreError) as caught:
        ask(dispatch)
    assert "canary" not in str(caught.value)
    assert "a: " in str(caught.value)


@pytest.mark.parametrize("answer", [*ERRORS, -1, True, "text", None], ids=str)
def test_a_store_that_cannot_say_its_size_is_a_store_error(answer):
    def reply(self):
        if isinstance(answer, BaseException):
            raise answer
        return answer

    with service({"a": {"store_size": reply}}) as dispatch, pytest.raises(StoreError, match="a: "):
        dispatch.stores.store_size("a")


def test_what_a_store_need_not_implement_is_a_store_error_that_names_it():
    with service({"a": {"load_sessions": lambda self, query: []}}) as dispatch:
        for hook, ask in (("list_trash", dispatch.stores.list_trash), ("store_size", dispatch.stores.store_size)):
            with pytest.raises(StoreError, match=f"a does not implement {hook}"):
                ask("a")


def test_an_argument_with_a_default_is_given_too():
    def remove(self, ids, to_trash, deleted_at=None, note="mine"):
        assert (to_trash, deleted_at, note) == (True, NOW, "mine")
        return ids

    with service({"a": {"delete_sessions": remove}}) as dispatch:
        assert dispatch.stores.delete("a", ["x"], True, NOW) == ["x"]


def test_no_sessions_may_be_none():
    with service({"a": {"load_sessions": lambda self: None}}) as dispatch:
        assert dispatch.stores.load("a", SessionQuery()) == []


# Destinations.


async def _later(self, session):
    await asyncio.sleep(0)
    return Receipt(session.id[:8])


def _handing_on(self, session):
    return _later(self, session)


@pytest.mark.parametrize("submit", [_later, lambda self, session: Receipt(session.id[:8]), _handing_on])
def test_a_destination_may_be_async_or_not(submit):
    with service({"a": {"submit_session": submit}}) as dispatch:
        assert dispatch.destinations() == ("a",)
        assert asyncio.run(dispatch.submit("a", session(5))) == Receipt("00000005")


class _WithEndpoint(DestinationSettings):
    endpoint: str = ""

    @property
    def active(self):
        return bool(self.endpoint)


def test_only_destinations_that_are_active_by_their_settings_are_handed_sessions():
    hooks = {"submit_session": lambda self: Receipt(), "register_settings": lambda self: _WithEndpoint}
    tables = {"on": {"enabled": True, "endpoint": "there", "concurrency": 7}, "off": {"enabled": True}}
    with service({"on": hooks, "off": hooks, "plain": {"submit_session": lambda self: Receipt()}}, tables) as dispatch:
        assert set(dispatch.destinations()) == {"on", "plain"}
        assert set(dispatch.destinations(inactive=True)) == {"on", "off", "plain"}
        assert dispatch.destination_settings("on").concurrency == 7
        assert dispatch.destination_settings("plain") == DestinationSettings(enabled=True)


def test_several_sessions_are_handed_over_in_one_call_an_entry_each():
    async def several(self, sessions):
        return [Receipt(one.id[:8]) if one.start_ns % 2 else ValueError() for one in sessions]

    hooks = {"submit_session": lambda self: Receipt(), "submit_sessions": several}
    with service({"a": hooks, "b": {"submit_session": lambda self: Receipt()}}) as dispatch:
        assert dispatch.takes_many("a")
        assert not dispatch.takes_many("b")
        first, second = asyncio.run(dispatch.submit_many("a", [session(1), session(2)]))
    assert first == Receipt("00000001")
    assert isinstance(second, ValueError)


@pytest.mark.parametrize("answer", [None, [], [Receipt()] * 3, [Receipt(), "yes"], Receipt()])
def test_a_wrong_answer_for_several_is_a_broken_contract(answer):
    hooks = {"submit_session": lambda self: Receipt(), "submit_sessions": lambda self, sessions: answer}
    with service({"a": hooks}) as dispatch, pytest.raises(PluginError, match="a: submit_sessions must return"):
        asyncio.run(dispatch.submit_many("a", [session(1), session(2)]))


def test_a_slow_destination_does_not_hang_before_its_own_deadline():
    clock = Clock()
    release = threading.Event()
    with service({"a": {"submit_session": lambda self: release.wait(5) and Receipt()}}, clock=clock) as dispatch:

        async def run():
            attempt = asyncio.ensure_future(dispatch.submit("a", session()))
            await asyncio.sleep(0.05)
            states = []
            for seconds in (20, 20):
                clock.now += seconds
                dispatch.calls.watchdog.check()
                states.append(str(dispatch.registry.info("a").state))
            release.set()
            await attempt
            return states

        assert asyncio.run(run()) == ["enabled", "hanging"]


def test_attempts_that_never_come_back_are_bounded_and_then_it_counts_as_unreachable():
    release = threading.Event()
    with service({"a": {"submit_session": lambda self: release.wait(20) and Receipt()}}) as dispatch:

        async def run():
            for _ in range(dispatch_module.SUBMIT_THREADS):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await dispatch.submit("a", session())
            with pytest.raises(DestinationUnreachable, match="have not come back"):
                await dispatch.submit("a", session())
            release.set()
            while dispatch._submitting["a"]:
                await asyncio.sleep(0.005)
            assert await dispatch.submit("a", session()) == Receipt()

        asyncio.run(run())


def test_a_destination_that_is_not_async_does_not_hold_up_the_loop():
    with service({"a": {"submit_session": lambda self: time.sleep(0.2) or Receipt()}}) as dispatch:

        async def run():
            attempt = asyncio.ensure_future(dispatch.submit("a", session()))
            await asyncio.sleep(0.01)
            assert not attempt.done()
            assert await attempt == Receipt()

        asyncio.run(run())


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_what_a_destination_raises_reaches_the_caller_as_an_exception(error, asynchronous):
    def fail(self, session):
        raise error

    async def fail_later(self, session):
        await asyncio.sleep(0)
        raise error

    with service({"a": {"submit_session": fail_later if asynchronous else fail}}) as dispatch:

        async def run():
            with pytest.raises(Exception) as caught:
                await dispatch.submit("a", session())
            return caught.value

        caught = asyncio.run(run())
        assert isinstance(caught, Exception)
        if type(error) is ValueError:
            assert caught is error


def test_an_attempt_can_be_cancelled_from_outside():
    async def forever(self, session):
        await asyncio.sleep(60)

    with service({"a": {"submit_session": forever}}) as dispatch:

        async def run():
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await dispatch.submit("a", session())

        asyncio.run(run())
        assert not dispatch.calls.watchdog.busy("a")


def test_a_destination_must_give_a_receipt_and_be_there():
    with service({"a": {"submit_session": lambda self: "ok"}}) as dispatch:
        with pytest.raises(PluginError, match="must return a Receipt"):
            asyncio.run(dispatch.submit("a", session()))
        with pytest.raises(PluginError, match="the destination b is not in service"):
            asyncio.run(dispatch.submit("b", session()))


# Cleanup, sources, dialects.


def test_each_cleanup_reports_or_says_why_not():
    def fail(self):
        raise ValueError("canary")

    kinds = {
        "a": {"cleanup": fail},
        "b": {"cleanup": lambda self: 5},
        "c": {"cleanup": lambda self, dry_run: CleanupReport(dry_run=dry_run)},
    }
    with service(kinds) as dispatch:
        (a, b, c) = dispatch.cleanup(NOW, True)
    assert (a[0], b[0], c) == ("a", "b", ("c", CleanupReport(dry_run=True)))
    assert isinstance(a[1], PluginError)
    assert "canary" not in str(a[1])
    assert "must return a CleanupReport" in str(b[1])


def _no_such_interface(self):
    raise InterfaceMissing("eth9", existing=("lo",))


def test_the_first_error_is_raised_only_if_nobody_had_a_source():
    kinds = {"a": {"open_source": _no_such_interface}, "b": {"open_source": lambda self: None}}
    with service(kinds) as dispatch, pytest.raises(InterfaceMissing):
        dispatch.open_source(SourceRequest())
    with service({**kinds, "c": {"open_source": lambda self: Source()}}) as dispatch:
        assert [name for name, _ in dispatch.open_source(SourceRequest())] == ["c"]
    with service({"b": kinds["b"]}) as dispatch:
        assert dispatch.open_source(SourceRequest()) == []


def test_a_source_that_is_none_is_refused():
    def fail(self):
        raise ValueError("canary")

    with (
        service({"a": {"open_source": lambda self: object()}}) as dispatch,
        pytest.raises(PluginError, match="PacketSource"),
    ):
        dispatch.open_source(SourceRequest())
    with service({"a": {"open_source": fail}}) as dispatch, pytest.raises(SourceError) as caught:
        dispatch.open_source(SourceRequest())
    assert "canary" not in str(caught.value)


def framed(offered, *, largest=100, offset=0):
    """The guarded framer of what a plugin offers, and the dispatch."""
    with service({"a": {"register_framers": lambda self: iter([offered])}}) as dispatch:
        (guarded,) = dispatch.dialects()
        return guarded, guarded.make(largest, offset), dispatch


def test_a_dialect_works_through_its_guard():
    guarded, framer, _ = framed(dialect(), offset=10)
    assert (guarded.name, guarded.turns, guarded.score(b"", b"")) == ("vendor", True, 3)
    assert framer.name == "vendor"
    frames = [*framer.feed(b"ab\nc"), *framer.skip(5), *framer.feed(b"d\ne"), *framer.settle()]
    assert framer.pending == 1
    frames += framer.close()
    assert [(str(frame.kind), frame.offset, frame.raw, frame.missing) for frame in frames] == [
        ("block", 10, b"ab\n", 0),
        ("stray", 13, b"c", 0),
        ("gap", 14, b"", 5),
        ("block", 19, b"d\n", 0),
        ("stray", 21, b"e", 0),
    ]


@pytest.mark.parametrize("answer", [*ERRORS, "sure", 9, -4, None], ids=str)
def test_a_score_is_a_number_from_0_to_3_whatever_the_plugin_does(answer):
    def score(opener, other):
        if isinstance(answer, BaseException):
            raise answer
        return answer

    guarded, _, _ = framed(dialect(score=score))
    assert guarded.score(b"a", b"b") == (3 if answer == 9 else 0)


@pytest.mark.parametrize("method", ["make", "feed", "skip", "settle", "close"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_framer_that_raises_loses_no_byte(method, error):
    class Bad(Lines):
        pass

    def fail(*_):
        raise error

    if method == "make":
        _, framer, _ = framed(dialect(make=fail))
    else:
        setattr(Bad, method, fail)
        _, framer, _ = framed(dialect(make=lambda largest, offset: Bad(offset)))
    frames = [*framer.feed(b"ab\nc"), *framer.settle(), *framer.skip(4), *framer.feed(b"d\ne"), *framer.close()]
    position = 0
    joined = b""
    for frame in frames:
        assert frame.offset == position
        position += len(frame.raw) + frame.missing
        joined += frame.raw
    assert joined == b"ab\ncd\ne"
    assert position == 11
    assert sum(frame.missing for frame in frames) == 4
    if method != "close":
        assert "dialect-failed" in str(frames)


@pytest.mark.parametrize(
    "frames",
    [
        [Frame(FrameKind.BLOCK, 0, b"other")],
        [Frame(FrameKind.BLOCK, 0, b"abcd")],
        [Frame(FrameKind.GAP, 0, b"", missing=3)],
        5,
        ["frame"],
    ],
    ids=str,
)
def test_a_framer_that_invents_bytes_is_dropped(frames):
    class Bad(Lines):
        def feed(self, data):
            return frames

    _, framer, _ = framed(dialect(make=lambda largest, offset: Bad(offset)))
    assert [frame.raw for frame in framer.feed(b"abc")] == [b"abc"]
    assert [frame.raw for frame in framer.feed(b"def")] == [b"def"]


def test_framers_that_are_none_are_refused():
    with service(
        {"a": {"register_framers": lambda self: [5]}, "b": {"register_framers": lambda self: None}}
    ) as dispatch:
        assert dispatch.dialects() == ()


# Seen from outside.


def test_the_trace_names_hook_plugin_and_time_and_no_argument(monkeypatch, caplog):
    monkeypatch.setenv("HL7CORE_TRACE_HOOKS", "1")
    caplog.set_level(logging.INFO, "hl7core.hooks")
    with service({"a": {"persist_session": lambda self: "/secret/place"}}) as dispatch:
        dispatch.stores.persist("a", [session(5)], False)
    (line,) = [record.message for record in caplog.records if record.name == "hl7core.hooks"]
    assert line.startswith("persist_session a ")
    assert line.endswith(" ms")
    assert "00000005" not in line


def test_plugins_come_and_go_while_news_flow_and_nobody_else_misses_any():
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


# Writing as it is.


def test_what_was_stored_before_is_written_without_before_persist():
    kept = []

    def persist_session(self, session, replace):
        kept.append((session, replace))
        return "here"

    changer = {"before_persist": lambda self, session: session._replace(sensor="changed")}
    with service({"store": {"persist_session": persist_session}, "changer": changer}) as dispatch:
        assert dispatch.stores.persist_as_is("store", [session(1)], replace=False) == ["here"]
        assert dispatch.stores.persist("store", [session(2)], replace=True) == ["here"]
    assert kept == [(session(1), False), (session(2, sensor="changed"), True)]


def test_writing_as_it_is_to_what_is_no_store_is_an_outcome_not_a_crash():
    with service({}) as dispatch:
        (outcome,) = dispatch.stores.persist_as_is("nowhere", [session(1)], replace=False)
    assert isinstance(outcome, StoreError)
