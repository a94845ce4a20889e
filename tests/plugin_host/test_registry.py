import asyncio
import threading

import pytest

from fakes import registry, settings
from hl7core.errors import SettingsError
from hl7core.hookspecs import hookimpl
from hl7core.plugin_host import registry as registry_module
from hl7core.plugin_host.registry import PluginState
from plugin_host.parts import RUNTIME, Options, diary, states, wait_for

LIFE = ["register_settings", "configure", "start", "stop"]


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
    assert kind.log == ["configure 3", "start runtime", "stop", "configure 3", "start runtime", "stop"]
    assert states(made) == {"one": "disabled"}
    assert made.running() == ()


def test_start_and_stop_may_be_async():
    async def start(self, runtime):
        self.log.append(f"on {asyncio.get_running_loop() is not None}")

    async def stop(self):
        await asyncio.sleep(0)
        self.log.append("off")

    kind = diary(start=hookimpl(start), stop=hookimpl(stop))
    made = registry({"one": kind})

    async def run():
        await made.start(RUNTIME)
        await made.stop()

    asyncio.run(run())
    assert kind.log == ["configure 1", "on True", "off"]


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
def test_whatever_a_plugin_raises_in_a_lifecycle_hook_the_others_keep_running(hook, error, asynchronous, caplog):
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
    assert good.log == ["configure 1", "start runtime", "stop"]


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


def test_a_failed_plugin_runs_again_once_it_is_disabled_and_enabled():
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


def test_running_calls_finish_before_stop_is_called():
    kind = diary()
    made = registry({"one": kind})
    busy = [True, True, True]
    made.busy = lambda name: bool(busy) and busy.pop()

    async def run():
        await made.start(RUNTIME)
        await made.disable("one")

    asyncio.run(run())
    assert busy == []
    assert kind.log[-1] == "stop"


def test_every_change_of_state_is_reported():
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
        assert kind.log[-1] == "start runtime"
        await made.retire("one")
        assert kind.log.pop() == "stop"
        await made.retire("one")
        assert states(made) == {"one": "failed"}
        await made.enable("one")
        made.quarantine("one", "late")
        await made.disable("one")
        assert "stop" not in kind.log

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


def test_a_plugins_registration_and_its_state_change_in_one_step():
    made, seen = registry({"one": diary()}), []

    async def run():
        made._lock = OpenDoor(made._lock, lambda: seen.append((states(made)["one"], made.running())))
        await made.start(RUNTIME)
        made.quarantine("one", "late")

    asyncio.run(run())
    assert set(seen) == {("enabled", ("one",)), ("quarantined", ())}


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


# New settings.


def test_new_settings_reach_only_the_plugins_whose_table_changed():
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
    assert one.log == ["configure 1", "start runtime", "configure 5"]
    assert two.log == ["configure 1", "start runtime", "stop"]
    assert three.log == ["configure 1", "start runtime"]


def test_a_wrong_table_changes_nothing_for_its_plugin_and_the_right_ones_are_applied():
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


def test_configure_that_refuses_keeps_the_old_settings_and_one_that_crashes_fails_the_plugin():
    def configure(self, settings):
        if settings.level == 2:
            raise SettingsError("plugins.one.level: no")
        if settings.level == 3:
            raise ValueError("canary")
        self.log.append(settings.level)

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
        assert kind.log[-1] == "stop"

    asyncio.run(run())


def test_a_newly_named_store_is_enabled_and_the_old_one_stays_if_its_table_says_so():
    made = registry({"a_store": diary(), "b_store": diary()}, {"b_store": {"enabled": False}}, store="a_store")

    async def run():
        await made.start(RUNTIME)
        assert states(made) == {"a_store": "enabled", "b_store": "disabled"}
        await made.apply(settings({"a_store": {"enabled": True}}, store="b_store"))
        assert states(made) == {"a_store": "enabled", "b_store": "enabled"}

    asyncio.run(run())


def test_the_store_of_record_keeps_running_until_another_one_is_held():
    made = registry({"a_store": diary(), "b_store": diary()}, {"a_store": {}, "b_store": {}}, store="a_store")

    async def run():
        await made.start(RUNTIME)
        await made.apply(settings({"a_store": {"enabled": False}}, store="b_store"))
        assert states(made) == {"a_store": "enabled", "b_store": "enabled"}  # b has not proved itself yet
        made.hold("b_store")
        await made.apply(made.settings)
        assert states(made) == {"a_store": "disabled", "b_store": "enabled"}

    asyncio.run(run())


def test_cancelling_the_task_that_enables_a_plugin_is_not_the_plugins_failure():
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


def test_a_plugin_whose_start_takes_long_is_named_meanwhile(monkeypatch, caplog):
    monkeypatch.setattr(registry_module, "NAMED_AFTER", 0.02)

    class Slow:
        @hookimpl
        def start(self, runtime):
            wait_for(lambda: made.info("slow").error == "start has been running for 0 seconds")

    made = registry({"slow": Slow})
    told = []
    made.listen(lambda change: told.append((change.state, change.error)))
    asyncio.run(made.start(RUNTIME))
    assert states(made) == {"slow": "enabled"}
    assert made.info("slow").error == ""
    assert ("disabled", "start has been running for 0 seconds") in told
    assert "plugin slow: start has been running for 0 seconds" in caplog.text
