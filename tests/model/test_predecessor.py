"""The predecessor's files: each byte that they hold of the wire is kept, and each session gets a proper id."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hl7core.model.packet import Endpoint
from hl7core.model.schema import session_to_json
from hl7core.model.session import SESSION_ID, Ending
from hl7core.model.stored import schema_version_of, session_from_json
from hl7core.testing import make_session
from model.old_files import old_element, old_session

FILES = Path(__file__).parent.parent / "data" / "sessions" / "v1"
NOW = datetime(2026, 1, 3, 12, tzinfo=UTC)


@pytest.mark.parametrize("name", sorted(path.name for path in (FILES).glob("*.json")))
def test_the_predecessors_files_load(name):
    data = (FILES / name).read_bytes()
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
    data = (FILES / "predecessor-session-2-no-metadata.json").read_bytes()
    session = session_from_json(data, now=NOW)
    assert session.saved_at == session.first_saved_at == NOW
    assert session.persisted_until == NOW + timedelta(days=30)
    unsaved = session_from_json(data)
    assert unsaved.saved_at is None
    assert unsaved.persisted_until is None
    exact = session_from_json(data, now=NOW + timedelta(microseconds=1))
    assert session_from_json(session_to_json(exact)) == exact


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
    session = session_from_json(json.dumps(old_session(elements=[old_element(**stored)], messages=["\x02M\r\n"])))
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
    old = old_session(elements=[old_element(rawBytes=list(raw))], messages=[raw.decode("utf-8", "replace")])
    session = session_from_json(json.dumps(old))
    assert session.protocol == protocol
    assert session.messages[0].text == text
    assert session.elements[0].message == 0
    assert session.raw_of(session.elements[0]) == raw
    assert session_from_json(session_to_json(session)) == session


def test_a_predecessors_message_that_no_element_holds_is_kept():
    old = old_session(elements=[old_element(hexData="05")], messages=["H|\\^&|4711\rP|1\rL|1|N\r"])
    message = session_from_json(json.dumps(old)).messages[0]
    assert message.text == b"H|\\^&|4711\rP|1\rL|1|N\r"
    assert (message.control_id, message.message_type) == ("4711", "HPL")


@pytest.mark.parametrize("status", ["submitted", "failed", "ignored", "pending"])
def test_a_status_without_deliveries_is_kept(status):
    old = old_session(
        submissionStatus=status, submissionAttempts=2, submittedAt=1_762_594_300_000, submissionError="no"
    )
    session = session_from_json(json.dumps(old))
    assert session.status == status
    assert session_from_json(session_to_json(session)).status == status
    if status == "submitted":
        assert session.deliveries[0].name == "predecessor"
        assert session.deliveries[0].submitted_at == datetime(2025, 11, 8, 9, 31, 40, tzinfo=UTC)


def test_a_proper_id_of_an_old_file_is_kept():
    session_id = make_session().id
    assert session_from_json(json.dumps(old_session(sessionId=session_id))).id == session_id
    assert session_from_json(json.dumps(old_session(sessionId=None, id="session-7"))).id != session_id
