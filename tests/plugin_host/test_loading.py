import asyncio
import sys
import types

import pytest

from fakes import entry_point, registry, settings
from hl7core.errors import PluginError
from hl7core.hookspecs import HOOK_API, hookimpl, hookspec
from hl7core.plugin_host.registry import PluginState, Registry
from plugin_host.parts import RUNTIME, Diary, Options, diary, states


def test_load_gives_the_plugin_without_registering_it():
    made = registry({"one": diary()})
    plugin = made.load("one")
    assert isinstance(plugin, Diary)
    assert made.load("one") is plugin
    assert made.running() == ()
    assert made.model("one") is Options
    assert made.secret_keys() == {"plugins.one.token"}


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


def test_what_the_contract_allows_is_loaded():
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


def test_a_hook_cannot_be_specified_twice():
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


# The hooks that a plugin was written for.


@pytest.mark.parametrize("stated", [">=1.0,<2", "~=1.0", "==1.*", ">=1", "!=1.7", " >= 1.0 , < 2 "])
def test_a_plugin_that_states_a_fitting_range_of_hook_apis_is_loaded_and_the_range_is_shown(stated):
    made = registry({"one": diary(hook_api=stated)})
    made.load("one")
    assert made.info("one").hook_api == stated


def test_a_plugin_need_not_state_a_range():
    made = registry({"one": diary()})
    made.load("one")
    assert made.info("one").hook_api == ""


@pytest.mark.parametrize(
    ("stated", "sentence"),
    [
        (">=99,<100", f"needs hook API >=99,<100, and this hl7core has {HOOK_API}; upgrade hl7core"),
        ("~=99.1", f"needs hook API ~=99.1, and this hl7core has {HOOK_API}; upgrade hl7core"),
        ("<1", f"needs hook API <1, and this hl7core has {HOOK_API}; install a newer"),
        ("==0.9", f"needs hook API ==0.9, and this hl7core has {HOOK_API}; install a newer"),
        ("1.1", "'1.1' is not a range of versions; write for example hook_api = \">=1.0,<2\""),
        (">=one", "'>=one' is not a range of versions; write for example"),
        ("", "its hook_api is not a text that states a range of versions; write for example"),
        (1.1, "its hook_api is not a text that states a range of versions; write for example"),
        ((1, 1), "its hook_api is not a text that states a range of versions; write for example"),
    ],
)
def test_a_plugin_for_other_hooks_is_refused_before_it_is_constructed(stated, sentence):
    class Other(Diary):
        hook_api = stated

        def __init__(self):
            raise AssertionError("constructed")

        @hookimpl
        def hook_of_another_version(self):
            """Unknown here, and not what is told."""

    made = registry({"one": Other, "good": diary()})
    asyncio.run(made.start(RUNTIME))
    assert states(made) == {"one": "failed", "good": "enabled"}
    assert f"one: {sentence}" in made.info("one").error or f"one: its hook_api {sentence}" in made.info("one").error
