"""``hl7core submit``: now and status."""

import json
import os
import pty
import subprocess

import pytest

from cli.data_folder import store_statuses, submission_statuses
from hl7core import DeliveryStatus
from hl7core.cli.commands import submit
from hl7core.testing.receiver import receives
from shell import ENV, command, engine, hl7core

PENDING, SUBMITTED, FAILED, IGNORED = DeliveryStatus


def test_without_an_engine_it_sends_what_is_pending_and_ends(receiver, tmp_path):
    ids = store_statuses(tmp_path, PENDING, PENDING, SUBMITTED, FAILED)
    run = hl7core("submit", "now", cwd=tmp_path)
    assert (run.returncode, run.stdout) == (0, "2 sent, 0 failed, 0 still pending\n")
    assert sorted(receiver.processed) == sorted(ids[:2])  # two are sent at once
    assert list(map(submission_statuses(tmp_path).get, ids)) == ["submitted", "submitted", "submitted", "failed"]


def test_with_an_engine_it_is_the_engine_that_sends(receiver, tmp_path):
    with engine(tmp_path):
        assert hl7core("submit", "now", cwd=tmp_path).returncode == 3
        ids = store_statuses(tmp_path, PENDING)  # beside it, so that it cannot know
        run = hl7core("submit", "now", cwd=tmp_path)
        assert (run.returncode, run.stdout) == (0, "1 sent, 0 failed, 0 still pending\n")
    assert receiver.processed == ids


def test_nothing_to_send_is_exit_3(receiver, tmp_path):
    store_statuses(tmp_path, SUBMITTED)
    run = hl7core("submit", "now", cwd=tmp_path)
    assert (run.returncode, run.stdout) == (3, "nothing to send\n")


def test_some_that_failed_are_exit_4(receiver, tmp_path):
    store_statuses(tmp_path, PENDING, PENDING)
    receiver.script = [receives(422)]
    run = hl7core("submit", "now", cwd=tmp_path)
    assert (run.returncode, run.stdout) == (4, "1 sent, 1 failed, 0 still pending\n")


def test_a_receiver_that_is_away_is_exit_4_and_says_what_is_the_matter(receiver, tmp_path):
    ids = store_statuses(tmp_path, *[PENDING] * 5)
    receiver.close()
    run = hl7core("submit", "now", cwd=tmp_path)
    assert (run.returncode, run.stdout) == (4, "0 sent, 0 failed, 5 still pending\n")
    assert "rest_destination: paused" in run.stderr
    assert "refused" in run.stderr
    assert set(submission_statuses(tmp_path).values()) == {"pending"}
    receiver.open()
    assert hl7core("submit", "now", cwd=tmp_path).returncode == 0
    assert sorted(receiver.processed) == sorted(ids)


def test_without_an_endpoint_it_says_so(tmp_path):
    store_statuses(tmp_path, PENDING)
    run = hl7core("submit", "now", cwd=tmp_path)
    assert run.returncode == 1
    assert "no destination is active" in run.stderr


def test_there_is_a_bar_on_a_terminal(receiver, tmp_path):
    store_statuses(tmp_path, *[PENDING] * 3)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command("submit", "now"), cwd=tmp_path, env=ENV, stdout=subprocess.PIPE, stderr=theirs
    ) as run:
        os.close(theirs)
        shown = b""
        try:
            while data := os.read(ours, 4096):
                shown += data
        except OSError:  # the other end is closed
            pass
        assert run.wait(60) == 0
    os.close(ours)
    assert b"sending" in shown


def test_the_status_says_how_each_destination_stands(receiver, tmp_path):
    store_statuses(tmp_path, PENDING, FAILED, FAILED, SUBMITTED)
    run = hl7core("submit", "status", cwd=tmp_path)
    assert run.returncode == 0
    assert run.stdout == "rest_destination: no engine runs\n  in flight 0, pending 1, failed 2, ignored 0\n"
    receiver.close()
    with engine(tmp_path):
        assert hl7core("submit", "now", cwd=tmp_path).returncode == 4
        (one,) = json.loads(hl7core("submit", "status", "-o", "json", cwd=tmp_path).stdout)
        assert one["destination"] == "rest_destination"
        assert (one["pending"], one["failed"], one["ignored"], one["inFlight"]) == (1, 2, 0, 0)
        assert "refused" in one["lastError"]
        assert hl7core("submit", "status", cwd=tmp_path).stdout.startswith("rest_destination: ")


@pytest.mark.parametrize(
    ("statuses", "elsewhere", "text", "at_least"),
    [
        ([PENDING] * 4, 0, "pending 4, failed 0, ignored 0", []),
        ([PENDING] * 5, 0, "pending 4+, failed 0, ignored 0", ["pending"]),
        ([PENDING] * 5, 3, "pending 1+, failed 0, ignored 0", ["pending"]),
        ([FAILED] * 4 + [PENDING] * 4, 0, "pending 4, failed 4, ignored 0", []),
        ([FAILED] * 5 + [PENDING] * 2, 0, "pending 2+, failed 4+, ignored 0", ["pending", "failed"]),
    ],
)
def test_a_count_that_may_be_short_says_so(statuses, elsewhere, text, at_least, tmp_path, monkeypatch, capsys):
    """The bound is of sessions, whichever destinations they are for: so a small count may be short too."""
    monkeypatch.setattr(submit, "_COUNTED", 4)
    (tmp_path / "settings.toml").write_text("")
    for session_id in store_statuses(tmp_path, *statuses)[:elsewhere]:
        path = tmp_path / f"docs/sessions/{session_id}.json"
        path.write_text(path.read_text().replace('"rest_destination"', '"elsewhere"'))
    path = str(tmp_path / "settings.toml")
    assert submit.status.main([], standalone_mode=False, obj=path) == 0
    assert capsys.readouterr().out == f"rest_destination: no engine runs\n  in flight 0, {text}\n"
    assert submit.status.main(["-o", "json"], standalone_mode=False, obj=path) == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert one["atLeast"] == at_least
