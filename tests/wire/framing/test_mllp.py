"""MLLP framing: blocks, their unusual ends, what lies between them, and the law for every cut."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hl7core.model.frame import Fault, Frame, FrameKind
from hl7core.wire.framing.mllp import MllpFramer
from wire.framing.framing_law import codes, cut_lengths, frames_of, hold_the_law, streams

MSH = rb"MSH|^~\&|A|B|C|D|20260101||ORU^R01|1|P|2.5"
TEXT = MSH + b"\rPID|1||42\r"
BLOCK = b"\x0b" + TEXT + b"\x1c\r"
OTHER = b"\x0b" + TEXT.replace(b"|1|P", b"|2|P") + b"\x1c\r"


def read(*steps: bytes | int | None) -> list[Frame]:
    return frames_of(MllpFramer(), *steps)


def only(*steps: bytes | int | None) -> Frame:
    (frame,) = read(*steps)
    return frame


# A block.


def test_a_block_is_the_text_between_vt_and_fs_cr():
    frame = only(BLOCK)
    assert frame == Frame(FrameKind.BLOCK, 0, BLOCK, head=1, tail=2)
    assert frame.text == TEXT
    assert frame.complete


def test_a_block_comes_out_with_its_last_byte():
    framer = MllpFramer()
    assert [len(framer.feed(bytes([byte]))) for byte in BLOCK] == [0] * (len(BLOCK) - 1) + [1]
    assert framer.pending == 0


def test_the_bytes_of_an_unfinished_block_are_pending():
    framer = MllpFramer()
    assert framer.feed(BLOCK[:20]) == []
    assert framer.pending == 20
    assert framer.feed(BLOCK[20:]) == [Frame(FrameKind.BLOCK, 0, BLOCK, 1, 2)]


def test_offsets_count_from_where_the_stream_was_joined():
    framer = MllpFramer(offset=1000)
    assert [frame.offset for frame in framer.feed(BLOCK + OTHER)] == [1000, 1000 + len(BLOCK)]


def test_several_blocks_in_one_segment():
    assert [frame.text for frame in MllpFramer().feed(BLOCK + OTHER + BLOCK)] == [TEXT, OTHER[1:-2], TEXT]


@pytest.mark.parametrize("cut", [1, len(BLOCK) - 1, len(BLOCK) - 2], ids=["after VT", "before CR", "before FS"])
def test_vt_fs_or_cr_alone_in_a_segment(cut):
    assert only(BLOCK[:cut], BLOCK[cut:]) == Frame(FrameKind.BLOCK, 0, BLOCK, 1, 2)


def test_a_batch_is_one_block():
    batch = b"\x0b" + rb"FHS|^~\&" + b"\r" + rb"BHS|^~\&" + b"\r" + TEXT + TEXT + b"BTS|2\rFTS|1\r\x1c\r"
    assert only(batch).text == batch[1:-2]


def test_unusual_separators_are_fine():
    block = b"\x0bMSH#^~\\&#A\r\x1c\r"
    assert codes(only(block)) == []


def test_a_fault_free_block_survives_settling_half_way():
    framer = MllpFramer()
    assert framer.feed(BLOCK[:30]) == []
    assert framer.settle() == []
    assert framer.feed(BLOCK[30:]) == [Frame(FrameKind.BLOCK, 0, BLOCK, 1, 2)]


# Release 2.


def test_the_commit_bytes_of_release_2():
    ack, nak = read(b"\x0b\x06\x1c\x0d\x0b\x15\x1c\x0d")
    assert ack == Frame(FrameKind.ACK, 0, b"\x0b\x06\x1c\x0d", 1, 2)
    assert nak == Frame(FrameKind.NAK, 4, b"\x0b\x15\x1c\x0d", 1, 2)


def test_a_commit_byte_in_pieces():
    assert only(b"\x0b", b"\x06", b"\x1c", b"\x0d").kind is FrameKind.ACK


def test_a_commit_and_a_block_in_one_segment():
    assert [frame.kind for frame in read(b"\x0b\x06\x1c\x0d" + BLOCK)] == [FrameKind.ACK, FrameKind.BLOCK]


# Ends that are not FS CR.


def test_fs_without_cr_ends_a_block_where_the_next_one_follows():
    first, second = read(BLOCK[:-1] + OTHER)
    assert first == Frame(FrameKind.BLOCK, 0, BLOCK[:-1], 1, 1, (Fault("missing-cr", len(BLOCK) - 2),))
    assert second.text == OTHER[1:-2]


@pytest.mark.parametrize("end", ["settle", "close"])
def test_fs_without_cr_ends_a_block_where_nothing_follows(end):
    framer = MllpFramer()
    assert framer.feed(BLOCK[:-1]) == []
    (frame,) = getattr(framer, end)()
    assert (frame.text, frame.tail, frame.complete, codes(frame)) == (TEXT, 1, True, ["missing-cr"])


def test_fs_lf_ends_a_block():
    first, second = read(BLOCK[:-1] + b"\n" + BLOCK[:-1] + b"\n")
    assert (first.text, first.tail, codes(first)) == (TEXT, 2, ["fs-lf"])
    assert (second.text, second.tail, codes(second)) == (TEXT, 2, ["fs-lf"])


def test_cr_ff_in_place_of_fs_cr():
    first, second = read(BLOCK[:-2] + b"\r\x0c" + BLOCK[:-2] + b"\r\x0c")
    assert (first.text, first.tail, codes(first)) == (TEXT, 2, ["ff-end"])
    assert (second.text, second.tail, codes(second)) == (TEXT, 2, ["ff-end"])


def test_cr_ff_inside_the_text_is_data():
    block = b"\x0bMSH|x\r\x0cmore\r\x1c\r"
    assert only(block) == Frame(FrameKind.BLOCK, 0, block, 1, 2)


def test_fs_in_the_text_is_data():
    block = b"\x0bMSH|a\x1cb\r\x1c\nOBX|\x1c\x1c\r"
    assert only(block) == Frame(FrameKind.BLOCK, 0, block, 1, 2, (Fault("lf-separator", 10), Fault("fs-in-text", 6)))


def test_line_ends_behind_a_block_are_stray_and_cost_nothing_else():
    frames = read(BLOCK + b"\n" + BLOCK + b"\r\n" + BLOCK)
    assert [frame.kind for frame in frames] == ["block", "stray", "block", "stray", "stray", "block"]
    assert frames[1] == Frame(FrameKind.STRAY, len(BLOCK), b"\n", faults=(Fault("stray-whitespace", len(BLOCK)),))


# VT inside a block.


@pytest.mark.parametrize("start", [b"MSH|", b"FHS|", b"BHS^"])
def test_vt_and_a_header_give_up_the_open_block(start):
    first, second = read(b"\x0bMSH|cut off\r\x0b" + start + b"x\r\x1c\r")
    assert first == Frame(FrameKind.BLOCK, 0, b"\x0bMSH|cut off\r", 1, 0, (Fault("truncated", 13),), complete=False)
    assert second.text == start + b"x\r"


@pytest.mark.parametrize("inside", [b"\x0b", b"\x0b\x0b", b"\x0bMS", b"\x0bMSHA", b"\x0bPID|"])
def test_any_other_vt_in_a_block_is_data(inside):
    block = b"\x0bMSH|a" + inside + b"b\r\x1c\r"
    assert only(block) == Frame(FrameKind.BLOCK, 0, block, 1, 2, (Fault("vt-in-text", 6),))


def test_two_vt_before_a_message():
    first, second = read(b"\x0b" + BLOCK)
    assert (first.raw, first.complete, codes(first)) == (b"\x0b", False, ["truncated"])
    assert second.text == TEXT


# What stands inside.


def test_an_empty_block():
    assert only(b"\x0b\x1c\r") == Frame(FrameKind.BLOCK, 0, b"\x0b\x1c\r", 1, 2, (Fault("empty-block", 1),))


def test_a_byte_order_mark_and_blank_lines_before_the_header():
    assert codes(only(b"\x0b\xef\xbb\xbfMSH|\r\x1c\r")) == ["bom"]
    assert codes(only(b"\x0b\r\rMSH|\r\x1c\r")) == ["blank-lines"]
    assert codes(only(b"\x0b\xef\xbb\xbf\r\nMSH|\r\x1c\r")) == ["bom", "blank-lines", "lf-separator"]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_lf_between_segments(line_end):
    block = b"\x0bMSH|a" + line_end + b"PID|1" + line_end + b"\x1c\r"
    assert only(block).faults == (Fault("lf-separator", block.index(b"\n")),)


# Outside of a block.


def test_a_message_without_vt():
    frame = only(TEXT + b"\x1c\r")
    assert frame == Frame(FrameKind.BLOCK, 0, TEXT + b"\x1c\r", 0, 2, (Fault("missing-vt", 0),))
    assert frame.text == TEXT


def test_a_message_without_any_frame_ends_when_the_peer_answers():
    framer = MllpFramer()
    assert framer.feed(TEXT) == []
    (frame,) = framer.settle()
    assert (frame.text, frame.complete, codes(frame)) == (TEXT, True, ["missing-vt", "unframed"])


def test_a_message_without_any_frame_ends_at_the_next_block():
    first, second = read(TEXT + BLOCK)
    assert (first.text, codes(first)) == (TEXT, ["missing-vt", "unframed"])
    assert second.text == TEXT


def test_a_message_without_vt_is_found_behind_a_line_end_or_a_byte_order_mark():
    for before in (b"log line\r\n", b"\xef\xbb\xbf", b"\n"):
        stray, frame = read(before + TEXT + b"\x1c\r")
        assert (stray.kind, stray.raw) == (FrameKind.STRAY, before)
        assert (frame.text, codes(frame)) == (TEXT, ["missing-vt"])


def test_msh_in_the_middle_of_a_line_begins_nothing():
    assert [frame.kind for frame in read(b"see MSH|1" + BLOCK)] == [FrameKind.STRAY, FrameKind.BLOCK]


def test_junk_before_a_block_is_stray():
    stray, frame = read(b"2026-01-01 INFO connected " + BLOCK)
    assert stray == Frame(FrameKind.STRAY, 0, b"2026-01-01 INFO connected ", faults=(Fault("stray-bytes", 0),))
    assert frame.offset == stray.end


def test_stray_bytes_wait_for_what_follows():
    framer = MllpFramer()
    assert framer.feed(b"junk") == []
    assert [frame.kind for frame in framer.feed(b"\x0b")] == [FrameKind.STRAY]
    assert framer.pending == 1


def test_stray_bytes_come_out_when_the_peer_answers():
    framer = MllpFramer()
    framer.feed(b"junk")
    assert [frame.raw for frame in framer.settle()] == [b"junk"]


# Gaps and ends.


def test_a_gap_gives_up_the_open_block_and_the_next_one_is_read():
    first, gap, stray, frame = read(BLOCK[:20], 100, b"rest of it\r\x1c\r" + BLOCK)
    assert (first.raw, first.complete, codes(first)) == (BLOCK[:20], False, ["gap"])
    assert gap == Frame(FrameKind.GAP, 20, b"", missing=100)
    assert (stray.offset, stray.raw) == (120, b"rest of it\r\x1c\r")
    assert frame.text == TEXT


def test_a_gap_between_blocks_costs_no_block():
    assert [frame.kind for frame in read(BLOCK, 7, BLOCK)] == ["block", "gap", "block"]


def test_skipping_nothing_is_nothing():
    assert only(BLOCK[:9], 0, BLOCK[9:]).complete


def test_the_end_of_the_stream_leaves_an_open_block_incomplete():
    frame = only(BLOCK[:20])
    assert (frame.raw, frame.tail, frame.complete, codes(frame)) == (BLOCK[:20], 0, False, ["truncated"])


# Too long.


def test_a_text_over_the_limit_is_kept_up_to_it_and_the_rest_is_a_gap():
    data = b"\x0bMSH|" + b"x" * 100 + b"\x1c\r"
    cut, gap, after = frames_of(MllpFramer(max_message=50), data + b"\x0bMSH|\r\x1c\r")
    assert (cut.text, cut.complete, codes(cut)) == (data[1:51], False, ["too-long"])
    assert gap == Frame(FrameKind.GAP, 51, b"", faults=(Fault("too-long", 51),), missing=len(data) - 51)
    assert after == Frame(FrameKind.BLOCK, len(data), b"\x0bMSH|\r\x1c\r", 1, 2)


def test_a_text_of_just_the_limit_is_whole():
    assert frames_of(MllpFramer(max_message=len(TEXT)), BLOCK) == [Frame(FrameKind.BLOCK, 0, BLOCK, 1, 2)]


@pytest.mark.parametrize(
    ("first", "again", "held"),
    [
        (b"\x0bMSH|", b"x" * 97, 1000),
        (b"\x0bMSH|", b"\x1c\x0b\r", 1000),
        (b"MSH|", b"OBX|\r", 1000),
        (b"", b"noise", 4096),
        (b"", b"\r", 4096),
        (b"", b"\rMS", 4096),
    ],
)
def test_an_endless_stream_is_held_in_bounds(first, again, held):
    framer = MllpFramer(max_message=1000)
    framer.feed(first)
    for _ in range(3000):
        framer.feed(again)
        assert framer.pending <= held + 100


# The law, for every cut.

PIECES = [
    BLOCK, OTHER[:-1], TEXT, b"\x0b\x06\x1c\r", b"\x0b\x15\x1c\r", b"\x0b", b"\x1c", b"\r", b"\n", b"\x0c", b"\r\x0c",
    b"\x1c\r", b"\x1c\n", b"MSH|", b"FHS", b"BHS^", b"\xef\xbb\xbf", b"\x0bMSH|a\nb", b"MS", b"H|", b"log\r\n",
]  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(streams(PIECES), cut_lengths, st.sampled_from([1, 5, 30, 1000]))
def test_however_it_is_cut_the_frames_are_the_same(steps, cuts, limit):
    hold_the_law(lambda: MllpFramer(max_message=limit), steps, cuts)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(list(b"\x0b\x1c\r\n\x0cMSHF|a")), max_size=60).map(bytes), cut_lengths)
def test_the_law_holds_for_noise(data, cuts):
    hold_the_law(MllpFramer, [data], cuts)


@given(st.integers(4000, 4200), st.integers(4000, 8300), cut_lengths)
@settings(max_examples=15, deadline=None)
def test_the_law_holds_for_much_stray(first, second, cuts):
    steps = [b"x" * first, b"\r" + TEXT + b"\x1c\r", b"y" * second, b"\xef\xbb\xbfMSH|\x1c\r"]
    hold_the_law(MllpFramer, steps, cuts)
