"""Sessions in words and lines: what fits a terminal."""

import unicodedata

import click
import pytest

from hl7core.cli.output.text import counted, headline
from hl7core.model.session import Ending
from hl7core.testing import make_message, make_session

SESSIONS = [
    make_session(1),
    make_session(2, protocol="lis01"),
    make_session(3, is_complete=False, ending=Ending.GAPPED),
    make_session(4, messages=(make_message(4, control_id="x" * 300, message_type="\x1b[31m" * 50),)),
]


@pytest.mark.parametrize("width", [1, 20, 66, 80, 100, 124, 140, 200])
@pytest.mark.parametrize("dated", [False, True])
@pytest.mark.parametrize("session", SESSIONS, ids=["mllp", "lis01", "gapped", "hostile"])
def test_a_headline_is_one_line_that_fits_the_terminal(session, width, dated):
    line = click.unstyle(headline(session, width=width, dated=dated))
    assert len(line) <= width
    assert line.isprintable()
    assert all(unicodedata.east_asian_width(c) not in "WF" for c in line)


def test_eighty_columns_hold_who_what_and_how_it_ended():
    line = click.unstyle(headline(SESSIONS[2], width=80))
    for part in ("✘", "MLLP", "192.0.2.10 → 192.0.2.20", "ORU^R01", "bytes"):
        assert part in line
    assert "M000001" in click.unstyle(headline(SESSIONS[0], width=80))


def test_an_answer_without_its_request_has_no_time_after_which_it_came():
    answer = make_message(5, ack_code="AA", reply_to="M9", message_type="ACK^R01")
    line = click.unstyle(headline(make_session(5, messages=(answer,), is_complete=False, ending=Ending.CAPTURE_END)))
    assert "AA" in line
    assert " after " not in line


def test_without_a_terminal_nothing_is_left_out():
    line = click.unstyle(headline(SESSIONS[0], dated=True))
    for part in ("192.0.2.10:49152", "192.0.2.20:2575", "complete", "AA after 20 ms"):
        assert part in line


@pytest.mark.parametrize(
    ("count", "noun", "words"),
    [
        (0, "session", "0 sessions"),
        (1, "session", "1 session"),
        (2000, "session", "2,000 sessions"),
        (3, "entry", "3 entries"),
    ],
)
def test_what_is_counted_is_in_the_plural_unless_it_is_one(count, noun, words):
    assert counted(count, noun) == words
