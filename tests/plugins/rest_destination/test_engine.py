"""rest_destination in a running engine: from the wire to the receiver, through the store and the outbox."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys

import pytest

from hl7core import DeliveryStatus, SessionQuery
from hl7core.settings.file import change
from hl7core.testing import EngineHarness, HttpReceiver, TcpTalk
from hl7core.testing.receiver import drops, receives
from hl7core_plugins.json_store import JsonStore
from hl7core_plugins.rest_destination import RestDestination

SECRET = "Bearer SECRET-CANARY-8f3a"


def conversation(number):
    """The packets of one MLLP exchange about a canary."""
    talk = TcpTalk(("10.0.0.5", 40_000 + number))
    talk.time_ns += number * 10**9
    talk.open()
    talk.opener(b"\x0bMSH|^~\\&|A|L|B|L|2026||ORU^R01|M%d|P|2.5\rPID|1||1||CANARY^PATIENT\r\x1c\r" % number)
    talk.acceptor(b"\x0bMSH|^~\\&|B|L|A|L|2026||ACK|A%d|P|2.5\rMSA|AA|M%d\r\x1c\r" % (number, number))
    talk.close()
    return talk.batch()


def engine(folder, endpoint, **more):
    plugins = {"json_store": JsonStore, "rest_destination": RestDestination}
    settings = {"plugins.rest_destination.endpoint": endpoint, **more}
    return EngineHarness(folder, plugins, settings={"core.output_folder": str(folder / "data"), **settings})


def statuses(harness):
    return [session.status for session in harness.sessions()]


def all_submitted(harness, count):
    return lambda: statuses(harness) == [DeliveryStatus.SUBMITTED] * count


def test_what_is_captured_is_stored_and_submitted_and_no_secret_is_told(tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    secrets = tmp_path / ".secrets.toml"
    secrets.write_text(f'[plugins.rest_destination]\nauth_header = "{SECRET}"\n')
    secrets.chmod(0o600)
    with HttpReceiver() as receiver, engine(tmp_path, receiver.url + "?token=SECRET-CANARY") as harness:
        receiver.script = [drops(), receives(503), receives(201, b'{"id": "CANARY-reference"}')]
        harness.feed(*(conversation(number) for number in range(4)))
        harness.wait_for(all_submitted(harness, 4), 60)
        told = repr(harness.state()) + repr(harness.engine.outbox.status())
    assert {request.headers["authorization"] for request in receiver.requests} == {SECRET}
    assert len(receiver.requests) >= 6  # a lost answer and a 503 were tried again
    assert len(set(receiver.processed)) == 4
    stored = [path.read_text() for path in (tmp_path / "data/sessions").glob("*.json")]
    assert len(stored) == 4
    for text in (*stored, caplog.text, *capfd.readouterr(), told):
        assert "SECRET-CANARY" not in text
        assert "CANARY-reference" not in text
    assert "CANARY" not in caplog.text


def test_a_changed_endpoint_counts_at_once_and_a_wrong_one_changes_nothing(tmp_path):
    with HttpReceiver() as first, HttpReceiver() as second, engine(tmp_path, first.url) as harness:
        harness.feed(conversation(1))
        harness.wait_for(all_submitted(harness, 1))
        change(harness.path, {"plugins.rest_destination.endpoint": "lis.example"})
        harness.wait_for(lambda: any("settings" in key for key, _ in harness.state().notices))
        harness.feed(conversation(2))
        harness.wait_for(all_submitted(harness, 2))
        assert len(first.processed) == 2
        change(harness.path, {"plugins.rest_destination.endpoint": second.url})
        harness.wait_for(lambda: harness.engine.registry.settings_of("rest_destination").endpoint == second.url)
        harness.feed(conversation(3))
        harness.wait_for(all_submitted(harness, 3))
    assert len(second.processed) == 1


def test_an_endpoint_that_comes_later_takes_up_what_waits(tmp_path):
    with engine(tmp_path, "", **{"plugins.rest_destination.concurrency": 1}) as harness:
        harness.feed(*(conversation(number) for number in range(5)))
        harness.wait_for(lambda: statuses(harness) == [DeliveryStatus.PENDING] * 5 and not harness.state().unsaved)
        assert all(not session.deliveries for session in harness.sessions())
        with HttpReceiver() as receiver:
            change(harness.path, {"plugins.rest_destination.endpoint": receiver.url})
            harness.wait_for(all_submitted(harness, 5))
            assert receiver.processed == [session.id for session in harness.sessions()]


def test_nobody_there_is_one_state_and_not_a_flood(tmp_path, caplog):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    more = {"plugins.rest_destination.concurrency": 10, "plugins.rest_destination.max_retries": 1}
    with engine(tmp_path, f"http://127.0.0.1:{port}/", **more) as harness:
        harness.feed(*(conversation(number) for number in range(40)))
        harness.wait_for(lambda: harness.engine.outbox.status()[0].state == "paused", 60)
        harness.wait_for(lambda: len(harness.sessions(SessionQuery(pending_for="rest_destination"))) == 40)
        (status,) = harness.engine.outbox.status()
    assert status.error == f"http://127.0.0.1:{port}: connection refused (while connecting)"
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len([record for record in told if "rest_destination" in record.getMessage()]) <= 2


def test_many_go_in_one_post_and_one_that_is_refused_takes_no_other_along(tmp_path):
    bad = []

    def choosy(turn):
        request = turn.read()
        if request is None:
            return
        if any("|M3|" in item["messages"][0] for item in request.json):
            bad.extend(request.ids if len(request.ids) == 1 else ())
            turn.answer(400)
        else:
            turn.receiver.process(request)
            turn.answer(200)

    with HttpReceiver() as receiver, engine(tmp_path, "", **{"plugins.rest_destination.batch_size": 10}) as harness:
        receiver.behaviour = choosy
        harness.feed(*(conversation(number) for number in range(10)))
        harness.wait_for(lambda: len(statuses(harness)) == 10 and not harness.state().unsaved)
        change(harness.path, {"plugins.rest_destination.endpoint": receiver.url})
        harness.wait_for(lambda: DeliveryStatus.PENDING not in statuses(harness), 60)
        assert statuses(harness).count(DeliveryStatus.SUBMITTED) == 9
        assert statuses(harness).count(DeliveryStatus.FAILED) == 1
    assert len(receiver.requests[0].ids) > 1
    assert len(bad) == 1
    assert len(set(receiver.processed)) == 9


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ('endpoint = "lis.example"', "plugins.rest_destination.endpoint: must be empty (off) or a URL"),
        ('auth_header = "Bearer CANARY\\nX: y"', "auth_header must be one line of printable ASCII"),
        ("concurrency = 0", "plugins.rest_destination.concurrency: must be at least 1 and at most 10"),
    ],
)
def test_the_command_refuses_wrong_settings_with_the_rule(tmp_path, table, problem):
    (tmp_path / "settings.toml").write_text(f"[plugins.rest_destination]\n{table}\n")
    run = subprocess.run(
        [sys.executable, "-m", "hl7core", "settings", "check"],
        capture_output=True, text=True, check=False, cwd=tmp_path, env=os.environ | {"HOME": str(tmp_path)},
    )  # fmt: skip
    assert run.returncode == 5
    assert problem in run.stderr
    assert "CANARY" not in run.stderr + run.stdout


def test_settings_show_masks_the_secret_wherever_it_came_from(tmp_path):
    (tmp_path / "settings.toml").write_text('[plugins.rest_destination]\nendpoint = "https://lis.example/"\n')
    variable = {"HL7CORE_PLUGINS__REST_DESTINATION__AUTH_HEADER": SECRET, "HOME": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-m", "hl7core", "settings", "show", "--origin"],
        capture_output=True, text=True, check=False, cwd=tmp_path, env=os.environ | variable,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert 'auth_header = "********"' in run.stdout
    assert "CANARY" not in run.stdout + run.stderr
    assert json.dumps("https://lis.example/") in run.stdout
