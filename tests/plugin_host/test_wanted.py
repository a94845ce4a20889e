import asyncio

import pytest

from fakes import entry_point, registry, settings
from hl7core.errors import PluginError
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
