import asyncio
import json

import pytest

from fakes import registry, session
from hl7core.errors import StoreError
from hl7core.hookspecs import hookimpl
from hl7core.plugin_host.dispatch import Dispatch
from hl7core.plugin_host.redactors import Redactors
from plugin_host.parts import RUNTIME


class Redactor:
    @hookimpl
    def before_persist(self, session):
        return session


class Store:
    @hookimpl
    def persist_session(self, session, replace):
        return "here"


class Listener:
    @hookimpl
    def on_event(self, event):
        raise NotImplementedError


def made(folder, plugins, tables=None, *, start=True):
    plugins = registry({"store": Store, **plugins}, tables)
    redactors = Redactors(plugins, folder)
    if start:
        asyncio.run(plugins.start(RUNTIME))
        redactors.remember()
    return plugins, redactors


def test_while_every_required_plugin_runs_nothing_is_missing(tmp_path):
    _, redactors = made(tmp_path, {"redactor": Redactor, "other": Listener})
    assert redactors.missing() is None
    assert redactors.problem() == ""


def test_a_plugin_that_changes_what_is_saved_is_required_and_others_are_not(tmp_path):
    plugins, redactors = made(tmp_path, {"redactor": Redactor, "other": Listener})
    plugins.fail("other", "it broke")
    assert redactors.missing() is None
    plugins.fail("redactor", "it broke")
    assert str(redactors.missing()) == (
        "nothing is saved, because the required plugin redactor has failed: it broke. Mend it and run `hl7core plugins"
        " enable redactor`; or save without it: `hl7core plugins disable redactor`, or required = false in"
        " [plugins.redactor]"
    )


@pytest.mark.parametrize("state", ["failed", "quarantined", "suspended", "hanging"])
def test_whatever_keeps_it_from_running_nothing_is_saved(tmp_path, state):
    plugins = registry({"store": Store, "redactor": Redactor})
    dispatch = Dispatch(plugins)
    asyncio.run(plugins.start(RUNTIME))
    assert dispatch.stores.persist("store", [session()], replace=False) == ["here"]
    match state:
        case "failed":
            plugins.fail("redactor", "why")
        case "quarantined":
            plugins.quarantine("redactor", "why")
        case "suspended":
            plugins.suspend("redactor", "why")
        case "hanging":
            plugins.set_state("redactor", "hanging", "why")
    (outcome,) = dispatch.stores.persist("store", [session()], replace=False)
    assert isinstance(outcome, StoreError)
    assert "the required plugin redactor" in str(outcome)
    dispatch.close(0)


def test_the_settings_decide_first(tmp_path):
    plugins, redactors = made(
        tmp_path,
        {"redactor": Redactor, "other": Listener},
        {"redactor": {"enabled": True, "required": False}, "other": {"enabled": True, "required": True}},
    )
    plugins.fail("redactor", "it broke")
    assert redactors.missing() is None
    plugins.fail("other", "it broke")
    assert redactors.missing().plugin == "other"


def test_a_disabled_redactor_is_missed_by_nobody(tmp_path):
    _, redactors = made(tmp_path, {"redactor": Redactor}, {"redactor": {"enabled": False}})
    assert redactors.missing() is None


def test_a_redactor_that_is_left_out_of_a_run_is_missing(tmp_path):
    plugins = registry({"store": Store, "redactor": Redactor})
    plugins.load_only(["store"])
    _, before = made(tmp_path, {"redactor": Redactor})
    assert before.missing() is None
    asyncio.run(plugins.start(RUNTIME))
    assert Redactors(plugins, tmp_path).missing() == ("redactor", "is left out of this run")


def test_one_that_cannot_be_loaded_is_required_if_it_was_when_it_was_last_loaded(tmp_path):
    class Broken:
        def __init__(self):
            raise ImportError("gone")

    _, unknown = made(tmp_path, {"redactor": Broken})
    assert unknown.missing() is None
    made(tmp_path, {"redactor": Redactor})
    assert json.loads((tmp_path / "redactors.json").read_text()) == {"plugins": ["redactor"]}
    _, redactors = made(tmp_path, {"redactor": Broken})
    assert redactors.missing().plugin == "redactor"
    assert "cannot be loaded" in str(redactors.missing())
    made(tmp_path, {"redactor": Listener})  # another version changes nothing that is saved
    assert json.loads((tmp_path / "redactors.json").read_text()) == {"plugins": []}
    _, redactors = made(tmp_path, {"redactor": Broken})
    assert redactors.missing() is None


@pytest.mark.parametrize("content", [b"", b"{}", b'{"plugins": 5}', b"\xff"])
def test_what_cannot_be_remembered_is_required(tmp_path, content, caplog):
    class Broken:
        def __init__(self):
            raise ImportError("gone")

    (tmp_path / "redactors.json").write_bytes(content)
    _, redactors = made(tmp_path, {"redactor": Broken}, start=False)
    assert "every plugin that does not load counts as required" in caplog.text
    asyncio.run(redactors._registry.start(RUNTIME))
    assert redactors.missing().plugin == "redactor"


def test_a_value_of_required_that_is_not_true_or_false_is_a_problem_and_counts_as_true(tmp_path):
    plugins, redactors = made(tmp_path, {"other": Listener}, {"other": {"enabled": True, "required": "perhaps"}})
    assert any("plugins.other.required: must be true or false" in text for text in plugins.problems())
    plugins.fail("other", "it broke")
    assert redactors.missing().plugin == "other"


def test_a_plugins_own_setting_of_that_name_stays_its_own(tmp_path):
    from pydantic import Field

    from hl7core.contract import PluginSettings

    class Own(PluginSettings):
        required: str = Field("", description="Its own.")

    class Plugin(Listener):
        @hookimpl
        def register_settings(self):
            return Own

    plugins, redactors = made(tmp_path, {"other": Plugin}, {"other": {"enabled": True, "required": "text"}})
    assert plugins.settings_of("other").required == "text"
    plugins.fail("other", "it broke")
    assert redactors.missing() is None


@pytest.mark.parametrize(
    ("table", "missing"),
    [({"enabled": True}, True), ({"enabled": False}, False), ({"enabled": True, "required": False}, False)],
)
def test_one_that_is_enabled_and_was_uninstalled_is_missing(tmp_path, table, missing):
    made(tmp_path, {"redactor": Redactor})
    _, redactors = made(tmp_path, {"other": Listener}, {"redactor": table, "other": {"enabled": True}})
    assert (redactors.missing() is not None) is missing
    if missing:
        assert "the required plugin redactor is not installed" in redactors.problem()
    made(tmp_path, {"other": Listener}, {"redactor": table, "other": {"enabled": True}})
    assert json.loads((tmp_path / "redactors.json").read_text()) == {"plugins": ["redactor"]}
