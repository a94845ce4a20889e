"""A disturbed exchange is followed through few files."""

import os
import subprocess
import sys
from pathlib import Path

from hl7core.model.text import decode
from house.journey import changes, journey

JOURNEY = Path(__file__).with_name("journey.py")
MOST_FILES = 18
MOST_CHANGES = 120


def test_an_exchange_that_is_answered_late_passes_few_files_and_seldom_goes_back_and_forth():
    run = subprocess.run(
        [sys.executable, str(JOURNEY)],
        env={**os.environ, "HL7CORE_PURE": "1"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    *files, last = run.stdout.splitlines()
    count, _, steps, *_ = last.split()
    assert files[0] == "wire/decoder.py"
    assert "wire/mllp_sessions/acknowledgement.py" in files
    assert len(files) == int(count) <= MOST_FILES, "\n".join(files)
    assert int(steps) <= MOST_CHANGES


def test_each_call_into_another_file_is_a_change():
    assert changes([]) == 0
    assert changes(["a", "a", "b", "a"]) == 3
    assert journey(lambda: decode(b"x", "")) == ["model/text.py"]
