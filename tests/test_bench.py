"""The traffic that hl7core is measured with: repeatable, and found again message by message."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "bench" / "traffic.py"


@pytest.fixture(scope="module")
def traffic():
    spec = importlib.util.spec_from_file_location("traffic", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", "abcdo")
def test_what_was_sent_is_what_is_read(traffic, tmp_path, kind):
    capture = tmp_path / "capture.pcap"
    truth = traffic.write(kind, capture, scale=0.002)
    command = [sys.executable, "-m", "hl7core", "read", str(capture), "-o", "messages"]
    lines = subprocess.run(command, capture_output=True, check=True).stdout.splitlines()
    messages = [json.loads(line) for line in lines]
    assert len(messages) == truth["messages"]
    assert len({message["sessionId"] for message in messages}) == truth["sessions"]
    assert sum(not message["complete"] for message in messages) == (20 if kind == "o" else 0)
    joined = "".join(f"{digest}\n" for digest in sorted(message["sha256"] for message in messages))
    assert hashlib.sha256(joined.encode()).hexdigest() == truth["sha256"]
    assert json.loads(traffic.truth_path(capture).read_text()) == truth


def test_a_seed_gives_the_same_bytes_and_another_seed_others(traffic, tmp_path):
    def capture(name: str, seed: int) -> bytes:
        path = tmp_path / name
        traffic.write("d", path, scale=0.001, seed=seed)
        return path.read_bytes()

    assert capture("first", 1) == capture("again", 1)
    assert capture("first", 1) != capture("other", 2)


def test_disturbed_traffic_has_a_fifth_of_its_segments_out_of_place(traffic, tmp_path):
    clean, disturbed = (traffic.write(kind, tmp_path / kind, scale=0.01) for kind in "ad")
    assert clean["messages"] == disturbed["messages"] == 4000
    segments = 4000 * 1.114  # of data: a request is cut in two at times
    assert 0.06 < (disturbed["packets"] - clean["packets"]) / segments < 0.12


def bench(script: str, *arguments: str) -> str:
    command = [sys.executable, str(SCRIPT.with_name(script)), *arguments]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout


def test_the_saves_are_measured_in_every_way(tmp_path):
    said = bench("saves.py", "--folder", str(tmp_path), "--count", "64", "--runs", "1")
    for store in ("raw", "JSON", "SQLite"):
        assert f"{store}, one by one" in said
        assert f"{store}, groups" in said
    assert "SQLite in groups, against JSON in groups" in said
    assert not list(tmp_path.iterdir())


def test_the_searches_are_measured_and_find_what_they_should(tmp_path):
    said = bench("search.py", "--folder", str(tmp_path), "--count", "300", "--runs", "2")
    for store in ("sqlite", "json"):
        for what in ("by specimen", "by patient", "by control id", "start, newest 1,000"):
            assert f"{store}, {what}" in said
    assert not list(tmp_path.iterdir())


def test_what_hooks_add_is_measured():
    said = bench("hooks.py", "--scale", "0.002", "--runs", "1")
    for way in ("the decoder alone", "the engine's way", "pluggy, a call a packet", "one plugin wants them"):
        assert way in said
    assert "hooks that nobody implements" in said


@pytest.fixture
def bench_rooms(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    return importlib.import_module("sending"), importlib.import_module("cable")


def test_no_two_laps_share_a_client_and_the_checksums_of_the_first_hold_for_all(bench_rooms):
    sending, _ = bench_rooms

    def words(*addresses: bytes) -> int:
        return sum(struct.unpack(">4H", b"".join(addresses))) % 0xFFFF

    seen = set()
    for client in (bytes((10, 0, 1, 1)), bytes((10, 0, 1, 200)), bytes((10, 1, 7, 254))):
        sent = words(client, sending.SERVER)
        for lap in range(0, 40_000, 7):
            moved, server = sending.moved(client, lap)
            assert moved != server
            assert words(moved, server) == sent
            seen.add((moved, server))
    assert len(seen) == 3 * len(range(0, 40_000, 7))


def test_without_root_the_live_bench_says_what_it_needs(bench_rooms, monkeypatch):
    _, cable = bench_rooms
    monkeypatch.setattr(cable.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(cable.sys, "platform", "linux")
    assert "needs root" in cable.what_is_missing()
    monkeypatch.setattr(cable.sys, "platform", "darwin")
    assert "needs Linux" in cable.what_is_missing()


def live_bench(*arguments: str) -> tuple[int, str]:
    """Run it; return its exit code and what it printed.  None of its namespaces may be left."""
    command = [sys.executable, str(SCRIPT.with_name("live.py")), "--no-peers", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        said = process.communicate()[0]
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, check=True, text=True).stdout
    assert f"hl7core-bench-{process.pid}-" not in left
    return process.returncode, said


needs_a_cable = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("ip"),
    reason="a cable of its own needs root, Linux and ip",
)


@needs_a_cable
def test_live_every_packet_is_heard_and_every_message_found(tmp_path):
    code, said = live_bench("--folder", str(tmp_path), "--rate", "2000", "--seconds", "1", "--kinds", "ac")
    rows = re.findall(r"^   (hl7core\S* \S+) +[\d,]+ +(\S+) +(\S+) +([\d,]+) of ([\d,]+) ", said, re.MULTILINE)
    assert [row[0] for row in rows] == ["hl7core, --no-store", "hl7core capture", "hl7core, --no-store"]
    for name, lost, told, found, sent in rows:
        assert (lost, told) == ("0", "0"), name
        assert found == sent != "0", name
    assert code == 0
    assert not list(tmp_path.iterdir())


@needs_a_cable
def test_live_a_rate_that_nobody_reaches_fails_the_check(tmp_path):
    code, said = live_bench(
        "--folder", str(tmp_path), "--rate", "50000000", "--seconds", "0.00005", "--kinds", "a", "--check"
    )
    assert code == 1
    assert "the sender did not reach the rate" in said
