"""Text of messages: bytes become text and come back the same."""

import pytest

from hl7core.model.text import codec_of, decode


@pytest.mark.parametrize(
    "charset", ["idna", "punycode", "unicode_escape", "raw-unicode-escape", "undefined", "rot13", "zip"]
)
def test_what_is_no_character_set_of_messages_is_never_decoded_with(charset):
    assert decode(b"MSH|^~\\&|xn--a", charset) == ("MSH|^~\\&|xn--a", "utf-8")
    assert charset in {"rot13", "zip"} or codec_of(charset) == ""


@pytest.mark.parametrize(
    ("charset", "codec"),
    [("8859/1", "latin-1"), (" unicode utf-8 ", "utf-8"), ("cp1250", "cp1250"), ("", ""), ("nonsense", "")],
)
def test_declared_character_sets_have_their_codec(charset, codec):
    assert codec_of(charset) == codec


def test_text_that_no_utf8_can_hold_is_read_in_another_character_set():
    half_a_surrogate_pair = b"MSH|^~\\&|+2AA-"
    assert half_a_surrogate_pair.decode("utf-7").endswith("\ud800")
    assert decode(half_a_surrogate_pair, "UTF-7") == ("MSH|^~\\&|+2AA-", "utf-8")
