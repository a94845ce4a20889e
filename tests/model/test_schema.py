import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hl7core.errors import SessionRefused
from hl7core.model.delivery import Delivery, DeliveryStatus
from hl7core.model.finding import Finding, Severity
from hl7core.model.frame import Fault
from hl7core.model.packet import Endpoint
from hl7core.model.schema import (
    SCHEMA_VERSION,
    at_stored_precision,
    is_newer,
    json_schema,
    schema_version_of,
    session_from_json,
    session_to_dict,
    session_to_json,
)
from hl7core.model.session import SESSION_ID, Direction, Element, ElementType, Ending
from hl7core.model.stored_shape import StoredModel, StoredSession
from hl7core.testing import make_message, make_session
from model.values import sessions, words

DATA = Path(__file__).parent.parent / "data" / "sessions"
NOW = datetime(2026, 1, 3, 12, tzinfo=UTC)

# What is written comes back.


@given(sessions())
def test_what_is_written_comes_back(session):
    read = session_from_json(session_to_json(session))
    assert read == at_stored_precision(session)
    assert [read.raw_of(e) for e in read.elements] == [session.raw_of(e) for e in session.elements]
    assert session_from_json(session_to_json(read)) == read


@given(sessions())
def test_it_is_one_line_of_json_whose_keys_stand_in_the_order_of_the_schema(session):
    line = session_to_json(session)
    assert b"\n" not in line
    written = json.loads(line)
    assert line == json.dumps(written, ensure_ascii=False, separators=(",", ":")).encode()
    assert written == session_to_dict(session, saved=True)
    _in_order(written, StoredSession)


def _in_order(written, model):
    """Every key is one of the model's, in its order; so too below."""
    known = {field.alias: field.annotation for field in model.model_fields.values()}
    assert [key for key in known if key in written] == list(written)
    for key, value in written.items():
        inner = list(_models(known[key]))
        for part in value if isinstance(value, list) else [value]:
            if inner and isinstance(part, dict):
                for item in part.values() if key == "deliveries" else [part]:
                    _in_order(item, inner[0])


def _models(annotation):
    if isinstance(annotation, type) and issubclass(annotation, StoredModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models(argument)


@given(sessions())
def test_without_what_only_a_save_adds_nothing_captured_is_missing(session):
    line = session_to_json(session, saved=False)
    added = {"persistedUntil", "firstSavedAt", "_metadata", "submissionStatus", "submissionAttempts", "submittedAt",
             "submissionError", "deliveries"}  # fmt: skip
    assert not added & set(json.loads(line))
    bare = session._replace(
        deliveries=(), ignored=False, first_saved_at=None, saved_at=None, persisted_until=None, retention_days=None
    )
    assert session_from_json(line) == at_stored_precision(bare)


def test_the_fields_of_the_acceptance_list_are_always_there():
    written = session_to_dict(make_session(), saved=True)
    for key in ("sessionId", "startTime", "endTime", "deviceIP", "lisIP", "elements", "messages", "isComplete",
                "submissionStatus", "submissionAttempts", "_metadata"):  # fmt: skip
        assert key in written
    assert written["submissionStatus"] == "pending"
    assert written["_metadata"] == {"version": SCHEMA_VERSION}
    for key in ("persistedUntil", "submittedAt", "submissionError", "deliveries", "findings", "sensor", "revision"):
        assert key not in written


def test_every_field_of_the_schema_is_written_by_some_session():
    model = json_schema()
    session = make_session(
        sensor="ward 7", revision=1, findings=(Finding("a", Severity.INFO, "b", 1, 2),), ignored=True,
        deliveries=(Delivery("rest", DeliveryStatus.FAILED, 2, NOW, NOW, "no"),), first_saved_at=NOW, saved_at=NOW,
        persisted_until=NOW, retention_days=3,
    )  # fmt: skip
    element = Element(1, Direction.FROM_LIS, ElementType.OTHER, 3, b"b", b"text", b"a", faults=(Fault("f", 1),),
                      late=True, missing=3)  # fmt: skip
    hexed = element._replace(content=b"\x00\x01")
    message = session.messages[0]._replace(charset="ASCII", reply_to="1", ack_code="AA")
    part = session.elements[0]._replace(span=(1, 2))
    session = session._replace(elements=(part, part, element, hexed), messages=(message, *session.messages[1:]))
    written = session_to_dict(session, saved=True)
    assert set(written) == set(model["properties"])
    found = {
        "StoredElement": written["elements"],
        "StoredMessageInfo": written["messageInfo"],
        "StoredFinding": written["findings"],
        "StoredDelivery": list(written["deliveries"].values()),
        "StoredMetadata": [written["_metadata"]],
        "StoredFault": written["elements"][2]["faults"],
    }
    for name, parts in found.items():
        assert {key for part in parts for key in part} == set(model["$defs"][name]["properties"]), name


def test_the_top_level_sums_up_the_deliveries():
    later = NOW + timedelta(hours=1)
    session = make_session(
        deliveries=(
            Delivery("a", DeliveryStatus.SUBMITTED, 1, None, NOW),
            Delivery("b", DeliveryStatus.FAILED, 3, later, None, "HTTP 500"),
            Delivery("c", DeliveryStatus.SUBMITTED, 2, None, later),
        )
    )
    written = session_to_dict(session, saved=True)
    assert written["submissionStatus"] == "failed"
    assert written["submissionAttempts"] == 3
    assert written["submittedAt"] == later.timestamp() * 1000
    assert written["submissionError"] == "HTTP 500"
    assert written["deliveries"]["b"] == {
        "status": "failed", "attempts": 3, "nextAt": later.timestamp() * 1000, "error": "HTTP 500",
    }  # fmt: skip
    assert session_to_dict(session._replace(ignored=True), saved=True)["submissionStatus"] == "ignored"


def test_times_are_milliseconds_of_the_packets():
    session = make_session(start_ns=1_700_000_000_123_456_789)
    written = session_to_dict(session, saved=True)
    assert written["startTime"] == 1_700_000_000_123
    assert written["elements"][0]["timestamp"] == 1_700_000_000_123.456
    assert written["elements"][1]["timestamp"] == 1_700_000_000_143.456
    assert session_from_json(session_to_json(session)).start_ns == 1_700_000_000_123_456_000


def test_the_usual_framing_is_left_out_and_the_unusual_is_said():
    element = make_session().elements[0]
    for protocol, before, after, said in [
        ("mllp", b"\x0b", b"\x1c\r", {}),
        ("mllp", b"\x0b", b"\x1c", {"after": "1c"}),
        ("mllp", b"", b"", {"before": "", "after": ""}),
        ("plain", b"\x02", b"\r\n", {}),
        ("plain", b"\x02", b"\r", {"after": "0d"}),
        ("lis01", b"\x021", b"\x03" + b"00\r\n", {"before": "0231", "after": "0330300d0a"}),
        ("other", b"", b"", {}),
    ]:
        session = make_session()._replace(protocol=protocol, elements=(element._replace(before=before, after=after),))
        written = session_to_dict(session, saved=True)["elements"][0]
        assert {key: written[key] for key in ("before", "after") if key in written} == said
        assert session_from_json(session_to_json(session)).elements[0][4:7] == (before, b"", after)


def test_a_sound_lis01_frame_needs_no_checksum_in_the_file():
    frames = [e for e in session_to_dict(make_session(protocol="lis01"), saved=True)["elements"] if "message" in e]
    assert [frame["before"] for frame in frames] == ["0231", "0232", "0233", "0234", "0235"]
    assert not any("after" in frame for frame in frames)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x05", {"hexData": "05"}),
        (b"A", {"hexData": "41"}),
        (b"stray bytes\r\n", {"content": "stray bytes\r\n", "encoding": "utf-8"}),
        ("Größe".encode("cp1252"), {"content": "Größe", "encoding": "cp1252"}),
        (b"\x02no end", {"hexData": b"\x02no end".hex()}),
        (b"\x81\x8d\x8f", {"hexData": "818d8f"}),
        (b"", {}),
    ],
)
def test_an_element_of_its_own_is_text_if_it_is_text_and_else_hex(content, said):
    session = make_session(elements=(Element(1000, Direction.FROM_LIS, ElementType.OTHER, 0, content=content),))
    written = session_to_dict(session, saved=True)["elements"][0]
    assert {key: written[key] for key in ("content", "encoding", "hexData") if key in written} == said


# Compact: at most 1.5 x payload + 130 bytes x elements + 800 bytes.


def _frames(size, count):
    """A LIS01 session with ``count`` frames of ``size`` bytes of text, as long-lived connections have it."""
    base = make_session(protocol="lis01", start_ns=1_790_000_000_123_456_789)
    enq, ack, frame, eot = base.elements[0], base.elements[1], base.elements[2], base.elements[-1]
    text = (b"R|1|^^^GLU|5.6|mmol/L|3.9-5.8|N||F||||20260102030405" + b"0" * size)[: size - 1] + b"\r"
    made = [enq._replace(offset=1_000_000), ack._replace(offset=2_000)]
    for n in range(count):
        head = b"%d" % ((n + 1) % 8)
        made.append(
            frame._replace(
                time_ns=frame.time_ns + 1_234_567 * n,
                offset=1_000_001 + n * (size + 7),
                before=b"\x02" + head,
                after=b"\x03%02X\r\n" % ((sum(head + text) + 3) & 0xFF),
                span=(n * size, (n + 1) * size),
            )
        )
        made.append(ack._replace(time_ns=frame.time_ns + 1_234_999 * n, offset=2_001 + n))
    made.append(eot._replace(offset=1_000_002 + count * (size + 7)))
    return base._replace(elements=tuple(made), messages=(base.messages[0]._replace(text=text * count),))


def _exchange(results):
    request = make_message(1, results=results)
    base = make_session(start_ns=1_790_000_000_123_456_789)
    first = base.elements[0]._replace(offset=123_456_789, span=(0, len(request.text)))
    return base._replace(elements=(first, base.elements[1]), messages=(request, base.messages[1]))


@pytest.mark.parametrize(
    "session",
    [
        pytest.param(_frames(60, 5), id="lis01, 5 frames of 60 bytes"),
        pytest.param(_frames(60, 200), id="lis01, 200 frames of 60 bytes"),
        pytest.param(_frames(30, 1000), id="lis01, 1000 frames of 30 bytes"),
        pytest.param(_frames(240, 30), id="lis01, 30 frames of 240 bytes"),
        pytest.param(make_session(protocol="lis01"), id="lis01, five records"),
        pytest.param(make_session(protocol="plain"), id="plain"),
        pytest.param(_exchange(9), id="mllp, 0.6 KB"),
        pytest.param(_exchange(25), id="mllp, 1.2 KB"),
    ],
)
@pytest.mark.parametrize("saved", [False, True])
def test_a_session_is_compact(session, saved):
    if saved:
        session = session._replace(
            deliveries=(Delivery("rest_destination"),), first_saved_at=NOW, saved_at=NOW, persisted_until=NOW,
            retention_days=30,
        )  # fmt: skip
    payload = sum(len(session.raw_of(element)) for element in session.elements)
    size = len(session_to_json(session, saved=saved))
    assert size <= 1.5 * payload + 130 * len(session.elements) + 800


# What comes from outside.


@pytest.mark.parametrize("name", sorted(path.name for path in (DATA / "v1").glob("*.json")))
def test_the_predecessors_files_load(name):
    data = (DATA / "v1" / name).read_bytes()
    assert schema_version_of(data) == "1.0.0"
    session = session_from_json(data, now=NOW)
    old = json.loads(data)
    assert SESSION_ID.fullmatch(session.id)
    assert int(session.id.replace("-", "")[:12], 16) == old["startTime"]
    assert session.id[14] == "7"
    assert session.id == session_from_json(data).id
    assert [session.raw_of(e).hex() for e in session.elements] == [e["hexData"] for e in old["elements"]]
    assert [e.offset for e in session.elements] == [0, 0, 1, 1, 175]
    message = session.messages[0]
    assert (message.control_id, message.message_type, message.direction) == ("4711", "ORU^R01", "device-to-pc")
    assert message.text == old["messages"][0].encode()[1:-2]  # STX and CR LF are the frame's
    assert (session.device, session.lis) == (Endpoint("192.0.2.10", 0), Endpoint("192.0.2.20", 0))
    assert session.is_complete
    assert session.ending is Ending.COMPLETE
    assert session.retention_days == 30
    assert session_from_json(session_to_json(session)) == session


def test_without_metadata_it_counts_as_saved_now_for_thirty_days():
    data = (DATA / "v1" / "predecessor-session-2-no-metadata.json").read_bytes()
    session = session_from_json(data, now=NOW)
    assert session.saved_at == session.first_saved_at == NOW
    assert session.persisted_until == NOW + timedelta(days=30)
    unsaved = session_from_json(data)
    assert unsaved.saved_at is None
    assert unsaved.persisted_until is None
    exact = session_from_json(data, now=NOW + timedelta(microseconds=1))
    assert session_from_json(session_to_json(exact)) == exact


def _old(**changes):
    return {
        "sessionId": 7, "startTime": 1_762_594_200_000, "deviceIP": "192.0.2.10", "lisIP": "192.0.2.20",
        "elements": [], "messages": [], "isComplete": True,
    } | changes  # fmt: skip


def _old_element(**changes):
    return {"timestamp": 1_762_594_200_000, "direction": "device-to-pc", "type": "message"} | changes


@pytest.mark.parametrize(
    "stored",
    [
        {"rawBytes": [2, 77, 13, 10]},
        {"rawBytes": {"type": "Buffer", "data": [2, 77, 13, 10]}, "hexData": "ff"},
        {"hexData": "024d0d0a", "content": "other"},
        {"content": "\x02M\r\n"},
        {"decodedMessage": "\x02M\r\n"},
    ],
)
def test_the_predecessors_bytes_are_taken_from_wherever_they_are(stored):
    session = session_from_json(json.dumps(_old(elements=[_old_element(**stored)], messages=["\x02M\r\n"])))
    assert session.raw_of(session.elements[0]) == b"\x02M\r\n"
    assert session.messages[0].text == b"M"


@pytest.mark.parametrize(
    ("raw", "protocol", "text"),
    [
        (b"\x0bMSH|^~\\&|\r\x1c\r", "mllp", b"MSH|^~\\&|\r"),
        (b"\x021H|\\^&|X\r\x0325\r\n", "lis01", b"H|\\^&|X\r"),
        (b"\x02MSH|^~\\&|\r\r\n", "plain", b"MSH|^~\\&|\r"),
        ("\x02Größe\r\n".encode("latin-1"), "plain", "Größe".encode("latin-1")),
        (b"MSH|^~\\&|", "plain", b"MSH|^~\\&|"),
    ],
)
def test_the_predecessors_messages_are_found_in_their_elements(raw, protocol, text):
    old = _old(elements=[_old_element(rawBytes=list(raw))], messages=[raw.decode("utf-8", "replace")])
    session = session_from_json(json.dumps(old))
    assert session.protocol == protocol
    assert session.messages[0].text == text
    assert session.elements[0].message == 0
    assert session.raw_of(session.elements[0]) == raw
    assert session_from_json(session_to_json(session)) == session


def test_a_predecessors_message_that_no_element_holds_is_kept():
    old = _old(elements=[_old_element(hexData="05")], messages=["H|\\^&|4711\rP|1\rL|1|N\r"])
    message = session_from_json(json.dumps(old)).messages[0]
    assert message.text == b"H|\\^&|4711\rP|1\rL|1|N\r"
    assert (message.control_id, message.message_type) == ("4711", "HPL")


@pytest.mark.parametrize("status", ["submitted", "failed", "ignored", "pending"])
def test_a_status_without_deliveries_is_kept(status):
    old = _old(submissionStatus=status, submissionAttempts=2, submittedAt=1_762_594_300_000, submissionError="no")
    session = session_from_json(json.dumps(old))
    assert session.status == status
    assert session_from_json(session_to_json(session)).status == status
    if status == "submitted":
        assert session.deliveries[0].name == "predecessor"
        assert session.deliveries[0].submitted_at == datetime(2025, 11, 8, 9, 31, 40, tzinfo=UTC)


def test_a_proper_id_of_an_old_file_is_kept():
    session_id = make_session().id
    assert session_from_json(json.dumps(_old(sessionId=session_id))).id == session_id
    assert session_from_json(json.dumps(_old(sessionId=None, id="session-7"))).id != session_id


@pytest.mark.parametrize("name", sorted(path.name for path in (DATA / "v2").glob("*.json")))
def test_golden_files_of_schema_2_load_and_are_written_the_same(name):
    data = (DATA / "v2" / name).read_bytes()
    session = session_from_json(data)
    assert session_to_json(session) == data
    assert session.status in DeliveryStatus


def test_there_are_golden_files_of_each_protocol():
    protocols = {json.loads(path.read_bytes())["protocol"] for path in (DATA / "v2").glob("*.json")}
    assert protocols == {"mllp", "lis01", "plain"}


def test_unknown_keys_are_let_pass():
    written = session_to_dict(make_session(), saved=True) | {"shiny": {"new": 1}}
    written["elements"][0]["colour"] = "red"
    assert session_from_json(json.dumps(written)) == at_stored_precision(make_session())


def test_a_newer_version_is_read_and_known_as_newer():
    written = session_to_dict(make_session(), saved=True)
    for version, newer in [("2.0.0", False), ("2.9.1", False), ("3.0.0", True), ("10", True), ("1.4", False)]:
        data = json.dumps(written | {"_metadata": {"version": version}})
        assert schema_version_of(data) == version
        assert is_newer(data) is newer
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
        _old(startTime=SECRET),
        _old(elements=SECRET),
        _old(elements=[_old_element(hexData=SECRET)]),
        _old(elements=[_old_element(rawBytes=[256])]),
        {key: value for key, value in _old().items() if key != "elements"},
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


def test_text_that_is_not_unicode_is_refused_without_quoting_it():
    with pytest.raises(SessionRefused, match="not Unicode") as caught:
        session_to_json(make_session(connection="SECRET \ud800"))
    assert "SECRET" not in str(caught.value)
    assert caught.value.__context__ is None


def test_writing_needs_no_pydantic():
    code = (
        "import sys\nfrom hl7core.model.schema import session_to_json\n"
        "assert not [name for name in sys.modules if name.startswith('pydantic')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
