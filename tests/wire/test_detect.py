"""Detection: noise never gives a session, and real conversations always do."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hl7core.testing import NOISE
from hl7core.wire.connection import DecoderOptions
from hl7core.wire.detect import HELD_BYTES, TLS, UNKNOWN, WAIT, builtin, choose
from hl7core.wire.framing.framer import Dialect
from wire.first_bytes import ACK, DIALECTS, FRAME, ORU, sessions
from wire.linear_time import PATTERNS, assert_linear

HEADERS = (b"MSH", b"FHS", b"BHS")
CONTROLS = b"\x04\x05\x06\x15\n\r"


def verdict(first: bytes, second: bytes = b"", *, final: bool = False):
    chosen = choose(DIALECTS, first, second, final=final)
    return chosen.name if isinstance(chosen, Dialect) else chosen


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


@pytest.mark.parametrize("pattern", PATTERNS)
def test_detection_takes_time_that_grows_with_the_first_bytes(pattern):
    """Detection examines them again with each segment until they tell."""
    dialects = builtin(DecoderOptions())

    def work(size: int) -> None:
        for front in (b"", b"\x05"):
            data = front + PATTERNS[pattern] * (size // len(PATTERNS[pattern]))
            for answer in (b"", b"\x06", data):
                choose(dialects, data, answer, final=False)
                choose(dialects, data, answer, final=True)

    assert_linear(work, HELD_BYTES // 4)
