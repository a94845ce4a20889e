"""The plugin: what is saved, what is refused, what is logged."""

from __future__ import annotations

import logging

import pytest

from hl7core import SessionQuery, SessionRefused, StoreError
from hl7core_plugins.json_store import JsonStore
from plugins.json_store.parts import files_in, session, started


def test_a_save_is_logged_with_id_and_path_and_without_content(store, caplog):
    caplog.set_level(logging.DEBUG)
    where = store.persist_session(session(), replace=False)
    lines = [record.getMessage() for record in caplog.records]
    assert any(session().id in line and where in line for line in lines)
    assert not any("TEST^PATIENT" in line or "P-0001" in line for line in lines)


def test_it_takes_nothing_before_it_is_started(tmp_path):
    with pytest.raises(StoreError, match="not been started"):
        JsonStore().persist_session(session(), replace=False)
    store = started(tmp_path)
    store.stop()
    with pytest.raises(StoreError, match="not been started"):
        store.load_sessions(SessionQuery())


@pytest.mark.parametrize(
    "changes",
    [
        {"device": ("192.0.2.1", 70_000)},
        {"start_ns": -1},
        {"ending": "SECRET"},
        {"connection": "SECRET\ud800"},
        {"elements": ("SECRET",)},
        {"messages": None},
        {"deliveries": ("SECRET",)},
    ],
)
def test_what_could_not_be_read_again_is_refused(store, changes):
    spoilt = session()
    changes = dict(changes)
    if "device" in changes:
        changes["device"] = spoilt.device._replace(port=70_000)
    with pytest.raises(SessionRefused) as caught:
        store.persist_session(spoilt._replace(**changes), replace=False)
    assert "SECRET" not in str(caught.value)
    assert files_in(store.folder) == []


@pytest.mark.parametrize("spoilt", [None, "text", object(), ("a", "b")])
def test_what_is_no_session_is_refused(store, spoilt):
    with pytest.raises(SessionRefused):
        store.persist_session(spoilt, replace=True)
