"""Reading with several processes: the output of one, whatever happens to the others."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hl7core.cli.parallel import process_count, shards_of
from hl7core.wire.decoder import ALL
from hl7core.wire.pcap.synthetic_tcp import TcpTalk
from hl7core.wire.pcap.writer import pcap_header, pcap_record

CAPTURES = Path(__file__).parents[1] / "captures"
HL7CORE = (sys.executable, "-m", "hl7core")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="several processes are for systems that fork")


def read(*arguments, **more):
    return subprocess.run([*HL7CORE, "read", *arguments], capture_output=True, check=False, timeout=120, **more)


def written(path, packets):
    records = [pcap_record(packet.time_ns, bytes(packet.data)) for packet in packets]
    path.write_bytes(pcap_header() + b"".join(records))
    return path


@pytest.fixture
def capture(tmp_path):
    """A capture of forty analyzers, large enough for several chunks."""
    talks = []
    for number in range(40):
        talk = TcpTalk((f"10.0.1.{number}", 50_000 + number), time_ns=10**18 + number * 1000)
        talk.open()
        for control_id in range(60):
            talk.opener(
                b"\x0bMSH|^~\\&|AN|LAB|LIS|LAB|20260101||ORU^R01|%d|P|2.5\rPID|1||X\rNTE|1||%s\r\x1c\r"
                % (control_id, b"n" * 300)
            )
            talk.acceptor(b"\x0bMSH|^~\\&|LIS|LAB|AN|LAB|||ACK|A%d|P|2.5\rMSA|AA|%d\r\x1c\r" % (control_id, control_id))
        talks.append(talk)
    packets = sorted((p for talk in talks for p in talk.packets), key=lambda packet: packet.time_ns)
    return written(tmp_path / "day.pcap", packets)


@pytest.mark.parametrize("jobs", [2, 3, 5])
def test_several_processes_print_what_one_does(capture, jobs):
    one = read(str(capture), "-o", "jsonl", "--jobs", "1")
    several = read(str(capture), "-o", "jsonl", "--jobs", str(jobs))
    assert one.stdout.count(b"\n") == 2400
    assert (several.returncode, several.stderr) == (0, b"")
    assert several.stdout == one.stdout


def test_several_files_are_one_capture_for_all_processes(capture, tmp_path):
    data = sorted(CAPTURES.glob("ack_*.pcap"))[:3]
    files = [str(capture), *map(str, data)]
    assert read(*files, "-o", "jsonl", "--jobs", "3").stdout == read(*files, "-o", "jsonl", "--jobs", "1").stdout


def test_a_damaged_file_is_told_of_once_and_exits_with_4(capture):
    capture.write_bytes(capture.read_bytes()[:-1000])
    one, two = (read(str(capture), "-o", "jsonl", "--jobs", jobs) for jobs in ("1", "2"))
    assert (two.returncode, two.stdout, two.stderr) == (one.returncode, one.stdout, one.stderr)
    assert two.returncode == 4
    assert two.stderr.count(b"cut short") == 1


def test_what_is_no_capture_is_one_clear_error(tmp_path):
    path = tmp_path / "x.pcap"
    path.write_text("no capture")
    found = read(str(path), "-o", "jsonl", "--jobs", "2")
    assert found.returncode == 1
    assert found.stderr.count(b"not a capture file") == 1


def test_nothing_found_exits_with_3(tmp_path):
    talk = TcpTalk()
    talk.open()
    path = written(tmp_path / "empty.pcap", talk.packets)
    assert read(str(path), "-o", "jsonl", "--jobs", "2").returncode == 3


def _children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def stuck(capture, tmp_path):
    """A read of two processes that waits for somebody to take its output."""
    long = [str(capture)] * 8
    process = subprocess.Popen(
        [*HL7CORE, "read", *long, "-o", "jsonl", "--jobs", "2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 30
    while not (children := _children(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.02)
    yield process, children[0]
    process.kill()
    process.communicate()


def test_a_decoding_process_that_dies_ends_the_command_with_an_error(stuck):
    process, child = stuck
    os.kill(child, signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"a decoding process was killed by signal 9" in errors


def _gone(pid):
    return not Path(f"/proc/{pid}").exists() or Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_stays_when_the_first_one_goes(stuck, number):
    process, child = stuck
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -9)
    deadline = time.monotonic() + 30
    while not _gone(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _gone(child)


INTERRUPTED_AT_THE_FORK = """
import os, signal, sys
from hl7core.__main__ import main
os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), signal.SIGINT))
sys.exit(main())
"""


def test_an_interrupt_while_a_process_is_begun_is_not_lost(capture):
    command = (sys.executable, "-c", INTERRUPTED_AT_THE_FORK, "read", str(capture), "-o", "jsonl", "--jobs", "2")
    found = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert (found.returncode, found.stdout) == (130, b"")


@pytest.mark.parametrize("jobs", [2, 3, 8, 64])
def test_the_shares_are_all_connections_and_the_one_that_prints_has_fewest(jobs):
    shards = shards_of(jobs)
    assert [place for shard in shards for place in shard] == list(ALL)
    assert len(shards) == jobs
    assert min(shards, key=len) is shards[0]


def test_pipes_and_small_files_are_read_by_one_process(capture, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert process_count([str(pipe)], 4) == 1
    assert process_count(["-"], 4) == 1
    assert process_count([str(capture)], None) == 1
    assert process_count([str(capture)], 4) == 4
    large = tmp_path / "large.pcap"
    with large.open("wb") as file:
        file.truncate(64 << 20)
    assert process_count([str(large)], None) == min(len(os.sched_getaffinity(0)), 8)
