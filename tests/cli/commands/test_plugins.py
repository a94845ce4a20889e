"""``hl7core plugins``: list, info, enable and disable."""

import json
import os
import pty
import select
import struct
import subprocess
from fcntl import ioctl
from termios import TIOCSWINSZ

import pytest

from shell import ENV, command, hl7core


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
    assert "brings packets" in rows["scapy_source"]
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
