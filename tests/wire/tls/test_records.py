"""TLS records: recognized, and cut out of a stream by the framer's law."""

import pytest
from hypothesis import given

from hl7core.wire.tls.records import TlsFramer, tls_score
from wire.framing.framing_law import cut_lengths, frames_of, hold_the_law, streams

RECORD = b"\x17\x03\x03\x00\x03abc"


@given(
    streams([RECORD, b"\x16\x03\x01\x00\x04\x01\0\0\0", b"\x14\x03\x03\x00\x01\x01", b"\x17\x03\x03\x41"]), cut_lengths
)
def test_the_framer_keeps_the_law(steps, cuts):
    hold_the_law(TlsFramer, steps, cuts)


def test_records_are_frames_and_half_a_record_goes_on_whoever_speaks():
    framer = TlsFramer()
    assert framer.feed(RECORD + RECORD[:4]) == frames_of(TlsFramer(), RECORD)
    assert framer.settle() == []
    assert framer.pending == 4
    (frame,) = framer.feed(RECORD[4:])
    assert frame.text == b"abc"


@pytest.mark.parametrize(
    ("data", "score"),
    [
        (b"", 0), (b"\x16", 1), (b"\x16\x03\x01\x02", 1), (b"\x16\x03\x01\x02\x00\x01\x00", 3),
        (b"\x15", 1), (b"\x15\x06", 0), (b"\x16\x03\x09\x02\x00\x01", 0), (b"\x16\x03\x01\xff\xff\x01", 0),
        (b"\x17\x03\x03\x00\x20" + b"x" * 32 + b"GET / HT", 0), (b"..." + RECORD + RECORD, 3), (b"..." + RECORD, 0),
    ],
)  # fmt: skip
def test_the_first_bytes_tell(data, score):
    assert tls_score(data) == score
