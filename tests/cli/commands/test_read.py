"""``hl7core read``: what other programs rely on."""

import gzip
import json
import os
import struct
import subprocess
import sys
from hashlib import sha256

import pytest

from hl7core.wire.pcap.reader import PcapngWriter
from hl7core.wire.pcap.synthetic_tcp import TcpTalk
from hl7core.wire.pcap.writer import pcap_header, pcap_record

ORU = b"MSH|^~\\&|AN|LAB|LIS|LAB|20260101||ORU^R01|M1|P|2.5\rPID|1||=SUM(1)\r"
ACK = b"MSH|^~\\&|LIS|LAB|AN|LAB|20260101||ACK^R01|A1|P|2.5\rMSA|AA|M1\r"


def hl7core(*arguments: str, stdin: bytes = b"", **env: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "hl7core", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, check=False, env=os.environ | env)


def conversation() -> TcpTalk:
    talk = TcpTalk()
    talk.open()
    talk.opener(b"\x0b" + ORU + b"\x1c\r")
    talk.acceptor(b"\x0b" + ACK + b"\x1c\r")
    talk.opener(b"\x0b" + ORU.replace(b"M1", b"M2") + b"\x1c\r")
    talk.close()
    return talk


def pcap(talk: TcpTalk) -> bytes:
    return pcap_header() + b"".join(pcap_record(p.time_ns, p.data) for p in talk.packets)


@pytest.fixture
def capture(tmp_path):
    path = tmp_path / "day.pcap"
    path.write_bytes(pcap(conversation()))
    return str(path)


def lines(run: subprocess.CompletedProcess[bytes]) -> list[dict]:
    return [json.loads(line) for line in run.stdout.splitlines()]


def test_jsonl_is_one_session_a_line_in_the_order_in_which_they_end(capture):
    run = hl7core("read", capture, "-o", "jsonl")
    assert run.returncode == 0
    first, second = lines(run)
    assert first["isComplete"] is True
    assert first["messages"] == [ORU.decode(), ACK.decode()]
    assert second["ending"] == "closed"
    assert not {"persistedUntil", "firstSavedAt", "_metadata", "submissionStatus", "deliveries"} & set(first)


def test_jsonl_is_what_a_pipe_gets(capture):
    assert len(lines(hl7core("read", capture))) == 2


def test_messages_are_one_a_line_with_what_answers_what(capture):
    request, reply, unanswered = lines(hl7core("read", capture, "-o", "messages"))
    session = lines(hl7core("read", capture))[0]["sessionId"]
    assert request == {
        "sessionId": session,
        "connection": "10.0.0.5:49152-10.0.0.9:2575",
        "direction": "10.0.0.5:49152->10.0.0.9:2575",
        "protocol": "mllp",
        "controlId": "M1",
        "messageType": "ORU^R01",
        "sha256": sha256(ORU).hexdigest(),
        "length": len(ORU),
        "timestamp": 1700000000003,
        "complete": True,
        "replyTo": None,
        "ackCode": None,
    }
    assert reply["replyTo"] == {"controlId": "M1", "sha256": sha256(ORU).hexdigest()}
    assert reply["direction"] == "10.0.0.9:2575->10.0.0.5:49152"
    assert reply["ackCode"] == "AA"
    assert unanswered["replyTo"] is None


def test_json_is_one_array(capture):
    assert len(json.loads(hl7core("read", capture, "-o", "json").stdout)) == 2


def test_hl7_is_the_exact_bytes(capture):
    assert hl7core("read", capture, "-o", "hl7").stdout.startswith(ORU + b"\n" + ACK + b"\n")


def test_csv_cells_are_never_formulas(tmp_path):
    talk = TcpTalk()
    talk.open()
    talk.opener(b"\x0b" + ORU.replace(b"|M1|", b"|=HYPERLINK(1)|") + b"\x1c\r")
    path = tmp_path / "evil.pcap"
    path.write_bytes(pcap(talk))
    out = hl7core("read", str(path), "-o", "csv").stdout
    assert b"'=HYPERLINK(1)" in out
    assert b",=" not in out


def test_text_never_lets_a_device_command_the_terminal(tmp_path):
    talk = TcpTalk()
    talk.open()
    talk.opener(b"\x0b" + ORU.replace(b"|M1|", b"|\x1b]0;owned\x07|") + b"\x1c\r")
    path = tmp_path / "evil.pcap"
    path.write_bytes(pcap(talk))
    out = hl7core("read", str(path), "-o", "text").stdout
    assert b"\x1b" not in out
    assert b"owned" in out


def test_standard_input_and_gzip_are_read(capture):
    data = pcap(conversation())
    assert len(lines(hl7core("read", "-", stdin=data))) == 2
    assert len(lines(hl7core("read", "-", stdin=gzip.compress(data)))) == 2


def test_several_files_are_one_capture(tmp_path):
    talk = conversation()
    paths = []
    for number, packets in enumerate((talk.packets[:4], talk.packets[4:])):
        path = tmp_path / f"{number}.pcap"
        path.write_bytes(pcap_header() + b"".join(pcap_record(p.time_ns, p.data) for p in packets))
        paths.append(str(path))
    assert [line["isComplete"] for line in lines(hl7core("read", *paths))] == [True, False]


def test_pcap_and_pcapng_give_the_same_sessions(tmp_path, capture):
    talk = conversation()
    writer = PcapngWriter()
    path = tmp_path / "day.pcapng"
    path.write_bytes(writer.header("test", [talk.interface]) + writer.batch(talk.batch()))
    assert hl7core("read", str(path)).stdout == hl7core("read", capture).stdout


def test_a_damaged_file_gives_every_message_up_to_the_damage_and_exit_4(tmp_path):
    path = tmp_path / "cut.pcap"
    path.write_bytes(pcap(conversation())[:-20])
    run = hl7core("read", str(path))
    assert run.returncode == 4
    assert len(lines(run)) == 2
    (notice,) = run.stderr.decode().splitlines()
    assert f"packet {len(conversation().packets)}" in notice


@pytest.mark.parametrize("data", [b"", b"no capture at all", b"\xd4\xc3\xb2"])
def test_what_is_no_capture_file_is_said_in_a_sentence(tmp_path, data):
    path = tmp_path / "x.pcap"
    path.write_bytes(data)
    run = hl7core("read", str(path))
    assert run.returncode == 1
    assert b"Traceback" not in run.stderr
    assert len(run.stderr.splitlines()) == 1


def _shb(body: bytes = b"") -> bytes:
    raw = struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1) + body
    return struct.pack("<II", 0x0A0D0D0A, 12 + len(raw)) + raw + struct.pack("<I", 12 + len(raw))


HOSTILE = {
    "nothing at all": (b"", 1, "empty"),
    "half a header": (pcap_header()[:11], 1, "cut short in the file header"),
    "a header alone, cut in the first packet": (pcap_header() + b"\0\0\0", 1, "cut short in packet 1"),
    "a packet of four gigabytes": (pcap_header() + struct.pack("<4I", 1, 1, 0xFFFFFFFF, 60), 1, "4294967295 bytes"),
    "a packet of sixteen megabytes that is not there": (
        pcap_header() + struct.pack("<4I", 1, 1, 16 << 20, 60) + b"x", 1, "cut short in packet 1",
    ),
    "a file of zeros behind the header": (pcap_header() + bytes(4096), 1, "all zeros"),
    "a block without length": (_shb() + struct.pack("<III", 6, 0, 0), 1, "impossible length of 0"),
    "a block of four gigabytes": (_shb() + struct.pack("<III", 6, 0xFFFFFFFC, 0), 1, "impossible length"),
    "a packet of an interface that is not described": (
        _shb() + struct.pack("<7I", 6, 32, 9, 0, 0, 0, 0) + struct.pack("<I", 32), 1, "names interface 9",
    ),
    "a link type that nobody knows": (
        pcap_header(147) + pcap_record(10**18, b"\x45" * 60) * 3, 4, "3 packets of link type 147",
    ),
    "gzip cut short in its header": (gzip.compress(pcap_header())[:9], 1, "gzip"),
    "gzip cut short": (gzip.compress(pcap(conversation()))[:-30], 4, "gzip data is cut short"),
    "gzip of no capture": (gzip.compress(b"hello" * 100), 1, "not a capture file"),
    "gzip of zeros that grows a thousandfold": (gzip.compress(pcap_header() + bytes(50 << 20)), 1, "all zeros"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_costs_a_sentence_and_no_memory(tmp_path, name):
    data, code, sentence = HOSTILE[name]
    path = tmp_path / "hostile.pcap"
    path.write_bytes(data)
    limited = "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (600 << 20,) * 2); sys.argv[0] = 'hl7core';"
    script = limited + "from hl7core.__main__ import main; sys.exit(main())"
    command = [sys.executable, "-c", script, "read", str(path), "-o", "jsonl"]
    run = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert run.returncode == code, run.stderr
    said = run.stderr.decode()
    assert sentence in said
    assert said.count("hostile.pcap") == 1
    assert "Traceback" not in said
    assert len(said.splitlines()) == 1


def test_a_missing_file_is_said_in_a_sentence():
    run = hl7core("read", "/nowhere/day.pcap")
    assert run.returncode == 1
    assert b"Traceback" not in run.stderr


def test_nothing_to_find_is_exit_3(tmp_path):
    path = tmp_path / "empty.pcap"
    path.write_bytes(pcap_header())
    run = hl7core("read", str(path))
    assert run.returncode == 3
    assert b"no HL7 or LIS01 conversation in 0 packets" in run.stderr


def test_a_filter_takes_only_its_packets(capture):
    assert hl7core("read", capture, "-f", "tcp port 2575").returncode == 0
    assert hl7core("read", capture, "-f", "tcp port 9").returncode == 3
    bad = hl7core("read", capture, "-f", "no such filter")
    assert bad.returncode == 1
    assert b"Traceback" not in bad.stderr


def test_the_settings_count_when_reading(tmp_path, capture):
    run = hl7core("read", capture, HL7CORE_CORE__DEVICE_ADDRESS="10.0.0.9")
    assert lines(run)[0]["deviceIP"] == "10.0.0.9"
    wrong = hl7core("read", capture, HL7CORE_CORE__LIS_PORT="99999")
    assert wrong.returncode == 5
    assert b"core.lis_port" in wrong.stderr


def test_whoever_stops_reading_our_output_gets_no_traceback(tmp_path):
    talk = TcpTalk()
    talk.open()
    for number in range(3000):
        talk.opener(b"\x0b" + ORU.replace(b"M1", b"M%d" % number) + b"\x1c\r")
    path = tmp_path / "long.pcap"
    path.write_bytes(pcap(talk))
    script = f'"{sys.executable}" -m hl7core read "{path}" -o messages | head -1'
    run = subprocess.run(["bash", "-c", script], capture_output=True, check=False)
    assert run.stderr == b""
    assert len(run.stdout.splitlines()) == 1


def test_the_same_file_gives_the_same_ids_every_time(capture):
    assert hl7core("read", capture).stdout == hl7core("read", capture).stdout
