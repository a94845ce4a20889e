"""Search keys: what identifies a session, as its messages write it, and nothing more."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hl7core.hl7.keys import search_keys
from hl7core.hl7.query import matches
from hl7core.hl7.tree import Form, MessageTree
from hl7core.model.session import SessionQuery
from hl7core.testing import make_message, make_session


def keys_of(text: bytes | str, **fields):
    data = text if isinstance(text, bytes) else text.encode()
    session = make_session(1)
    return search_keys(session._replace(messages=(make_message(1, text=data, **fields),)))


def test_hl7_identifiers_count_whole_and_in_their_parts():
    keys = keys_of("MSH|^~\\&|A\rPID|1||4711^^^LAB&1.2&ISO~0815\rOBR|1|P-1^X|F-1\rSPM|1|S-9&A^S-8\r")
    assert set(keys.patients) == {
        "4711^^^LAB&1.2&ISO~0815", "4711^^^LAB&1.2&ISO", "0815", "4711", "LAB&1.2&ISO", "LAB", "1.2", "ISO",
    }  # fmt: skip
    assert set(keys.specimens) == {"P-1^X", "P-1", "X", "F-1", "S-9&A^S-8", "S-9&A", "S-9", "A", "S-8"}


def test_lis02_identifiers_count_whole_and_in_their_parts():
    keys = keys_of("H|\\^&|C7\rP|1|PR-1|LAB-1\rO|1|S-1^2\\S-2||^^^GLU\rR|1|^^^GLU^1|5\rL|1|N\r")
    assert set(keys.patients) == {"PR-1", "LAB-1"}
    assert set(keys.specimens) == {"S-1^2\\S-2", "S-1^2", "S-2", "S-1", "2"}
    assert set(keys.codes) == {"^^^GLU", "^^^GLU^1", "GLU", "1"}


def test_the_separators_are_those_that_the_message_declares():
    assert set(keys_of("MSH$%*!#$A\rPID$1$$47|11%X*08\r").patients) == {"47|11%X*08", "47|11%X", "08", "47|11", "X"}
    assert set(keys_of("H;!*_;C7\rO;1;S-1*2!S^3\r").specimens) == {"S-1*2!S^3", "S-1*2", "S^3", "S-1", "2"}


def test_a_header_that_declares_fewer_separators_divides_by_fewer():
    assert keys_of("MSH|^|A\rPID|1||A~B^C\r").patients == ("A~B^C", "A~B", "C")


def test_a_message_whose_start_was_lost_is_read_by_the_usual_separators():
    assert keys_of("PID|1||4711^^^LAB\rOBR|1||F-1\r").specimens == ("F-1",)
    assert keys_of("P|1||LAB-1\rO|1|S-1^2\r").specimens == ("S-1^2", "S-1", "2")


def test_records_of_the_one_form_are_not_looked_for_in_the_other():
    assert keys_of("MSH|^~\\&|A\rNTE|1||see\rP|1|not-a-patient\rO|1|S\r").patients == ()
    assert keys_of("H|\\^&\rPID|1||not-a-patient\r").patients == ()


@pytest.mark.parametrize("ending", ["\r", "\n", "\r\n"])
def test_every_line_ending_and_a_byte_order_mark_will_do(ending):
    text = ending.join(["\ufeffMSH|^~\\&|A", "PID|1||4711", " SPM|1|S-9", ""])
    assert keys_of(text)[:2] == (("S-9",), ("4711",))


def test_blanks_around_a_value_do_not_count_and_nothing_empty_is_a_key():
    assert keys_of("H|\\^&\rO|1| ^^    0815^B\r").specimens == ("^^    0815^B", "0815", "B")
    assert keys_of("MSH|^~\\&|A\rPID|1||  \rSPM|1|^^&\r")[:2] == (("^^&", "&"), ())


def test_control_ids_and_message_types_are_those_of_all_messages_once_each():
    keys = search_keys(make_session(1))
    assert keys.control_ids == ("M000001", "A000001")
    assert keys.message_types == ("ORU^R01", "ACK^R01")
    assert search_keys(make_session(1)._replace(messages=())) == ((), (), (), (), ())


def test_the_declared_character_set_counts():
    assert keys_of("MSH|^~\\&|A\rPID|1||Größe\r".encode("latin-1"), charset="8859/1").patients == ("Größe",)


def test_half_a_surrogate_pair_becomes_no_key_that_a_store_cannot_write():
    for value in keys_of(b"MSH|^~\\&|A\rPID|1||x+2AA-y\r", charset="UTF-7").patients:
        assert value.encode()


def test_very_long_values_are_no_keys_but_their_parts_are():
    assert keys_of("MSH|^~\\&|A\rPID|1||" + "9" * 201 + "^4711\r").patients == ("4711",)


def test_the_number_of_keys_has_a_bound():
    lines = "".join(f"PID|1||P{n}\r" for n in range(10_050))
    assert len(keys_of("MSH|^~\\&|A\r" + lines).patients) == 10_000


IDENTIFIERS = st.text(st.sampled_from("AB1^~&\\| "), max_size=8)


@given(
    st.lists(
        st.tuples(st.sampled_from(["PID|1||", "SPM|1|", "OBR|1||", "OBX|1|NM|", "P|1|", "O|1|", "H|\\^&"]), IDENTIFIERS)
    )
)
def test_a_session_is_found_by_its_keys_and_by_nothing_else(lines):
    text = "".join(f"{start}{value}\r" for start, value in lines)
    session = make_session(1)
    session = session._replace(messages=(make_message(1, text=text.encode()),))
    keys = search_keys(session)
    for value in {*keys.specimens, *keys.patients, *(value for _, value in lines if value), "A", "1"}:
        assert matches(session, SessionQuery(specimen=value)) is (value in keys.specimens)
        assert matches(session, SessionQuery(patient=value)) is (value in keys.patients)


@given(
    st.lists(
        st.tuples(st.sampled_from(["MSH|^~\\&|", "PID|1||", "SPM|1|", "P|1|", "O|1|", "H|\\^&", " ", "x"]), IDENTIFIERS)
    )
)
def test_the_keys_are_what_the_tree_has_in_those_places(lines):
    text = "".join(f"{start}{value}\r" for start, value in lines)
    wanted = set()
    for line in MessageTree(text.encode()):
        places = {(Form.HL7, "PID"): (3,), (Form.LIS02, "P"): (3, 4)}.get((line.form, line.name), ())
        for field in line.fields():
            if field.number in places:
                pieces = [field, *(r for r in field.parts()), *(c for r in field.parts() for c in r.parts())]
                pieces += [s for r in field.parts() for c in r.parts() for s in c.parts()]
                wanted |= {piece.text.strip() for piece in pieces} - {""}
    assert set(keys_of(text).patients) == wanted


@given(st.binary(max_size=400), st.sampled_from(["", "8859/1", "UNICODE UTF-16", "UTF-7", "ISO IR87", "punycode"]))
def test_no_bytes_make_it_raise(data, charset):
    for start in (b"", b"MSH|^~\\&|", b"H|\\^&", b"\xef\xbb\xbfFHS"):
        keys = keys_of(start + data, charset=charset)
        assert "" not in {*keys.specimens, *keys.patients, *keys.codes}


def test_a_query_that_names_nothing_of_the_messages_reads_none():
    class Unreadable:
        control_id = "M1"

        def decoded(self):
            raise AssertionError

    session = make_session(1)._replace(messages=(Unreadable(),))
    assert matches(session, SessionQuery(device=session.device.address, since=session.started_at))
    assert matches(session, SessionQuery(until=session.started_at + timedelta(seconds=1), control_id="M1"))
