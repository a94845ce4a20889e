"""``hl7core submit``, and ``sessions retry|ignore|unignore`` of a whole status, as a person at a shell meets them."""

import json
import os
import pty
import subprocess
import time
from datetime import UTC, datetime, timedelta

import pytest

from engine.parts import exchange
from hl7core import Delivery, DeliveryStatus, session_to_json
from hl7core.cli.commands import submit
from hl7core.model.schema import at_stored_precision
from hl7core.testing import HttpReceiver, make_session
from hl7core.testing.receiver import receives
from hl7core.wire.pcap.reader import pcap_header, pcap_record
from shell import ENV, command, engine, hl7core

PENDING, SUBMITTED, FAILED, IGNORED = DeliveryStatus
NOW = datetime.now(UTC)


def store(cwd, *statuses, **fields):
    """Store a session for each status; return the ids."""
    place = cwd / "docs/sessions"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    ids = []
    for number, status in enumerate(statuses):
        session = make_session(
            number, first_saved_at=NOW, saved_at=NOW, persisted_until=NOW + timedelta(days=30), retention_days=30
        )
        session = session._replace(deliveries=(Delivery("rest_destination", status),), **fields)
        (place / f"{session.id}.json").write_bytes(session_to_json(at_stored_precision(session)))
        ids.append(session.id)
    return ids


def stored(cwd):
    texts = [path.read_text() for path in (cwd / "docs/sessions").glob("*.json")]
    return {session["sessionId"]: session["submissionStatus"] for session in map(json.loads, texts)}


@pytest.fixture
def receiver(tmp_path):
    with HttpReceiver() as receiver:
        endpoint = f'[plugins.rest_destination]\nendpoint = "{receiver.url}"\nmax_retries = 1\n'
        (tmp_path / "settings.toml").write_text(endpoint)
        yield receiver


def test_without_an_engine_it_sends_what_is_pending_and_ends(receiver, tmp_path):
    ids = store(tmp_path, PENDING, PENDING, SUBMITTED, FAILED)
    run = hl7core("submit", "now", cwd=tmp_path)
    assert (run.returncode, run.stdout) == (0, "2 sent, 0 failed, 0 still pending\n")
    assert sorted(receiver.processed) == sorted(ids[:2])  # two are sent at once
    assert list(map(stored(tmp_path).get, ids)) == ["submitted", "submitted", "submitted", "failed"]


def test_with_an_engine_it_is_the_engine_that_sends(receiver, tmp_path):
    with engine(tmp_path):
        assert hl7core("submit", "now", cwd=tmp_path).returncode == 3
        ids = store(tmp_path, PENDING)  # beside it, so that it cannot know
        run = hl7core("submit", "now", cwd=tmp_path)
        assert (run.returncode, run.stdout) == (0, "1 sent, 0 failed, 0 still pending\n")
    assert receiver.processed == ids


def test_nothing_to_send_is_exit_3(receiver, tmp_path):
    store(tmp_path, SUBMITTED)
    run = hl7core("submit", "now", cwd=tmp_path)
    assert (run.returncode, run.stdout) == (3, "nothing to send\n")


def test_some_that_failed_are_exit_4(receiver, tmp_path):
    store(tmp_path, PENDING, PENDING)
    receiver.script = [receives(422)]
    run = hl7core("submit", "now", cwd=tmp_path)
    assert (run.returncode, run.stdout) == (4, "1 sent, 1 failed, 0 still pending\n")


def test_a_receiver_that_is_away_is_exit_4_and_says_what_is_the_matter(receiver, tmp_path):
    ids = store(tmp_path, *[PENDING] * 5)
    receiver.close()
    run = hl7core("submit", "now", cwd=tmp_path)
    assert (run.returncode, run.stdout) == (4, "0 sent, 0 failed, 5 still pending\n")
    assert "rest_destination: paused" in run.stderr
    assert "refused" in run.stderr
    assert set(stored(tmp_path).values()) == {"pending"}
    receiver.open()
    assert hl7core("submit", "now", cwd=tmp_path).returncode == 0
    assert sorted(receiver.processed) == sorted(ids)


def test_without_an_endpoint_it_says_so(tmp_path):
    store(tmp_path, PENDING)
    run = hl7core("submit", "now", cwd=tmp_path)
    assert run.returncode == 1
    assert "no destination is active" in run.stderr


def test_there_is_a_bar_on_a_terminal(receiver, tmp_path):
    store(tmp_path, *[PENDING] * 3)
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
    store(tmp_path, PENDING, FAILED, FAILED, SUBMITTED)
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
    for session_id in store(tmp_path, *statuses)[:elsewhere]:
        path = tmp_path / f"docs/sessions/{session_id}.json"
        path.write_text(path.read_text().replace('"rest_destination"', '"elsewhere"'))
    path = str(tmp_path / "settings.toml")
    assert submit.status.main([], standalone_mode=False, obj=path) == 0
    assert capsys.readouterr().out == f"rest_destination: no engine runs\n  in flight 0, {text}\n"
    assert submit.status.main(["-o", "json"], standalone_mode=False, obj=path) == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert one["atLeast"] == at_least


def test_a_whole_status_is_retried_at_once(receiver, tmp_path):
    ids = store(tmp_path, FAILED, FAILED, SUBMITTED)
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
    store(tmp_path, FAILED, FAILED, SUBMITTED)
    assert hl7core("sessions", "ignore", "--status", "failed", cwd=tmp_path).stdout == "2 ignored\n"
    assert sorted(stored(tmp_path).values()) == ["ignored", "ignored", "submitted"]
    assert hl7core("sessions", "unignore", "--status", "ignored", cwd=tmp_path).stdout == "2 no longer ignored\n"
    assert sorted(stored(tmp_path).values()) == ["failed", "failed", "submitted"]
    assert hl7core("sessions", "unignore", "--status", "ignored", cwd=tmp_path).returncode == 3


@pytest.mark.parametrize("arguments", [(), ("0" * 36, "--status", "failed")])
def test_ids_or_a_status_must_be_given_and_not_both(tmp_path, arguments):
    assert hl7core("sessions", "retry", *arguments, cwd=tmp_path).returncode == 2


def test_what_is_read_into_the_store_beside_an_engine_is_sent(receiver, tmp_path):
    records = (pcap_record(packet.time_ns, packet.data) for packet in exchange("READ1").packets())
    (tmp_path / "day.pcap").write_bytes(pcap_header() + b"".join(records))
    with engine(tmp_path):
        assert hl7core("read", "day.pcap", "--store", "-o", "jsonl", cwd=tmp_path).returncode == 0
        until = time.monotonic() + 30
        while not receiver.processed:
            assert time.monotonic() < until
            time.sleep(0.05)
    assert set(stored(tmp_path).values()) == {"submitted"}
