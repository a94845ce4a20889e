import asyncio
import sys

import pytest

from fakes import entry_point, settings
from hl7core.plugin_host import discovery
from hl7core.plugin_host.discovery import installed_stamp
from hl7core.plugin_host.registry import PluginState, Registry
from installing import install, install_editable, uninstall
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


# What is installed while the process runs.


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder on the path of this process in which packages are installed."""
    folder = tmp_path / "site"
    folder.mkdir()
    modules = dict(sys.modules)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    yield folder
    for name in set(sys.modules) - set(modules):
        del sys.modules[name]


def enabled(*names):
    return settings({name: {"enabled": True} for name in names}, store="json_store")


async def applied(registry, names):
    return (await registry.apply(enabled(*names))).problems


def test_a_plugin_that_is_installed_later_is_enabled_when_the_settings_name_it(site):
    made = Registry(settings(store="json_store"))

    async def run():
        assert await applied(made, ["bell"]) == ("plugins.bell: no plugin bell is installed",)
        install(site, "bell")
        assert await applied(made, ["bell"]) == ()
        assert made.info("bell").state == PluginState.ENABLED
        await made.stop()

    asyncio.run(run())


def test_an_editable_install_is_found_although_python_read_its_path_files_long_ago(site, tmp_path):
    made = Registry(settings(store="json_store"))
    install_editable(site, "bench_bell", tmp_path / "project")

    async def run():
        assert await applied(made, ["bench_bell"]) == ()
        assert made.info("bench_bell").state == PluginState.ENABLED
        await made.stop()

    asyncio.run(run())


def test_an_upgraded_plugin_that_was_never_imported_is_simply_the_new_one(site):
    install(site, "bell", "1.0")
    made = Registry(settings(store="json_store"))
    install(site, "bell", "2.0")

    async def run():
        await applied(made, ["bell"])
        assert (made.info("bell").version, made.load("bell").VERSION) == ("2.0", "2.0")
        assert made.installed_notes() == {}
        await made.stop()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("later", "note"),
    [
        ("2.0", "hl7core-bell 2.0 is installed, but hl7core-bell 1.0 is in use; restart the engine"),
        (None, "hl7core-bell 1.0 is not installed any more; its code is in use until the engine restarts"),
    ],
)
def test_code_in_use_stays_as_it_is_and_what_a_restart_would_change_is_said(site, later, note):
    install(site, "bell", "1.0")
    made = Registry(enabled("bell"))

    async def run():
        await made.start(RUNTIME)
        plugin = made.load("bell")
        if later:
            install(site, "bell", later)
        else:
            uninstall(site, "bell")
        assert await applied(made, ["bell"]) == ()
        assert made.load("bell") is plugin
        assert (made.info("bell").version, made.info("bell").state) == ("1.0", PluginState.ENABLED)
        assert made.info("bell").note.startswith(note)
        assert made.installed_notes() == {"hl7core-bell": made.info("bell").note}
        await made.disable("bell")
        await made.enable("bell")  # Python keeps what it has imported: still the old code, and so it is called
        assert (made.info("bell").version, made.load("bell").VERSION) == ("1.0", "1.0")
        install(site, "bell", "1.0")
        await made.rediscover()
        assert made.installed_notes() == {}
        await made.stop()

    asyncio.run(run())


def test_a_reinstalled_package_of_the_same_version_is_told_too(site):
    install(site, "bell", "1.0")
    made = Registry(enabled("bell"))
    made.load("bell")
    info = next(site.glob("*.dist-info"))
    (info / "RECORD").write_text("hl7core_bell/__init__.py,sha256=other,9\n")
    asyncio.run(made.rediscover())
    assert "was installed again" in made.info("bell").note


def test_a_plugin_that_could_not_be_imported_is_tried_again_when_its_package_is_replaced(site):
    install(site, "bell", "1.0", source="from hl7core_bell import nothing")
    made = Registry(enabled("bell"))

    async def run():
        await made.start(RUNTIME)
        assert made.info("bell").state == PluginState.FAILED
        install(site, "bell", "1.1")
        assert await applied(made, ["bell"]) == ()
        assert (made.info("bell").state, made.info("bell").version) == (PluginState.ENABLED, "1.1")
        await made.stop()

    asyncio.run(run())


def test_a_plugin_that_was_uninstalled_before_it_was_imported_is_gone(site):
    install(site, "bell")
    made = Registry(settings(store="json_store"))
    assert "bell" in made.names()
    uninstall(site, "bell")
    asyncio.run(made.rediscover())
    assert "bell" not in made.names()


def test_a_package_that_cannot_be_read_leaves_the_plugins_as_they_are(site, caplog):
    install(site, "bell")
    made = Registry(enabled("bell"))
    (next(site.glob("*.dist-info")) / "METADATA").write_bytes(b"Name: \xff\xfe\n")
    asyncio.run(made.rediscover())
    assert "bell" in made.names()
    assert "cannot be listed" in caplog.text


def test_the_stamp_changes_with_each_install_upgrade_and_removal(site):
    stamps = [installed_stamp()]
    for step in (
        lambda: install(site, "bell", "1.0"),
        lambda: install(site, "bell", "1.1"),
        lambda: uninstall(site, "bell"),
    ):
        step()
        stamps.append(installed_stamp())
    assert len(set(stamps[:3])) == 3
    assert stamps[3] == stamps[0]


def test_bundled_plugins_are_in_use_with_the_rest_of_hl7core(monkeypatch):
    made = Registry(settings(store="json_store"))
    assert not made.info("sqlite_store").enabled
    newer = discovery.Package("hl7core", "99.0", "other")
    monkeypatch.setattr(discovery.Package, "of", classmethod(lambda cls, dist: newer))
    asyncio.run(made.rediscover())
    note = "hl7core 99.0 is installed, but hl7core "
    assert made.info("sqlite_store").note.startswith(note)
    assert list(made.installed_notes()) == ["hl7core"]
