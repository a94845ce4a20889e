"""One direction's segments, in any order and repetition, become its stream."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from hl7core.wire.tcp.reassembly import Piece, Stream


def said(pieces: list[Piece]) -> bytes:
    return b"".join(piece.data for piece in pieces)


def test_segments_in_order_are_delivered_at_once():
    stream = Stream(100)
    assert said(stream.push(100, b"abc", 1)) == b"abc"
    assert said(stream.push(103, b"def", 2)) == b"def"
    assert stream.offset == 6


def test_a_segment_ahead_waits_for_the_missing_one():
    stream = Stream(100)
    assert stream.push(103, b"def", 1) == []
    assert said(stream.push(100, b"abc", 2)) == b"abcdef"
    assert stream.held_bytes == 0


def test_a_repeated_segment_is_not_delivered_twice():
    stream = Stream(100)
    stream.push(100, b"abc", 1)
    assert stream.push(100, b"abc", 2) == []


def test_a_keep_alive_repeats_one_old_byte_and_means_nothing():
    stream = Stream(100)
    stream.push(100, b"abc\x05", 1)
    assert stream.push(103, b"\x05", 2) == []
    assert stream.push(103, b"\x00", 3) == []


def test_of_overlapping_segments_the_first_to_arrive_wins():
    stream = Stream(0)
    stream.push(3, b"DEF", 1)
    assert said(stream.push(0, b"abcdefghi", 2)) == b"abcDEFghi"


def test_sequence_numbers_wrap():
    stream = Stream(0xFFFFFFFE)
    assert said(stream.push(0xFFFFFFFE, b"abcd", 1)) == b"abcd"
    assert stream.next_seq == 2
    assert said(stream.push(2, b"ef", 2)) == b"ef"
    assert stream.offset_of(2) == 4


def test_what_never_comes_is_given_up_as_a_gap():
    stream = Stream(100)
    stream.push(100, b"abc", 1)
    stream.push(110, b"klm", 2)
    stream.push(120, b"uvw", 3)
    assert stream.give_up() == [Piece(b"", 2, 7), Piece(b"klm", 2)]
    assert stream.give_up() == [Piece(b"", 3, 7), Piece(b"uvw", 3)]
    assert stream.give_up() == []


def test_a_segment_beyond_any_window_is_not_of_this_stream():
    stream = Stream(0)
    stream.push(0, b"abc", 1)
    assert stream.push(0x50000000, b"noise", 2) == []
    assert stream.held_bytes == 0


def test_a_stream_is_finished_when_all_before_its_fin_came():
    stream = Stream(0)
    stream.finish(6)
    stream.push(0, b"abc", 1)
    assert not stream.finished
    stream.push(3, b"def", 2)
    assert stream.finished


@st.composite
def segments(draw):
    """A text cut anywhere, its pieces in any order, some repeated, some overlapping."""
    text = draw(st.binary(min_size=1, max_size=200))
    origin = draw(st.integers(0, 0xFFFFFFFF))
    cuts = sorted({0, len(text), *draw(st.lists(st.integers(0, len(text)), max_size=12))})
    spans = list(pairwise(cuts))
    extra = draw(st.lists(st.tuples(st.integers(0, len(text) - 1), st.integers(1, 40)), max_size=8))
    spans += [(start, min(len(text), start + length)) for start, length in extra]
    return origin, text, draw(st.permutations(spans))


@given(segments())
def test_any_order_and_repetition_of_segments_gives_the_same_stream(drawn):
    origin, text, spans = drawn
    stream = Stream(origin)
    out = b""
    for start, end in spans:
        out += said(stream.push((origin + start) & 0xFFFFFFFF, text[start:end], 1))
    assert out == text
    assert stream.held == []
    assert stream.held_bytes == 0


@given(segments(), st.sets(st.integers(0, 19)))
def test_lost_segments_leave_gaps_of_the_right_length(drawn, lost):
    origin, text, spans = drawn
    kept = [span for number, span in enumerate(spans) if number not in lost]
    known = {index for start, end in kept for index in range(start, end)}
    stream = Stream(origin)
    pieces = [p for start, end in kept for p in stream.push((origin + start) & 0xFFFFFFFF, text[start:end], 1)]
    while stream.held:
        pieces += stream.give_up()
    at = 0
    for piece in pieces:
        if piece.missing:
            assert not known & set(range(at, at + piece.missing))
            at += piece.missing
        else:
            assert text[at : at + len(piece.data)] == piece.data
            at += len(piece.data)
    assert at == (max(known) + 1 if known else 0)
