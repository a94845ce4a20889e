from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hl7core.model.frame import Fault
from hl7core.wire.peek import Glance, batch_counts, glance, split_batch
from wire.linear_time import PATTERNS, SIZE, assert_linear

ORU = rb"MSH|^~\&|IND|LAB|LIS|H|20260101||ORU^R01^ORU_R01|M1|P|2.5.1" + b"\rPID|1||42\rOBX|1|NM|GLU||5\r"
ACK = rb"MSH|^~\&|LIS|H|IND|LAB|20260101||ACK^R01|A1|P|2.5.1" + b"\rMSA|AA|M1|fine\r"
ENHANCED = rb"MSH|^~\&|A|B|C|D|20260101||ORU^R01|M2|P|2.5|||AL|NE||8859/1" + b"\rPID|1\r"


# HL7.


def test_a_result():
    assert glance(ORU) == Glance("hl7", "M1", "ORU^R01^ORU_R01")


def test_an_acknowledgement():
    assert glance(ACK) == Glance("hl7", "A1", "ACK^R01", ack_code="AA", reply_to="M1")


def test_what_enhanced_mode_asks_for_and_the_charset():
    assert glance(ENHANCED) == Glance("hl7", "M2", "ORU^R01", charset="8859/1", accept_ack="AL", application_ack="NE")


def test_a_reply_that_is_no_ack():
    reply = rb"MSH|^~\&|A|B|C|D|1||RSP^K22|R1|P|2.5" + b"\rSFT|x\rMSA|AE|Q1\rQAK|1\r"
    assert glance(reply)[-2:] == ("AE", "Q1")


def test_an_acknowledgement_that_names_nothing():
    assert glance(ACK.replace(b"|M1|fine", b""))[-2:] == ("AA", "")
    assert glance(ACK.replace(b"|AA|M1|fine", b""))[-2:] == ("", "")


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_lf_between_segments(line_end):
    assert glance(ACK.replace(b"\r", line_end)) == glance(ACK)
    assert glance(ENHANCED.replace(b"\r", line_end)) == glance(ENHANCED)


@pytest.mark.parametrize("before", [b"\xef\xbb\xbf", b"\r\n\r", b"\xef\xbb\xbf\r\n", b"\n\xef\xbb\xbf"])
def test_a_byte_order_mark_and_blank_lines_are_passed_over(before):
    assert glance(before + ACK) == glance(ACK)


def test_the_message_chooses_its_separators():
    message = rb"MSH#*!\&#A#B#C#D#1##ORU*R01!x#M1!M2#P#2.5" + b"\rMSA#AA!AE#7!8\r"
    assert glance(message) == Glance("hl7", "M1", "ORU*R01", ack_code="AA", reply_to="7")


def test_of_a_field_that_repeats_the_first_counts():
    message = ENHANCED.replace(b"8859/1", b"UNICODE UTF-8~ASCII").replace(b"M2", b"M2~M3")
    assert (glance(message).charset, glance(message).control_id) == ("UNICODE UTF-8", "M2")


def test_msa_counts_only_as_a_segment():
    assert glance(rb"MSH|^~\&|MSA|AA|M1" + b"\rNTE|1||MSA|AA|M1\rZMSA|AA|M1\rMSAX|1\rMSA\\|2\r").reply_to is None
    assert glance(rb"MSH|^~\&|A" + b"\rNTE|MSA|\rMSA|AR|9\r").reply_to == "9"


def test_a_header_cut_short():
    assert glance(rb"MSH|^~\&|A|B") == Glance("hl7")
    assert glance(rb"MSH|^~\&|||||||ACK|5") == Glance("hl7", "5", "ACK")


def test_fields_are_cut_at_200_bytes_and_read_as_latin_1():
    seen = glance(rb"MSH|^~\&|||||||" + b"T" * 300 + b"|" + b"\xe9" * 300 + b"\rMSA|AA|" + b"9" * 300)
    assert (seen.message_type, seen.control_id, seen.reply_to) == ("T" * 200, "\xe9" * 200, "9" * 200)


def test_of_a_batch_the_first_message_counts():
    assert glance(b"FHS|^~\\&|x\rBHS|^~\\&|y\r" + ENHANCED + ACK + b"BTS|2\r") == glance(ENHANCED)
    assert glance(b"FHS|^~\\&|x\rFTS|0\r") == Glance("other")


@pytest.mark.parametrize("text", [b"", b"M", b"MSH", b"MSH|", b"MSHA|^~", b"MSH ^~\\&", b"PID|1", b"\x06", b"Hello"])
def test_what_is_no_message(text):
    assert glance(text) == Glance("other")


# ASTM.


def test_astm_records():
    text = b"H|\\^&|ID7||cobas\rP|1\rO|1\rR|1\rR|2\rL|1|N\r"
    assert glance(text) == Glance("astm", "ID7", "HPORRL")


def test_astm_without_an_id():
    assert glance(b"H|\\^&\rL|1\r") == Glance("astm", "", "HL")
    assert glance(b"H!") == Glance("astm", "", "H")


def test_the_letters_of_many_records_end_at_64():
    assert glance(b"H|\\^&\r" + b"R|1\r" * 1000).message_type == "H" + "R" * 63


# Batches.


def test_one_message_is_no_batch():
    assert split_batch(ORU) == []
    assert split_batch(b"") == []


def test_the_messages_of_a_batch_stand_between_its_headers_and_trailers():
    text = b"FHS|^~\\&\rBHS|^~\\&\r" + ORU + ACK + b"BTS|2\rFTS|1\r"
    assert [text[start:end] for start, end in split_batch(text)] == [ORU, ACK]


def test_a_batch_of_one_and_a_batch_without_headers():
    text = b"BHS|^~\\&\r" + ORU + b"BTS\r"
    assert [text[start:end] for start, end in split_batch(text)] == [ORU]
    assert [(ORU + ACK)[start:end] for start, end in split_batch(ORU + ACK)] == [ORU, ACK]


def test_a_batch_behind_a_byte_order_mark_with_lf_line_ends():
    text = b"\xef\xbb\xbf" + (b"FHS|^~\\&\r" + ORU + ORU + b"FTS|1").replace(b"\r", b"\n")
    assert [text[start:end] for start, end in split_batch(text)] == [ORU.replace(b"\r", b"\n")] * 2


def test_msh_inside_a_line_divides_nothing():
    assert split_batch(ORU + b"NTE|1||see MSH|^~\\&\rMSHX|\r") == []


def test_the_counts_of_a_batch_that_hold():
    text = b"FHS|^~\\&\rBHS|^~\\&\r" + ORU + ORU + b"BTS|2\rBHS|^~\\&\r" + ACK + b"BTS|1\rFTS|2\r"
    assert batch_counts(text) == []
    assert batch_counts(ORU + b"BTS|\rFTS\r") == []
    assert batch_counts(b"FHS|^~\\&\r" + ORU + b"FTS|1\r") == []


def test_the_counts_of_a_batch_that_do_not():
    text = b"FHS|^~\\&\rBHS|^~\\&\r" + ORU + b"BTS|2\rFTS|many\r"
    assert batch_counts(text, 100) == [
        Fault("batch-count", 100 + text.index(b"BTS")),
        Fault("batch-count", 100 + text.index(b"FTS")),
    ]


# It never raises.

ALPHABET = [
    b"MSH",
    b"MSA",
    b"FHS",
    b"BTS",
    b"FTS",
    b"BHS",
    b"|",
    b"^~\\&",
    b"\r",
    b"\n",
    b"H",
    b"12",
    b"\xef\xbb\xbf",
    b"~",
]


@settings(max_examples=500, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(ALPHABET), st.binary(max_size=4)), max_size=30).map(b"".join))
def test_any_bytes_are_glanced_at(text):
    assert glance(text).kind in ("hl7", "astm", "other")
    spans = split_batch(text)
    assert all(text[start : start + 3] == b"MSH" and end > start for start, end in spans)
    assert sorted(spans) == spans
    assert all(fault.offset <= len(text) for fault in batch_counts(text))


@pytest.mark.parametrize("read", [glance, split_batch, batch_counts])
def test_peeking_takes_time_that_grows_with_the_text(read):
    for pattern in PATTERNS.values():
        for front in (b"MSH|^~\\&|", b"FHS|^~\\&|\r", b"H|\\^&|"):
            assert_linear(
                lambda size, front=front, pattern=pattern: read(front + pattern * (size // len(pattern))), 10 * SIZE
            )
