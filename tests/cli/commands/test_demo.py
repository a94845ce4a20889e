"""``hl7core demo``: what it records, stores and submits."""

import json
import os
import sys

import pytest

from shell import hl7core

ROOT_ON_LINUX = sys.platform == "linux" and os.geteuid() == 0


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
