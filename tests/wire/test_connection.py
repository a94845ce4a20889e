"""Connections: the ids of their sessions, which end is the analyzer, and that each limit is a setting."""

import pytest

from hl7core.settings.reading import CoreSettings
from hl7core.wire.decoder import DecoderOptions
from hl7core.wire.pcap.synthetic_tcp import TcpTalk
from wire.conversations import ACK, ORU, ack, block, decode, oru


def test_the_id_is_the_same_whenever_the_capture_began():
    talk = TcpTalk()
    talk.open()
    talk.opener(block(oru(b"1")))
    talk.acceptor(block(ack(b"1")))
    talk.opener(block(oru(b"2")))
    talk.acceptor(block(ack(b"2")))
    whole = decode(talk)
    talk.packets = talk.packets[7:]
    (later,) = decode(talk)
    assert later.id == whole[1].id


@pytest.mark.parametrize(
    ("options", "device"),
    [
        (DecoderOptions(), "10.0.0.5"),
        (DecoderOptions(device_addresses=("10.0.0.9",)), "10.0.0.9"),
        (DecoderOptions(device_addresses=("192.0.2.1", "10.0.0.8/31")), "10.0.0.9"),
        (DecoderOptions(lis_addresses=("10.0.0.5",)), "10.0.0.9"),
        (DecoderOptions(lis_port=49152), "10.0.0.9"),
    ],
)
def test_the_settings_say_which_end_is_the_analyzer(options, device):
    talk = TcpTalk()
    talk.open()
    talk.opener(block(ORU))
    talk.acceptor(block(ACK))
    assert decode(talk, options=options)[0].device.address == device


def test_an_order_tells_that_its_receiver_is_the_analyzer():
    talk = TcpTalk()
    talk.open()
    talk.opener(block(ORU.replace(b"ORU^R01", b"OML^O33")))
    assert decode(talk)[0].device.address == "10.0.0.9"


@pytest.mark.parametrize(
    "name", ["max_message", "max_connections", "reassembly_bytes", "idle_timeout", "ack_timeout", "silence"]
)
def test_each_bound_is_a_setting_with_a_description(name):
    field = CoreSettings.model_fields[name]
    assert field.description
    assert field.default > 0
