"""Encrypted connections without a key: named and counted, and never a session."""

import pytest

from hl7core.model.packet import PacketBatch
from hl7core.wire.decoder import Decoder
from hl7core.wire.pcap.synthetic_tcp import TcpTalk
from hl7core.wire.pins import Pin
from tls_peers import TlsTalk
from wire.tls.encrypted_exchanges import ACK, ORU, block, decode, exchange


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
    assert sentence.startswith("5 connections are encrypted (TLS), such as 10.0.0.5:49152-10.0.0.0:443")
    assert sentence.count("10.0.0.5:49152") == 3
