"""An exception in words for a person."""

import pytest

from hl7core.engine.reason import reason_of
from hl7core.errors import StoreError


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (StoreError("the disk is full"), "the disk is full"),
        (OSError(28, "No space left on device", "/data/PATIENT.json"), "No space left on device"),
        (ValueError("PATIENT^NAME"), "ValueError"),
    ],
    ids=["ours", "the system's", "foreign"],
)
def test_a_reason_never_holds_what_a_foreign_exception_quotes(error, reason):
    assert reason in reason_of(error)
    assert "PATIENT" not in reason_of(error)
