"""Encrypted conversations: named and counted without a key, read with one.  The peers are OpenSSL, at both ends."""

import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hl7core.model.finding import Severity
from hl7core.model.packet import PacketBatch
from hl7core.model.session import Ending
from hl7core.wire.decoder import Decoder, DecoderOptions
from hl7core.wire.pcap.synthetic_tcp import TcpTalk
from hl7core.wire.pins import Pin
from hl7core.wire.tls.keylog import KeyLog
from hl7core.wire.tls.records import TlsFramer, tls_score
from tls_peers import TlsTalk, certificate
from wire.framing.framing_law import cut_lengths, frames_of, hold_the_law, streams

ORU = b"MSH|^~\\&|AN|LAB|LIS|LAB|20260101||ORU^R01|M1|P|2.5\rOBX|1|NM|GLU||5\r"
ACK = b"MSH|^~\\&|LIS|LAB|AN|LAB|20260101||ACK^R01|A1|P|2.5\rMSA|AA|M1\r"

SUITES_12 = [
    "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-RSA-AES128-SHA", "ECDHE-RSA-AES256-SHA", "ECDHE-RSA-AES128-SHA256", "ECDHE-RSA-AES256-SHA384",
    "AES128-GCM-SHA256", "AES256-GCM-SHA384", "AES128-SHA", "AES256-SHA", "AES128-SHA256", "AES256-SHA256",
    "AES128-CCM", "AES256-CCM", "AES128-CCM8", "AES256-CCM8",
]  # fmt: skip


def block(text: bytes) -> bytes:
    return b"\x0b" + text + b"\x1c\r"


def exchange(tls: TlsTalk) -> None:
    tls.open()
    tls.opener(block(ORU))
    tls.acceptor(block(ACK))
    tls.close()


def decode(talk: TcpTalk, keys: KeyLog | None = None, **options):
    decoder = Decoder(DecoderOptions(**options), keys=keys)
    return decoder, [*decoder.feed(PacketBatch.of(talk.packets)), *decoder.end()]


def read(tls: TlsTalk, **options):
    return decode(tls.talk, KeyLog(tls.keys.read_bytes()), **options)[1]


# Without a key.


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_an_encrypted_connection_is_named_and_counted_and_gives_no_session(tmp_path, version):
    tls = TlsTalk(tmp_path, version)
    exchange(tls)
    decoder, sessions = decode(tls.talk)
    assert sessions == []
    assert decoder.counters["tls"] == decoder.counters["ignored"] == 1
    assert decoder.encrypted.sentence() == (
        "connection 10.0.0.5:49152-10.0.0.9:2575 is encrypted (TLS):"
        " hl7core read FILE --keylog KEYS reads a capture of it if its keys were logged"
    )


def test_it_is_recognised_though_the_user_pinned_another_protocol_to_its_port(tmp_path):
    tls = TlsTalk(tmp_path)
    exchange(tls)
    decoder, sessions = decode(tls.talk, protocols=(Pin("", 2575, "mllp"),))
    assert sessions == []
    assert decoder.counters["tls"] == 1


@pytest.mark.parametrize("mss", [1, 2, 3, 100])
def test_it_is_recognised_however_its_segments_are_cut(tmp_path, mss):
    tls = TlsTalk(tmp_path, mss=mss)
    exchange(tls)
    decoder, sessions = decode(tls.talk)
    assert sessions == []
    assert decoder.counters["tls"] == 1


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_a_capture_that_begins_amid_the_records_of_a_connection_names_it_too(tmp_path, version):
    tls = TlsTalk(tmp_path, version)
    tls.open()
    tls.talk.packets.clear()
    for _ in range(3):
        tls.opener(block(ORU))
        tls.acceptor(block(ACK))
    decoder, sessions = decode(tls.talk)
    assert sessions == []
    assert decoder.counters["tls"] == 1


def test_a_connection_that_begins_amid_a_large_record_is_named_at_the_next(tmp_path):
    tls = TlsTalk(tmp_path, "1.3")
    tls.open()
    tls.talk.packets.clear()
    tls.opener(b"x" * 16_000)
    del tls.talk.packets[0]
    for _ in range(3):
        tls.talk.wait(2)
        tls.opener(block(ORU))
    decoder, sessions = decode(tls.talk)
    assert sessions == []
    assert decoder.counters["tls"] == 1


def test_many_are_told_in_one_sentence(tmp_path):
    packets = []
    for number in range(5):
        tls = TlsTalk(tmp_path, talk=TcpTalk(acceptor=(f"10.0.0.{number}", 443)))
        exchange(tls)
        packets += tls.talk.packets
    decoder = Decoder()
    decoder.feed(PacketBatch.of(packets))
    sentence = decoder.encrypted.sentence()
    assert sentence.startswith("5 connections are encrypted (TLS), as 10.0.0.5:49152-10.0.0.0:443 and ")
    assert sentence.count("10.0.0.5:49152") == 3


# With its key.


@pytest.mark.parametrize("suite", SUITES_12)
def test_tls_1_2_is_read_with_the_key_log_whatever_the_suite(tmp_path, suite):
    tls = TlsTalk(tmp_path, "1.2", suite)
    exchange(tls)
    assert tls.peers[0].cipher()[0] == suite
    (session,) = read(tls)
    assert [m.text for m in session.messages] == [ORU, ACK]
    assert session.protocol == "mllp"
    assert session.is_complete


def test_tls_1_3_is_read_with_the_key_log(tmp_path):
    tls = TlsTalk(tmp_path, "1.3")
    exchange(tls)
    (session,) = read(tls)
    assert [m.text for m in session.messages] == [ORU, ACK]
    assert (session.protocol, session.ending, session.is_complete) == ("mllp", Ending.COMPLETE, True)
    assert session.connection == "10.0.0.5:49152-10.0.0.9:2575"
    (finding,) = session.findings
    assert (finding.code, finding.severity) == ("tls", Severity.INFO)
    assert finding.text == "it was encrypted (TLS 1.3) and was read with a key log"


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("mss", [1, 7, 1460])
def test_however_the_segments_are_cut_the_session_has_the_same_id_and_messages(tmp_path, version, mss):
    tls = TlsTalk(tmp_path, version)
    exchange(tls)
    keys = KeyLog(tls.keys.read_bytes())
    again = TcpTalk(step_ns=0)
    again.open()
    for packet in tls.talk.packets:
        data = packet.data[54 : 14 + int.from_bytes(packet.data[16:18])]
        side = 0 if packet.data[26:30] == bytes((10, 0, 0, 5)) else 1
        (again.opener if side == 0 else again.acceptor)(data, mss=mss)
    (one,) = decode(again, keys)[1]
    (other,) = decode(again, keys)[1]
    assert one == other
    assert [m.text for m in one.messages] == [ORU, ACK]


def test_a_large_message_over_many_records_is_whole_and_timed_by_its_packets(tmp_path):
    tls = TlsTalk(tmp_path, "1.3")
    tls.open()
    large = ORU + b"OBX|2|ED|PDF||" + b"A" * 100_000 + b"\r"
    began = tls.talk.time_ns
    tls.opener(block(large))
    ended = tls.talk.time_ns
    tls.acceptor(block(ACK))
    (session,) = read(tls)
    assert session.messages[0].text == large
    assert session.start_ns == began
    assert began < session.messages[0].time_ns < ended


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_behind_bytes_that_the_capture_lacks_it_is_read_on_and_nothing_is_joined(tmp_path, version):
    tls = TlsTalk(tmp_path, version)
    tls.open()
    tls.opener(block(ORU))
    tls.acceptor(block(ACK))
    tls.opener(block(ORU[:20])[:-2])
    tls.lose(0, b"never captured")
    tls.opener(block(ORU.replace(b"M1", b"M2")))
    tls.acceptor(block(ACK.replace(b"M1", b"M2")))
    tls.talk.close()
    sessions = read(tls)
    assert [m.text for m in sessions[0].messages] == [ORU, ACK]
    assert any(s.messages and s.messages[0].text == ORU.replace(b"M1", b"M2") and s.is_complete for s in sessions)
    cut = [m for s in sessions for m in s.messages if not m.complete]
    assert [m.text for m in cut] == [ORU[:20]]
    assert sum(e.missing for s in sessions for e in s.elements) > 0


def test_a_resumed_tls_1_2_connection_is_read_too(tmp_path):
    first = TlsTalk(tmp_path, "1.2")
    first.open()
    first.opener(block(ORU))
    first.acceptor(block(ACK))
    again = TlsTalk(
        tmp_path, "1.2", session=first.peers[0].session, contexts=first.contexts,
        talk=TcpTalk(opener=("10.0.0.5", 50000)),
    )  # fmt: skip
    exchange(again)
    assert again.peers[0].session_reused
    (session,) = read(again)
    assert [m.text for m in session.messages] == [ORU, ACK]


def test_lis01_in_tls_is_lis01(tmp_path):
    tls = TlsTalk(tmp_path, "1.3")
    tls.open()
    body = b"1H|\\^&|||AN\rL|1|N\r\x03"
    tls.opener(b"\x05")
    tls.acceptor(b"\x06")
    tls.opener(b"\x02" + body + b"%02X\r\n" % (sum(body) & 255))
    tls.acceptor(b"\x06")
    tls.opener(b"\x04")
    (session,) = read(tls)
    assert (session.protocol, session.is_complete) == ("lis01", True)
    assert session.messages[0].text == b"H|\\^&|||AN\rL|1|N\r"


def test_what_is_encrypted_is_let_go_for_want_of_room_like_anything_else(tmp_path):
    tls = TlsTalk(tmp_path, "1.3")
    tls.open()
    tls.opener(b"\x0b" + ORU + b"x" * 200_000)
    decoder = Decoder(DecoderOptions(reassembly_bytes=100_000), keys=KeyLog(tls.keys.read_bytes()))
    sessions = decoder.feed(PacketBatch.of(tls.talk.packets))
    assert [(s.ending, s.messages[0].complete) for s in sessions] == [(Ending.EVICTED, False)]
    assert decoder.counters["evicted"] == decoder.counters["crowded"] == 1
    assert decoder.end() == []


def test_silence_within_ends_what_is_within(tmp_path):
    tls = TlsTalk(tmp_path, "1.3")
    tls.open()
    tls.opener(block(ORU))
    tls.talk.wait(61)
    other = TcpTalk(opener=("10.0.0.6", 1), time_ns=tls.talk.time_ns)
    other.open()
    other.opener(b"whatever")
    decoder = Decoder(keys=KeyLog(tls.keys.read_bytes()))
    assert decoder.feed(PacketBatch.of(tls.talk.packets)) == []
    assert len(decoder.open_sessions()) == 1
    (session,) = decoder.feed(PacketBatch.of(other.packets))
    assert session.ending is Ending.SILENT


def test_the_messages_are_told_as_they_complete(tmp_path):
    tls = TlsTalk(tmp_path, "1.3")
    exchange(tls)
    decoder = Decoder(DecoderOptions(watch_messages=True), keys=KeyLog(tls.keys.read_bytes()))
    decoder.feed(PacketBatch.of(tls.talk.packets))
    assert [seen.message.text for seen in decoder.messages] == [ORU, ACK]


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


# With a key log that does not help.


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_without_its_key_among_the_keys_it_is_named_and_not_guessed_at(tmp_path, version):
    tls = TlsTalk(tmp_path, version)
    exchange(tls)
    decoder, sessions = decode(tls.talk, KeyLog())
    assert sessions == []
    assert decoder.counters["ignored"] == decoder.counters["tls"] == 1
    assert decoder.encrypted.sentence().endswith("is encrypted (TLS): the key log has no key for it")


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_with_a_wrong_key_nothing_is_made_up(tmp_path, version):
    tls = TlsTalk(tmp_path, version)
    exchange(tls)
    wrong = b"\n".join(line[:-4] + b"0000" for line in tls.keys.read_bytes().splitlines())
    decoder, sessions = decode(tls.talk, KeyLog(wrong))
    assert [s for s in sessions if s.messages] == []
    assert decoder.encrypted.count == 1
    assert "do not fit" in decoder.encrypted.sentence()


def test_a_capture_without_the_handshake_cannot_be_read_and_says_so(tmp_path):
    tls = TlsTalk(tmp_path)
    tls.open()
    tls.talk.packets.clear()
    tls.opener(block(ORU))
    tls.acceptor(block(ACK))
    decoder, sessions = decode(tls.talk, KeyLog(tls.keys.read_bytes()))
    assert sessions == []
    assert "the beginning of its handshake was not captured" in decoder.encrypted.sentence()


def test_a_suite_that_cannot_be_read_is_named(tmp_path):
    tls = TlsTalk(tmp_path, "1.2", "ECDHE-RSA-CAMELLIA128-SHA256")
    exchange(tls)
    decoder, sessions = decode(tls.talk, KeyLog(tls.keys.read_bytes()))
    assert sessions == []
    assert "cipher suite (0xC076) is not among those that can be read" in decoder.encrypted.sentence()


def test_secrets_are_never_shown(tmp_path):
    tls = TlsTalk(tmp_path)
    exchange(tls)
    keys = KeyLog(tls.keys.read_bytes())
    secret = tls.keys.read_text().split()[-1]
    decoder, sessions = decode(tls.talk, keys)
    assert repr(keys) == "KeyLog(1 connections)"
    held = [getattr(decoder, name) for name in dir(decoder)]
    assert secret not in repr(keys) + str(held) + repr(sessions) + decoder.encrypted.sentence()


# The key log.


def test_a_key_log_is_read_line_by_line_and_other_lines_are_passed_over():
    random, secret = "ab" * 32, "cd" * 48
    text = f"# made by a test\n\nCLIENT_RANDOM {random} {secret}\r\nEXPORTER_SECRET {random} {secret}\nnonsense\n"
    keys = KeyLog(text.encode())
    assert len(keys) == 1
    assert keys.of(bytes.fromhex(random)) == {"CLIENT_RANDOM": bytes.fromhex(secret)}
    assert keys.of(b"\0" * 32) == {}


@given(st.binary(max_size=500))
def test_whatever_a_key_log_holds_reading_it_never_raises(data):
    KeyLog(data)


# Records.

RECORD = b"\x17\x03\x03\x00\x03abc"


@given(
    streams([RECORD, b"\x16\x03\x01\x00\x04\x01\0\0\0", b"\x14\x03\x03\x00\x01\x01", b"\x17\x03\x03\x41"]), cut_lengths
)
def test_the_framer_keeps_the_law(steps, cuts):
    hold_the_law(TlsFramer, steps, cuts)


def test_records_are_frames_and_half_a_record_goes_on_whoever_speaks():
    framer = TlsFramer()
    assert framer.feed(RECORD + RECORD[:4]) == frames_of(TlsFramer(), RECORD)
    assert framer.settle() == []
    assert framer.pending == 4
    (frame,) = framer.feed(RECORD[4:])
    assert frame.text == b"abc"


@pytest.mark.parametrize(
    ("data", "score"),
    [
        (b"", 0), (b"\x16", 1), (b"\x16\x03\x01\x02", 1), (b"\x16\x03\x01\x02\x00\x01\x00", 3),
        (b"\x15", 1), (b"\x15\x06", 0), (b"\x16\x03\x09\x02\x00\x01", 0), (b"\x16\x03\x01\xff\xff\x01", 0),
        (b"\x17\x03\x03\x00\x20" + b"x" * 32 + b"GET / HT", 0), (b"..." + RECORD + RECORD, 3), (b"..." + RECORD, 0),
    ],
)  # fmt: skip
def test_the_first_bytes_tell(data, score):
    assert tls_score(data) == score
