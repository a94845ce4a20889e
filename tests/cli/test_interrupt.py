"""Ctrl-C, in real processes: a command ends soon, in order, with exit code 130.  A service that is stopped ends with 0."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from engine.parts import exchange
from hl7core.wire.pcap.reader import PcapngWriter
from shell import ENV, command

ROOT_ON_LINUX = sys.platform == "linux" and os.geteuid() == 0


def start(*arguments, cwd, **options):
    return subprocess.Popen(command(*arguments), cwd=cwd, env=ENV | {"HOME": str(cwd)}, **options)


def wait_for(done, process):
    until = time.monotonic() + 60
    while not done():
        assert process.poll() is None, "it has ended"
        assert time.monotonic() < until, "it does not come up"
        time.sleep(0.02)


@contextlib.contextmanager
def ended(process):
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_read_stops_and_what_it_has_written_is_whole(tmp_path):
    batch = exchange("A")
    writer = PcapngWriter()
    with ended(start("read", "-", "-o", "jsonl", cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE)) as read:
        read.stdin.write(writer.header("test", [batch.interface]) + writer.batch(batch))
        read.stdin.flush()
        line = read.stdout.readline()
        assert json.loads(line)["isComplete"]
        read.send_signal(signal.SIGINT)  # while it waits for more
        assert read.wait(20) == 130
        assert read.stdout.read() == b""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_run_ends_in_order(tmp_path, number, code):
    (tmp_path / "settings.toml").write_text("[plugins.scapy_source]\nenabled = false\n")
    with ended(start("run", cwd=tmp_path, stderr=subprocess.PIPE)) as engine:
        wait_for((tmp_path / "docs/control.sock").exists, engine)
        engine.send_signal(number)
        assert engine.wait(20) == code
        assert b"Traceback" not in engine.stderr.read()
    assert not (tmp_path / "docs/control.sock").exists()


def test_the_demo_ends_in_order(tmp_path):
    with ended(start("demo", "--no-live", cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)) as demo:
        wait_for(lambda: list((tmp_path / "hl7core-demo/sessions").glob("*.json")), demo)
        demo.send_signal(signal.SIGINT)
        assert demo.wait(30) == 130
        assert b"recorded" in demo.stdout.read()
        assert b"Traceback" not in demo.stderr.read()


@pytest.mark.skipif(not ROOT_ON_LINUX, reason="capturing needs root on Linux")
def test_capture_ends_in_order(tmp_path):
    with ended(start("capture", "-i", "lo", "-w", "line.pcapng", cwd=tmp_path, stderr=subprocess.PIPE)) as capture:
        wait_for((tmp_path / "docs/control.sock").exists, capture)
        capture.send_signal(signal.SIGINT)
        assert capture.wait(20) == 130
        said = capture.stderr.read()
    assert b"packets written to line.pcapng" in said
    assert b"Traceback" not in said
