"""``hl7core run`` and ``capture`` in safe mode: bundled plugins alone."""

import json
import subprocess
import time

import pytest

from hl7core.cli.commands.plugins_new import _files
from installing import install
from shell import ENV, command, engine, hl7core


@pytest.fixture
def env(tmp_path):
    """A third-party plugin and a third-party store are installed."""
    install(tmp_path / "site", "bell")
    install(tmp_path / "site", "vault", source=_files("vault", "store")["src/hl7core_vault/__init__.py"])
    (entry,) = (tmp_path / "site").glob("hl7core_vault-*.dist-info/entry_points.txt")
    entry.write_text("[hl7core]\nvault = hl7core_vault:Vault\n")
    return {"PYTHONPATH": str(tmp_path / "site")}


def test_safe_mode_says_what_it_leaves_out_in_its_first_line_the_list_and_doctor(tmp_path, env):
    (tmp_path / "settings.toml").write_text("[plugins.bell]\nenabled = true\n")
    with engine(tmp_path, "--safe-mode", **env):
        told = hl7core("doctor", cwd=tmp_path, **env).stdout
        assert "safe mode: bundled plugins alone; left out: bell" in told
        lines = hl7core("plugins", "list", "-o", "jsonl", cwd=tmp_path, **env).stdout.splitlines()
        row = {row["name"]: row for row in map(json.loads, lines)}["bell"]
        assert (row["state"], row["note"]) == ("disabled", "left out of this run by --safe-mode")
        (tmp_path / "settings.toml").write_text("[plugins.vault]\nenabled = true\n")
        until = time.monotonic() + 20
        while "left out: vault" not in hl7core("doctor", cwd=tmp_path, **env).stdout:
            assert time.monotonic() < until


def test_the_start_line_of_run_and_capture_says_it(tmp_path, env):
    (tmp_path / "settings.toml").write_text("[plugins.bell]\nenabled = true\n")
    for arguments in (("run", "--safe-mode"), ("capture", "--safe-mode", "-i", "nope0")):
        with subprocess.Popen(
            command(*arguments), cwd=tmp_path, env=ENV | env, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            line = process.stderr.readline()
            process.terminate()
            process.communicate()
        assert line == "safe mode: bundled plugins alone; left out: bell\n"


def test_safe_mode_does_not_start_without_its_store_and_names_the_ways_out(tmp_path, env):
    (tmp_path / "settings.toml").write_text('[core]\nstore = "vault"\n')
    for arguments in (("run", "--safe-mode"), ("capture", "--safe-mode", "-i", "nope0")):
        refused = hl7core(*arguments, cwd=tmp_path, **env)
        assert refused.returncode == 5
        assert refused.stderr.splitlines()[-1] == (
            "hl7core: core.store: vault is not bundled, so safe mode leaves it out, and no session could be saved; "
            "name a bundled store for this run (HL7CORE_CORE__STORE=json_store), or start without --safe-mode"
        )
        assert "saved by" not in refused.stderr
    assert not (tmp_path / "docs").exists()
    with engine(tmp_path, "--safe-mode", HL7CORE_CORE__STORE="json_store", **env):
        assert "left out" not in hl7core("settings", "check", cwd=tmp_path, **env).stdout


def test_a_running_engine_in_safe_mode_keeps_its_store_and_says_why(tmp_path, env):
    (tmp_path / "settings.toml").touch()
    with engine(tmp_path, "--safe-mode", **env):
        (tmp_path / "settings.toml").write_text('[core]\nstore = "vault"\n')
        until = time.monotonic() + 20
        sentence = "core.store: vault is not running as a store (left out of this run by --safe-mode); json_store stays"
        while sentence not in hl7core("doctor", cwd=tmp_path, **env).stdout:
            assert time.monotonic() < until
