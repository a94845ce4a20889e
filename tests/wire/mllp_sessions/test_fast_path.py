"""The fast path and the slow path give equal sessions."""

from hypothesis import given, settings

from hl7core.model.session import ElementType, Ending
from hl7core.wire.decoder import Decoder, DecoderOptions
from hl7core.wire.framing import buffer as _buffer
from hl7core.wire.mllp_sessions.fast_path import exchange_session
from hl7core.wire.pcap.synthetic_tcp import TcpTalk
from hl7core.wire.tcp import reassembly
from wire.conversations import captures, reply, request


def decode(batches, **options):
    decoder = Decoder(DecoderOptions(**options))
    return [[*map(decoder.feed, batches), decoder.end()], decoder.counters]


@given(captures)
@settings(max_examples=100, deadline=None)
def test_what_all_connections_share_while_they_hold_nothing_stays_empty(batches):
    decode(batches, watch_messages=True)
    assert not _buffer._NOTHING
    assert not reassembly._NOTHING


@given(captures)
@settings(max_examples=200, deadline=None)
def test_the_fast_path_and_the_slow_path_give_equal_sessions(batches):
    assert decode(batches) == decode(batches, watch_messages=True)  # watched messages take the slow path


def test_an_exchange_in_two_segments_takes_the_fast_path():
    talk = TcpTalk()
    talk.open()
    for number in (b"1", b"2", b"3"):
        talk.opener(request(0, number, (b"", b"")))
        talk.acceptor(reply(number, b"AE"))
    taken = []

    def make(exchange):
        taken.append(exchange)
        return exchange_session(exchange)

    sessions = Decoder(make=make).feed(talk.batch())
    assert len(taken) == 3
    assert [s.ending for s in sessions] == [Ending.COMPLETE] * 3
    assert [[e.type for e in s.elements] for s in sessions] == [[ElementType.MESSAGE, ElementType.NAK]] * 3


def test_a_request_that_waits_in_the_fast_path_is_shown_as_open():
    talk = TcpTalk()
    talk.open()
    for number in (b"1", b"2"):
        talk.opener(request(0, number, (b"", b"")))
        talk.acceptor(reply(number, b"AA"))
    talk.opener(request(0, b"3", (b"", b"")))
    decoder = Decoder()
    assert len(decoder.feed(talk.batch())) == 2
    (waits,) = decoder.open_sessions()
    assert waits.messages == 1
    (ended,) = decoder.expire(talk.time_ns + 61_000_000_000)
    assert ended.ending is Ending.SILENT
    assert ended.id == waits.id
