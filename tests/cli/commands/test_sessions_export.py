"""``sessions export``: stored sessions for other programs."""

import csv
import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest

import shell
from engine.parts import ack, block, oru
from hl7core.cli.output.packet_log import PacketLog
from hl7core.files import CaptureFile
from hl7core.model.packet import PacketBatch
from hl7core.model.schema import at_stored_precision, session_to_json
from hl7core.testing import TcpTalk, make_session
from hl7core.wire.decoder import Decoder
from hl7core.wire.pcap.reader import pcap_header, pcap_record

ENV = shell.ENV | {"PYTHONWARNINGS": "ignore"}


def hl7core(*arguments, cwd, text=True, **options):
    command = shell.command(*arguments)
    return subprocess.run(
        command, capture_output=True, text=text, check=False, cwd=cwd, env=ENV | {"HOME": str(cwd)}, **options
    )


def store(folder, sessions):
    sessions = [at_stored_precision(session) for session in sessions]
    place = folder / "docs/sessions"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    for session in sessions:
        (place / f"{session.id}.json").write_bytes(session_to_json(session))
    return sessions


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A data folder with a session of each protocol."""
    folder = tmp_path_factory.mktemp("export")
    protocols = ("mllp", "lis01", "plain", "mllp")
    return folder, store(folder, [make_session(n, protocol=p) for n, p in enumerate(protocols, 1)])


def exported(desk, *arguments):
    folder, _ = desk
    run = hl7core("sessions", "export", *arguments, cwd=folder, text=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_jsonl_is_what_is_stored_a_session_a_line(desk):
    _, sessions = desk
    assert exported(desk).splitlines() == [session_to_json(session) for session in sessions]


def test_json_is_one_array(desk):
    _, sessions = desk
    assert json.loads(exported(desk, "-o", "json")) == [json.loads(session_to_json(session)) for session in sessions]


def test_hl7_is_every_messages_exact_bytes(desk):
    _, sessions = desk
    wanted = b"".join(message.text + b"\n" for session in sessions for message in session.messages)
    assert exported(desk, "-o", "hl7") == wanted


def test_csv_has_a_row_a_message_and_what_became_of_the_session(desk):
    _, sessions = desk
    rows = list(csv.DictReader(io.StringIO(exported(desk, "-o", "csv").decode(), newline="")))
    assert [row["sha256"] for row in rows] == [m.sha256 for session in sessions for m in session.messages]
    assert {row["submissionStatus"] for row in rows} == {"pending"}


def test_filters_and_ids_choose_and_the_name_of_the_file_tells_the_format(desk, tmp_path):
    folder, sessions = desk
    out = tmp_path / "some.csv"
    run = hl7core("sessions", "export", "--specimen", "S-0002", "-w", out, cwd=folder)
    assert "1 session written" in run.stderr
    assert sessions[1].id in out.read_text()
    assert exported(desk, "-n", "1") == session_to_json(sessions[-1]) + b"\n"
    assert exported(desk, sessions[2].id[:13]) == session_to_json(sessions[2]) + b"\n"
    assert exported(desk, sessions[0].id, sessions[3].id).count(b"\n") == 2
    ambiguous = hl7core("sessions", "export", sessions[0].id[:4], cwd=folder)
    assert ambiguous.returncode == 2
    assert "4 sessions begin with" in ambiguous.stderr


def test_nothing_that_fits_is_exit_3_and_touches_no_file_and_a_missing_id_is_exit_4(desk, tmp_path):
    folder, sessions = desk
    out = tmp_path / "kept.jsonl"
    out.write_text("from before")
    for arguments in (["--specimen", "nobody"], ["ffffffff"], [sessions[0].id, "--device", "203.0.113.1"]):
        assert hl7core("sessions", "export", *arguments, "-w", out, cwd=folder).returncode == 3
    assert out.read_text() == "from before"
    run = hl7core("sessions", "export", sessions[0].id, "ffffffff", cwd=folder)
    assert run.returncode == 4
    assert "ffffffff" in run.stderr
    assert len(run.stdout.splitlines()) == 1


@pytest.mark.parametrize("name", ["out.hl7", "out.pcapng"])
def test_a_file_is_its_owners_alone_and_nothing_is_left_beside_it(desk, tmp_path, name):
    folder, _ = desk
    command = f"umask 0; exec {sys.executable} -m hl7core sessions export -w {tmp_path / name}"
    subprocess.run(["/bin/sh", "-c", command], check=True, cwd=folder, env=ENV, capture_output=True)
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_rebuilt_capture_reads_as_the_same_messages_and_says_that_it_is_rebuilt(desk, tmp_path):
    folder, sessions = desk
    out = tmp_path / "out.pcapng"
    run = hl7core("sessions", "export", "-w", out, cwd=folder)
    assert run.returncode == 0
    assert "4 sessions rebuilt" in run.stderr
    assert "different ids" in run.stderr
    assert b"Rebuilt by hl7core" in out.read_bytes()[:400]
    again = [json.loads(line) for line in hl7core("read", out, "-o", "jsonl", cwd=tmp_path).stdout.splitlines()]
    for new, old in zip(again, sessions, strict=True):
        wanted = json.loads(session_to_json(old, saved=False))
        for key in ("messages", "messageInfo", "startTime", "endTime", "deviceIP", "lisIP", "ending", "connection"):
            assert new[key] == wanted[key], key
        assert new["sessionId"] != old.id


def talk(number, *, at=0.0, name="M"):
    one = TcpTalk(("10.0.0.5", 40000 + number), time_ns=1_700_000_000_000_000_000 + int(at * 1e9), isn=(9 * number, 5))
    one.open()
    one.opener(block(oru(f"{name}{number}")))
    one.acceptor(block(ack(f"{name}{number}")))
    one.close()
    return one


def capture_of(path, talks):
    packets = sorted((packet for one in talks for packet in one.packets), key=lambda packet: packet.time_ns)
    path.write_bytes(pcap_header() + b"".join(pcap_record(p.time_ns, p.data) for p in packets))
    return PacketBatch.of(packets)


def packets_of(path):
    with CaptureFile(str(path)) as capture:
        return [packet for batch in capture for packet in batch.packets()]


def ids_of(path):
    decoder = Decoder()
    with CaptureFile(str(path)) as capture:
        return sorted(
            {session.id for batch in capture for session in decoder.feed(batch)} | {s.id for s in decoder.end()}
        )


def test_where_the_packets_were_kept_they_are_exported_as_they_were(tmp_path):
    batch = capture_of(tmp_path / "line.pcap", [talk(number, at=number) for number in range(10)])
    sessions = store(tmp_path, Decoder().feed(batch))
    run = hl7core(
        "sessions", "export", *[s.id for s in sessions[2:5]], "--packets", "line.pcap", "-w", "out.pcapng", cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
    assert "3 sessions as original packets" in run.stderr
    assert "rebuilt" not in run.stderr
    assert b"Original packets" in (tmp_path / "out.pcapng").read_bytes()[:400]
    chosen = [p.data for p in packets_of(tmp_path / "out.pcapng")]
    assert chosen == [p.data for number in (2, 3, 4) for p in talk(number, at=number).packets]
    assert ids_of(tmp_path / "out.pcapng") == sorted(s.id for s in sessions[2:5])


def test_what_was_not_kept_whole_is_rebuilt_beside_the_originals_and_both_are_told(tmp_path):
    talks = [talk(number, at=number) for number in range(3)]
    sessions = store(tmp_path, Decoder().feed(PacketBatch.of([p for one in talks for p in one.packets])))
    capture_of(tmp_path / "part1.pcap", talks[:1])
    del talks[1].packets[3]  # its message
    capture_of(tmp_path / "part2.pcap", talks[1:2])
    run = hl7core(
        "sessions", "export", "--packets", "part1.pcap", "--packets", "part2.pcap", "-w", "out.pcapng", cwd=tmp_path
    )
    assert "1 session as original packets" in run.stderr
    assert "2 sessions rebuilt" in run.stderr
    again = [
        json.loads(line) for line in hl7core("read", "out.pcapng", "-o", "jsonl", cwd=tmp_path).stdout.splitlines()
    ]
    assert [s["messages"] for s in again] == [[m.decoded()[0] for m in s.messages] for s in sessions]
    assert again[0]["sessionId"] == sessions[0].id


def test_a_session_changed_before_it_was_stored_is_never_exported_as_it_was_on_the_wire(tmp_path):
    batch = capture_of(tmp_path / "line.pcap", [talk(0)])
    (session,) = Decoder().feed(batch)
    blank = session.messages[0].text.replace(b"X1", b"**")
    store(tmp_path, [session._replace(messages=(session.messages[0]._replace(text=blank), session.messages[1]))])
    run = hl7core("sessions", "export", "--packets", "line.pcap", "-w", "out.pcapng", cwd=tmp_path)
    assert "1 session rebuilt" in run.stderr
    assert b"X1" not in (tmp_path / "out.pcapng").read_bytes()


def test_what_capture_w_wrote_on_this_data_folder_is_found_without_being_named(tmp_path):
    batch = PacketBatch.of([p for number in range(4) for p in talk(number, at=number).packets])
    begun = time.time()
    with PacketLog(str(tmp_path / "line.pcapng"), filesize=1, noted=tmp_path / "docs") as log:
        for packet in batch.packets():
            log.put(PacketBatch.of([packet._replace(time_ns=packet.time_ns % 10**9 + int(begun * 1e9))]))
    files = sorted(tmp_path.glob("line_*.pcapng"))
    assert len(files) > 1
    decoder = Decoder()
    sessions = []
    for file in files:
        with CaptureFile(str(file)) as capture:
            sessions += [session for one in capture for session in decoder.feed(one)]
    assert len(store(tmp_path, sessions)) == 4
    run = hl7core("sessions", "export", "-w", "out.pcapng", cwd=tmp_path)
    assert "4 sessions as original packets" in run.stderr
    assert "sessions rebuilt" in hl7core("sessions", "export", "--rebuild", "-w", "r.pcapng", cwd=tmp_path).stderr
    assert (tmp_path / "docs/captures.jsonl").stat().st_mode & 0o777 == 0o600
    for file in files:
        file.unlink()
    assert "4 sessions rebuilt" in hl7core("sessions", "export", "-w", "out.pcapng", cwd=tmp_path).stderr
    with PacketLog(str(tmp_path / "other.pcapng"), noted=tmp_path / "docs"):
        pass
    (line,) = (tmp_path / "docs/captures.jsonl").read_text().splitlines()  # what is gone is forgotten
    assert json.loads(line)["path"].endswith("other.pcapng")


def test_a_capture_that_cannot_be_read_is_named_and_costs_nothing(tmp_path):
    store(tmp_path, [make_session(1)])
    (tmp_path / "bad.pcap").write_bytes(b"no capture")
    run = hl7core(
        "sessions", "export", "--packets", "bad.pcap", "--packets", "gone.pcap", "-w", "o.pcapng", cwd=tmp_path
    )
    assert run.returncode == 0
    assert "bad.pcap" in run.stderr
    assert "gone.pcap" in run.stderr
    assert "1 session rebuilt" in run.stderr


def test_options_that_make_no_sense_are_refused(desk):
    folder, _ = desk
    assert hl7core("sessions", "export", "--packets", "x.pcap", "-o", "csv", cwd=folder).returncode == 2
    primary, secondary = pty.openpty()
    run = subprocess.run(
        [sys.executable, "-m", "hl7core", "sessions", "export", "-o", "pcapng"],
        stdout=secondary, stderr=subprocess.PIPE, text=True, check=False, cwd=folder, env=ENV,
    )  # fmt: skip
    os.close(secondary)
    os.close(primary)
    assert run.returncode == 2
    assert "-w" in run.stderr


def test_a_terminal_gets_a_progress_bar_and_a_pipe_none(desk, tmp_path):
    folder, _ = desk
    primary, secondary = pty.openpty()
    command = [sys.executable, "-m", "hl7core", "sessions", "export", "-w", tmp_path / "out.jsonl"]
    process = subprocess.Popen(command, stderr=secondary, cwd=folder, env=ENV | {"TERM": "xterm"})
    os.close(secondary)
    seen = b""
    while select.select([primary], [], [], 20)[0]:
        try:
            seen += os.read(primary, 65536)
        except OSError:  # the other end is closed
            break
    os.close(primary)
    assert process.wait(20) == 0
    assert b"writing" in seen
    assert "writing" not in hl7core("sessions", "export", "-w", tmp_path / "o.jsonl", cwd=folder).stderr


def peak_memory(folder, *arguments):
    """Return the most memory that an export took, in KiB."""
    code = (
        "import resource, sys; from hl7core.cli.main import cli;"
        f"cli.main({['sessions', 'export', *arguments]!r}, standalone_mode=False);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder, env=ENV)
    return int(run.stderr.split()[-1])


@pytest.fixture(scope="module")
def few_and_many(tmp_path_factory):
    """A data folder with 400 sessions, and one with 1,400."""
    folders = tmp_path_factory.mktemp("few"), tmp_path_factory.mktemp("many")
    sessions = [make_session(n, sensor="x" * 8000) for n in range(1, 1401)]
    store(folders[0], sessions[:400])
    store(folders[1], sessions)
    return folders


@pytest.mark.parametrize("form", ["jsonl", "pcapng"])
def test_memory_stays_flat_however_many_sessions_there_are(few_and_many, form):
    few, many = (peak_memory(folder, "-o", form, "-w", "out.bin") for folder in few_and_many)
    assert many - few < 1000 * 8  # KiB: less than the text of the further sessions alone


def test_an_interrupt_leaves_no_half_file_and_is_exit_130(few_and_many, tmp_path):
    _, folder = few_and_many
    fifo = tmp_path / "slow"
    os.mkfifo(fifo)
    command = [sys.executable, "-m", "hl7core", "sessions", "export", "-o", "jsonl", "-w", fifo]
    process = subprocess.Popen(command, cwd=folder, env=ENV, stderr=subprocess.DEVNULL)
    with fifo.open("rb") as reader:
        assert reader.read(100)  # it writes, and then waits for us
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
