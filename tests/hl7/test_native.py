"""The C extension and Python find the same search keys, whatever they are given."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hl7core.hl7 import native
from hl7core.hl7.keys import SearchKeys, _all_keys
from hl7core.testing import make_message, make_session

pytestmark = pytest.mark.skipif(native.usual_keys is None, reason="the C extensions are not installed")


def both(*texts, charset=""):
    """What the C extension finds in messages, which is what Python finds; None if it leaves them to Python."""
    messages = tuple(make_message(1, text=text, charset=charset) for text in texts)
    fast = native.usual_keys(messages)
    assert fast in (_all_keys(make_session(1)._replace(messages=messages)), None)
    return fast if fast is None else SearchKeys(*fast)


VALUES = st.text(st.sampled_from("AB1^~&\\|# \t\xa0Ä\u2028\x1c"), max_size=8) | st.just("9" * 201)
LINES = st.tuples(
    st.sampled_from((
        "PID|1||", "PID|", "SPM|1|", "OBR|1|", "OBX|1|NM|", "OBX#1#NM#", "P|1|", "O|1|", "O|", "R|1|", "P", "", " ",
        "MSH|^~\\&|", "MSH#", "FHS|", "BHS", "XSH|", "H|\\^&|", "H|", "\ufeffPID|1||", "\0SPM|1|", "ZZ", "NTE|1||",
    )),
    VALUES, st.sampled_from(("", "|", "|||")), VALUES, st.sampled_from("\r\r\r\n"),
)  # fmt: skip
TEXTS = st.builds(
    lambda header, lines, cut: (header + "".join("".join(line) for line in lines)).encode()[cut:],
    st.sampled_from(("MSH|^~\\&|A\r", "MSH|^~\\&|A\r", "H|\\^&|C7\r", "\rMSH|^~\\&|", "MSH|^~\\&", "")),
    st.lists(LINES, max_size=6),
    st.sampled_from((0, 0, 0, 1)),
)


@given(st.lists(TEXTS, max_size=3), st.sampled_from(("", "", "UNICODE UTF-8", "8859/1", "UNICODE UTF-16", "UTF-7")))
@settings(max_examples=600)
def test_keys_are_alike(texts, charset):
    both(*texts, charset=charset)


@given(st.lists(st.binary(max_size=60), max_size=2), st.sampled_from(("", "UTF-7", "ISO IR87")))
def test_any_bytes_are_alike(tails, charset):
    both(*(b"MSH|^~\\&|" + tail for tail in tails), charset=charset)
    both(*(b"H|\\^&|" + tail for tail in tails), charset=charset)


@pytest.mark.parametrize("protocol", ["mllp", "lis01", "plain"])
def test_what_comes_from_the_wire_is_not_left_to_python(protocol):
    messages = make_session(1, protocol=protocol).messages
    assert both(*(message.text for message in messages)).specimens == ("S-0001",)


def test_neither_are_letters_beyond_ascii():
    assert both("MSH|^~\\&|A\rPID|1||Größe^\xa0Ä \r".encode()).patients == ("Größe^\xa0Ä", "Größe", "Ä")
    assert both("MSH|^~\\&|A\rPID|1||Größe\r".encode("latin-1"), charset="8859/1").patients == ("Größe",)


@pytest.mark.parametrize(
    "text", [b"PID|1||A\r", b" MSH|^~\\&|A\r", b"MSH#^~\\&#A\r", b"H|\\^&|A\rH|\\^&|A\r", b"MSH|^~\\&|A\rFHS|^~\\&|A\r"]
)
def test_other_headers_are_left_to_python(text):
    assert both(text) is None


def test_so_are_both_kinds_in_one_session_too_many_keys_and_what_is_no_tuple():
    assert both(b"MSH|^~\\&|A\r", b"H|\\^&|A\r") is None
    assert both(b"MSH|^~\\&|A\r" + b"".join(b"PID|1||P%d\r" % n for n in range(10_050))) is None
    assert native.usual_keys([]) is None
    assert native.usual_keys((object(),)) is None
