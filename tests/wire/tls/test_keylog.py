"""Key logs: read line by line, and their secrets never shown."""

from hypothesis import given
from hypothesis import strategies as st

from hl7core.wire.tls.keylog import KeyLog
from tls_peers import TlsTalk
from wire.tls.encrypted_exchanges import decode, exchange


def test_secrets_are_never_shown(tmp_path):
    tls = TlsTalk(tmp_path)
    exchange(tls)
    keys = KeyLog(tls.keys.read_bytes())
    secret = tls.keys.read_text().split()[-1]
    decoder, sessions = decode(tls.talk, keys)
    assert repr(keys) == "KeyLog(1 connections)"
    held = [getattr(decoder, name) for name in dir(decoder)]
    assert secret not in repr(keys) + str(held) + repr(sessions) + decoder.encrypted.sentence()


def test_a_key_log_is_read_line_by_line_and_other_lines_are_passed_over():
    random, secret = "ab" * 32, "cd" * 48
    text = f"# made by a test\n\nCLIENT_RANDOM {random} {secret}\r\nEXPORTER_SECRET {random} {secret}\nnonsense\n"
    keys = KeyLog(text.encode())
    assert len(keys) == 1
    assert keys.of(bytes.fromhex(random)) == {"CLIENT_RANDOM": bytes.fromhex(secret)}
    assert keys.of(b"\0" * 32) == {}


@given(st.binary(max_size=500))
def test_whatever_a_key_log_holds_reading_it_never_raises(data):
    KeyLog(data)
