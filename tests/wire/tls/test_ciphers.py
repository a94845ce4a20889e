"""Every cipher suite that can be read is read; one that cannot is named."""

import subprocess
import sys
import time

import pytest

from hl7core.wire.pcap.synthetic_tcp import TcpTalk
from hl7core.wire.pins import Pin
from hl7core.wire.tls.keylog import KeyLog
from tls_peers import TlsTalk, certificate
from wire.tls.encrypted_exchanges import ACK, ORU, decode, exchange, read

SUITES_12 = [
    "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-RSA-AES128-SHA", "ECDHE-RSA-AES256-SHA", "ECDHE-RSA-AES128-SHA256", "ECDHE-RSA-AES256-SHA384",
    "AES128-GCM-SHA256", "AES256-GCM-SHA384", "AES128-SHA", "AES256-SHA", "AES128-SHA256", "AES256-SHA256",
    "AES128-CCM", "AES256-CCM", "AES128-CCM8", "AES256-CCM8",
]  # fmt: skip


@pytest.mark.parametrize("suite", SUITES_12)
def test_tls_1_2_is_read_with_the_key_log_whatever_the_suite(tmp_path, suite):
    tls = TlsTalk(tmp_path, "1.2", suite)
    exchange(tls)
    assert tls.peers[0].cipher()[0] == suite
    (session,) = read(tls)
    assert [m.text for m in session.messages] == [ORU, ACK]
    assert session.protocol == "mllp"
    assert session.is_complete


@pytest.mark.parametrize("suite", ["TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256"])
def test_tls_1_3_is_read_whatever_the_suite_and_over_a_change_of_keys(tmp_path, suite):
    """The client is the openssl command, which can be told the suite, and to change its keys (``K``)."""
    server, keys = tmp_path / "server.py", tmp_path / "keys.log"
    server.write_text(SERVER)
    process = subprocess.Popen(
        [sys.executable, server, certificate(tmp_path), keys, tmp_path / "said"], stdout=subprocess.PIPE, text=True
    )
    port = process.stdout.readline().strip()
    client = subprocess.Popen(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_3", "-ciphersuites", suite],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    said = tmp_path / "said"
    for line in (b"first\n", b"K\n", b"second\n", b"K\n", b"third\n"):
        before = said.stat().st_size
        client.stdin.write(line)
        client.stdin.flush()
        if line != b"K\n":
            assert process.stdout.readline().encode() == line
        while said.stat().st_size == before:  # the next line must not reach the client together with a K
            time.sleep(0.01)
    client.stdin.close()
    client.wait(10)
    process.wait(10)
    process.stdout.close()
    client.stdout.close()
    talk = TcpTalk()
    talk.open()
    for line in said.read_text().splitlines():
        side, said = line.split()
        (talk.opener if side == "0" else talk.acceptor)(bytes.fromhex(said))
    options = {"protocols": (Pin("", 2575, "mllp"),)}  # it speaks none: whatever it says is to be kept
    sessions = decode(talk, KeyLog(keys.read_bytes()), **options)[1]
    assert b"".join(s.raw_of(e) for s in sessions for e in s.elements) == b"first\nsecond\nthird\n"


SERVER = """
import socket, ssl, sys
certificate, keys, said = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate)
context.keylog_filename = keys
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
connection, _ = listener.accept()
inward, outward = ssl.MemoryBIO(), ssl.MemoryBIO()
peer = context.wrap_bio(inward, outward, server_side=True)
ready, line = False, b""
with open(said, "w", buffering=1) as log:
    while True:
        data = connection.recv(65536)
        if not data:
            break
        log.write(f"0 {data.hex()}\\n")
        inward.write(data)
        try:
            if not ready:
                peer.do_handshake()
                ready = True
                print("ready", flush=True)
            while True:
                read = peer.read(65536)
                if not read:
                    break
                line += read
                while b"\\n" in line:
                    text, _, line = line.partition(b"\\n")
                    print(text.decode(), flush=True)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            break
        answer = outward.read()
        if answer:
            log.write(f"1 {answer.hex()}\\n")
            connection.sendall(answer)
"""


def test_a_suite_that_cannot_be_read_is_named(tmp_path):
    tls = TlsTalk(tmp_path, "1.2", "ECDHE-RSA-CAMELLIA128-SHA256")
    exchange(tls)
    decoder, sessions = decode(tls.talk, KeyLog(tls.keys.read_bytes()))
    assert sessions == []
    assert "cipher suite (0xC076) is not supported" in decoder.encrypted.sentence()
