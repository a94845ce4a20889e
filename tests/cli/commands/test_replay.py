"""``replay``: capture files through a running engine."""

import json
import signal
import subprocess
import time

import pytest

from engine.parts import exchange
from engine.replay.captures import write
from hl7core import ReplayReport
from hl7core.cli.commands.replay import _exit_code, _notes
from patience import eventually
from shell import ENV, command, engine, hl7core

YEAR = 365 * 86400


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    folder = tmp_path_factory.mktemp("running")
    with engine(folder):
        yield folder


def day(path, count=5, *, seconds=0.01):
    return write(path, *[exchange(f"C{number}", seconds=number * seconds) for number in range(count)])


def test_it_replays_through_the_engine_and_a_second_time_saves_nothing(running):
    day(running / "day.pcapng")
    run = hl7core("replay", "day.pcapng", cwd=running)
    assert (run.returncode, run.stdout) == (0, "5 sessions in 35 packets, 5 saved\n"), run.stderr
    assert run.stderr == ""
    run = hl7core("replay", "day.pcapng", cwd=running)
    assert (run.returncode, run.stdout) == (0, "5 sessions in 35 packets, 5 already there\n")
    run = hl7core("replay", "day.pcapng", "-o", "json", "--speed", "1", cwd=running)
    report = json.loads(run.stdout)
    assert (report["sessions"], report["saved"], report["alreadyThere"], report["stopped"]) == (5, 0, 5, False)


def test_without_an_engine_it_says_how_to_get_one(tmp_path):
    run = hl7core("replay", "day.pcapng", cwd=tmp_path)
    assert run.returncode == 1
    assert "no engine runs on" in run.stderr
    assert "hl7core run" in run.stderr
    assert "hl7core read FILE --store" in run.stderr


def test_what_cannot_be_read_is_exit_1_or_4_if_something_could(running):
    day(running / "good.pcapng")
    run = hl7core("replay", "missing.pcap", cwd=running)
    assert (run.returncode, run.stdout) == (1, "")
    assert f"{running}/missing.pcap: no such file" in run.stderr
    run = hl7core("replay", "missing.pcap", "good.pcapng", cwd=running)
    assert run.returncode == 4
    assert run.stdout.startswith("5 sessions in 35 packets")


def test_a_capture_without_conversations_is_exit_3(running):
    whole = exchange("X")
    write(running / "syn.pcapng", whole._replace(**{name: getattr(whole, name)[:2] for name in
          ("starts", "ends", "times", "wire_lengths")}))  # fmt: skip
    run = hl7core("replay", "syn.pcapng", cwd=running)
    assert run.returncode == 3
    assert "no HL7 or LIS01 conversation in 2 packets" in run.stderr


def test_standard_input_is_a_usage_error(running):
    run = hl7core("replay", "-", cwd=running)
    assert run.returncode == 2
    assert "standard input" in run.stderr


def test_ctrl_c_stops_it_and_says_what_is_kept(running):
    day(running / "slow.pcapng", 2, seconds=YEAR)
    before = set((running / "docs/sessions").glob("*.json"))
    replay = subprocess.Popen(
        command("replay", "slow.pcapng", "--speed", "1"),
        cwd=running, env=ENV | {"HOME": str(running)}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    until = time.monotonic() + 30
    while set((running / "docs/sessions").glob("*.json")) == before:
        assert time.monotonic() < until
        time.sleep(0.02)
    replay.send_signal(signal.SIGINT)
    out, err = replay.communicate(timeout=20)
    assert replay.returncode == 130, err
    assert out == "1 session in 7 packets, 1 saved\n"
    assert "what was decoded is kept" in err
    assert "replay the files again" in err
    assert hl7core("replay", "slow.pcapng", cwd=running).stdout.endswith("1 saved, 1 already there\n")


def test_what_cannot_be_saved_yet_is_exit_4_and_is_saved_later(tmp_path):
    day(tmp_path / "day.pcapng")
    with engine(tmp_path):
        sessions = tmp_path / "docs/sessions"
        sessions.rename(tmp_path / "docs/moved")
        sessions.write_text("in the way")
        replay = subprocess.Popen(
            command("replay", "day.pcapng"),
            cwd=tmp_path, env=ENV | {"HOME": str(tmp_path)}, text=True, stderr=subprocess.PIPE,
        )  # fmt: skip
        _, said = replay.communicate(timeout=60)
        assert replay.returncode == 4
        assert "5 sessions not saved yet (sessions cannot be saved and are kept in memory:" in said
        sessions.unlink()
        (tmp_path / "docs/moved").rename(sessions)
        assert eventually(lambda: len(list(sessions.glob("*.json"))) == 5, 60)


def test_it_says_when_only_the_engine_cannot_read_a_file(tmp_path):
    private = str(tmp_path / "private.pcapng")
    day(tmp_path / "private.pcapng")
    said = list(_notes(ReplayReport(problems=((private, f"{private}: permission denied; read a copy"),))))
    assert "you can read it, but the engine runs as another user" in said[1]


def test_what_is_not_saved_is_exit_4_and_has_its_reason():
    report = ReplayReport(state="done", packets=7, sessions=3, saved=1, waiting=1, lost=1, detail="the disk is full")
    assert _exit_code(report, interrupted=False) == 4
    said = " ".join(_notes(report))
    assert "1 session not saved yet (the disk is full); the engine keeps trying" in said
    assert "1 session lost" in said


def test_when_the_engine_stops_it_is_exit_1():
    assert _exit_code(ReplayReport(state="stopped", packets=7, sessions=1, saved=1), interrupted=False) == 1
