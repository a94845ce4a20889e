"""LIS01 framing: control bytes, frames, what lies between them, and the law for every cut."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hl7core.model.frame import Fault, Frame, FrameKind
from hl7core.wire.framing.lis01 import TRANSITIONS, Input, Lis01Framer, State, checksum, diagram
from wire.framing.framing_law import CONTROL_BYTES, codes, cut_lengths, frames_of, hold_the_law, readers, streams

HEADER = b"\x021H|\\^&|||cobas\r\x0361\r\n"
RESULT = b"\x022R|1|^^^GLU|5.4\r\x03D2\r\n"
PART = b"\x022R|1|^^^GL\x1771\r\n"


read, only = readers(Lis01Framer)


# Control bytes.


@pytest.mark.parametrize(("byte", "kind"), CONTROL_BYTES)
def test_a_control_byte_is_a_frame(byte, kind):
    assert Lis01Framer(offset=7).feed(byte) == [Frame(kind, 7, byte)]


def test_several_control_bytes_in_one_segment():
    frames = Lis01Framer().feed(b"\x04\x05")
    assert frames == [Frame(FrameKind.EOT, 0, b"\x04"), Frame(FrameKind.ENQ, 1, b"\x05")]


def test_a_session_without_a_frame():
    assert [frame.kind for frame in read(b"\x05", b"\x04")] == [FrameKind.ENQ, FrameKind.EOT]


def test_lf_behind_an_ack_is_stray_and_no_second_answer():
    frames = read(b"\x06\n\x06\r\n")
    assert [frame.kind for frame in frames] == ["ack", "stray", "ack", "stray"]
    assert codes(frames[1]) == ["stray-whitespace"]


# A frame.


def test_a_frame():
    frame = only(HEADER)
    assert frame == Frame(FrameKind.DATA, 0, HEADER, head=2, tail=5, number=1)
    assert frame.text == b"H|\\^&|||cobas\r"
    assert frame.last


def test_a_frame_that_ends_in_etb_goes_on_in_the_next():
    frame = only(PART)
    assert (frame.text, frame.last, frame.number, frame.faults) == (b"R|1|^^^GL", False, 2, ())


def test_a_frame_comes_out_with_its_last_byte():
    framer = Lis01Framer()
    assert [len(framer.feed(bytes([byte]))) for byte in HEADER] == [0] * (len(HEADER) - 1) + [1]
    assert framer.pending == 0


def test_a_whole_session_in_one_segment():
    frames = read(b"\x05" + HEADER + RESULT + b"\x04" + b"\x05")
    assert [frame.kind for frame in frames] == ["enq", "data", "data", "eot", "enq"]
    assert [frame.number for frame in frames[1:3]] == [1, 2]


def test_lower_case_checksums_are_fine():
    assert only(RESULT.replace(b"D2", b"d2")).faults == ()


def test_the_checksum_is_over_bytes_from_the_number_to_etx_or_etb():
    assert checksum(b"1H|\\^&|||cobas\r\x03") == 0x61
    assert checksum(b"") == 0
    assert checksum(b"\xff" * 100_000) == (0xFF * 100_000) % 256


def test_a_wrong_checksum():
    frame = only(RESULT.replace(b"D2", b"D3"))
    assert frame.text == b"R|1|^^^GLU|5.4\r"
    assert frame.faults == (Fault("checksum", RESULT.index(b"D2")),)


@pytest.mark.parametrize("digits", [b"", b"D"])
def test_a_frame_without_checksum(digits):
    frame = only(RESULT.replace(b"D2", digits))
    assert (frame.text, frame.complete, codes(frame)) == (b"R|1|^^^GLU|5.4\r", True, ["missing-checksum"])


def test_a_frame_that_ends_with_etx():
    frame, end = read(RESULT[:-4] + b"\x04")
    assert (frame.tail, frame.complete, codes(frame)) == (1, True, ["missing-checksum", "missing-crlf"])
    assert end.kind is FrameKind.EOT


@pytest.mark.parametrize("line_end", [b"", b"\r"])
def test_a_frame_without_cr_lf_ends_where_something_else_follows(line_end):
    first, second = read(HEADER[:-2] + line_end + RESULT)
    assert (first.raw, first.tail, first.complete) == (HEADER[:-2] + line_end, 3 + len(line_end), True)
    assert codes(first) == ["missing-crlf"]
    assert second == Frame(FrameKind.DATA, first.end, RESULT, 2, 5, number=2)


def test_a_frame_without_cr_lf_ends_when_the_peer_answers():
    framer = Lis01Framer()
    assert framer.feed(HEADER[:-2]) == []
    assert [codes(frame) for frame in framer.settle()] == [["missing-crlf"]]


def test_lf_alone_behind_the_checksum_is_stray():
    frame, stray = read(HEADER[:-2] + b"\n")
    assert (codes(frame), codes(stray)) == (["missing-crlf"], ["stray-whitespace"])


def test_an_open_frame_stays_open_when_the_peer_answers():
    assert only(HEADER[:9], None, HEADER[9:]) == Frame(FrameKind.DATA, 0, HEADER, 2, 5, number=1)


# Inside a frame.


@pytest.mark.parametrize("byte", [b"\x01", b"\x04", b"\x05", b"\x06", b"\x10", b"\x15", b"\n", b"\x02"])
def test_control_bytes_inside_a_frame_are_data(byte):
    body = b"1R|a" + byte + b"b\r\x03"
    frame = only(b"\x02" + body + b"%02X\r\n" % checksum(body))
    assert frame.text == body[1:-1]
    assert frame.faults == (Fault("control-in-text", 5),)


def test_stx_and_a_number_give_up_the_open_frame():
    first, second = read(HEADER[:10] + RESULT)
    assert first == Frame(FrameKind.DATA, 0, HEADER[:10], 2, 0, (Fault("truncated", 10),), complete=False, number=1)
    assert second == Frame(FrameKind.DATA, 10, RESULT, 2, 5, number=2)


def test_stx_twice_before_a_number():
    first, second = read(b"\x02" + HEADER)
    assert (first.raw, first.complete) == (b"\x02", False)
    assert second.text == b"H|\\^&|||cobas\r"


def test_a_wrong_frame_number():
    body = b"8R|1\r\x03"
    frame = only(b"\x02" + body + b"%02X\r\n" % checksum(body))
    assert (frame.text, frame.number, frame.faults) == (b"R|1\r", None, (Fault("bad-frame-number", 1),))


def test_a_frame_without_number_keeps_its_whole_text():
    body = b"H|\\^&\r\x03"
    frame = only(b"\x02" + body + b"%02X\r\n" % checksum(body))
    assert (frame.text, frame.head, frame.number, codes(frame)) == (b"H|\\^&\r", 1, None, ["bad-frame-number"])


def test_a_frame_over_the_longest_that_any_edition_allows():
    for size, found in ((63_993, []), (63_994, ["frame-over-64000"])):
        body = b"1" + b"x" * size + b"\x03"
        assert codes(only(b"\x02" + body + b"%02X\r\n" % checksum(body))) == found


# Outside of a frame, gaps and ends.


def test_bytes_between_frames_are_stray():
    stray, frame = read(b"junk" + HEADER)
    assert stray == Frame(FrameKind.STRAY, 0, b"junk", faults=(Fault("stray-bytes", 0),))
    assert frame.offset == 4


def test_a_gap_gives_up_the_open_frame():
    first, gap, stray, second = read(HEADER[:10], 100, b"rest\r\x0361\r\n" + RESULT)
    assert (first.raw, first.complete, codes(first)) == (HEADER[:10], False, ["gap"])
    assert gap == Frame(FrameKind.GAP, 10, b"", missing=100)
    assert stray.raw == b"rest\r\x0361\r\n"
    assert second.number == 2


def test_a_gap_behind_the_text_costs_no_text():
    first, gap = read(HEADER[:-3], 3)
    assert (first.text, first.complete, codes(first)) == (b"H|\\^&|||cobas\r", False, ["gap"])
    assert gap.missing == 3


def test_the_end_of_the_stream_leaves_an_open_frame_incomplete():
    frame = only(HEADER[:10])
    assert (frame.raw, frame.number, frame.complete, codes(frame)) == (HEADER[:10], 1, False, ["truncated"])


def test_a_text_over_the_limit_is_kept_up_to_it_and_the_rest_is_a_gap():
    cut, gap, after = frames_of(Lis01Framer(max_message=5), HEADER + b"\x04")
    assert (cut.text, cut.complete, codes(cut)) == (b"H|\\^&", False, ["too-long"])
    assert (gap.kind, gap.offset, gap.missing) == (FrameKind.GAP, 7, len(HEADER) - 7)
    assert after == Frame(FrameKind.EOT, len(HEADER), b"\x04")


@pytest.mark.parametrize(
    ("first", "again", "held"), [(b"\x021", b"R|1|\r", 1000), (b"\x021", b"\x02", 1000), (b"", b"noise", 4096)]
)
def test_an_endless_stream_is_held_in_bounds(first, again, held):
    framer = Lis01Framer(max_message=1000)
    framer.feed(first)
    for _ in range(3000):
        framer.feed(again)
        assert framer.pending <= held + 20


# The table.


def test_every_state_knows_what_to_do_with_any_byte():
    assert set(TRANSITIONS) == set(State)
    assert all(Input.OTHER in row for row in TRANSITIONS.values())


def test_the_diagram_draws_the_table():
    lines = diagram().splitlines()
    assert lines[:2] == ["stateDiagram-v2", "    [*] --> between"]
    assert "    between --> number: STX / open a frame" in lines
    drawn = {tuple(line.split(":")[0].split(" --> ")) for line in lines[2:]}
    assert drawn == {("    " + state, to) for state, row in TRANSITIONS.items() for _, to in row.values()}


# The law, for every cut.

PIECES = [
    HEADER, RESULT, PART, HEADER[:-2], b"\x05", b"\x06", b"\x15", b"\x04", b"\x02", b"\x021", b"\x028", b"\x03", b"\x17",
    b"\r", b"\n", b"\r\n", b"D2", b"F", b"x" * 20, b"\x10",
]  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(streams(PIECES), cut_lengths, st.sampled_from([1, 5, 30, 1000]))
def test_however_it_is_cut_the_frames_are_the_same(steps, cuts, limit):
    hold_the_law(lambda: Lis01Framer(max_message=limit), steps, cuts)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(list(b"\x02\x03\x17\x04\x05\x06\r\n18Ax")), max_size=60).map(bytes), cut_lengths)
def test_the_law_holds_for_noise(data, cuts):
    hold_the_law(Lis01Framer, [data], cuts)


@settings(max_examples=10, deadline=None)
@given(st.integers(4000, 8300), st.integers(16_000, 33_000), cut_lengths)
def test_the_law_holds_for_much_stray_and_long_frames(first, second, cuts):
    hold_the_law(Lis01Framer, [b"x" * first, b"\x021" + b"y" * second + b"\x0300\r\n"], cuts)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=700))
def test_the_checksum_is_the_sum_of_the_bytes(data):
    assert checksum(data) == sum(data) % 256
