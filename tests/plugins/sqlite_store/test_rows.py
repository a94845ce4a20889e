"""A session as a row: what is written, and what a damaged row is worth."""

from __future__ import annotations

import logging

import pytest

from hl7core import Delivery, DeliveryStatus, Finding, Severity, session_to_json
from hl7core.model.schema import at_stored_precision
from hl7core.testing import make_session
from plugins.sqlite_store.parts import NOW, asked, edited, loaded, session


def test_a_session_is_a_row_with_its_json_and_columns_that_people_can_ask_for(store, tmp_path):
    one = session(
        3, deliveries=(Delivery("rest"),), persisted_until=NOW, findings=(Finding("gap", Severity.INFO, "a"),)
    )
    where = store.persist_session(one, replace=False)
    assert where == f"{tmp_path / 'sessions.sqlite'}#{one.id}"
    query = "SELECT id, start_us, end_us, status, protocol, device, lis, persisted_until_us, json FROM sessions"
    ((*columns, json),) = asked(store.path, query)
    start_us, until_us = one.start_ns // 1000, int(NOW.timestamp()) * 1_000_000
    end_us = one.end_ns // 1_000_000 * 1000
    assert columns == [one.id, start_us, end_us, "pending", "mllp", "192.0.2.10", "192.0.2.20", until_us]
    assert json.encode() == session_to_json(one)
    assert asked(store.path, "SELECT json_extract(json, '$.messageInfo[0].controlId') FROM sessions") == [("M000003",)]
    found_by = asked(store.path, "SELECT DISTINCT kind FROM found_by ORDER BY kind")
    assert found_by == [("control_id",), ("finding",), ("patient",), ("pending",), ("specimen",)]


def test_a_status_that_changes_touches_no_index_but_its_own(store):
    one = session(1, deliveries=(Delivery("rest"),))
    store.persist_session(one, replace=False)
    before = asked(store.path, "SELECT * FROM found_by WHERE kind <> 'pending' ORDER BY kind, value")
    sent = one._replace(deliveries=(Delivery("rest", DeliveryStatus.SUBMITTED, 1, None, NOW),))
    store.persist_session(sent, replace=True)
    assert asked(store.path, "SELECT status FROM sessions") == [("submitted",)]
    assert asked(store.path, "SELECT * FROM found_by ORDER BY kind, value") == before
    assert loaded(store) == [sent]


def test_a_session_of_many_thousand_identifiers_is_saved_and_found(store):
    made = make_session(1)
    text = made.messages[0].text + b"".join(b"OBR|%d|SP-%05d\r" % (n, n) for n in range(12_000))
    element = made.elements[0]._replace(span=(0, len(text)))
    messages = (made.messages[0]._replace(text=text, control_id="C" * 5000), made.messages[1])
    big = at_stored_precision(made._replace(messages=messages, elements=(element, made.elements[1])))
    store.persist_session(big, replace=False)
    assert loaded(store, specimen="SP-00042", control_id="C" * 5000) == [big]
    assert loaded(store, control_id="C" * 4999) == []
    assert store.delete_sessions([big.id], to_trash=False) == [big.id]
    assert asked(store.path, "SELECT count(*) FROM found_by") == [(0,)]


def test_a_row_that_cannot_be_read_is_logged_once_and_kept(store, caplog):
    store.persist_sessions([session(1), session(2)], replace=False)
    edited(store.path, "UPDATE sessions SET json = ? WHERE id = ?", '{"sessionId": "SECRET^PATIENT"', session(1).id)
    assert loaded(store) == loaded(store) == [session(2)]
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(lines) == 1
    assert session(1).id in lines[0]
    assert "SECRET" not in caplog.text
    assert asked(store.path, "SELECT count(*) FROM sessions") == [(2,)]


def test_a_row_that_holds_another_session_or_no_text_is_skipped(store):
    store.persist_sessions([session(1), session(2), session(3)], replace=False)
    other = session_to_json(session(9)).decode()
    edited(store.path, "UPDATE sessions SET json = ? WHERE id = ?", other, session(1).id)
    edited(store.path, "UPDATE sessions SET json = ? WHERE id = ?", b"\xff\xfe", session(2).id)
    assert loaded(store) == [session(3)]


@pytest.mark.parametrize("replace", [False, True])
def test_a_damaged_row_never_passes_for_a_save(store, replace):
    store.persist_session(session(1), replace=False)
    edited(store.path, "UPDATE sessions SET json = '{', status = 'x'")
    store.persist_session(session(1), replace=replace)
    assert loaded(store, status=(DeliveryStatus.PENDING,)) == [session(1)]
