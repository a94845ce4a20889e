"""``hl7core doctor`` and the destinations: each is asked whether it can be reached, and none is handed a session."""

import os
import re
import socket
import sys
import time

import pytest

from fakes import entry_point, settings
from hl7core.cli.commands import doctor, doctor_destinations
from hl7core.contract import DestinationSettings
from hl7core.engine.engine import Engine
from hl7core.errors import DestinationBusy, DestinationUnreachable
from hl7core.hookspecs import hookimpl
from hl7core.plugin_host.discovery import GROUP
from hl7core.plugin_host.registry import Registry
from hl7core.testing import HttpReceiver
from hl7core.testing.receiver import hangs, receives, says
from installing import SOURCE, install
from shell import engine, hl7core

ROOT_ON_LINUX = sys.platform == "linux" and os.geteuid() == 0
SECRET = "CANARY-SECRET"


def say(cwd, url, **env):
    """The doctor's lines about destinations, remedies joined to them."""
    table = f'[plugins.rest_destination]\nendpoint = "{url}"\ntimeout = 1\n'
    (cwd / "settings.toml").write_text(table)
    run = hl7core("doctor", cwd=cwd, HL7CORE_PLUGINS__REST_DESTINATION__AUTH_HEADER=f"Bearer {SECRET}", **env)
    assert SECRET not in run.stdout + run.stderr
    assert "Traceback" not in run.stderr
    lines = re.sub(r"\n +→ ", " → ", run.stdout).splitlines()
    wrong = [line for line in lines if line.startswith("✘")]
    assert (run.returncode == 0) is not bool(wrong), run.stdout
    return [re.sub(r" +", " ", line) for line in lines if line[2:].startswith("destination ")]


@pytest.fixture
def receiver():
    with HttpReceiver() as receiver:
        yield receiver


@pytest.mark.parametrize("status", [200, 204, 405, 501])
def test_a_receiver_that_answers_can_be_reached_and_gets_nothing(receiver, tmp_path, status):
    receiver.behaviour = receives(status)
    (line,) = say(tmp_path, receiver.url + "/secret-path")
    assert line == f"✔ destination rest_destination: http://127.0.0.1:{receiver.port} answers (HTTP {status})"
    (request,) = receiver.requests
    assert (request.method, request.body, request.key) == ("OPTIONS", b"", "")
    assert request.headers["authorization"] == f"Bearer {SECRET}", "so that a wrong one shows"
    assert receiver.processed == []


def test_a_closed_port_is_told_with_the_remedy(receiver, tmp_path):
    receiver.close()
    (line,) = say(tmp_path, receiver.url)
    assert line.startswith(
        f"✘ destination rest_destination cannot be reached: http://127.0.0.1:{receiver.port}: connection refused"
    )
    assert "→ check that it is running, and check [plugins.rest_destination]; sessions wait" in line


@pytest.mark.parametrize("before_reading", [False, True])
def test_a_receiver_that_hangs_is_told_in_time(receiver, tmp_path, before_reading):
    receiver.behaviour = hangs(before_reading=before_reading)
    (line,) = say(tmp_path, receiver.url)
    assert "✘ destination rest_destination cannot be reached" in line
    assert "no answer within 1 s (while waiting for the answer)" in line


def test_a_machine_that_does_not_even_refuse_is_told_in_time(tmp_path):
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        kept = []
        for _ in range(4):  # what comes now is not answered, as where a firewall drops it
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
            kept.append(one)
        (line,) = say(tmp_path, f"http://127.0.0.1:{port}/")
        for one in kept:
            one.close()
    assert "cannot be reached" in line
    assert "no answer within 1 s (while connecting)" in line


@pytest.mark.parametrize(
    ("behaviour", "text"),
    [
        (receives(401), "HTTP 401: the receiver does not accept auth_header"),
        (receives(404), "HTTP 404: there is nothing at that path: check endpoint"),
        (receives(503), "HTTP 503: the receiver failed"),
        (says(b""), "the receiver closed the connection before it answered"),
    ],
)
def test_an_answer_that_may_be_due_to_the_question_is_a_note(receiver, tmp_path, behaviour, text):
    receiver.behaviour = behaviour
    (line,) = say(tmp_path, receiver.url)
    assert line.startswith("- destination rest_destination answers to a request without a session: ")
    assert text in line
    assert "→ check [plugins.rest_destination], unless it accepts sessions all the same" in line


def test_what_is_no_receiver_is_told(receiver, tmp_path):
    receiver.behaviour = says(b"220 mail.example ESMTP\r\n\r\n")
    (line,) = say(tmp_path, receiver.url)
    assert line.startswith("✘ destination rest_destination cannot be reached: ")
    assert "the answer is not valid HTTP" in line


def test_settings_that_cannot_be_used_are_told(receiver, tmp_path):
    missing = tmp_path / "nobody.pem"
    (line,) = say(tmp_path, receiver.url, HL7CORE_PLUGINS__REST_DESTINATION__CA_FILE=str(missing))
    assert "✘ destination rest_destination does not start" in line
    assert "ca_file" in line
    assert receiver.connections == 0


def test_without_an_endpoint_it_is_a_note(tmp_path):
    assert say(tmp_path, "") == ["- destination rest_destination is inactive: its settings name no receiver"]


def test_without_a_destination_it_is_a_note(tmp_path):
    (line,) = say(tmp_path, "", HL7CORE_PLUGINS__REST_DESTINATION__ENABLED="false")
    assert line == "- destination none is enabled, so sessions are stored and not submitted"


# Other people's destinations.


class Settings(DestinationSettings):
    """As they come."""


def destination(reach=None):
    members = {
        "register_settings": hookimpl(lambda self: Settings),
        "submit_session": hookimpl(lambda self, session: pytest.fail("it was handed a session")),
    }
    if reach is not None:
        members["reach_destination"] = hookimpl(reach)
    return type("Plugin", (), members)


def asked(tmp_path, monkeypatch, **kinds):
    points = [entry_point(name, kind) for name, kind in kinds.items()]
    assert all(point.group == GROUP for point in points)
    monkeypatch.setattr(
        doctor_destinations, "Engine", lambda settings, only: Engine(settings, only=only, entry_points=points)
    )
    wanted = settings({name: {"enabled": True} for name in kinds}, output_folder=str(tmp_path))
    return doctor_destinations.ask_destinations(wanted, list(kinds))


def test_one_that_does_not_say_is_a_note(tmp_path, monkeypatch):
    ((state, found, remedy),) = asked(tmp_path, monkeypatch, mail=destination())
    assert (state, found) == ("note", "mail cannot be checked without submitting a session")
    assert remedy == "hl7core submit status"
    assert list(tmp_path.iterdir()) == [], "asking leaves nothing behind"


def test_each_is_asked_whatever_the_others_do(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor_destinations, "SECONDS", 0.2)

    async def well(self):
        return "the mill\x1b[2J turns"

    def raises(error):
        def reach(self, seconds):
            raise error

        return reach

    began = time.monotonic()
    answers = asked(
        tmp_path,
        monkeypatch,
        well=destination(well),
        busy=destination(raises(DestinationBusy("HTTP 429"))),
        gone=destination(raises(DestinationUnreachable("no route"))),
        hangs=destination(lambda self: time.sleep(600)),
        broken=destination(raises(ValueError(SECRET))),
        exits=destination(raises(SystemExit(SECRET))),
        dumb=destination(lambda self: None),
    )
    assert time.monotonic() - began < 300, "nobody waits for the one that hangs"
    assert [(state, found.partition(" at test_doctor.py:")[0]) for state, found, _ in answers] == [
        ("ok", "well: the mill·[2J turns"),
        ("note", "busy answers to a request without a session: HTTP 429"),
        ("bad", "gone cannot be reached: no route"),
        ("bad", "hangs cannot be reached: no answer within 0.2 seconds"),
        ("bad", "broken cannot be asked: ValueError"),
        ("bad", "exits cannot be asked: PluginError: SystemExit"),
        ("bad", "dumb cannot be asked: PluginError: dumb: reach_destination must return what answered"),
    ]
    assert all(remedy for state, _, remedy in answers if state == "bad")


def test_a_source_that_cannot_list_its_interfaces_is_told_and_the_rest_is_looked_at(monkeypatch):
    def breaks(self):
        raise OSError(13, SECRET)

    points = [entry_point("broken", type("Plugin", (), {"list_interfaces": hookimpl(breaks)}))]
    made = Registry(settings({"broken": {"enabled": True}}), entry_points=points)
    first, *_ = doctor._interfaces(made)
    assert (first.state, first.code) == ("bad", 7)
    assert first.found.startswith("broken cannot list them: PermissionError (Permission denied)")
    assert SECRET not in first.found


@pytest.mark.skipif(not ROOT_ON_LINUX, reason="as root all should be well")
def test_the_doctor_finds_a_healthy_machine_healthy(tmp_path):
    run = hl7core("doctor", cwd=tmp_path)
    assert run.returncode == 0, run.stdout
    assert "plugins" in run.stdout


def test_what_stands_in_the_running_engine_is_shown(tmp_path):
    source = SOURCE + "\n    @hookimpl\n    def start(self):\n        raise RuntimeError\n"
    install(tmp_path / "site", "bell", source=source)
    (tmp_path / "settings.toml").write_text("[core]\nenable_persistence = false\n[plugins.bell]\nenabled = true\n")
    with engine(tmp_path, PYTHONPATH=str(tmp_path / "site")):
        run = hl7core("doctor", cwd=tmp_path, PYTHONPATH=str(tmp_path / "site"))
    lines = [re.sub(r" +", " ", line) for line in run.stdout.splitlines()]
    assert "- notice sessions are not saved: core.enable_persistence is false, or --no-store was given" in lines
    assert any(
        line.startswith("✘ plugin bell is failed in the running engine: PluginError: bell: start") for line in lines
    )
    assert run.returncode != 0
