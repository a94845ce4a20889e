import asyncio
import sys
import threading
import types
from types import SimpleNamespace

import pytest
from pydantic import Field, SecretStr

from fakes import entry_point, registry, settings
from hl7core.contract import PluginSettings
from hl7core.errors import PluginError, SettingsError
from hl7core.hookspecs import hookimpl, hookspec
from hl7core.plugin_host import registry as registry_module
from hl7core.plugin_host.registry import PluginState, Registry

RUNTIME = SimpleNamespace(name="runtime")
LIFE = ["register_settings", "configure", "start", "stop"]


class Options(PluginSettings):
    """A table."""

    level: int = Field(1, ge=1, le=9, description="How much.")
    token: SecretStr = Field(SecretStr(""), description="Hidden.")


class Diary:
    """A plugin that notes what happens to it; ``said`` is the class's, since each enabling makes a new one."""

    def __init_subclass__(cls):
        cls.said = []

    @hookimpl
    def register_settings(self):
        return Options

    @hookimpl
    def configure(self, settings):
        self.said.append(f"configure {settings.level}")

    @hookimpl
    def start(self, runtime):
        self.said.append(f"start {runtime.name}")

    @hookimpl
    def stop(self):
        self.said.append("stop")

    @hookimpl
    def on_event(self, event):
        self.said.append(event)


def diary(**members):
    return type("Plugin", (Diary,), members)


def states(registry):
    return {info.name: str(info.state) for info in registry.infos()}


# What there is.


def test_a_disabled_plugin_is_listed_and_not_imported():
    point = entry_point("off", Diary)
    del sys.modules["fake_off"]
    made = Registry(settings(), entry_points=[point])
    asyncio.run(made.start(RUNTIME))
    info = made.info("off")
    assert (info.state, info.enabled, info.hooks, info.bundled) == (PluginState.DISABLED, False, (), False)
    assert "fake_off" not in sys.modules


def test_bundled_plugins_are_on_unless_the_group_off_names_them_and_others_are_off():
    points = [
        entry_point("ours", Diary, bundled=True),
        entry_point("ours_off", Diary, bundled=True),
        entry_point("ours_off", Diary, bundled=True, group="hl7core.off"),
        entry_point("theirs", Diary),
    ]
    made = Registry(settings(), entry_points=points)
    assert [name for name in made.names() if made.default_enabled(name)] == ["ours"]
    assert [name for name in made.names() if made.wanted(name)] == ["ours"]
    assert (made.info("ours").version, made.info("ours").distribution, made.info("ours").bundled) == (
        "1.2.3",
        "hl7core",
        True,
    )


def test_the_settings_outrank_the_defaults_and_naming_a_store_enables_it():
    points = [entry_point(name, Diary, bundled=name != "theirs") for name in ("ours", "store", "theirs")]
    tables = {"ours": {"enabled": False}, "theirs": {"enabled": True}, "store": {"enabled": False}}
    made = Registry(settings(tables, store="store"), entry_points=points)
    assert sorted(name for name in made.names() if made.wanted(name)) == ["store", "theirs"]


def test_of_two_packages_with_one_name_the_bundled_one_is_used_and_it_is_told():
    points = [entry_point("store", Diary), entry_point("store", Diary, bundled=True)]
    points[0] = points[0].__class__("store", "elsewhere:Plugin", "hl7core")
    made = Registry(settings(store="store"), entry_points=points)
    assert made.info("store").bundled
    assert made.problems() == ("plugins.store: two packages provide it; elsewhere:Plugin is not used",)


def test_unknown_names_are_told_with_the_nearest():
    made = Registry(settings({"json_stroe": {}}, store="jsn_store"), entry_points=[entry_point("json_store", Diary)])
    assert made.problems() == (
        "plugins.json_stroe: no plugin json_stroe is installed; did you mean json_store?",
        "core.store: no plugin jsn_store is installed; did you mean json_store?",
    )
    with pytest.raises(PluginError, match="there is no plugin json_stor; did you mean json_store"):
        made.info("json_stor")


def test_a_name_that_no_table_could_have_is_not_used():
    made = Registry(settings(), entry_points=[entry_point("My-Plugin", Diary)])
    assert made.names() == ()
    assert "lower-case" in made.problems()[0]


def test_the_secrets_of_a_disabled_plugin_are_known_once_its_keys_are_named():
    made = registry({"one": diary()}, {"one": {"enabled": False}})
    assert made.secret_keys(["core.store", "plugins.other.x"]) == frozenset()
    assert made.secret_keys(["plugins.one.token"]) == {"plugins.one.token"}
    assert states(made) == {"one": "disabled"}


# The life of a plugin.


def test_enabling_configures_then_starts_and_disabling_stops_and_discards():
    kind = diary()
    made = registry({"one": kind}, {"one": {"enabled": True, "level": 3}})

    async def run():
        assert await made.start(RUNTIME) == ("core.store: no plugin nowhere is installed",)
        before = made.generation
        assert made.info("one").hooks == ("register_settings", "configure", "start", "stop", "on_event")
        assert made.settings_of("one") == Options(enabled=True, level=3)
        assert made.running() == ("one",)
        await made.disable("one")
        assert made.generation > before
        await made.disable("one")
        await made.enable("one")
        await made.enable("one")
        assert await made.stop() == ()

    asyncio.run(run())
    assert kind.said == ["configure 3", "start runtime", "stop", "configure 3", "start runtime", "stop"]
    assert states(made) == {"one": "disabled"}
    assert made.running() == ()


def test_start_and_stop_may_be_async():
    async def start(self, runtime):
        self.said.append(f"on {asyncio.get_running_loop() is not None}")

    async def stop(self):
        await asyncio.sleep(0)
        self.said.append("off")

    kind = diary(start=hookimpl(start), stop=hookimpl(stop))
    made = registry({"one": kind})

    async def run():
        await made.start(RUNTIME)
        await made.stop()

    asyncio.run(run())
    assert kind.said == ["configure 1", "on True", "off"]


def test_load_only_leaves_the_others_alone():
    made = registry({"one": diary(), "two": diary()})
    made.load_only(["two"])
    asyncio.run(made.start(RUNTIME))
    assert states(made) == {"one": "disabled", "two": "enabled"}


def test_load_gives_the_plugin_without_registering_it():
    made = registry({"one": diary()})
    plugin = made.load("one")
    assert isinstance(plugin, Diary)
    assert made.load("one") is plugin
    assert made.running() == ()
    assert made.model("one") is Options
    assert made.secret_keys() == {"plugins.one.token"}


RAISED = [
    ValueError("canary"),
    SystemExit("canary"),
    GeneratorExit("canary"),
    StopIteration("canary"),
    asyncio.CancelledError(),
]


# Ctrl-C on the main thread is Ctrl-C; and a coroutine's StopIteration is made a RuntimeError by Python itself.
HOSTILE = [
    *((hook, error, False) for hook in ("__init__", *LIFE) for error in (*RAISED, KeyboardInterrupt("canary"))),
    *((hook, error, True) for hook in ("start", "stop") for error in RAISED if not isinstance(error, StopIteration)),
]


@pytest.mark.parametrize(
    ("hook", "error", "asynchronous"), HOSTILE, ids=[f"{hook}-{type(error).__name__}-{a}" for hook, error, a in HOSTILE]
)
def test_whatever_a_plugin_raises_in_its_life_the_others_run_on(hook, error, asynchronous, caplog):
    def fail(self, settings=None, runtime=None):
        raise error

    async def fail_later(self, runtime=None):
        await asyncio.sleep(0)
        raise error

    member = fail_later if asynchronous else fail
    bad = diary(**{hook: member if hook == "__init__" else hookimpl(member)})
    good = diary()
    made = registry({"bad": bad, "good": good})

    async def run():
        problems = await made.start(RUNTIME)
        expected = "enabled" if hook == "stop" else "failed"
        assert states(made) == {"bad": expected, "good": "enabled"}
        told = [*problems, made.info("bad").error]
        if hook != "stop":
            assert "test_registry.py" in made.info("bad").error
        told += await made.stop()
        assert "canary" not in str(told)
        assert type(error).__name__ in str(told)

    asyncio.run(run())
    assert "canary" not in caplog.text
    assert good.said == ["configure 1", "start runtime", "stop"]


def test_an_entry_point_that_cannot_be_imported_fails_alone():
    points = [entry_point("broken", Diary), entry_point("good", diary())]
    sys.modules["fake_broken"] = None
    made = Registry(settings({"broken": {"enabled": True}, "good": {"enabled": True}}), entry_points=points)
    asyncio.run(made.start(RUNTIME))
    assert states(made) == {"broken": "failed", "good": "enabled"}
    assert "no module fake_broken" in made.info("broken").error


def test_an_entry_point_must_name_a_class():
    made = registry({"one": Diary()})
    with pytest.raises(PluginError, match="must name a class"):
        made.load("one")


@pytest.mark.parametrize("hook", ["start", "stop", "configure"])
def test_a_plugin_that_never_returns_is_abandoned(hook, monkeypatch):
    monkeypatch.setattr(registry_module, "START_DEADLINE", 0.05)
    monkeypatch.setattr(registry_module, "STOP_DEADLINE", 0.05)
    forever = threading.Event()

    def hang(self, settings=None, runtime=None):
        forever.wait()

    made = registry({"bad": diary(**{hook: hookimpl(hang)}), "good": diary()})

    async def run():
        problems = await made.start(RUNTIME)
        problems += await made.stop()
        assert f"bad: {hook} took more than" in str(problems)

    asyncio.run(run())
    forever.set()


def test_a_failed_plugin_comes_back_by_toggling():
    healthy = []

    def start(self, runtime):
        if not healthy:
            raise ValueError

    made = registry({"one": diary(start=hookimpl(start))})

    async def run():
        await made.start(RUNTIME)
        assert states(made) == {"one": "failed"}
        on, off = settings({"one": {"enabled": True}}), settings({"one": {"enabled": False}})
        assert (await made.apply(on)).changed == ()
        assert (await made.apply(off)).changed == ("one",)
        assert states(made) == {"one": "disabled"}
        healthy.append(True)
        assert (await made.apply(on)).changed == ("one",)
        assert states(made) == {"one": "enabled"}

    asyncio.run(run())


def test_a_failed_plugin_is_tried_again_when_its_table_changes():
    def configure(self, settings):
        if settings.level == 1:
            raise SettingsError("plugins.one.level: not 1")

    made = registry({"one": diary(configure=hookimpl(configure))})

    async def run():
        assert "plugins.one.level: not 1" in await made.start(RUNTIME)
        assert made.info("one").error == "SettingsError: plugins.one.level: not 1"
        applied = await made.apply(settings({"one": {"enabled": True, "level": 2}}))
        assert applied.changed == ("one",)
        assert states(made) == {"one": "enabled"}

    asyncio.run(run())


def test_running_calls_end_before_stop():
    kind = diary()
    made = registry({"one": kind})
    busy = [True, True, True]
    made.busy = lambda name: bool(busy) and busy.pop()

    async def run():
        await made.start(RUNTIME)
        await made.disable("one")

    asyncio.run(run())
    assert busy == []
    assert kind.said[-1] == "stop"


def test_every_change_is_told():
    made = registry({"one": diary()})
    told = []
    made.listen(lambda change: told.append((change.plugin, change.state, change.error)))

    async def run():
        await made.start(RUNTIME)
        made.set_state("one", PluginState.HANGING, "slow")
        made.set_state("one", PluginState.HANGING, "slow")
        made.set_state("one", PluginState.ENABLED)
        made.set_error("one", "odd")
        made.fail("one", "raised")
        made.fail("one", "raised")
        made.quarantine("one", "late")
        made.set_state("one", PluginState.ENABLED)
        await made.enable("one")
        made.quarantine("one", "late")
        await made.stop()

    asyncio.run(run())
    assert told == [
        ("one", "enabled", ""),
        ("one", "hanging", "slow"),
        ("one", "enabled", ""),
        ("one", "enabled", "odd"),
        ("one", "failed", "raised"),
        ("one", "enabled", ""),
        ("one", "quarantined", "late"),
        ("one", "disabled", ""),
    ]


def test_a_plugin_that_failed_in_service_is_stopped_and_one_in_quarantine_is_not():
    kind = diary()
    made = registry({"one": kind})

    async def run():
        await made.start(RUNTIME)
        made.fail("one", "raised")
        assert kind.said[-1] == "start runtime"
        await made.retire("one")
        assert kind.said.pop() == "stop"
        await made.retire("one")
        assert states(made) == {"one": "failed"}
        await made.enable("one")
        made.quarantine("one", "late")
        await made.disable("one")
        assert "stop" not in kind.said

    asyncio.run(run())


class OpenDoor:
    """A lock that lets ``visitor`` in, on a thread of its own, whenever it is let go of."""

    def __init__(self, lock, visitor):
        self._lock = lock
        self._visitor = visitor

    def __enter__(self):
        self._lock.acquire()

    def __exit__(self, *_error):
        self._lock.release()
        visitor, self._visitor = self._visitor, lambda: None
        thread = threading.Thread(target=visitor)
        thread.start()
        thread.join()
        self._visitor = visitor


def test_a_plugin_that_fails_the_moment_it_is_enabled_stays_failed():
    made, told = registry({"one": diary()}), []
    made.listen(lambda change: told.append(str(change.state)))
    made._lock = OpenDoor(made._lock, lambda: made.fail("one", "raised"))

    async def run():
        await made.start(RUNTIME)
        assert states(made) == {"one": "failed"}
        assert made.running() == ()
        assert told == ["enabled", "failed"]
        assert (await made.apply(settings({"one": {"enabled": False}}))).changed == ("one",)

    asyncio.run(run())


def test_whether_a_plugin_is_in_service_and_what_its_state_says_change_in_one_step():
    made, seen = registry({"one": diary()}), []

    async def run():
        made._lock = OpenDoor(made._lock, lambda: seen.append((states(made)["one"], made.running())))
        await made.start(RUNTIME)
        made.quarantine("one", "late")

    asyncio.run(run())
    assert set(seen) == {("enabled", ("one",)), ("quarantined", ())}


def test_changes_are_told_in_their_order_whoever_tells_them():
    made, told = registry({"one": diary()}), []
    inside, go = threading.Event(), threading.Event()

    def listen(change):
        told.append(change.error)
        if change.error == "first":
            inside.set()
            go.wait()
        if change.error == "second":
            made.set_error("one", "brought about by telling")

    async def run():
        await made.start(RUNTIME)
        made.listen(listen)
        slow = threading.Thread(target=made.set_error, args=("one", "first"))
        slow.start()
        inside.wait()
        made.set_error("one", "second")  # does not wait for the one who tells
        made.set_error("one", "third")
        assert told == ["first"]
        go.set()
        slow.join()

    asyncio.run(run())
    assert told == ["first", "second", "third", "brought about by telling"]


def test_loading_a_plugin_that_runs_changes_nothing_about_it():
    made = registry({"one": diary()})

    async def run():
        await made.start(RUNTIME)
        before = made.settings_of("one")
        made.settings = settings({"one": {"enabled": True, "level": 77}})
        assert made.load("one") is made.pm.get_plugin("one")
        assert made.settings_of("one") is before
        assert states(made) == {"one": "enabled"}

    asyncio.run(run())


# What is refused.


def test_a_plugin_that_cannot_be_registered_fails_alone():
    def touchy(self, other):
        raise ValueError("canary")

    made = registry({"a": diary(), "b": diary(__eq__=touchy, __hash__=object.__hash__), "c": diary()})

    async def run():
        problems = await made.start(RUNTIME)
        assert states(made) == {"a": "enabled", "b": "failed", "c": "enabled"}
        assert "b: cannot be registered: ValueError" in str(problems)
        assert "canary" not in str(problems)

    asyncio.run(run())


def _yield(self, session):
    yield 1


def _wrap(self, session):
    return (yield)


def _wrap_old(self, session):
    yield


async def _async(self, session):
    return None


async def _async_yield(self, session):
    yield None


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ({"on_evnt": hookimpl(lambda self, event: None)}, "there is no hook on_evnt; did you mean on_event?"),
        ({"on_session_complete": hookimpl(_async)}, "on_session_complete must be a plain def"),
        ({"persist_session": hookimpl(_async)}, "persist_session must be a plain def"),
        ({"diagnose": hookimpl(_async)}, "diagnose must be a plain def"),
        ({"on_session_complete": hookimpl(_yield)}, "on_session_complete must return its answer, not yield"),
        ({"on_session_complete": hookimpl(_async_yield)}, "on_session_complete must return its answer, not yield"),
        ({"on_session_complete": hookimpl(wrapper=True)(_wrap)}, "on_session_complete must not be a wrapper"),
        ({"on_session_complete": hookimpl(hookwrapper=True)(_wrap_old)}, "on_session_complete must not be a wrapper"),
        ({"on_event": hookimpl(lambda self, happening: None)}, "on_event takes happening; the hook offers event"),
        ({"register_settings": hookimpl(lambda self: dict)}, "must return a subclass of PluginSettings"),
        ({"register_hookspecs": hookimpl(lambda self: dict)}, "must return a module"),
    ],
)
def test_a_plugin_that_breaks_the_contract_is_refused(members, sentence):
    made = registry({"one": type("Plugin", (), members), "good": diary()})
    problems = asyncio.run(made.start(RUNTIME))
    assert sentence in str(problems)
    assert states(made) == {"one": "failed", "good": "enabled"}


def test_what_is_allowed_is_let_in():
    class Plugin:
        @property
        def trouble(self):
            raise RuntimeError

        @hookimpl
        def on_event(self):
            """Take fewer arguments than offered."""

        @hookimpl
        def diagnose(self, session):
            yield from ()

        @hookimpl
        async def submit_session(self, session):
            return None

        @hookimpl(specname="on_session_complete", tryfirst=True)
        def ended(self, session, extra=None):
            """Go by another name."""

        @hookimpl(optionalhook=True)
        def pages_of_somebody(self):
            """Nobody may call it."""

    made = registry({"one": Plugin})
    asyncio.run(made.start(RUNTIME))
    assert made.info("one").hooks == ("on_session_complete", "submit_session", "diagnose", "on_event")
    assert made.info("one").state is PluginState.ENABLED


def pages_module():
    module = types.ModuleType("pages")

    @hookspec
    def add_page(title):
        """Offer a page."""

    module.add_page = add_page
    return module


def test_a_plugin_may_implement_what_another_specifies_whatever_their_order():
    module = pages_module()

    class Host:
        @hookimpl
        def register_hookspecs(self):
            return module

    class Guest:
        @hookimpl
        def add_page(self, title):
            return title

    made = registry({"a_guest": Guest, "z_host": Host})

    async def run():
        await made.start(RUNTIME)
        assert states(made) == {"a_guest": "enabled", "z_host": "enabled"}
        assert made.info("a_guest").hooks == ("add_page",)
        await made.disable("z_host")
        await made.enable("z_host")
        assert states(made) == {"a_guest": "enabled", "z_host": "enabled"}

    asyncio.run(run())


def test_nobody_specifies_a_hook_twice():
    def specify(self):
        return pages_module()

    def steal(self):
        module = types.ModuleType("steal")
        module.on_event = hookspec(lambda event: None)
        return module

    kinds = {
        "one": type("One", (), {"register_hookspecs": hookimpl(specify)}),
        "thief": type("Thief", (), {"register_hookspecs": hookimpl(steal)}),
        "two": type("Two", (), {"register_hookspecs": hookimpl(specify)}),
    }
    made = registry(kinds)
    problems = asyncio.run(made.start(RUNTIME))
    assert states(made) == {"one": "enabled", "thief": "failed", "two": "failed"}
    assert "a hook add_page already exists" in str(problems)
    assert "a hook on_event already exists" in str(problems)


# New settings.


def test_new_settings_reach_only_who_they_concern():
    one, two, three = diary(), diary(), diary()
    tables = {"one": {"enabled": True}, "two": {"enabled": True}, "three": {"enabled": False}}
    made = registry({"one": one, "two": two, "three": three}, tables)

    async def run():
        await made.start(RUNTIME)
        applied = await made.apply(
            settings({"one": {"enabled": True, "level": 5}, "two": {"enabled": False}, "three": {"enabled": True}})
        )
        assert applied.changed == ("one", "two", "three")
        again = await made.apply(made.settings)
        assert again.changed == ()

    asyncio.run(run())
    assert one.said == ["configure 1", "start runtime", "configure 5"]
    assert two.said == ["configure 1", "start runtime", "stop"]
    assert three.said == ["configure 1", "start runtime"]


def test_a_bad_table_changes_nothing_for_its_plugin_and_the_good_ones_count():
    one, two = diary(), diary()
    made = registry({"one": one, "two": two})

    async def run():
        await made.start(RUNTIME)
        applied = await made.apply(
            settings({"one": {"enabled": True, "level": 99}, "two": {"enabled": True, "level": 2}})
        )
        assert applied.changed == ("two",)
        assert applied.problems == (
            "core.store: no plugin nowhere is installed",
            "plugins.one.level: must be at least 1 and at most 9; the old settings stay in force",
        )
        assert made.settings_of("one").level == 1
        assert made.settings_of("two").level == 2
        assert made.running() == ("one", "two")

    asyncio.run(run())


def test_a_switch_that_is_neither_on_nor_off_changes_nothing():
    made = registry({"one": diary(), "two": diary()}, {"two": {"enabled": False}})

    async def run():
        await made.start(RUNTIME)
        applied = await made.apply(settings({"one": {"enabled": "perhaps"}, "two": {"enabled": "perhaps"}}))
        assert applied.changed == ()
        assert "plugins.one.enabled: must be true or false" in applied.problems
        assert states(made) == {"one": "enabled", "two": "disabled"}

    asyncio.run(run())


def test_a_refusal_in_configure_leaves_the_old_settings_and_a_crash_takes_the_plugin_out():
    def configure(self, settings):
        if settings.level == 2:
            raise SettingsError("plugins.one.level: no")
        if settings.level == 3:
            raise ValueError("canary")
        self.said.append(settings.level)

    kind = diary(configure=hookimpl(configure))
    made = registry({"one": kind})

    async def run():
        await made.start(RUNTIME)
        refused = await made.apply(settings({"one": {"enabled": True, "level": 2}}))
        assert "plugins.one.level: no; the old settings stay in force" in refused.problems
        assert (states(made), made.settings_of("one").level) == ({"one": "enabled"}, 1)
        crashed = await made.apply(settings({"one": {"enabled": True, "level": 3}}))
        assert "ValueError" in str(crashed.problems)
        assert "canary" not in str(crashed.problems)
        assert states(made) == {"one": "failed"}
        assert kind.said[-1] == "stop"

    asyncio.run(run())


def test_the_store_named_anew_is_enabled_and_the_old_one_stays_if_its_table_says_so():
    made = registry({"a_store": diary(), "b_store": diary()}, {"b_store": {"enabled": False}}, store="a_store")

    async def run():
        await made.start(RUNTIME)
        assert states(made) == {"a_store": "enabled", "b_store": "disabled"}
        await made.apply(settings({"a_store": {"enabled": True}}, store="b_store"))
        assert states(made) == {"a_store": "enabled", "b_store": "enabled"}

    asyncio.run(run())


def test_the_store_of_record_stays_in_service_until_another_is_held():
    made = registry({"a_store": diary(), "b_store": diary()}, {"a_store": {}, "b_store": {}}, store="a_store")

    async def run():
        await made.start(RUNTIME)
        await made.apply(settings({"a_store": {"enabled": False}}, store="b_store"))
        assert states(made) == {"a_store": "enabled", "b_store": "enabled"}  # b has not proved itself yet
        made.hold("b_store")
        await made.apply(made.settings)
        assert states(made) == {"a_store": "disabled", "b_store": "enabled"}

    asyncio.run(run())


def test_the_order_of_the_tables_is_the_order_of_the_plugins():
    kinds = {"a": diary(), "b": diary(), "c": diary()}
    made = registry(kinds, {})
    made.settings = settings({"c": {"enabled": True}, "a": {"enabled": True}})
    assert made.names() == ("c", "a", "b")


def test_cancelling_the_one_who_enables_is_no_failure_of_the_plugin():
    waiting = threading.Event()

    def start(self, runtime):
        waiting.wait(5)

    made = registry({"one": diary(start=hookimpl(start))})

    async def run():
        task = asyncio.ensure_future(made.start(RUNTIME))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        waiting.set()
        assert made.running() == ()

    asyncio.run(run())
