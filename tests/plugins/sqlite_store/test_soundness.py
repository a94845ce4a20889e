"""Which sessions may be stored: those that can be read again."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hl7core import Delivery, DeliveryStatus, Finding, SessionRefused, Severity, session_from_json, session_to_json
from hl7core.testing import make_session
from hl7core_plugins.sqlite_store.rows import row_of, stored_row
from hl7core_plugins.sqlite_store.soundness import is_sound
from plugins.sqlite_store.parts import NOW, loaded, session


@pytest.mark.parametrize(
    "changes",
    [
        {"device": session().device._replace(port=70_000)},
        {"device": session().device._replace(address='SECRET"')},
        {"start_ns": -1},
        {"ending": "SECRET"},
        {"connection": "SECRET\ud800"},
        {"elements": ("SECRET",)},
        {"elements": (session().elements[0]._replace(message=7),)},
        {"elements": (session().elements[0]._replace(span=(5, 99_999)),)},
        {"messages": None},
        {"deliveries": ("SECRET",)},
        {"retention_days": "SECRET"},
        {"revision": -1},
        {"persisted_until": datetime(1960, 1, 1, tzinfo=UTC)},
    ],
)
def test_what_could_not_be_read_again_is_refused_and_the_others_are_saved(store, changes):
    spoilt = session(1)._replace(**changes)
    outcomes = store.persist_sessions([spoilt, session(2), None, ("a", "b")], replace=False)
    if "SECRET" in str(changes.get("device", "")):  # odd, but it can be read again
        assert isinstance(outcomes[0], str | SessionRefused)
    else:
        assert isinstance(outcomes[0], SessionRefused)
        assert "SECRET" not in str(outcomes[0])
        assert loaded(store) == [session(2)]
    assert [type(outcome) for outcome in outcomes[1:]] == [str, SessionRefused, SessionRefused]


def sessions():
    """Sessions with whatever a plugin may have put into them."""
    texts = st.sampled_from(["", "x", 'a"b', "back\\slash", "\ud800", "é", "x" * 300, None, 7])
    numbers = st.sampled_from([0, 1, 2**62, -1, 2**63, 1_700_000_000_000_000_000, 1.5, True, None])
    moments = st.sampled_from([None, NOW, datetime(1960, 1, 1, tzinfo=UTC), datetime(2020, 1, 1), "now"])  # noqa: DTZ001
    deliveries = st.lists(
        st.builds(
            Delivery, st.sampled_from(["a", "b", 7]), st.sampled_from([*DeliveryStatus, "pending"]), numbers, moments
        ),
        max_size=2,
    ).map(tuple)
    findings = st.lists(
        st.builds(Finding, texts, st.sampled_from([*Severity, "bad"]), texts, numbers, numbers), max_size=1
    )
    ends = st.builds(session().device.__class__, texts, st.sampled_from([0, 65535, 65536, -1, "x"]))
    elements = st.sampled_from(["time_ns", "offset", "missing", "message", "span", "late", "before"]).flatmap(
        lambda field: st.one_of(numbers, texts, st.tuples(numbers, numbers)).map(
            lambda value: (session().elements[0]._replace(**{field: value}), session().elements[1])
        )
    )
    fields = {
        "protocol": texts, "sensor": texts, "connection": texts, "start_ns": numbers, "end_ns": numbers,
        "revision": numbers, "retention_days": numbers, "deliveries": deliveries, "findings": findings.map(tuple),
        "device": ends, "saved_at": moments, "persisted_until": moments, "elements": elements,
        "ignored": st.sampled_from([True, False, None, 1]), "is_complete": st.sampled_from([True, False, 1]),
    }  # fmt: skip
    names = st.lists(st.sampled_from(sorted(fields)), max_size=3, unique=True)
    return names.flatmap(lambda chosen: st.fixed_dictionaries({name: fields[name] for name in chosen})).map(
        lambda changes: make_session(1)._replace(**changes)
    )


@given(sessions())
def test_what_counts_as_sound_can_be_read_again_and_its_columns_follow_from_its_json(one):
    if is_sound(one):
        try:
            data = session_to_json(one)
        except (SessionRefused, UnicodeEncodeError):  # not Unicode
            return
        read = session_from_json(data)
        assert session_to_json(read) == data
        assert row_of(one) == stored_row(data)
    else:
        try:
            row = row_of(one)
        except SessionRefused:
            return
        assert row == stored_row(row.values[-1].encode())


def test_the_sessions_of_the_wire_are_sound():
    for protocol in ("mllp", "lis01", "plain"):
        assert is_sound(make_session(1, protocol=protocol))
