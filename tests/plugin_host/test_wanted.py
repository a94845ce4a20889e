import asyncio

import pytest

from fakes import entry_point, registry, settings
from hl7core.errors import PluginError
from hl7core.hookspecs import hookimpl
from hl7core.plugin_host.registry import Registry
from plugin_host.parts import RUNTIME, Diary, diary, states


def test_the_settings_override_the_defaults_and_naming_a_store_enables_it():
    points = [entry_point(name, Diary, bundled=name != "theirs") for name in ("ours", "store", "theirs")]
    tables = {"ours": {"enabled": False}, "theirs": {"enabled": True}, "store": {"enabled": False}}
    made = Registry(settings(tables, store="store"), entry_points=points)
    assert sorted(name for name in made.names() if made.wanted(name)) == ["store", "theirs"]


def test_unknown_names_are_reported_with_the_closest_known_one():
    made = Registry(settings({"json_stroe": {}}, store="jsn_store"), entry_points=[entry_point("json_store", Diary)])
    assert made.problems() == (
        "plugins.json_stroe: no plugin json_stroe is installed; did you mean json_store?",
        "core.store: no plugin jsn_store is installed; did you mean json_store?",
    )
    with pytest.raises(PluginError, match="no plugin json_stor is installed; did you mean json_store"):
        made.info("json_stor")


def test_load_only_leaves_the_others_alone():
    made = registry({"one": diary(), "two": diary()})
    made.load_only(["two"])
    asyncio.run(made.start(RUNTIME))
    assert states(made) == {"one": "disabled", "two": "enabled"}


def test_the_order_of_the_tables_is_the_order_of_the_plugins():
    kinds = {"a": diary(), "b": diary(), "c": diary()}
    made = registry(kinds, {})
    made.settings = settings({"c": {"enabled": True}, "a": {"enabled": True}})
    assert made.names() == ("c", "a", "b")


def test_an_enabled_that_is_not_a_boolean_changes_nothing():
    made = registry({"one": diary(), "two": diary()}, {"two": {"enabled": False}})

    async def run():
        await made.start(RUNTIME)
        applied = await made.apply(settings({"one": {"enabled": "perhaps"}, "two": {"enabled": "perhaps"}}))
        assert applied.changed == ()
        assert "plugins.one.enabled: must be true or false" in applied.problems
        assert states(made) == {"one": "enabled", "two": "disabled"}

    asyncio.run(run())


# Safe mode.


def safe(tables=None, **core):
    points = [entry_point("ours", diary(), bundled=True), entry_point("theirs", diary()), entry_point("off", diary())]
    tables = {"theirs": {"enabled": True}, **(tables or {})}
    return Registry(settings(tables, **core), entry_points=points, safe_mode=True)


def test_safe_mode_leaves_out_what_is_not_bundled_and_says_so():
    made = safe()
    asyncio.run(made.start(RUNTIME))
    assert states(made) == {"ours": "enabled", "theirs": "disabled", "off": "disabled"}
    assert made.left_out() == ("theirs",)
    assert made.info("theirs").note == "left out of this run by --safe-mode"
    assert made.info("off").note == made.info("ours").note == ""


def test_in_safe_mode_no_settings_bring_back_what_is_left_out():
    made = safe()

    async def run():
        await made.start(RUNTIME)
        applied = await made.apply(settings({"off": {"enabled": True}}, store="theirs"))
        assert applied.changed == ()
        assert states(made)["off"] == states(made)["theirs"] == "disabled"
        assert made.left_out() == ("off", "theirs")
        with pytest.raises(PluginError, match=r"theirs: left out of this run by --safe-mode"):
            await made.enable("theirs")

    asyncio.run(run())


def test_in_safe_mode_a_plugin_can_be_disabled_without_being_imported_and_nothing_else_of_it_changed():
    made = safe()
    assert made.secret_keys(["plugins.theirs.enabled", "plugins.off.enabled"]) == frozenset()
    with pytest.raises(PluginError, match="restart without it to use the plugin or change its settings"):
        made.secret_keys(["plugins.off.token"])


def test_a_plugin_that_cannot_be_imported_can_be_disabled():
    made = registry({"broken": diary(on_evnt=hookimpl(lambda self: None))})
    assert made.secret_keys(["plugins.broken.enabled"]) == frozenset()
