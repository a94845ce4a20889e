"""What is sent: one session, or several in an array."""

from __future__ import annotations

import json

import pytest

from hl7core import Receipt, SessionRejected, session_to_json
from hl7core.testing import make_message, make_session
from hl7core.testing.receiver import receives
from plugins.rest_destination.parts import play, submitting


def test_the_body_has_the_fields_of_the_page_and_no_others(receiver):
    session = make_session(1, protocol="lis01")
    submitting(session, endpoint=receiver.url)
    (request,) = receiver.requests
    stored = json.loads(session_to_json(session))
    fields = ["sessionId", "startTime", "endTime", "deviceIP", "lisIP", "messages", "messageInfo"]
    assert list(request.json) == fields
    assert request.json == {field: stored[field] for field in fields}
    assert request.json["messages"][0].startswith("H|")
    assert (request.method, request.target) == ("POST", "/sessions")


def test_the_performer_goes_along(receiver):
    submitting(endpoint=receiver.url, performer="Organization/lab-7 (Größe)")
    assert receiver.requests[0].json["performer"] == "Organization/lab-7 (Größe)"


def test_bytes_that_are_no_text_arrive_exactly(receiver):
    data = bytes(range(256)) * 2000  # more than is made on the event loop
    submitting(make_session(1, messages=(make_message(1, text=data),), elements=()), endpoint=receiver.url)
    body = receiver.requests[0].json
    assert body["messages"][0].encode(body["messageInfo"][0]["encoding"]) == data


def test_what_cannot_be_written_as_json_is_rejected_and_not_quoted(receiver):
    broken = make_session(1, messages=(make_message(1, control_id="CANARY\ud800"),))
    outcome = submitting(broken, endpoint=receiver.url)
    assert type(outcome) is SessionRejected
    assert "CANARY" not in str(outcome)
    assert not receiver.requests


def test_a_group_is_one_post_with_an_array(receiver):
    sessions = [make_session(number) for number in range(3)]
    receiver.script = [receives(207, b'[{"status": 201, "id": "a"}, {"status": 422}, {"status": 200}]')]

    async def scene(destination):
        return await destination.submit_sessions(sessions)

    first, second, third = play(scene, endpoint=receiver.url, batch_size=10, performer="lab")
    (request,) = receiver.requests
    assert [item["sessionId"] for item in request.json] == [session.id for session in sessions]
    assert all(item["performer"] == "lab" for item in request.json)
    assert (first, third) == (Receipt("a"), Receipt())
    assert type(second) is SessionRejected


def test_a_group_keeps_its_key_and_another_group_has_another(receiver):
    sessions = [make_session(number) for number in range(4)]

    async def scene(destination):
        for group in (sessions[:3], sessions[:3], sessions[1:]):
            await destination.submit_sessions(group)

    play(scene, endpoint=receiver.url, batch_size=10)
    first, again, other = (request.key for request in receiver.requests)
    assert first == again != other


def test_a_receiver_of_groups_gets_an_array_of_one_too(receiver):
    receiver.script = [receives(207, b"[409]"), receives(207, b'[{"status": 201, "reference": "r"}]')]
    outcome = submitting(endpoint=receiver.url, batch_size=10)
    assert "HTTP 409" in str(outcome)
    assert submitting(endpoint=receiver.url, batch_size=10) == Receipt("r")
    assert all(isinstance(request.json, list) for request in receiver.requests)
    assert {request.key for request in receiver.requests} == {make_session(1).id}


def test_a_refused_group_raises_so_that_each_is_handed_on_alone(receiver):
    receiver.behaviour = receives(413)

    async def scene(destination):
        with pytest.raises(SessionRejected, match="413"):
            await destination.submit_sessions([make_session(number) for number in range(3)])

    play(scene, endpoint=receiver.url, batch_size=10)
