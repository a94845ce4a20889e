"""``plugins new``: what it makes is a distribution that works, with tests that pass."""

import json
import re
import subprocess
import sys
import tomllib

import pytest

from hl7core import HOOK_API
from hl7core.cli.commands.plugins_new import KINDS
from hl7core.testing.harness import EngineHarness
from shell import ENV


def run(*command, cwd, **env):
    return subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        capture_output=True, text=True, check=False, cwd=cwd, env=ENV | env, timeout=110,
    )  # fmt: skip


@pytest.fixture(scope="module")
def projects(tmp_path_factory):
    """One project of each kind, and a folder with all of them, installed by pip."""
    folder = tmp_path_factory.mktemp("projects")
    made = {}
    for kind in KINDS:
        done = run("hl7core", "plugins", "new", f"my_{kind}", "--kind", kind, cwd=folder)
        assert done.returncode == 0, done.stderr
        made[kind] = folder / f"hl7core-my-{kind}"
    site = folder / "site"
    done = run(
        "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "--target", site, *made.values(),
        cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return made, site


@pytest.mark.parametrize("kind", KINDS)
def test_its_tests_pass(projects, kind):
    made, _ = projects
    done = run("pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", cwd=made[kind])
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


CONTRACTS = {"destination": "DestinationContract", "store": "StoreContract", "dialect": "FramerContract"}


@pytest.mark.parametrize("kind", KINDS)
def test_its_tests_put_it_through_the_contract_of_its_kind_and_install_what_that_needs(projects, kind):
    made, _ = projects
    (tests,) = (made[kind] / "tests").glob("test_*.py")
    needed = CONTRACTS.get(kind, "EngineHarness")
    assert re.search(rf"class \w+\({needed}\)|with {needed}\(", tests.read_text())
    project = tomllib.loads((made[kind] / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["test"] == ["hl7core[testing]"]


@pytest.mark.parametrize("kind", KINDS)
def test_it_states_the_hooks_of_the_version_that_made_it(projects, kind):
    made, site = projects
    first, _, _ = HOOK_API.partition(".")
    (code,) = (made[kind] / "src").glob("*/__init__.py")
    assert f'hook_api = ">={HOOK_API},<{int(first) + 1}"' in code.read_text()
    shown = run("hl7core", "plugins", "info", f"my_{kind}", cwd=made[kind], PYTHONPATH=str(site))
    assert f"needs >={HOOK_API},<{int(first) + 1}; this is {HOOK_API}" in shown.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_installed_off_and_is_switched_on_and_off(projects, tmp_path, kind):
    _, site = projects
    (tmp_path / "settings.toml").touch()

    def state():
        done = run("hl7core", "plugins", "list", "--json", cwd=tmp_path, PYTHONPATH=str(site))
        return {row["name"]: row for row in map(json.loads, done.stdout.splitlines())}[f"my_{kind}"]

    row = state()
    assert (row["state"], row["distribution"], row["bundled"]) == ("disabled", f"hl7core-my-{kind}", False)
    done = run("hl7core", "plugins", "enable", f"my_{kind}", cwd=tmp_path, PYTHONPATH=str(site))
    assert done.returncode == 0, done.stderr
    assert state()["state"] == "enabled"
    run("hl7core", "plugins", "disable", f"my_{kind}", cwd=tmp_path, PYTHONPATH=str(site))
    assert state()["state"] == "disabled"


@pytest.mark.parametrize("kind", KINDS)
def test_it_comes_and_goes_in_an_engine(projects, tmp_path, monkeypatch, kind):
    from importlib.metadata import EntryPoint

    _, site = projects
    monkeypatch.syspath_prepend(str(site))
    name = f"my_{kind}"
    point = EntryPoint(name, f"hl7core_{name}:My{kind.capitalize()}", "hl7core")
    settings = {"core.enable_persistence": False, f"plugins.{name}.enabled": True}
    with EngineHarness(tmp_path, {name: point.load()}, settings=settings) as harness:
        info = harness.engine.registry.info(name)
        assert (info.state, info.error) == ("enabled", "")
        harness.call(harness.runtime.change_settings({f"plugins.{name}.enabled": False}))
        assert harness.engine.registry.info(name).state == "disabled"
        harness.call(harness.runtime.change_settings({f"plugins.{name}.enabled": True}))
        assert harness.engine.registry.info(name).state == "enabled"


def test_a_store_made_so_becomes_the_store_of_record_of_a_running_engine(projects, tmp_path, monkeypatch):
    from importlib import import_module

    _, site = projects
    monkeypatch.syspath_prepend(str(site))
    store = import_module("hl7core_my_store").MyStore
    with EngineHarness(tmp_path, {"my_store": store}, settings={"plugins.my_store.enabled": True}) as harness:
        harness.call(harness.runtime.change_settings({"core.store": "my_store"}))
        assert harness.engine.record == "my_store"


def test_it_imports_the_public_door_alone(projects):
    made, _ = projects
    for project in made.values():
        for path in project.rglob("*.py"):
            for line in path.read_text().splitlines():
                if line.startswith(("from hl7core.", "import hl7core")):
                    assert line.startswith("from hl7core.testing import"), f"{path}: {line}"


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_as_clean_as_ours(projects, kind):
    made, _ = projects
    pytest.importorskip("mypy")
    pytest.importorskip("ruff")
    done = run("mypy", "--strict", "src", "--cache-dir", made[kind] / ".mypy_cache", cwd=made[kind])
    assert done.returncode == 0, done.stdout
    line_length = ["--line-length", "120", "--no-cache", "src", "tests"]
    done = run("ruff", "check", "--select", "E,F,W,B,UP,SIM,RET,PTH", *line_length, cwd=made[kind])
    assert done.returncode == 0, done.stdout
    done = run("ruff", "format", "--check", *line_length, cwd=made[kind])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["Journal", "my-plugin", "9lives", "class", "../x", "", "a" * 51])
def test_a_name_that_cannot_be_one_is_refused(tmp_path, name):
    done = run("hl7core", "plugins", "new", "--", name, cwd=tmp_path)
    assert done.returncode == 2
    assert "not a valid plugin name" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_nothing_that_exists_is_overwritten(tmp_path):
    taken = run("hl7core", "plugins", "new", "json_store", cwd=tmp_path)
    assert taken.returncode == 1
    assert "already" in taken.stderr
    assert run("hl7core", "plugins", "new", "bell", "--folder", "far/away", cwd=tmp_path).returncode == 0
    (tmp_path / "far/away/hl7core-bell/README.md").write_text("mine")
    again = run("hl7core", "plugins", "new", "bell", "--folder", "far/away", cwd=tmp_path)
    assert again.returncode == 1
    assert "already exists" in again.stderr
    assert (tmp_path / "far/away/hl7core-bell/README.md").read_text() == "mine"
