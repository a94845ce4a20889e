"""Reading a session's JSON: a sound session, or a refusal that quotes nothing."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hl7core.errors import SessionRefused
from hl7core.model.delivery import DeliveryStatus
from hl7core.model.schema import at_stored_precision, session_to_dict, session_to_json
from hl7core.model.stored import schema_version_of, session_from_json
from hl7core.testing import make_session
from model.old_files import old_element, old_session
from model.values import sessions, words

FILES = Path(__file__).parent.parent / "data" / "sessions" / "v2"
NOW = datetime(2026, 1, 3, 12, tzinfo=UTC)


@pytest.mark.parametrize("name", sorted(path.name for path in (FILES).glob("*.json")))
def test_golden_files_of_schema_2_load_and_are_written_the_same(name):
    data = (FILES / name).read_bytes()
    session = session_from_json(data)
    assert session_to_json(session) == data
    assert session.status in DeliveryStatus


def test_there_are_golden_files_of_each_protocol():
    protocols = {json.loads(path.read_bytes())["protocol"] for path in (FILES).glob("*.json")}
    assert protocols == {"mllp", "lis01", "plain"}


def test_unknown_keys_are_let_pass():
    written = session_to_dict(make_session(), saved=True) | {"shiny": {"new": 1}}
    written["elements"][0]["colour"] = "red"
    assert session_from_json(json.dumps(written)) == at_stored_precision(make_session())


def test_what_a_newer_version_shares_with_this_one_is_read():
    written = session_to_dict(make_session(), saved=True)
    for version in ("2.0.0", "2.9.1", "3.0.0", "10", "1.4"):
        assert schema_version_of(json.dumps(written | {"_metadata": {"version": version}})) == version
    newer = json.dumps(written | {"_metadata": {"version": "3.0.0"}})
    assert session_from_json(newer) == at_stored_precision(make_session())


SECRET = "SECRET^PATIENT"


def _spoilt():
    good = session_to_dict(make_session(), saved=True)

    def part(key, index, **changes):
        return good | {key: [value | changes if n == index else value for n, value in enumerate(good[key])]}

    yield b""
    yield b"\xff\xfe" + SECRET.encode()
    yield SECRET
    yield json.dumps([SECRET])
    yield json.dumps(SECRET)
    yield json.dumps(good)[:-30]
    yield "[" * 100_000
    yield json.dumps(good).replace("ANALYZER", SECRET)  # no longer what its sha256 was taken of
    yield json.dumps(good | {"startTime": float("nan")})
    yield '{"messageInfo": [], "sessionId": "\\ud800"}'
    for changed in (
        {SECRET: 1},
        {"_metadata": {"version": SECRET}},
        {"_metadata": SECRET},
        good | {"sessionId": SECRET},
        good | {"sessionId": "../../" + "0" * 30},
        good | {"startTime": SECRET},
        good | {"startTime": -1},
        good | {"endTime": 10**20},
        good | {"devicePort": 65536},
        good | {"ending": SECRET},
        good | {"deliveries": {SECRET: {"status": SECRET}}},
        good | {"elements": SECRET},
        good | {"messages": [SECRET]},
        good | {"messages": []},
        part("elements", 0, message=2),
        part("elements", 0, span=[0, 10**6]),
        part("elements", 0, span=[9, 3]),
        part("elements", 0, before="0"),
        part("elements", 0, direction=SECRET),
        part("elements", 0, message=None, hexData=SECRET),
        part("elements", 0, message=None, content="Ω" + SECRET, encoding="latin-1"),
        part("elements", 0, message=None, content=SECRET, encoding="rot13"),
        part("messageInfo", 0, encoding=SECRET),
        part("messageInfo", 0, encoding="undefined"),
        part("messageInfo", 0, length=1),
        old_session(startTime=SECRET),
        old_session(elements=SECRET),
        old_session(elements=[old_element(hexData=SECRET)]),
        old_session(elements=[old_element(rawBytes=[256])]),
        {key: value for key, value in old_session().items() if key != "elements"},
    ):
        yield json.dumps(changed)


@pytest.mark.parametrize("data", list(_spoilt()))
def test_what_is_no_session_is_refused_without_quoting_it(data):
    with pytest.raises(SessionRefused) as caught:
        session_from_json(data)
    error = caught.value
    while error is not None:
        assert error.__suppress_context__ or error.__context__ is None
        assert "SECRET" not in str(error)
        error = error.__cause__


@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["sessionId", "startTime", "elements", "messages", "messageInfo", "_metadata", "version",
                         "rawBytes", "timestamp", "direction"]), inner, max_size=6),
    max_leaves=10,
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_whatever_is_read_gives_a_session_or_is_refused(data):
    try:
        session = session_from_json(data, now=NOW)
    except SessionRefused:
        return
    assert session_from_json(session_to_json(session)) == session


@given(sessions(), st.data())
def test_a_changed_file_gives_a_sound_session_or_is_refused(session, data):
    line = bytearray(session_to_json(session))
    for _ in range(data.draw(st.integers(1, 3))):
        line[data.draw(st.integers(0, len(line) - 1))] = data.draw(st.integers(32, 126))
    try:
        read = session_from_json(bytes(line))
    except SessionRefused:
        return
    assert session_from_json(session_to_json(read)) == at_stored_precision(read)
