"""``hl7core read`` of what is encrypted: named without a key, read with one; and places pinned in the settings."""

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from hl7core.files import CaptureFile
from hl7core.wire.pcap.reader import PcapngWriter
from hl7core.wire.pcap.synthetic_tcp import TcpTalk
from hl7core.wire.pcap.writer import pcap_header, pcap_record
from tls_peers import TlsTalk

ORU = b"MSH|^~\\&|AN|LAB|LIS|LAB|20260101||ORU^R01|M1|P|2.5\rPID|1||P7\r"
ACK = b"MSH|^~\\&|LIS|LAB|AN|LAB|20260101||ACK^R01|A1|P|2.5\rMSA|AA|M1\r"

BLOCKS = (b"\x0b" + ORU + b"\x1c\r", b"\x0b" + ACK + b"\x1c\r")


def hl7core(*arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hl7core", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | env)


def pcap(path: Path, talk: TcpTalk) -> Path:
    path.write_bytes(pcap_header() + b"".join(pcap_record(p.time_ns, p.data) for p in talk.packets))
    return path


@pytest.fixture(params=["1.2", "1.3"])
def tls(tmp_path, request):
    talk = TlsTalk(tmp_path, request.param)
    talk.open()
    talk.opener(b"\x0b" + ORU + b"\x1c\r")
    talk.acceptor(b"\x0b" + ACK + b"\x1c\r")
    talk.close()
    pcap(tmp_path / "day.pcap", talk.talk)
    return talk


def test_without_a_key_log_it_is_named_and_nothing_is_found(tls, tmp_path):
    run = hl7core("read", tmp_path / "day.pcap")
    assert run.returncode == 3
    assert run.stdout == ""
    assert "connection 10.0.0.5:49152-10.0.0.9:2575 is encrypted (TLS)" in run.stderr
    assert "--keylog" in run.stderr


@pytest.mark.parametrize("output", ["jsonl", "messages", "text"])
def test_with_the_key_log_the_sessions_are_there(tls, tmp_path, output):
    run = hl7core("read", tmp_path / "day.pcap", "--keylog", tls.keys, "-o", output)
    assert run.returncode == 0, run.stderr
    assert "M1" in run.stdout or output == "text"
    assert "encrypted" not in run.stderr
    if output == "jsonl":
        session = json.loads(run.stdout)
        assert session["protocol"] == "mllp"
        assert session["messages"] == [ORU.decode(), ACK.decode()]
        assert [finding["code"] for finding in session["findings"]] == ["tls"]
        assert json.loads(hl7core("read", tmp_path / "day.pcap", "--keylog", tls.keys).stdout) == session


def test_no_secret_is_ever_printed(tls, tmp_path):
    run = hl7core("-vv", "read", tmp_path / "day.pcap", "--keylog", tls.keys)
    for secret in {line.split()[2] for line in tls.keys.read_text().splitlines()}:
        assert secret not in run.stdout + run.stderr


def test_a_key_log_of_others_leaves_it_named(tls, tmp_path):
    keys = tmp_path / "others.log"
    keys.write_text(f"CLIENT_RANDOM {'ab' * 32} {'cd' * 48}\n")
    run = hl7core("read", tmp_path / "day.pcap", "--keylog", keys)
    assert run.returncode == 3
    assert "the key log has no key for it" in run.stderr


def test_what_is_no_key_log_is_said_before_anything_is_read(tls, tmp_path):
    for path, reason in ((tmp_path / "missing.log", "cannot be read"), (tmp_path / "day.pcap", "is not a key log")):
        run = hl7core("read", tmp_path / "day.pcap", "--keylog", path)
        assert run.returncode == 2
        assert reason in run.stderr


def test_without_the_extra_the_remedy_is_named(tls, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'cryptography':\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Missing())\n"
    )
    run = hl7core("read", tmp_path / "day.pcap", "--keylog", tls.keys, PYTHONPATH=str(tmp_path))
    assert run.returncode == 2
    assert "pip install 'hl7core[tls]'" in run.stderr
    assert hl7core("read", tmp_path / "day.pcap", PYTHONPATH=str(tmp_path)).returncode == 3


def secrets_block(text: bytes) -> bytes:
    """A Decryption Secrets Block of pcapng, section 4.7."""
    body = struct.pack("<II", 0x544C534B, len(text)) + text.ljust(len(text) + 3 & ~3, b"\0")
    return struct.pack("<II", 10, len(body) + 12) + body + struct.pack("<I", len(body) + 12)


def test_a_capture_that_carries_its_keys_is_its_own_key_log(tls, tmp_path):
    writer = PcapngWriter()
    batch = tls.talk.batch()
    whole = writer.header("test", [batch.interface]) + writer.batch(batch)
    first = struct.unpack_from("<I", whole, 4)[0]
    path = tmp_path / "day.pcapng"
    path.write_bytes(whole[:first] + secrets_block(tls.keys.read_bytes()) + whole[first:])
    run = hl7core("read", path, "--keylog", path)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["messages"] == [ORU.decode(), ACK.decode()]
    with CaptureFile(str(path)) as capture:
        assert sum(batch.count for batch in capture) == len(tls.talk.packets)
        assert capture.take_secrets() == tls.keys.read_bytes()
        assert capture.take_secrets() == b""


@pytest.mark.skipif(shutil.which("editcap") is None, reason="editcap is not installed")
def test_the_keys_that_wireshark_injects_are_read(tls, tmp_path):
    path = tmp_path / "injected.pcapng"
    subprocess.run(
        ["editcap", "--inject-secrets", f"tls,{tls.keys}", tmp_path / "day.pcap", path], check=True, capture_output=True
    )
    run = hl7core("read", path, "--keylog", path)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["messages"] == [ORU.decode(), ACK.decode()]


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_tshark_decrypts_the_same_bytes(tls, tmp_path):
    run = subprocess.run(
        ["tshark", "-r", tmp_path / "day.pcap", "-o", f"tls.keylog_file:{tls.keys}", "-d", "tcp.port==2575,tls", "-q", "-z", "follow,tls,raw,0"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    said = [line.strip() for line in run.stdout.splitlines() if line.strip().isalnum() and len(line.strip()) > 20]
    ours = json.loads(hl7core("read", tmp_path / "day.pcap", "--keylog", tls.keys).stdout)["messages"]
    assert [bytes.fromhex(line)[1:-2].decode() for line in said if len(line) % 2 == 0] == ours


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("tcpdump") is None, reason="capturing needs root and tcpdump")
def test_a_capture_of_real_sockets_is_read_too(tmp_path):
    script = tmp_path / "talk.py"
    script.write_text(f"ORU = {BLOCKS[0]!r}\nACK = {BLOCKS[1]!r}\n{LIVE}")
    path, keys = tmp_path / "live.pcap", tmp_path / "keys.log"
    from tls_peers import certificate

    run = subprocess.run(
        [sys.executable, script, certificate(tmp_path), keys, path], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    found = hl7core("read", path, "--keylog", keys)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["messages"] == [ORU.decode(), ACK.decode()]


LIVE = """
import os, socket, ssl, subprocess, sys, threading, time
certificate, keys, path = sys.argv[1:]
listener = socket.create_server(("127.0.0.1", 0))
port = listener.getsockname()[1]
dump = subprocess.Popen(
    ["tcpdump", "-i", "lo", "-U", "-w", path, "tcp", "port", str(port)], stderr=subprocess.PIPE, text=True)
while "listening" not in dump.stderr.readline():
    pass
server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
server.load_cert_chain(certificate)

def serve():
    with server.wrap_socket(listener.accept()[0], server_side=True) as peer:
        while not peer.recv(65536).endswith(b"\\x1c\\r"):
            pass
        peer.sendall(ACK)
        peer.recv(1)

thread = threading.Thread(target=serve)
thread.start()
client = ssl.create_default_context()
client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
client.keylog_filename = keys
with client.wrap_socket(socket.create_connection(("127.0.0.1", port))) as peer:
    peer.sendall(ORU)
    while not peer.recv(65536).endswith(b"\\x1c\\r"):
        pass
thread.join()
last = -1
while True:  # until the kernel has handed on what it saw
    time.sleep(0.5)
    size = os.path.getsize(path)
    if size == last and size > 2000:
        break
    last = size
dump.terminate()
dump.wait()
"""


# Places.


def test_a_place_is_pinned_in_the_settings(tmp_path):
    talk = TcpTalk(acceptor=("10.0.0.9", 4000))
    talk.open()
    talk.opener(b"no protocol at all")
    path, settings = pcap(tmp_path / "day.pcap", talk), tmp_path / "settings.toml"
    assert hl7core("read", path).returncode == 3
    settings.write_text('[core]\nprotocols = "10.0.0.9:4000=lis01, :2575=mllp"\n')
    run = hl7core("--settings", settings, "read", path)
    assert json.loads(run.stdout)["protocol"] == "lis01"
    run = hl7core("read", path, HL7CORE_CORE__PROTOCOLS=":4000=plain")
    assert json.loads(run.stdout)["protocol"] == "plain"


def test_a_protocol_that_nobody_speaks_is_refused_by_name(tmp_path):
    path = pcap(tmp_path / "day.pcap", TcpTalk())
    run = hl7core("read", path, HL7CORE_CORE__PROTOCOLS=":4000=lis02")
    assert run.returncode == 5
    assert "core.protocols: unknown protocol lis02; known protocols are lis01, mllp, plain" in run.stderr
