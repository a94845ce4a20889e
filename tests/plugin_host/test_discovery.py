import asyncio
import sys

from fakes import entry_point, settings
from hl7core.plugin_host.registry import PluginState, Registry
from plugin_host.parts import RUNTIME, Diary


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


def test_of_two_packages_with_one_name_the_bundled_one_is_used_and_the_other_is_a_problem():
    points = [entry_point("store", Diary), entry_point("store", Diary, bundled=True)]
    points[0] = points[0].__class__("store", "elsewhere:Plugin", "hl7core")
    made = Registry(settings(store="store"), entry_points=points)
    assert made.info("store").bundled
    assert made.problems() == ("plugins.store: two packages provide it; elsewhere:Plugin is not used",)


def test_a_plugin_whose_name_no_table_could_have_is_not_used():
    made = Registry(settings(), entry_points=[entry_point("My-Plugin", Diary)])
    assert made.names() == ()
    assert "lower-case" in made.problems()[0]
