"""What goes over the control socket, there and back."""

import json
from datetime import UTC, datetime

import pytest

from hl7core.engine.control.protocol import (
    error_from_line,
    error_to_line,
    event_to_json,
    query_from_json,
    query_to_json,
)
from hl7core.errors import EngineError, InterfaceMissing, PermissionMissing, PluginError, SettingsError, StoreError
from hl7core.model.cleanup import CleanupReport
from hl7core.model.delivery import DeliveryStatus
from hl7core.model.events import CleanupSummary, SubmissionResult
from hl7core.model.session import SessionQuery

NOW = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)


@pytest.mark.parametrize(
    "query",
    [
        SessionQuery(),
        SessionQuery(ids=("a", "b"), status=(DeliveryStatus.FAILED,), newest_first=True, limit=7),
        SessionQuery(since=NOW, until=NOW, expired_at=NOW, after=(NOW, "x")),
        SessionQuery(device="10.0.0.1", patient="P", specimen="S", text="ü", pending_for="lab", finding="f"),
    ],
)
def test_a_query_arrives_as_it_was_sent(query):
    assert query_from_json(json.loads(json.dumps(query_to_json(query)))) == query


@pytest.mark.parametrize(
    "error",
    [
        SettingsError("core.store: no", "core.x: no"),
        StoreError("full"),
        PluginError("broken"),
        EngineError("off"),
        PermissionMissing("no", remedy="setcap"),
        InterfaceMissing("eth9", existing=("eth0",)),
    ],
)
def test_an_error_arrives_as_what_it_is(error):
    back = error_from_line(json.loads(error_to_line(error)))
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert vars(back) == vars(error)


def test_an_error_that_is_none_of_ours_is_named_by_kind_alone():
    line = error_to_line(ValueError("PATIENT^NAME"))
    assert b"PATIENT" not in line
    assert b"ValueError" in line


def test_events_are_plain_json_with_times_in_unix_milliseconds():
    made = event_to_json(SubmissionResult("id", "lab", True, 1, submitted_at=NOW))
    assert made["event"] == "SubmissionResult"
    assert made["submittedAt"] == 1767323045678
    assert made["sessionId"] == "id"


def test_the_summary_of_a_cleanup_has_the_fields_that_other_programs_read():
    report = CleanupReport(3, 4096, 5, kept=(("still to be sent", 2),))
    summary = json.loads(json.dumps(event_to_json(CleanupSummary(report, NOW, NOW))))
    assert summary["event"] == "CleanupSummary"
    wanted = {
        "filesDeleted": 3, "bytesFreed": 4096, "filesInTrash": 5, "startTime": 1767323045678, "endTime": 1767323045678,
        "dryRun": False,
    }  # fmt: skip
    assert summary.items() >= wanted.items()
    assert summary["kept"] == {"still to be sent": 2}
