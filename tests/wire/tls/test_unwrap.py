"""What TLS carries becomes sessions if the key log has the key, and nothing is made up if it has not."""

import pytest

from hl7core.model.finding import Severity
from hl7core.model.packet import PacketBatch
from hl7core.model.session import Ending
from hl7core.wire.decoder import Decoder, DecoderOptions
from hl7core.wire.pcap.synthetic_tcp import TcpTalk
from hl7core.wire.tls.keylog import KeyLog
from tls_peers import TlsTalk
from wire.tls.encrypted_exchanges import ACK, ORU, block, decode, exchange, read


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
