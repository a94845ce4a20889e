"""Messages drawn for people at a terminal."""

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hl7core.cli.output.tree import draw, draw_raw
from hl7core.hl7.names import MessageNames
from hl7core.hl7.tree import MessageTree


def drawn(data: bytes | str, *, width: int = 0) -> str:
    tree = MessageTree(data if isinstance(data, bytes) else data.encode())
    return "\n".join(click.unstyle(line) for line in draw(tree, MessageNames.of(tree), width=width))


def test_a_message_is_drawn_with_numbers_names_and_values():
    text = "MSH|^~\\&|AN||||||ACK|7|P|2.5\rPID|1||4711^^^LAB&1.2~0815||\r"
    assert (
        drawn(text)
        == """\
  MSH  Message header
    MSH-1           Field separator                   |
    MSH-2           Encoding characters               ^~\\&
    MSH-3           Sending application               AN
    MSH-9           Message type                      ACK
    MSH-10          Message control ID                7
    MSH-11          Processing ID                     P
    MSH-12          Version ID                        2.5
  PID  Patient identification
    PID-1           Set ID                            1
    PID-3           Patient identifier list
    PID-3[1]          repetition 1
    PID-3[1].1          ID number                     4711
    PID-3[1].4          Assigning authority
    PID-3[1].4.1          Namespace ID                LAB
    PID-3[1].4.2          Universal ID                1.2
    PID-3[2]          repetition 2                    0815"""
    )


def test_records_are_drawn_with_numbers_names_and_values():
    assert (
        drawn("H|\\^&|C7\rR|1|^^^GLU|5.4|mmol/L\r")
        == """\
  H  Message header
    H-2             Delimiter definition              \\^&
    H-3             Message control ID                C7
  R  Result
    R-2             Sequence number                   1
    R-3             Universal test ID
    R-3.4             Manufacturer's code             GLU
    R-4             Data or measurement value         5.4
    R-5             Units                             mmol/L"""
    )


@pytest.mark.parametrize("version", ["", "9.9", "2.5"])
def test_every_value_is_shown_whatever_hl7apy_makes_of_the_message(version):
    text = f"MSH|^~\\&|A|||||||1|P|{version}\rZZZ|z1^z2|z3\rnot a segment\rOBX|1||||{'long ' * 20}\r"
    shown = drawn(text)
    for value in ("z1", "z2", "z3", "not a segment", "long " * 20):
        assert value in shown
    assert ("names are left out" in shown) is (version != "2.5")


def test_nothing_in_a_message_commands_the_terminal():
    shown = drawn("MSH|^~\\&|\x1b[31mred\x07|\x9b2J|\u202eevil|\x7f\r\x1b]0;title\x07\r")
    for sign in ("␛[31mred␇", "<U+009B>2J", "<U+202E>evil", "␡", "␛]0;title␇"):
        assert sign in shown


def test_a_long_value_is_folded_under_itself_and_cut_on_a_terminal_only():
    text = "MSH|^~\\&|A|||||||1|P|2.5\rNTE|1||" + "0123456789" * 40 + "\r"
    lines = drawn(text, width=80).split("\n")
    rows = [line for line in lines if "0123" in line or "6789" in line]
    assert len(rows) == 8
    assert all(line[:54].strip() in ("", "NTE-3           Comment") and len(line) <= 80 for line in rows)
    assert lines[-1].strip() == "… 400 characters in all (--raw shows them)"
    assert "0123456789" * 40 in drawn(text)


def test_wide_characters_are_folded_by_the_room_they_take():
    text = "MSH|^~\\&|A|||||||1|P|2.5\rNTE|1||" + "山" * 26 + "\r"
    rows = [line for line in drawn(text, width=80).split("\n") if "山" in line]
    assert [line.count("山") for line in rows] == [13, 13]


def test_a_narrow_terminal_folds_for_itself():
    assert "0123456789" * 20 in drawn("NTE|1||" + "0123456789" * 20, width=60)


def test_raw_is_the_message_line_by_line():
    tree = MessageTree(b"MSH|^~\\&|A\x1b|B\r\n\r\nPID|1||4711^^^LAB\r")
    assert list(draw_raw(tree)) == ["  MSH|^~\\&|A␛|B", "  PID|1||4711^^^LAB"]


@given(st.binary(max_size=200), st.sampled_from([0, 20, 80]))
def test_whatever_the_bytes_only_our_own_colours_reach_the_terminal(data, width):
    for start in (b"", b"MSH|^~\\&|", b"H|\\^&"):
        assert drawn(start + data, width=width).replace("\n", "").isprintable()
