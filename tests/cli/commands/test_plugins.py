"""``hl7core plugins``: list, info, enable and disable."""

import json
import os
import pty
import select
import struct
import subprocess
import time
from fcntl import ioctl
from termios import TIOCSWINSZ

import pytest

from hl7core import HOOK_API
from installing import SOURCE, install, uninstall
from shell import ENV, command, engine, hl7core


def wait_until(condition, seconds=30):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until


def seen(*arguments, cwd, columns):
    """What a terminal of so many columns shows, without colour."""
    primary, secondary = pty.openpty()
    ioctl(secondary, TIOCSWINSZ, struct.pack("4H", 50, columns, 0, 0))
    env = ENV | {"NO_COLOR": "1", "TERM": "xterm", "HOME": str(cwd)}
    env.pop("COLUMNS", None)
    process = subprocess.Popen(
        command(*arguments), stdin=secondary, stdout=secondary, stderr=secondary, cwd=cwd, env=env
    )
    os.close(secondary)
    data = b""
    while select.select([primary], [], [], 20)[0]:
        try:
            data += os.read(primary, 65536)
        except OSError:  # the other end is closed
            break
    os.close(primary)
    process.wait(20)
    return [line.rstrip() for line in data.decode().replace("\r", "").split("\n")]


@pytest.mark.parametrize("columns", [80, 140])
def test_each_plugin_is_one_line_that_says_what_it_does(tmp_path, columns):
    lines = seen("plugins", "list", cwd=tmp_path, columns=columns)
    assert max(map(len, lines)) <= columns
    rows = {line.split()[0]: line for line in lines if line and not line.startswith(" ")}
    assert "stores new sessions" in rows["json_store"]
    assert "supplies packets" in rows["scapy_source"]
    assert rows["sqlite_store"].split()[1] == "disabled"
    assert any("open_source" in line for line in lines) is (columns == 140)


def test_info_folds_its_lines_and_never_shows_a_secret(tmp_path):
    (tmp_path / "settings.toml").write_text('[plugins.rest_destination]\nauth_header = "Bearer canary"\n')
    lines = seen("plugins", "info", "rest_destination", cwd=tmp_path, columns=80)
    assert max(map(len, lines)) <= 80
    assert "    auth_header = (set, a secret)" in lines
    assert "    concurrency = 2" in lines
    assert not any("canary" in line for line in lines)


def test_plugins_are_listed_and_toggled_in_the_settings_file(tmp_path):
    (tmp_path / "settings.toml").write_text("# mine\n[core]\nretention_days = 14\n")
    rows, older = (
        [
            json.loads(line) | {"import_ms": 0}
            for line in hl7core("plugins", "list", *form, cwd=tmp_path).stdout.splitlines()
        ]
        for form in (("-o", "jsonl"), ("--json",))
    )
    assert rows == older
    off = {"sqlite_store"}
    assert {"file_source", "json_store", "rest_destination", "retention", "scapy_source"} <= {r["name"] for r in rows}
    assert all(row["state"] == ("disabled" if row["name"] in off else "enabled") for row in rows)
    assert hl7core("plugins", "disable", "scapy_source", cwd=tmp_path).returncode == 0
    text = (tmp_path / "settings.toml").read_text()
    assert text.startswith("# mine\n")
    assert "[plugins.scapy_source]\nenabled = false" in text
    assert hl7core("plugins", "disable", "json_store", cwd=tmp_path).returncode == 1  # the store of record
    unknown = hl7core("plugins", "enable", "jsonstore", cwd=tmp_path)
    assert unknown.returncode == 1
    assert "json_store" in unknown.stderr


def test_plugin_info_shows_hooks_and_settings(tmp_path):
    out = hl7core("plugins", "info", "json_store", cwd=tmp_path).stdout
    assert "persist_sessions" in out
    assert "[plugins.json_store]" in out


def test_info_says_which_hook_api_a_plugin_needs_and_which_there_is(tmp_path):
    stated = SOURCE.replace("    VERSION", '    hook_api = ">=1.0,<2"\n    VERSION')
    install(tmp_path / "site", "bell", source=stated)
    install(tmp_path / "site", "siren", source=stated.replace(">=1.0,<2", ">=99"))
    site = {"PYTHONPATH": str(tmp_path / "site")}
    assert f"needs >=1.0,<2; this is {HOOK_API}" in hl7core("plugins", "info", "bell", cwd=tmp_path, **site).stdout
    assert f"states no range; this is {HOOK_API}" in hl7core("plugins", "info", "retention", cwd=tmp_path).stdout
    refused = hl7core("plugins", "enable", "siren", cwd=tmp_path, **site)
    assert refused.returncode == 1
    assert f"siren: needs hook API >=99, and this hl7core has {HOOK_API}; upgrade hl7core" in refused.stderr
    assert not (tmp_path / "settings.toml").exists()


def test_a_plugin_that_is_installed_while_the_engine_runs_is_taken_up_and_its_upgrade_is_told(tmp_path):
    (tmp_path / "settings.toml").touch()
    site = tmp_path / "site"
    site.mkdir()
    env = {"PYTHONPATH": str(site)}

    def row():
        lines = hl7core("plugins", "list", "-o", "jsonl", cwd=tmp_path, **env).stdout.splitlines()
        return {row["name"]: row for row in map(json.loads, lines)}.get("bell", {})

    with engine(tmp_path, **env):
        assert row() == {}
        install(site, "bell", "1.0")
        done = hl7core("plugins", "enable", "bell", cwd=tmp_path, **env)
        assert (done.returncode, done.stdout.splitlines()[1:]) == (0, ["the running engine: enabled"])
        assert (row()["state"], row()["version"]) == ("enabled", "1.0")
        install(site, "bell", "1.1")
        wait_until(lambda: row()["note"])
        assert "hl7core-bell 1.1 is installed, but hl7core-bell 1.0 is in use; restart the engine" in row()["note"]
        assert "hl7core-bell 1.1 is installed" in hl7core("doctor", cwd=tmp_path, **env).stdout
        uninstall(site, "bell")
        wait_until(lambda: "is not installed any more; its code is in use until the engine restarts" in row()["note"])
        done = hl7core("plugins", "disable", "bell", cwd=tmp_path, **env)
        assert (done.returncode, done.stdout.splitlines()[1][:28]) == (0, "the running engine: disabled")


def test_a_plugin_that_the_settings_name_already_is_taken_up_once_it_is_installed(tmp_path):
    (tmp_path / "settings.toml").write_text("[plugins.bell]\nenabled = true\n")
    site = tmp_path / "site"
    site.mkdir()
    env = {"PYTHONPATH": str(site)}

    def doctor():
        return hl7core("doctor", cwd=tmp_path, **env).stdout

    with engine(tmp_path, **env):
        assert "plugins.bell: no plugin bell is installed" in doctor()
        install(site, "bell")
        wait_until(lambda: "no plugin bell is installed" not in doctor())
        lines = hl7core("plugins", "list", "-o", "jsonl", cwd=tmp_path, **env).stdout.splitlines()
        assert {row["name"]: row["state"] for row in map(json.loads, lines)}["bell"] == "enabled"


def test_enable_says_what_the_engine_made_of_it(tmp_path):
    (tmp_path / "settings.toml").touch()
    source = SOURCE + "\n    @hookimpl\n    def start(self):\n        raise ValueError\n"
    install(tmp_path / "site", "bell", source=source)
    install(tmp_path / "site", "siren")
    env = {"PYTHONPATH": str(tmp_path / "site")}
    with engine(tmp_path, **env):
        done = hl7core("plugins", "enable", "bell", cwd=tmp_path, **env)
        assert done.returncode == 1
        assert "the running engine: failed (PluginError: bell: start: ValueError" in done.stdout
    with engine(tmp_path, "--safe-mode", **env):
        done = hl7core("plugins", "enable", "siren", cwd=tmp_path, **env)
        assert done.returncode == 0
        assert "the running engine does not load it: left out of this run by --safe-mode" in done.stdout
