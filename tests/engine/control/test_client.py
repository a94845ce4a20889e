"""The client of the control socket: what commands get from a running engine."""

import threading

import pytest

from engine.parts import exchange, poll, session
from hl7core.engine.control.client import ControlClient
from hl7core.errors import EngineError
from hl7core.model.session import SessionQuery


def test_where_nobody_listens_there_is_no_client(tmp_path):
    assert ControlClient(tmp_path).connect() is None
    assert ControlClient(tmp_path / "none").connect() is None


def test_sessions_come_in_pages_as_many_as_are_asked_for(running, client):
    for number in range(1, 1203):
        running.store.held[session(number).id] = session(number)
    found = list(client.sessions(SessionQuery(limit=5000)))
    assert [one.id for one in found] == [session(number).id for number in range(1, 1203)]
    assert len(list(client.sessions(SessionQuery(limit=700, newest_first=True)))) == 700
    assert [one.id for one in client.sessions(SessionQuery(limit=2))] == [session(1).id, session(2).id]
    (one,) = client.sessions(SessionQuery(ids=(session(7).id,)))
    assert [message.text for message in one.messages] == [b"MSH|^~\\&|A\r"]


def test_sessions_are_changed_deleted_and_restored(running, client):
    running.store.held[session(1).id] = session(1)
    ids = [session(1).id, session(2).id]
    assert client.ignore(ids) == ids[:1]
    poll(lambda: running.store.held[ids[0]].ignored)
    assert client.unignore(ids) == ids[:1]
    assert client.retry(ids) == ids[:1]
    assert client.delete(ids) == ids[:1]
    assert client.restore(ids) == ids[:1]
    assert client.cleanup(dry_run=True) == []


def test_errors_arrive_as_what_they_are(client):
    with pytest.raises(EngineError, match="no destination is active"):
        client.call("submit_now")
    with pytest.raises(EngineError, match="no command"):
        client.call("explode")


def test_following_hears_sessions_and_events_as_they_happen(running, client):
    stream = client.follow()
    threading.Timer(0.2, lambda: running.feed(exchange("A"))).start()
    heard = []
    for item in stream:
        heard.append(item)
        if item.get("event") == "SessionSaved":
            break
    (found,) = [item["session"] for item in heard if "session" in item]
    assert found["isComplete"]
    assert heard[-1]["sessionId"] == found["sessionId"]
