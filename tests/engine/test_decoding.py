"""The decoder thread: packets in, sessions out, whatever happens."""

import pytest

from engine.parts import ack, block, exchange, noise, oru, poll
from hl7core.engine.capture.intake import Intake
from hl7core.engine.decoding import Decoding
from hl7core.model.session import Ending
from hl7core.wire.decoder import DecoderOptions
from hl7core.wire.pcap.synthetic_tcp import TcpTalk


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def rooms():
    made = []

    def make(**options):
        intake = Intake()
        sessions = []
        decoding = Decoding(intake, on_sessions=sessions.extend, **options)
        decoding.start()
        made.append(decoding)
        return intake, decoding, sessions

    yield make
    for decoding in made:
        decoding.stop(Ending.STOPPED, 5)


def test_sessions_are_handed_on_as_they_end(rooms):
    intake, decoding, sessions = rooms()
    intake.put(exchange("A"), "eth0")
    poll(lambda: sessions)
    assert sessions[0].ending is Ending.COMPLETE
    assert decoding.counters["packets"] == exchange("B").count


def test_what_is_open_when_it_stops_is_handed_on_as_stopped(rooms):
    intake, decoding, sessions = rooms()
    intake.put(exchange("A", answered=False), "eth0")
    assert decoding.stop(Ending.STOPPED, 5)
    assert [s.ending for s in sessions] == [Ending.STOPPED]


def test_what_waits_is_decoded_before_it_stops(rooms):
    intake, decoding, sessions = rooms()
    for number in range(200):
        intake.put(exchange(f"A{number}"), "eth0")
    assert decoding.stop(Ending.STOPPED, 10)
    assert len(sessions) == 200


def test_silence_ends_a_session_though_no_packet_comes(rooms):
    clock = Clock()
    intake, decoding, sessions = rooms(monotonic=clock)
    intake.put(exchange("A", answered=False), "eth0")
    poll(lambda: decoding.drained().wait(5))
    clock.now += 59
    assert decoding.drained().wait(5)
    assert sessions == []
    clock.now += 3
    poll(lambda: sessions)
    assert sessions[0].ending is Ending.SILENT


def test_in_a_file_no_time_passes_between_packets(rooms):
    clock = Clock()
    intake, decoding, sessions = rooms(monotonic=clock)
    decoding.finite = True
    intake.put(exchange("A", answered=False), "day.pcap", finite=True)
    assert decoding.drained().wait(5)
    clock.now += 3600
    for _ in range(3):
        assert decoding.drained().wait(5)
    assert sessions == []


def test_while_paused_no_session_falls_silent(rooms):
    clock = Clock()
    intake, decoding, sessions = rooms(monotonic=clock)
    intake.put(exchange("A", answered=False), "eth0")
    assert decoding.drained().wait(5)
    intake.pause()
    clock.now += 3600
    for _ in range(3):
        assert decoding.drained().wait(5)
    assert sessions == []


def test_who_listens_hears_every_packet_before_its_session(rooms):
    heard = []
    intake, _, sessions = rooms(listeners=lambda: (heard.extend,))
    batch = exchange("A")
    intake.put(batch, "eth0")
    poll(lambda: sessions)
    assert heard == list(batch.packets())


def test_a_fault_in_decoding_costs_no_more_than_the_open_sessions_and_is_told_without_content(rooms, caplog):
    told = []
    intake, decoding, sessions = rooms(on_fault=told.append)
    intake.put(exchange("OPEN", answered=False), "eth0")
    assert decoding.drained().wait(5)
    broken = decoding._decoder

    def feed(_batch):
        raise KeyError("PATIENT^NAME")

    broken.feed = feed
    intake.put(noise(1), "eth0")
    poll(lambda: told)
    assert [s.ending for s in sessions] == [Ending.EVICTED]
    intake.put(exchange("NEXT"), "eth0")
    poll(lambda: len(sessions) == 2)
    assert decoding.faults == 1
    assert decoding.counters["packets"] == 2 * exchange("X").count - 2
    assert "PATIENT" not in told[0] + caplog.text
    assert "KeyError" in told[0]


def test_open_sessions_are_shown_as_they_change(rooms):
    shown = []
    intake, decoding, _ = rooms(on_open=shown.extend)
    decoding.configure(DecoderOptions(watch_open=True), ())
    talk = TcpTalk()
    talk.open()
    talk.opener(block(oru("A")))
    intake.put(talk.batch(), "eth0")
    poll(lambda: shown)
    assert (shown[0].elements, shown[0].messages) == (1, 1)
    assert decoding.open_count == 1
    talk.packets.clear()
    talk.acceptor(block(ack("A")))
    intake.put(talk.batch(), "eth0")
    poll(lambda: decoding.open_count == 0)
    assert len(shown) == 1


def test_other_options_count_for_the_connections_that_come_after_what_has_arrived(rooms):
    intake, decoding, sessions = rooms()
    intake.put(exchange("A"), "eth0")
    decoding.configure(DecoderOptions(sensor="other"), ())
    intake.put(exchange("B"), "eth0")
    poll(lambda: len(sessions) == 2)
    assert [s.sensor for s in sessions] == ["", "other"]
