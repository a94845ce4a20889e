"""The commands as scripts meet them: what they print and how they exit."""

import json
import os
import shutil
import sys

import pytest

from hl7core.cli.main import _COMMANDS
from shell import hl7core

ROOT_ON_LINUX = sys.platform == "linux" and os.geteuid() == 0


@pytest.mark.parametrize("name", _COMMANDS)
def test_every_help_ends_with_examples(name, tmp_path):
    run = hl7core(name, "--help", cwd=tmp_path)
    assert run.returncode == 0
    assert "Examples:\n  " in run.stdout
    assert run.stdout.rstrip().splitlines()[-1].strip().startswith(("hl7core", "sudo hl7core", "tcpdump"))


def test_a_wrong_option_is_exit_2(tmp_path):
    assert hl7core("read", "--no-such-option", cwd=tmp_path).returncode == 2


def test_version_as_json_names_what_it_runs_on(tmp_path):
    answer = json.loads(hl7core("version", "--json", cwd=tmp_path).stdout)
    assert answer["hl7core"]
    assert "scapy" in answer["libraries"]


def test_a_wrong_setting_is_exit_5_and_names_the_value_and_its_rule(tmp_path):
    (tmp_path / "settings.toml").write_text("[core]\nretention_days = 999\nmemory_sesions = 5\n")
    run = hl7core("settings", "check", cwd=tmp_path)
    assert run.returncode == 5
    assert "core.retention_days" in run.stderr
    assert "365" in run.stderr
    assert "memory_sessions" in run.stderr  # the nearest known name
    assert hl7core("sessions", "list", cwd=tmp_path).returncode == 5


def test_settings_show_says_where_each_value_came_from(tmp_path):
    (tmp_path / "settings.toml").write_text("[core]\nretention_days = 14\n")
    run = hl7core("settings", "show", "--origin", cwd=tmp_path, HL7CORE_CORE__SILENCE="45")
    assert f"retention_days = 14  # {tmp_path / 'settings.toml'}" in run.stdout
    assert "silence = 45.0  # HL7CORE_CORE__SILENCE" in run.stdout
    assert 'store = "json_store"  # default' in run.stdout


def test_settings_init_makes_a_private_data_folder(tmp_path):
    run = hl7core("settings", "init", "--file", "s/settings.toml", "--data-folder", "private", cwd=tmp_path)
    assert run.returncode == 0
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o700
    assert hl7core("--settings", "s/settings.toml", "settings", "check", cwd=tmp_path).returncode == 0
    again = hl7core("settings", "init", "--file", "s/settings.toml", cwd=tmp_path)
    assert again.returncode == 5
    assert "exists already" in again.stderr


def test_plugins_are_listed_and_toggled_in_the_settings_file(tmp_path):
    (tmp_path / "settings.toml").write_text("# mine\n[core]\nretention_days = 14\n")
    rows = [json.loads(line) for line in hl7core("plugins", "list", "--json", cwd=tmp_path).stdout.splitlines()]
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


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return folder, hl7core("demo", "--seconds", "2", "--no-live", cwd=folder)


def test_the_demo_records_and_stores_every_conversation(demo):
    folder, run = demo
    assert run.returncode == 0, run.stderr
    stored = [json.loads(path.read_bytes()) for path in (folder / "hl7core-demo/sessions").glob("*.json")]
    assert {session["protocol"] for session in stored} == {"lis01", "plain", "mllp"}
    assert any(not session["isComplete"] for session in stored if session["protocol"] == "mllp")
    assert any(e["type"] == "nak" for session in stored if session["protocol"] == "lis01" for e in session["elements"])
    assert f"{len(stored)} recorded, {len(stored)} stored" in run.stdout


def test_the_demo_submits_every_session_to_a_receiver_of_its_own(demo):
    folder, run = demo
    stored = [json.loads(path.read_bytes()) for path in (folder / "hl7core-demo/sessions").glob("*.json")]
    assert {session["submissionStatus"] for session in stored} == {"submitted"}
    assert f"submitted {len(stored)} of {len(stored)}" in run.stdout
    for session in stored:
        assert session["deliveries"]["rest_destination"]["status"] == "submitted"
        assert f"submitted    session {session['sessionId']}" in run.stdout


@pytest.mark.skipif(not ROOT_ON_LINUX, reason="capturing the loopback interface needs root on Linux")
def test_the_demo_captures_live_where_it_may(tmp_path):
    run = hl7core("demo", "--seconds", "2", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "captured live on the loopback interface" in run.stdout


def test_stored_sessions_are_listed_shown_deleted_and_restored(demo):
    folder, _ = demo
    env = {"HL7CORE_CORE__OUTPUT_FOLDER": str(folder / "hl7core-demo")}
    rows = [json.loads(line) for line in hl7core("sessions", "list", cwd=folder, **env).stdout.splitlines()]
    assert [row["startTime"] for row in rows] == sorted(row["startTime"] for row in rows)
    assert rows[0]["_metadata"]["version"] == "2.0.0"
    found = hl7core("sessions", "list", "--control-id", "HC00001", cwd=folder, **env).stdout.splitlines()
    assert len(found) == 1
    assert hl7core("sessions", "list", "--control-id", "nobody", cwd=folder, **env).returncode == 3
    session_id = next(row["sessionId"] for row in rows if row["protocol"] == "lis01")
    ladder = hl7core("sessions", "show", session_id[:22], cwd=folder, **env).stdout
    assert "ENQ ─" in ladder
    assert "─ NAK" in ladder
    assert "message 1 of 1: HPORRL" in ladder
    assert hl7core("sessions", "delete", session_id, cwd=folder, **env).returncode == 0
    assert hl7core("sessions", "show", session_id, cwd=folder, **env).returncode == 3
    assert hl7core("sessions", "restore", session_id, cwd=folder, **env).returncode == 0
    assert hl7core("sessions", "show", session_id, cwd=folder, **env).returncode == 0


def test_a_capture_file_is_stored_once(demo, tmp_path):
    from hl7core.wire.pcap.synthetic_tcp import TcpTalk
    from hl7core.wire.pcap.writer import pcap_header, pcap_record

    talk = TcpTalk()
    talk.open()
    talk.opener(b"\x0bMSH|^~\\&|A|B|C|D|||ORU^R01|M1|P|2.5\r\x1c\r")
    (tmp_path / "day.pcap").write_bytes(pcap_header() + b"".join(pcap_record(p.time_ns, p.data) for p in talk.packets))
    first = hl7core("read", "day.pcap", "--store", cwd=tmp_path)
    assert "1 sessions saved" in first.stderr
    again = hl7core("read", "day.pcap", "--store", cwd=tmp_path)
    assert "0 sessions saved" in again.stderr
    assert "1 were stored already" in again.stderr
    (path,) = (tmp_path / "docs/sessions").glob("*.json")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(not ROOT_ON_LINUX, reason="opening a packet socket needs root on Linux")
def test_a_missing_interface_is_exit_7_and_lists_those_that_exist(tmp_path):
    run = hl7core("capture", "-i", "nope0", "--no-store", cwd=tmp_path)
    assert run.returncode == 7
    assert "lo" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.skipif(
    not ROOT_ON_LINUX or shutil.which("setpriv") is None, reason="taking rights away needs root and setpriv"
)
def test_missing_rights_are_exit_6_with_the_remedy(tmp_path):
    prefix = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    run = hl7core("capture", "-i", "lo", "--no-store", cwd=tmp_path, prefix=prefix)
    assert run.returncode == 6, run.stderr
    assert "Capture rights" in run.stderr
    doctor = hl7core("doctor", cwd=tmp_path, prefix=prefix)
    assert doctor.returncode == 6
    assert "CAP_NET_RAW" in doctor.stdout


@pytest.mark.skipif(not ROOT_ON_LINUX, reason="as root all should be well")
def test_the_doctor_finds_a_healthy_machine_healthy(tmp_path):
    run = hl7core("doctor", cwd=tmp_path)
    assert run.returncode == 0, run.stdout
    assert "plugins" in run.stdout


def test_interfaces_are_listed_without_rights(tmp_path):
    assert "127.0.0.1" in hl7core("capture", "-D", cwd=tmp_path).stdout
