"""What is written of a session: every captured byte, under the keys of the schema, in their order."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given

from hl7core.errors import SessionRefused
from hl7core.model.delivery import Delivery, DeliveryStatus
from hl7core.model.finding import Finding, Severity
from hl7core.model.frame import Fault
from hl7core.model.schema import (
    SCHEMA_VERSION,
    at_stored_precision,
    session_to_dict,
    session_to_json,
)
from hl7core.model.session import Direction, Element, ElementType
from hl7core.model.stored import session_from_json
from hl7core.model.stored_shape import StoredModel, StoredSession
from hl7core.testing import make_message, make_session
from model.values import sessions

NOW = datetime(2026, 1, 3, 12, tzinfo=UTC)


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
    model = StoredSession.model_json_schema(by_alias=True)
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
