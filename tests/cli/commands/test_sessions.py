"""``hl7core sessions``: show, retry, ignore and unignore."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time

import pytest

from cli.data_folder import store_statuses, submission_statuses
from hl7core import DeliveryStatus
from hl7core.model.schema import session_to_json
from hl7core.testing import make_message, make_session
from shell import engine, hl7core

PENDING, SUBMITTED, FAILED, IGNORED = DeliveryStatus
HL7 = make_session(1)
LIS01 = make_session(2, protocol="lis01")
ODD = make_session(3)._replace(
    messages=(make_message(3, text=b"MSH|^~\\&|\x1b[31mred\xff||||||ADT|1|P|9.9\rPID|1||X\r"),), elements=()
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored")
    (folder / "sessions").mkdir(mode=0o700)
    for session in (HL7, LIS01, ODD):
        path = folder / "sessions" / f"{session.id}.json"
        path.write_bytes(session_to_json(session))
        path.chmod(0o600)
    return folder


def arguments(*more):
    return [sys.executable, "-m", "hl7core", "sessions", "show", *more]


def show(store, *more):
    env = os.environ | {"HL7CORE_CORE__OUTPUT_FOLDER": str(store)}
    return subprocess.run(arguments(*more), capture_output=True, text=True, env=env, cwd=store, check=False)


def test_a_session_is_shown_as_a_ladder_and_its_messages_as_trees(store):
    run = show(store, HL7.id)
    assert (run.returncode, run.stderr) == (0, "")
    assert "message 1 of 2: ORU^R01 M000001" in run.stdout
    assert "    PID-3.1           ID number                       P-0001\n" in run.stdout
    assert "    MSA-2           Message control ID                M000001\n" in run.stdout
    assert "\x1b" not in run.stdout


def test_records_are_shown_with_their_names(store):
    assert "    O-3             Specimen ID                       S-0002\n" in show(store, LIS01.id).stdout


def test_raw_shows_the_lines_as_they_came(store):
    run = show(store, HL7.id, "--raw")
    assert "  PID|1||P-0001^^^LAB||TEST^PATIENT\n" in run.stdout
    assert "Patient identification" not in run.stdout
    assert show(store, HL7.id, "--raw", "-o", "jsonl").returncode == 2


def test_jsonl_is_what_is_stored(store):
    line = json.loads(show(store, HL7.id, "-o", "jsonl").stdout)
    assert (line["sessionId"], line["protocol"]) == (HL7.id, "mllp")


def test_what_hl7apy_refuses_is_shown_whole_and_commands_no_terminal(store):
    run = show(store, ODD.id)
    assert run.returncode == 0
    assert "␛[31mredÿ" in run.stdout
    assert "(names are left out: hl7apy knows no HL7 9.9)" in run.stdout
    assert "\x1b" not in run.stdout


def test_the_first_letters_are_enough_as_long_as_they_name_one(store):
    assert f"{HL7.id}  MLLP" in show(store, HL7.id[:14]).stdout
    many = show(store, HL7.id[:6])
    assert (many.returncode, many.stdout) == (1, "")
    assert "3 sessions begin with" in many.stderr
    assert HL7.id in many.stderr
    for unknown in ("0f0f", "nonsense", HL7.id[:-1] + "x"):
        run = show(store, unknown)
        assert (run.returncode, run.stdout) == (3, "")
        assert f"no session begins with {unknown}" in run.stderr or f"no session {unknown}" in run.stderr


def test_a_terminal_gets_colours_and_folded_lines_unless_it_wants_none(store):
    def on_a_terminal(**more):
        leader, follower = pty.openpty()
        env = os.environ | {"HL7CORE_CORE__OUTPUT_FOLDER": str(store), "TERM": "xterm", "COLUMNS": "80"} | more
        with subprocess.Popen(arguments(HL7.id), stdout=follower, stderr=follower, env=env, cwd=store) as run:
            os.close(follower)
            out = b""
            try:
                while part := os.read(leader, 65536):
                    out += part
            except OSError:  # the terminal is gone with the program
                pass
        os.close(leader)
        assert run.returncode == 0
        return out

    assert b"\x1b[36m\x1b[1mPID\x1b[0m" in on_a_terminal()
    assert b"\x1b" not in on_a_terminal(NO_COLOR="1")


def test_a_whole_status_is_retried_at_once(receiver, tmp_path):
    ids = store_statuses(tmp_path, FAILED, FAILED, SUBMITTED)
    assert hl7core("sessions", "retry", "--status", "failed", cwd=tmp_path).stdout == "2 pending again\n"
    assert receiver.processed == []  # no engine runs
    with engine(tmp_path):
        until = time.monotonic() + 30
        while len(receiver.processed) < 2:
            assert time.monotonic() < until
            time.sleep(0.05)
        receiver.processed.clear()
        assert hl7core("sessions", "retry", ids[2], cwd=tmp_path).returncode == 0
        while not receiver.processed:
            assert time.monotonic() < until
            time.sleep(0.05)
    assert receiver.processed == [ids[2]]


def test_a_whole_status_is_ignored_and_that_undone(receiver, tmp_path):
    store_statuses(tmp_path, FAILED, FAILED, SUBMITTED)
    assert hl7core("sessions", "ignore", "--status", "failed", cwd=tmp_path).stdout == "2 ignored\n"
    assert sorted(submission_statuses(tmp_path).values()) == ["ignored", "ignored", "submitted"]
    assert hl7core("sessions", "unignore", "--status", "ignored", cwd=tmp_path).stdout == "2 no longer ignored\n"
    assert sorted(submission_statuses(tmp_path).values()) == ["failed", "failed", "submitted"]
    assert hl7core("sessions", "unignore", "--status", "ignored", cwd=tmp_path).returncode == 3


@pytest.mark.parametrize("arguments", [(), ("0" * 36, "--status", "failed")])
def test_ids_or_a_status_must_be_given_and_not_both(tmp_path, arguments):
    assert hl7core("sessions", "retry", *arguments, cwd=tmp_path).returncode == 2
