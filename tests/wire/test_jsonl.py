"""Lines of JSON straight from packets equal those written of a decoder's sessions."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hl7core.model.packet import PacketBatch
from hl7core.model.schema import session_to_json
from hl7core.wire.decoder import ALL, Decoder, DecoderOptions
from hl7core.wire.jsonl import JsonlDecoder, ShardDecoder
from hl7core.wire.pcap.synthetic_tcp import TcpTalk
from wire.conversations import _batches, captures, reply, request


def plain(batches, options=None):
    decoder = Decoder(options)
    sessions = [*(s for batch in batches for s in decoder.feed(batch)), *decoder.end()]
    return [session_to_json(session, saved=False) for session in sessions], decoder.counters


def part(number, count):
    cuts = [len(ALL) * at // count for at in range(count + 1)]
    return range(cuts[number], cuts[number + 1])


def merged(shards, batches):
    """The lines of all shards, merged by their places after each step."""
    lines = []
    steps = [[shard.placed(batch) for shard in shards] for batch in batches]
    for said in [*steps, *zip(*(shard.last_placed() for shard in shards), strict=True)]:
        found = [entry for places, its in said for entry in zip(places, its, strict=True)]
        lines += [line for _, line in sorted(found, key=lambda entry: entry[0])]
    return lines


@given(captures)
@settings(max_examples=150, deadline=None)
def test_a_line_is_the_json_of_the_session(batches):
    decoder = JsonlDecoder()
    lines = [line for batch in batches for line in decoder.lines(batch)]
    lines += [line for some in decoder.last_lines() for line in some]
    assert (lines, decoder.counters) == plain(batches)


EXCHANGE = ("exchange", 0, b"1", (b"", b""), b"AA")
QUIET = ([], 1460, "close", 0)
STRAY_AT_THE_END = ([EXCHANGE, EXCHANGE, ("lose", True), ("stray", b"\r\n", True)], 1460, "close", 0)


@example(_batches(([QUIET, QUIET, STRAY_AT_THE_END], 5)), 2)  # it joins the session before it, whoever ended first
@given(captures, st.integers(2, 5))
@settings(max_examples=150, deadline=None)
def test_the_lines_of_all_shards_are_those_of_one_decoder(batches, count):
    expected, counters = plain(batches)
    shards = [ShardDecoder(None, part(number, count)) for number in range(count)]
    lines = merged(shards, batches)
    assert sorted(lines) == sorted(expected)  # sessions ended by one sweep may come in another order
    together = {name: sum(shard.counters[name] for shard in shards) for name in counters}
    together |= {name: shards[0].counters[name] for name in ("packets", "skipped")}
    assert together == counters


@example("")
@given(st.text(max_size=8))
def test_the_sensor_and_text_that_needs_an_escape_are_written_the_same(sensor):
    talk = TcpTalk()
    talk.open()
    for kind in (0, 1, 2):
        talk.opener(request(kind, b"1", (b"", b"")))
        talk.acceptor(reply(b"1", b"AA"))
    options = DecoderOptions(sensor=sensor)
    try:
        expected, _ = plain([talk.batch()], options)
    except ValueError:
        return  # a lone surrogate, which no JSON holds
    decoder = JsonlDecoder(options)
    assert decoder.lines(talk.batch()) == expected


@pytest.mark.parametrize("size", [1, 7, 50])
def test_the_lines_of_the_fast_path_are_merged_in_the_order_of_one_decoder(size):
    talks = [TcpTalk((f"10.0.0.{number}", 50_000 + number), time_ns=10**18 + number) for number in range(9)]
    for talk in talks:
        talk.open()
        for control_id in (b"1", b"2", b"3"):
            talk.opener(request(0, control_id, (b"", b"")))
            talk.acceptor(reply(control_id, b"AA"))
        talk.opener(request(0, b"4", (b"", b"")))
    packets = sorted((p for talk in talks for p in talk.packets), key=lambda packet: packet.time_ns)
    batches = [PacketBatch.of(packets[at : at + size]) for at in range(0, len(packets), size)]
    expected, _ = plain(batches)
    assert merged([ShardDecoder(None, part(number, 3)) for number in range(3)], batches) == expected


def test_sessions_open_at_the_end_come_in_batches():
    talks = [TcpTalk((f"10.0.{number >> 8}.{number & 255}", 50_000)) for number in range(1200)]
    for talk in talks:
        talk.open()
        talk.opener(request(0, b"1", (b"", b"")))
    decoder = Decoder()
    decoder.feed(PacketBatch.of([packet for talk in talks for packet in talk.packets]))
    parts = [*decoder.ending()]
    assert max(map(len, parts)) == 500
    assert sum(map(len, parts)) == decoder.counters["sessions"] == 1200
    assert not decoder.end()


@pytest.mark.parametrize("ends", [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")])
def test_an_encrypted_connection_is_counted_by_one_shard(ends):
    device, lis = ends
    talk = TcpTalk((device, 50_000), (lis, 443))
    talk.open()
    talk.opener(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(506))
    for _ in range(5):
        talk.acceptor(b"\x17\x03\x03\x00\x64" + bytes(100))
        talk.opener(b"\x17\x03\x03\x00\x64" + bytes(100))
    whole, *shards = Decoder(), *(ShardDecoder(None, part(number, 2)) for number in range(2))
    whole.feed(talk.batch())
    for shard in shards:
        shard.placed(talk.batch())
    for name in ("tls", "connections"):
        assert whole.counters[name] == sum(shard.counters[name] for shard in shards) == 1
