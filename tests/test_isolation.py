"""A plugin that fails in a hook, in a real engine under traffic: the table of docs/plugin_hooks.md, cell by cell.

Forty conversations pass: ten before the plugin fails, twenty while it does, ten afterwards.  All must be stored at the
end.  Time runs ten times as fast for the watchdog, so that a plugin that hangs is out of service after three seconds.
"""

from __future__ import annotations

import contextlib
import threading
import time
from functools import partial

import pytest

from engine.parts import exchange
from hl7core import (
    CleanupReport,
    DestinationSettings,
    Dialect,
    Finding,
    PluginSettings,
    Receipt,
    Severity,
    SourceStats,
    hookimpl,
)
from hl7core.engine import engine as engine_module
from hl7core.engine.control.client import ControlClient
from hl7core.hl7.query import matches, sort_key
from hl7core.model.packet import Interface
from hl7core.model.session import SessionQuery
from hl7core.plugin_host import dispatch as dispatch_module
from hl7core.plugin_host import registry as registry_module
from hl7core.plugin_host import watchdog as watchdog_module
from hl7core.plugin_host.dispatch import Dispatch
from hl7core.settings.file import change
from hl7core.testing import EngineHarness, TcpTalk
from hl7core_plugins.json_store import JsonStore
from plugin_host.parts import Lines
from test_docs import reference

PATIENCE = 25
RAISES = {"Exception": ValueError("canary"), "SystemExit": SystemExit("canary"), "other": GeneratorExit("canary")}
WRONG = object()
FAULTS = [*RAISES, "hangs", "wrong"]


class Fault:
    """What a plugin does in its hook: nothing, until it is switched on."""

    def __init__(self, kind):
        self.kind = kind
        self.on = False
        self.gate = threading.Event()
        self.calls = 0

    def here(self, otherwise=None, wrong=WRONG):
        """Fail if it is on; else, or once it hangs no more, return ``otherwise``."""
        if not self.on:
            return otherwise
        self.calls += 1
        if self.kind in RAISES:
            raise RAISES[self.kind]
        if self.kind == "wrong":
            return wrong
        self.gate.wait()
        return otherwise


def plugin(fault, hook, base=object, settings=PluginSettings, **members):
    """A plugin that fails in ``hook``; ``members`` are its other hooks."""

    def register_settings(self):
        return settings

    named = {"register_settings": hookimpl(register_settings), **members}
    return type("Bad", (base,), named if base is object else members)


def _listener(hook):
    def make(fault):
        return plugin(fault, hook, **{hook: hookimpl(_taking(fault, hook))})

    return make


def _taking(fault, hook):
    names = {"on_packet": "packet", "on_session_complete": "session", "on_event": "event"}[hook]
    space = {"fault": fault}
    exec(f"def {hook}(self, {names}):\n    return fault.here()", space)
    return space[hook]


def _diagnose(fault):
    def diagnose(self, session):
        return fault.here([Finding("odd", Severity.INFO, "odd")], wrong=[1])

    return plugin(fault, "diagnose", diagnose=hookimpl(diagnose))


def _framers(fault, at):
    class Framer(Lines):
        def feed(self, data):
            if at != "framer":
                return super().feed(data)
            found = super().feed(data)
            return fault.here(found, wrong=[None])

    def score(first, second):
        sure = 3 if first.startswith(b"vendor") else 0
        return fault.here(sure, wrong="sure") if at == "score" else sure

    def register_framers(self):
        offered = [Dialect("vendor", score, lambda largest, offset: Framer(offset), turns=False)]
        return fault.here(offered, wrong=[1]) if at == "register" else offered

    return plugin(fault, "register_framers", register_framers=hookimpl(register_framers))


def _before_persist(fault):
    def before_persist(self, session):
        return fault.here(None)

    return plugin(fault, "before_persist", before_persist=hookimpl(before_persist))


def _store(fault, *hooks):
    """The JSON store, which fails in ``hooks``."""
    members = {}
    for hook in hooks:
        names = {
            "persist_session": "session, replace",
            "persist_sessions": "sessions, replace",
            "load_sessions": "query",
            "delete_sessions": "ids, to_trash, deleted_at",
        }[hook]
        space = {"fault": fault, "hookimpl": hookimpl, "JsonStore": JsonStore, "wrong": 5}
        code = (
            f"@hookimpl\ndef {hook}(self, {names}):\n"
            f"    answer = fault.here(wrong=wrong)\n"
            f"    return answer if answer is not None else JsonStore.{hook}(self, {names})\n"
        )
        exec(code, space)
        members[hook] = space[hook]
    return type("Bad", (JsonStore,), members)


def _destination(fault):
    def submit_session(self, session):
        return fault.here(Receipt())

    class Settings(DestinationSettings):
        timeout: float = 1.0

    return plugin(fault, "submit_session", settings=Settings, submit_session=hookimpl(submit_session))


def _cleanup(fault):
    def cleanup(self, now, dry_run):
        return fault.here(CleanupReport())

    return plugin(fault, "cleanup", cleanup=hookimpl(cleanup))


class Source:
    name = "bad0"

    def __init__(self):
        self.over = threading.Event()

    def run(self, emit):
        self.over.wait()

    def stop(self):
        self.over.set()

    def stats(self):
        return SourceStats()

    def interfaces(self):
        return (Interface("bad0"),)


def _source(fault, at):
    def open_source(self, request):
        return fault.here(Source(), wrong=5) if at == "open_source" else None

    def list_interfaces(self):
        return fault.here((Interface("bad0"),), wrong=[5]) if at == "list_interfaces" else ()

    return plugin(fault, at, open_source=hookimpl(open_source), list_interfaces=hookimpl(list_interfaces))


def _life(fault, at):
    class Settings(PluginSettings):
        level: int = 0

    def configure(self, settings):
        if at == "configure":
            fault.here()

    def start(self, runtime):
        if at == "start":
            fault.here()

    def stop(self):
        if at == "stop":
            fault.here()

    members = {"configure": configure, "start": start, "stop": stop}
    return plugin(fault, at, settings=Settings, **{name: hookimpl(do) for name, do in members.items()})


ROWS = {
    "`on_packet`": _listener("on_packet"),
    "`on_session_complete`": _listener("on_session_complete"),
    "`on_event`": _listener("on_event"),
    "`diagnose`": _diagnose,
    "`register_framers`": partial(_framers, at="register"),
    "a framer": partial(_framers, at="framer"),
    "a dialect's `score`": partial(_framers, at="score"),
    "`before_persist`, required": _before_persist,
    "`before_persist`, not required": _before_persist,
    "`persist_session`, `persist_sessions`": lambda fault: _store(fault, "persist_session", "persist_sessions"),
    "other hooks of a store": lambda fault: _store(fault, "load_sessions", "delete_sessions"),
    "`submit_session`, `submit_sessions`": _destination,
    "`cleanup`": _cleanup,
    "`open_source`": partial(_source, at="open_source"),
    "`list_interfaces`": partial(_source, at="list_interfaces"),
    "`configure`, `start`": partial(_life, at="configure"),
    "`stop`": partial(_life, at="stop"),
}
TABLE = {row.hook: row for row in reference().FAILURES}
CELLS = [(hook, fault) for hook in ROWS for fault in FAULTS]


def test_the_table_in_the_docs_has_the_rows_that_are_tried():
    assert list(TABLE) == list(ROWS)


def vendor_talk(number):
    """A conversation in the plugin's dialect."""
    talk = TcpTalk(("10.0.0.6", 30_000 + number))
    talk.open()
    talk.opener(b"vendor line\n")
    talk.acceptor(b"vendor answer\n")
    talk.close()
    return talk.batch()


@pytest.fixture
def fast(monkeypatch):
    """Ten times as fast a clock for the watchdog, and short deadlines."""
    monkeypatch.setattr(engine_module, "Dispatch", partial(Dispatch, clock=lambda: time.monotonic() * 10))
    monkeypatch.setattr(watchdog_module, "_CHECK_EVERY", 0.02)
    monkeypatch.setattr(dispatch_module, "DIAGNOSE_SECONDS", 0.5)
    monkeypatch.setattr(registry_module, "START_DEADLINE", 1.0)
    monkeypatch.setattr(registry_module, "STOP_DEADLINE", 0.5)


@pytest.mark.parametrize(("hook", "kind"), CELLS, ids=[f"{hook}: {kind}" for hook, kind in CELLS])
def test_a_plugin_that_fails_in_a_hook_stops_nothing_and_becomes_what_the_docs_say(hook, kind, tmp_path, fast, caplog):
    row = TABLE[hook]
    said = {"hangs": row.hangs, "wrong": row.wrong}.get(kind, row.raises)
    wanted = said.replace(",", ":").split(":")[0].split()[0]
    fault = Fault(kind)
    is_store = "store" in hook or "persist_session" in hook
    settings = {"core.store": "bad"} if is_store else {}
    if hook == "`before_persist`, not required":
        settings["plugins.bad.required"] = False
    plugins = {"json_store": JsonStore, "bad": ROWS[hook](fault)}
    with EngineHarness(tmp_path, plugins, settings=settings, stop_deadline=20.0) as harness:
        registry = harness.engine.registry

        def state():
            return str(registry.info("bad").state)

        def seen():
            return {
                s.messages[0].control_id
                for s in harness.engine.ledger.matching(SessionQuery(limit=1000))
                if s.messages and s.messages[0].control_id.startswith("C")
            }

        def talk(start, count):
            harness.feed(*(exchange(f"C{number}") for number in range(start, start + count)))
            if "framer" in hook or "dialect" in hook:
                harness.feed(*(vendor_talk(number) for number in range(start, start + count)))

        talk(0, 10)
        harness.wait_for(lambda: len(seen()) == 10 and not harness.state().unsaved, PATIENCE)
        fault.on = True
        talk(10, 20)
        _ask(harness, hook)
        harness.wait_for(lambda: state() == wanted and fault.calls, PATIENCE)
        if "nothing is saved" in said:
            harness.wait_for(lambda: "required" in dict(harness.state().notices), PATIENCE)
            time.sleep(0.3)
            assert harness.state().unsaved >= 20
        elif wanted in ("failed", "quarantined") and not is_store:
            harness.wait_for(lambda: not harness.state().unsaved, PATIENCE)
        if "returned" not in said and (wanted != "enabled" or kind in RAISES):
            harness.wait_for(lambda: registry.info("bad").error or "submit" in hook, PATIENCE)
        if is_store or "before_persist" in hook:  # its call returns, or a person has mended it
            fault.on = False
            fault.gate.set()
            if wanted == "suspended":
                harness.wait_for(lambda: state() == "enabled", PATIENCE)
        talk(30, 10)
        harness.wait_for(lambda: len(seen()) == 40, PATIENCE)
        harness.wait_for(lambda: not harness.state().unsaved, PATIENCE)
        assert len(harness.sessions(SessionQuery(limit=1000))) >= 40
        assert not harness.state().dropped_intake
    fault.gate.set()
    assert harness.engine.unsaved == []
    assert "canary" not in caplog.text


def _ask(harness, hook):
    """Have the engine call the hook, if traffic alone does not."""
    if hook == "`register_framers`":
        harness.call(harness.engine._applier.configure_decoding())
    elif hook == "other hooks of a store":
        harness.call(_tolerant(harness.runtime.sessions(SessionQuery())), PATIENCE)
    elif hook == "`cleanup`":
        harness.call(harness.runtime.cleanup(), PATIENCE)
    elif hook == "`open_source`":
        harness.call(harness.engine.sources.sync(["bad"]), PATIENCE)
    elif hook == "`list_interfaces`":
        harness.call(harness.runtime.interfaces(), PATIENCE)
    elif "configure" in hook:
        harness.call(_tolerant(harness.runtime.change_settings({"plugins.bad.level": 7})), PATIENCE)
    elif hook == "`stop`":
        harness.call(_tolerant(harness.runtime.change_settings({"plugins.bad.enabled": False})), PATIENCE)


async def _tolerant(work):
    try:
        await work
    except Exception:  # noqa: BLE001 - what it is told depends on the fault
        return


class Memory:
    """A store in memory, to switch to."""

    def __init__(self):
        self.held = {}

    @hookimpl
    def register_settings(self):
        return PluginSettings

    @hookimpl
    def persist_session(self, session, replace):
        self.held[session.id] = session

    @hookimpl
    def load_sessions(self, query):
        found = [session for session in self.held.values() if matches(session, query)]
        return sorted(found, key=sort_key, reverse=query.newest_first)[: query.limit]

    @hookimpl
    def delete_sessions(self, ids, to_trash, deleted_at):
        return [i for i in ids if self.held.pop(i, None)]


def named(sessions):
    return {session.messages[0].control_id for session in sessions}


@pytest.mark.parametrize("hook", ["load_sessions", "persist_sessions"])
def test_while_a_store_does_not_answer_commands_get_the_sessions_in_memory_and_are_told(hook, tmp_path, fast):
    fault = Fault("hangs")
    stores = {"bad": _store(fault, "persist_session", hook), "json_store": JsonStore}
    with EngineHarness(tmp_path, stores, settings={"core.store": "bad"}) as harness:
        harness.feed(exchange("A"))
        harness.wait_for(lambda: harness.engine.ledger.saved_count == 1, PATIENCE)
        fault.on = True
        harness.feed(exchange("B"))
        harness.wait_decoded()
        with ControlClient(harness.engine.folder).connect() as client:
            assert named(client.sessions(SessionQuery(), or_memory=True)) == {"A", "B"}
            if hook == "load_sessions":
                assert "stored sessions may be missing here: bad is" in client.note
            harness.wait_for(lambda: "silent" in dict(harness.state().notices), PATIENCE)
            assert named(client.sessions(SessionQuery(), or_memory=True)) == {"A", "B"}
            assert "stored sessions may be missing here: bad is" in client.note
        fault.on = False
        fault.gate.set()
        harness.wait_for(lambda: "silent" not in dict(harness.state().notices), PATIENCE)
        harness.wait_for(lambda: not harness.state().unsaved, PATIENCE)
        assert named(harness.sessions()) == {"A", "B"}


@pytest.mark.parametrize("off", [False, True], ids=["attached", "switched off"])
def test_another_store_saves_what_waited_for_one_that_hangs(off, tmp_path, fast):
    fault, memory = Fault("hangs"), Memory()
    stores = {"bad": _store(fault, "persist_session", "persist_sessions"), "memory": memory}
    with EngineHarness(tmp_path, stores, settings={"core.store": "bad"}) as harness:
        harness.feed(exchange("A"))
        harness.wait_for(lambda: harness.engine.ledger.saved_count == 1, PATIENCE)
        fault.on = True
        harness.feed(*(exchange(f"B{number}") for number in range(20)))
        harness.wait_for(lambda: str(harness.engine.registry.info("bad").state) == "suspended", PATIENCE)
        change(harness.path, {"core.store": "memory", **({"plugins.bad.enabled": False} if off else {})})
        harness.wait_for(lambda: len(memory.held) == 20, PATIENCE)
        assert not harness.state().unsaved
        fault.gate.set()
    assert harness.engine.unsaved == []


@pytest.mark.parametrize("hook", ["`on_packet`", "a framer"])
def test_at_the_stop_what_was_captured_is_decoded_although_a_plugin_hangs(hook, tmp_path):
    fault = Fault("hangs")
    plugins = {"bad": ROWS[hook](fault), "json_store": JsonStore}
    with EngineHarness(tmp_path, plugins, stop_deadline=10.0) as harness:
        harness.feed(exchange("A"), vendor_talk(0))
        harness.wait_decoded()
        fault.on = True
        harness.feed(vendor_talk(1), *(exchange(f"B{number}") for number in range(20)))
        harness.wait_for(lambda: fault.calls, PATIENCE)
    fault.gate.set()
    kept = [session for session in harness.engine.ledger.matching(SessionQuery(limit=100)) if session.messages]
    assert named(kept) >= {"A", *(f"B{number}" for number in range(20))}
    assert harness.engine.unsaved == []


def test_slow_calls_that_decoding_waits_for_add_up(tmp_path, fast, monkeypatch):
    class Slow:
        heard = 0

        @hookimpl
        def register_settings(self):
            return PluginSettings

        @hookimpl
        def on_packet(self, packet):
            Slow.heard += 1
            time.sleep(0.05)  # half a second of the fast clock

    with EngineHarness(tmp_path, {"slow": Slow, "json_store": JsonStore}) as harness:
        harness.feed(*(exchange(f"A{number}") for number in range(40)))
        harness.wait_for(lambda: str(harness.engine.registry.info("slow").state) == "failed", PATIENCE)
        assert "decoding waited 30 seconds within a minute for on_packet" in harness.engine.registry.info("slow").error
        harness.wait_for(lambda: len(harness.engine.ledger) == 40, PATIENCE)
        assert Slow.heard < 80


def test_enabling_a_plugin_again_brings_it_back(tmp_path, fast):
    fault = Fault("hangs")
    with EngineHarness(tmp_path, {"bad": ROWS["`on_packet`"](fault), "json_store": JsonStore}) as harness:
        fault.on = True
        harness.feed(exchange("A"))
        harness.wait_for(lambda: str(harness.engine.registry.info("bad").state) == "quarantined", PATIENCE)
        fault.on = False
        with ControlClient(harness.engine.folder).connect() as client:
            client.call("retry_plugin", name="bad")
        assert str(harness.engine.registry.info("bad").state) == "enabled"
        harness.feed(exchange("B"))
        harness.wait_for(lambda: len(harness.engine.ledger) == 2, PATIENCE)
    fault.gate.set()


def spoil(*given):
    """Try to change all that a hook is given."""
    for value in given:
        for change_it in (
            lambda value=value: value.clear(),
            lambda value=value: setattr(value, "id", "spoilt"),
            lambda value=value: setattr(value, "store", "spoilt"),
            lambda value=value: value.__setitem__(0, "spoilt"),
            lambda value=value: value.__dict__.update(id="spoilt"),
        ):
            with contextlib.suppress(Exception):
                change_it()


class Spoiler(JsonStore):
    """A store, listener, rule and destination that changes all that it is given."""

    @hookimpl
    def on_packet(self, packet):
        spoil(packet, packet.interface)

    @hookimpl
    def on_session_complete(self, session):
        spoil(session, *session.messages, *session.elements)

    @hookimpl
    def on_event(self, event):
        spoil(event)

    @hookimpl
    def diagnose(self, session):
        spoil(session, *session.messages)
        return ()

    @hookimpl
    def before_persist(self, session):
        spoil(session)

    @hookimpl
    def persist_sessions(self, sessions, replace):
        answer = JsonStore.persist_sessions(self, list(sessions), replace)
        spoil(sessions)
        return answer

    @hookimpl
    def load_sessions(self, query):
        answer = JsonStore.load_sessions(self, query)
        spoil(query)
        return answer

    @hookimpl
    def delete_sessions(self, ids, to_trash, deleted_at):
        answer = JsonStore.delete_sessions(self, list(ids), to_trash, deleted_at)
        spoil(ids)
        return answer

    @hookimpl
    def submit_sessions(self, sessions):
        answer = [Receipt() for _ in sessions]
        spoil(sessions)
        return answer

    @hookimpl
    def submit_session(self, session):
        spoil(session)
        return Receipt()

    @hookimpl
    def open_source(self, request):
        spoil(request)


class Witness:
    """Hears what the spoiler may have spoilt."""

    def __init__(self):
        self.packets, self.sessions = [], []

    @hookimpl
    def register_settings(self):
        return PluginSettings

    @hookimpl
    def on_packet(self, packet):
        self.packets.append(packet)

    @hookimpl
    def on_session_complete(self, session):
        self.sessions.append(session)


def test_a_plugin_that_changes_what_it_is_given_changes_it_for_nobody(tmp_path):
    witness = Witness()
    plugins = {"spoiler": Spoiler, "witness": witness}
    batches = [exchange(f"C{number}") for number in range(40)]
    with EngineHarness(tmp_path, plugins, settings={"core.store": "spoiler"}) as harness:
        harness.feed(*batches)
        harness.wait_for(lambda: len(witness.sessions) == 40 and not harness.state().unsaved, PATIENCE)
        assert witness.packets == [packet for batch in batches for packet in batch.packets()]
        assert {session.messages[0].control_id for session in witness.sessions} == {f"C{n}" for n in range(40)}
        stored = harness.sessions(SessionQuery(limit=100))
        assert named(stored) == {f"C{number}" for number in range(40)}
        gone = [session.id for session in stored[:5]]
        assert harness.call(harness.runtime.delete(gone)) == gone
        assert len(harness.sessions(SessionQuery(limit=100))) == 35
        assert str(harness.engine.registry.info("spoiler").state) == "enabled"


def test_a_slow_start_and_a_slow_stop_lose_nothing(tmp_path):
    class Slow:
        heard, stopped = [], []

        @hookimpl
        def register_settings(self):
            return PluginSettings

        @hookimpl
        def start(self, runtime):
            time.sleep(1)

        @hookimpl
        def on_session_complete(self, session):
            Slow.heard.append(session)

        @hookimpl
        def stop(self):
            time.sleep(1)
            Slow.stopped.append(True)

    with EngineHarness(tmp_path, {"json_store": JsonStore, "slow": Slow}) as harness:
        harness.feed(*(exchange(f"A{number}") for number in range(20)))
        harness.wait_for(lambda: len(Slow.heard) == 20, PATIENCE)
        change(harness.path, {"plugins.slow.enabled": False})
        harness.feed(*(exchange(f"B{number}") for number in range(20)))
        harness.wait_for(lambda: Slow.stopped, PATIENCE)
        harness.wait_for(lambda: len(harness.engine.ledger) == 40 and not harness.state().unsaved, PATIENCE)
        assert str(harness.engine.registry.info("slow").state) == "disabled"
    assert harness.engine.unsaved == []


def test_a_redactor_that_starts_and_stops_with_the_engine_is_missed_by_nobody(tmp_path, caplog):
    plugins = {"json_store": JsonStore, "redactor": _before_persist(Fault("Exception"))}
    with EngineHarness(tmp_path, plugins) as harness:
        harness.feed(exchange("A"))
        harness.wait_for(lambda: harness.engine.ledger.saved_count == 1, PATIENCE)
    assert harness.engine.unsaved == []
    assert "nothing is saved" not in caplog.text
