"""Framing of the plain variant: control bytes, messages, and the law for every cut."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hl7core.model.frame import Fault, Frame, FrameKind
from hl7core.wire.framing.lis01 import checksum
from hl7core.wire.framing.plain import PlainFramer
from wire.framing.framing_law import CONTROL_BYTES, codes, cut_lengths, frames_of, hold_the_law, readers, streams

TEXT = rb"MSH|^~\&|A|B|C|D|20260101||ORU^R01|1|P|2.5" + b"\rPID|1||42"
MESSAGE = b"\x02" + TEXT + b"\r\n"
LINES = b"\x02" + TEXT.replace(b"\r", b"\r\n") + b"\r\n"


read, only = readers(PlainFramer)


# Control bytes.


@pytest.mark.parametrize(("byte", "kind"), CONTROL_BYTES)
def test_a_control_byte_is_a_frame(byte, kind):
    assert PlainFramer(offset=7).feed(byte) == [Frame(kind, 7, byte)]


def test_the_marker_bytes_are_settings():
    framer = PlainFramer(start=0x01, ack=0x41, end=0x1A)
    frames = framer.feed(b"\x01\x41\x15\x1a")
    assert [frame.kind for frame in frames] == ["enq", "ack", "nak", "eot"]
    framer.feed(MESSAGE)
    assert [frame.kind for frame in framer.feed(b"\x1a")] == ["data", "eot"]


def test_a_marker_that_is_no_setting_is_stray():
    assert [frame.kind for frame in frames_of(PlainFramer(start=0x01), b"\x05\x01")] == ["stray", "enq"]


# A message.


def test_a_message_ends_when_the_peer_answers():
    framer = PlainFramer()
    assert framer.feed(MESSAGE) == []
    assert framer.pending == len(MESSAGE)
    (frame,) = framer.settle()
    assert frame == Frame(FrameKind.DATA, 0, MESSAGE, head=1, tail=2)
    assert (frame.text, frame.number, frame.last, frame.complete) == (TEXT, None, True, True)
    assert framer.pending == 0


@pytest.mark.parametrize("byte", [b"\x02", b"\x04", b"\x05", b"\x06", b"\x15"])
def test_a_message_ends_where_a_control_byte_follows(byte):
    frames = PlainFramer().feed(MESSAGE + byte)
    assert frames[0] == Frame(FrameKind.DATA, 0, MESSAGE, 1, 2)


def test_a_message_ends_with_the_stream():
    assert only(MESSAGE) == Frame(FrameKind.DATA, 0, MESSAGE, 1, 2)


def test_a_whole_session_in_one_segment():
    frames = read(b"\x05" + MESSAGE + MESSAGE + b"\x04")
    assert [frame.kind for frame in frames] == ["enq", "data", "data", "eot"]


def test_cr_lf_between_segments_is_text():
    frame = only(LINES)
    assert frame.text == TEXT.replace(b"\r", b"\r\n")
    assert codes(frame) == ["lf-separator"]


def test_cr_lf_between_segments_is_text_even_where_the_packet_ends():
    at = LINES.index(b"\r\n") + 2
    assert only(LINES[:at], LINES[at:]).text == TEXT.replace(b"\r", b"\r\n")


def test_a_message_without_cr_lf_stays_open_when_the_peer_answers():
    assert only(MESSAGE[:20], None, MESSAGE[20:]) == Frame(FrameKind.DATA, 0, MESSAGE, 1, 2)


def test_markers_inside_a_message_are_data():
    message = b"\x02MSH|\x05\x06\x04\x15|x\r\n"
    assert only(message) == Frame(FrameKind.DATA, 0, message, 1, 2, (Fault("control-in-text", 5),))


def test_stx_and_a_header_give_up_the_open_message():
    first, second = read(MESSAGE[:20] + MESSAGE)
    assert first == Frame(FrameKind.DATA, 0, MESSAGE[:20], 1, 0, (Fault("truncated", 20),), complete=False)
    assert second.text == TEXT


def test_any_other_stx_in_a_message_is_data():
    message = b"\x02MSH|a\x02b\r\n"
    assert only(message) == Frame(FrameKind.DATA, 0, message, 1, 2, (Fault("control-in-text", 6),))


def test_an_empty_message():
    assert codes(only(b"\x02\r\n")) == ["empty-block"]


# ETX and a checksum, as some senders put behind the text.


def test_etx_and_a_checksum_are_no_text():
    body = TEXT + b"\x03"
    message = b"\x02" + body + b"%02X\r\n" % checksum(body)
    frame = only(message)
    assert (frame.text, frame.tail, frame.faults) == (TEXT, 5, ())


def test_a_wrong_checksum():
    wrong = (checksum(TEXT + b"\x03") + 1) % 256
    message = b"\x02" + TEXT + b"\x03%02X\r\n" % wrong
    frame = only(message)
    assert (frame.text, frame.faults) == (TEXT, (Fault("checksum", len(message) - 4),))


def test_etx_without_checksum():
    frame = only(b"\x02" + TEXT + b"\x03\r\n")
    assert (frame.text, frame.tail, codes(frame)) == (TEXT, 3, ["missing-checksum"])


# Outside of a message, gaps and ends.


def test_bytes_between_messages_are_stray():
    stray, frame = read(b"\r\n\r\n" + MESSAGE)
    assert stray == Frame(FrameKind.STRAY, 0, b"\r\n\r\n", faults=(Fault("stray-whitespace", 0),))
    assert frame.text == TEXT


def test_a_gap_gives_up_the_open_message():
    first, gap, stray, second = read(MESSAGE[:20], 100, b"rest\r\n" + MESSAGE)
    assert (first.raw, first.complete, codes(first)) == (MESSAGE[:20], False, ["gap"])
    assert gap == Frame(FrameKind.GAP, 20, b"", missing=100)
    assert (stray.raw, second.text) == (b"rest\r\n", TEXT)


def test_the_end_of_the_stream_leaves_an_open_message_incomplete():
    frame = only(MESSAGE[:20])
    assert (frame.raw, frame.tail, frame.complete, codes(frame)) == (MESSAGE[:20], 0, False, ["truncated"])


def test_a_stream_that_broke_off_at_a_line_end_leaves_its_message_incomplete():
    framer = PlainFramer()
    assert framer.feed(MESSAGE) == []
    (frame,) = framer.break_off()
    assert (frame.raw, frame.complete, codes(frame)) == (MESSAGE, False, ["lf-separator", "truncated"])


def test_a_text_over_the_limit_is_kept_up_to_it_and_the_rest_is_a_gap():
    cut, gap, after = frames_of(PlainFramer(max_message=5), MESSAGE + b"\x04")
    assert (cut.text, cut.complete, codes(cut)) == (TEXT[:5], False, ["too-long"])
    assert (gap.kind, gap.offset, gap.missing) == (FrameKind.GAP, 6, len(MESSAGE) - 6)
    assert after == Frame(FrameKind.EOT, len(MESSAGE), b"\x04")


@pytest.mark.parametrize(
    ("first", "again", "held"),
    [(b"\x02MSH|", b"OBX|\r\n", 1000), (b"\x02", b"\r", 1000), (b"\x02", b"\x02", 1000), (b"", b"noise", 4096)],
)
def test_an_endless_stream_is_held_in_bounds(first, again, held):
    framer = PlainFramer(max_message=1000)
    framer.feed(first)
    for _ in range(3000):
        framer.feed(again)
        assert framer.pending <= held + 20


# The law, for every cut.

PIECES = [
    MESSAGE, LINES, MESSAGE[:-2], b"\x05", b"\x06", b"\x15", b"\x04", b"\x02", b"\x02MSH|", b"\x03", b"\x03A1\r\n", b"\r",
    b"\n", b"\r\n", b"MSH|", b"MS", b"H^", b"x" * 20,
]  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(streams(PIECES), cut_lengths, st.sampled_from([1, 5, 30, 1000]))
def test_however_it_is_cut_the_frames_are_the_same(steps, cuts, limit):
    hold_the_law(lambda: PlainFramer(max_message=limit), steps, cuts)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(list(b"\x02\x03\x04\x05\r\nMSH|1")), max_size=60).map(bytes), cut_lengths)
def test_the_law_holds_for_noise(data, cuts):
    hold_the_law(PlainFramer, [data], cuts)


@settings(max_examples=100, deadline=None)
@given(streams(PIECES), cut_lengths, st.lists(st.integers(0, 255), min_size=3, max_size=3, unique=True))
def test_the_law_holds_for_any_markers(steps, cuts, markers):
    start, ack, end = markers
    hold_the_law(lambda: PlainFramer(start, ack, end), steps, cuts)
