import _thread
import asyncio
import contextlib
import threading
import time

import pytest

from fakes import session
from hl7core.contract import DestinationSettings, SourceRequest
from hl7core.errors import DestinationUnreachable, InterfaceMissing, PluginError, SourceError
from hl7core.model.cleanup import CleanupReport
from hl7core.model.delivery import Receipt
from hl7core.model.session import SessionQuery
from hl7core.plugin_host import dispatch as dispatch_module
from plugin_host.parts import ERRORS, FINDING, NOW, PACKET, Clock, Source, dialect, notice, service, wait_for

# A plugin that raises does not affect the others.


def good(heard):
    return {
        "on_packet": lambda self, packet: heard.append(packet),
        "on_session_complete": lambda self, session: heard.append(session),
        "on_event": lambda self, event: heard.append(event),
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


def everything(dispatch, heard):
    """Ask for all that the good plugin offers; return the answers."""
    for listen in dispatch.packet_listeners():
        listen([PACKET])
    dispatch.session_complete(session(7))
    dispatch.event(notice(7))
    wait_for(lambda: len(heard) == 3)
    entries = dict(dispatch.cleanup(NOW, False))
    return (
        heard,
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
def test_whatever_a_plugin_raises_in_any_hook_the_other_plugins_are_not_affected(hook, error, caplog):
    def fail(self):
        raise error

    heard = []
    with service({"bad": {hook: fail}, "good": good(heard)}) as dispatch:
        answers = everything(dispatch, heard)
    news, loaded, deleted, restored, emptied, receipt, cleaned, sources, dialects, findings, places = answers
    assert sorted(map(str, news)) == sorted(map(str, [PACKET, session(7), notice(7)]))
    assert (loaded, deleted, restored) == ([session(1)], ["a"], ["a"])
    assert (emptied.deleted, receipt, cleaned.deleted) == (1, Receipt("r"), 2)
    assert (sources, dialects, findings, places) == (["good"], ["vendor"], (FINDING,), ["here"])
    assert "canary" not in caplog.text
    assert "canary" not in str(dispatch.changes)


@pytest.mark.parametrize(
    ("hook", "ask"),
    [
        ("on_packet", lambda dispatch: dispatch.packet_listeners()[0]([PACKET])),
        ("cleanup", lambda dispatch: dispatch.cleanup(NOW, False)),
    ],
)
def test_ctrl_c_ends_the_wait_for_a_plugin(hook, ask):
    gate = threading.Event()

    def hang(self):
        _thread.interrupt_main()
        gate.wait()

    with service({"slow": {hook: hang}}) as dispatch, pytest.raises(KeyboardInterrupt):
        ask(dispatch)
    gate.set()


# Packets and findings.


def test_without_an_on_packet_there_are_no_packet_listeners():
    with service({"one": {"on_event": lambda self, event: None}}) as dispatch:
        assert dispatch.packet_listeners() == ()


@pytest.mark.parametrize("answer", [5, ["text"], [None], (FINDING, 1)])
def test_findings_of_the_wrong_type_are_refused(answer):
    kinds = {"bad": {"diagnose": lambda self: answer}, "good": {"diagnose": lambda self: (item for item in [FINDING])}}
    with service(kinds) as dispatch:
        assert dispatch.findings(session()) == (FINDING,)


def test_diagnose_may_yield_and_may_find_nothing():
    def rules(self, session):
        yield FINDING
        yield FINDING

    with service({"a": {"diagnose": rules}, "b": {"diagnose": lambda self: None}}) as dispatch:
        assert dispatch.findings(session()) == (FINDING, FINDING)


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


def test_several_sessions_are_handed_over_in_one_call_with_one_entry_each():
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


def test_abandoned_attempts_are_bounded_and_beyond_that_the_destination_is_unreachable():
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


def test_a_destination_must_be_in_service_and_return_a_receipt():
    with service({"a": {"submit_session": lambda self: "ok"}}) as dispatch:
        with pytest.raises(PluginError, match="must return a Receipt"):
            asyncio.run(dispatch.submit("a", session()))
        with pytest.raises(PluginError, match="the destination b is not in service"):
            asyncio.run(dispatch.submit("b", session()))


# Cleanup, sources, dialects.


def test_each_cleanup_gives_its_report_or_its_error():
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


def test_the_first_error_is_raised_only_if_there_is_no_source():
    kinds = {"a": {"open_source": _no_such_interface}, "b": {"open_source": lambda self: None}}
    with service(kinds) as dispatch, pytest.raises(InterfaceMissing):
        dispatch.open_source(SourceRequest())
    with service({**kinds, "c": {"open_source": lambda self: Source()}}) as dispatch:
        assert [name for name, _ in dispatch.open_source(SourceRequest())] == ["c"]
    with service({"b": kinds["b"]}) as dispatch:
        assert dispatch.open_source(SourceRequest()) == []


def test_what_is_not_a_packet_source_is_refused():
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


def test_what_is_not_a_dialect_is_refused():
    with service(
        {"a": {"register_framers": lambda self: [5]}, "b": {"register_framers": lambda self: None}}
    ) as dispatch:
        assert dispatch.dialects() == ()
