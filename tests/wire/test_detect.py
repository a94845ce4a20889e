"""Noise never gives a session, real conversations always do, and pins need no proof."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hl7core.testing import NOISE
from hl7core.testing.framer_contract import FramerContract
from hl7core.wire.connection import DecoderOptions
from hl7core.wire.decoder import Decoder
from hl7core.wire.detect import HELD_BYTES, TLS, UNKNOWN, WAIT, builtin, choose
from hl7core.wire.framing.framer import Dialect
from hl7core.wire.framing.lis01 import Lis01Framer
from hl7core.wire.pcap.synthetic_tcp import TcpTalk
from hl7core.wire.pins import Pin

OPTIONS = DecoderOptions()
DIALECTS = builtin(OPTIONS)
HEADERS = (b"MSH", b"FHS", b"BHS")
CONTROLS = b"\x04\x05\x06\x15\n\r"

ORU = b"\x0bMSH|^~\\&|AN|LAB|LIS|LAB|20260101||ORU^R01|M1|P|2.5\rOBX|1|NM|GLU||5\r\x1c\r"
ACK = b"\x0bMSH|^~\\&|LIS|LAB|AN|LAB|20260101||ACK|A1|P|2.5\rMSA|AA|M1\r\x1c\r"
FRAME = b"\x021H|\\^&|||AN\r\x036D\r\n"
TURN = (b"\x05" + FRAME + b"\x04", b"\x06\x06")


def verdict(first: bytes, second: bytes = b"", *, final: bool = False):
    chosen = choose(DIALECTS, first, second, final=final)
    return chosen.name if isinstance(chosen, Dialect) else chosen


def sessions(said: list[tuple[int, bytes]], options: DecoderOptions = OPTIONS, dialects=(), mss: int = 1460):
    talk = TcpTalk(acceptor=("10.0.0.9", 4000))
    talk.open()
    for side, data in said:
        (talk.opener if side == 0 else talk.acceptor)(data, mss=mss)
    talk.close()
    decoder = Decoder(options, dialects)
    return [*decoder.feed(talk.batch()), *decoder.end()], decoder


# Noise.


@pytest.mark.parametrize("name", NOISE)
@pytest.mark.parametrize("mss", [1, 3, 1460])
def test_other_protocols_never_give_a_session(name, mss):
    opener, other = NOISE[name]
    for said in ([(0, opener), (1, other)], [(1, other), (0, opener)], [(0, opener), (1, other)] * 30):
        found, decoder = sessions([(side, data) for side, data in said if data], mss=mss)
        assert found == []
        assert decoder.counters["ignored"] == 1


@settings(max_examples=2000, deadline=None)
@given(st.binary(min_size=1, max_size=400), st.binary(max_size=400))
def test_random_bytes_never_give_a_session(first, second):
    """But control bytes alone: an ENQ that stands alone is one.  (Nor a header: then they are not random.)"""
    if any(header in first + second for header in HEADERS):
        return
    if first.strip(CONTROLS) and (not second or second.strip(CONTROLS)):
        assert verdict(first, second, final=True) in (UNKNOWN, TLS)
        assert verdict(first, second) in (UNKNOWN, TLS, WAIT)


@settings(max_examples=2000, deadline=None)
@given(
    st.lists(st.sampled_from([b"\x05", b"\x02", b"\x03", b"\x04", b"\x06", b"\x0b", b"\x15", b"\x17", b"\x1c", b"\r", b"\n"])
             | st.binary(min_size=1, max_size=3), min_size=1, max_size=30),
    st.binary(min_size=1, max_size=30),
)  # fmt: skip
def test_bytes_full_of_markers_never_give_a_session_unless_the_peer_answers_as_a_peer_would(pieces, second):
    first = b"".join(pieces)
    if any(header in first + second for header in HEADERS):
        return
    if first.strip(CONTROLS) and second.strip(CONTROLS):
        assert verdict(first, second, final=True) in (UNKNOWN, TLS)


@pytest.mark.parametrize(
    "start", [b"\x05\x05\xfe", b"\x05Hello", b"\x05\x00", b"\x05\x02\x00", b"\x05\x021\x00\x00\x00\x00"]
)
def test_an_enq_with_anything_but_a_frame_or_eot_behind_it_is_none(start):
    assert verdict(start + b"\xfe" * 20, final=True) is UNKNOWN


def test_an_enq_whose_answer_is_no_answer_is_none():
    assert verdict(b"\x05", b"\x12", final=True) is UNKNOWN


@pytest.mark.parametrize("second", [b"", b"\x06", b"\x15", b"\x05"])
def test_an_enq_that_stands_alone_or_is_answered_is_a_conversation_once_the_line_is_closed(second):
    assert verdict(b"\x05", second) is WAIT
    assert verdict(b"\x05", second, final=True) == "lis01"


def test_the_configured_start_byte_that_stands_alone_is_one_too():
    found, _ = sessions([(0, b"\x01")], DecoderOptions(start_marker=1))
    assert [s.protocol for s in found] == ["plain"]


def test_what_is_undecided_holds_a_few_kib_and_is_then_let_go_and_counted():
    talk = TcpTalk()
    talk.open()
    decoder = Decoder()
    for _ in range(100):
        talk.packets.clear()
        talk.opener(b"text of any kind may be a log line ahead of the first block\n")
        decoder.feed(talk.batch())
        held = [half.connection.waiting_bytes for half in decoder._halves.values()]
        assert max(held) <= 2 * HELD_BYTES + 1460
    assert decoder.counters["ignored"] == 1
    assert max(half.connection.waiting_bytes for half in decoder._halves.values()) == 0


def test_undecided_connections_together_hold_no_more_than_the_settings_allow():
    decoder = Decoder(DecoderOptions(reassembly_bytes=1 << 20))
    most = 0
    for number in range(2000):
        talk = TcpTalk(opener=(f"10.1.{number >> 8}.{number & 255}", 40000))
        talk.open()
        talk.opener(b"x" * 3000)
        decoder.feed(talk.batch())
        most = max(most, sum(half.connection.waiting_bytes for half in decoder._halves.values() if half.side == 0))
    assert most <= (1 << 20) + 8192
    assert decoder.counters["ignored"] > 1000


# Real conversations.


@pytest.mark.parametrize("mss", [1, 2, 5, 1460])
@pytest.mark.parametrize(
    ("said", "protocol"),
    [
        ([(0, ORU), (1, ACK)], "mllp"),
        ([(0, b"2026-01-01 INFO sent\n" + ORU), (1, ACK)], "mllp"),
        ([(0, b"\x05"), (1, b"\x06"), (0, FRAME), (1, b"\x06"), (0, b"\x04")], "lis01"),
        ([(0, b"\x05"), (1, b"\x15"), (0, b"\x05"), (1, b"\x06"), (0, FRAME), (1, b"\x06"), (0, b"\x04")], "lis01"),
        ([(0, b"\x05"), (1, b"\x06"), (0, b"\x04")], "lis01"),
        ([(0, b"\x05"), (1, b"\x06"), (0, b"\x021any\xff text\x03zz\r\n"), (1, b"\x06"), (0, b"\x04")], "lis01"),
        ([(0, b"\x05"), (1, b"\x06"), (0, b"\x02" + ORU[1:-2] + b"\r\n"), (1, b"\x06"), (0, b"\x04")], "plain"),
    ],
)
def test_real_conversations_always_give_their_session(said, protocol, mss):
    if b"zz" in said[2][1] if len(said) > 2 else False:
        said = [(side, data.replace(b"zz", b"00")) for side, data in said]
    found, _ = sessions(said, mss=mss)
    assert {s.protocol for s in found} == {protocol}
    raw = b"".join(s.raw_of(e) for s in found for e in s.elements)
    assert sorted(raw) == sorted(b"".join(data for _, data in said))


# Pins.


def test_a_pinned_protocol_is_spoken_from_the_first_byte():
    found, decoder = sessions([(0, b"no header at all")], DecoderOptions(protocols=(Pin("", 4000, "mllp"),)))
    assert [s.protocol for s in found] == ["mllp"]
    assert found[0].raw_of(found[0].elements[0]) == b"no header at all"
    assert decoder.counters["ignored"] == 0


@pytest.mark.parametrize(
    ("pin", "protocol"),
    [
        (Pin("10.0.0.9", 4000, "plain"), "plain"),
        (Pin("10.0.0.0/24", 0, "plain"), "plain"),
        (Pin("10.0.0.9", 4001, "plain"), "lis01"),
        (Pin("10.0.1.0/24", 0, "plain"), "lis01"),
        (Pin("", 4000, "nobody's"), "lis01"),
    ],
)
def test_a_pin_fits_an_address_a_network_a_port_or_both(pin, protocol):
    found, _ = sessions([(0, TURN[0]), (1, TURN[1])], DecoderOptions(protocols=(pin,)))
    assert {s.protocol for s in found} == {protocol}


def test_the_first_pin_that_fits_holds():
    pins = (Pin("10.0.0.9", 0, "plain"), Pin("", 4000, "mllp"))
    found, _ = sessions([(0, TURN[0]), (1, TURN[1])], DecoderOptions(protocols=pins))
    assert {s.protocol for s in found} == {"plain"}


# Dialects of others.


def test_a_dialect_of_others_is_asked_again_at_the_beginning_that_it_names():
    asked = []

    def score(first: bytes, second: bytes) -> int:
        asked.append(first)
        return 3 if first.startswith(b"<lab>") else 0

    dialect = Dialect("tagged", score, Lis01Framer, turns=True, again=(b"<lab>",))
    said = [(0, b"\xfe" * 5000), (0, b"<lab>" + FRAME)]
    found, _ = sessions(said, dialects=[dialect])
    assert {s.protocol for s in found} == {"tagged"}
    assert sessions(said)[0] == []


def test_all_dialects_are_asked_at_a_block_that_begins_with_msh():
    dialect = Dialect("mine", lambda first, _: 3 if first.startswith(b"\x0bMSH") else 0, Lis01Framer, turns=True)
    found, _ = sessions([(0, b"\xfe" * 5000), (0, ORU)], dialects=[dialect])
    assert {s.protocol for s in found} == {"mine"}


class TestLis01(FramerContract):
    def make_dialect(self):
        return DIALECTS[1]

    def pieces(self):
        return [b"\x05", FRAME, FRAME[:5], b"\x06", b"\x04"]

    def conversation(self):
        return TURN


class TestMllp(FramerContract):
    def make_dialect(self):
        return DIALECTS[0]

    def pieces(self):
        return [ORU, ACK, ORU[:30], b"\x1c", b"\r"]

    def conversation(self):
        return ORU, ACK


class TestPlain(FramerContract):
    def make_dialect(self):
        return DIALECTS[2]

    def pieces(self):
        return [b"\x05", b"\x02" + ORU[1:-2] + b"\r\n", b"\x02MSH|", b"\x06", b"\x04"]

    def conversation(self):
        return b"\x05\x02" + ORU[1:-2] + b"\r\n\x04", b"\x06\x06"
