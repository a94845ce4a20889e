"""``hl7core sessions delete`` and ``restore``."""

import pytest

from cli.data_folder import DAY, expiring, store_in, stored, trashed
from shell import hl7core

OLD, YOUNG = [expiring(number, left=-DAY) for number in (1, 2, 3)], expiring(9, left=DAY)
IDS = [one.id for one in OLD]


def test_what_has_expired_still_is_told_of_when_it_is_restored(tmp_path):
    store_in(tmp_path, OLD[0])
    hl7core("cleanup", cwd=tmp_path)
    run = hl7core("sessions", "restore", IDS[0], cwd=tmp_path)
    assert run.returncode == 0
    assert "have expired" in run.stderr
    assert "retention_days" in run.stderr


def test_deleting_goes_to_the_trash_without_a_question_and_permanently_after_one(tmp_path):
    store_in(tmp_path, *OLD)
    run = hl7core("sessions", "delete", IDS[0], cwd=tmp_path)
    assert (run.returncode, run.stdout) == (0, "1 moved to the trash\n")
    assert trashed(tmp_path) == IDS[:1]
    asked = hl7core("sessions", "delete", "--for-good", IDS[1], cwd=tmp_path)
    assert asked.returncode == 130
    assert "permanently?" in asked.stderr
    assert stored(tmp_path) == IDS[1:]
    run = hl7core("sessions", "delete", "--for-good", "--yes", IDS[1], YOUNG.id, cwd=tmp_path)
    assert (run.returncode, run.stdout) == (4, "1 deleted permanently\n")
    assert YOUNG.id in run.stderr
    assert stored(tmp_path) == IDS[2:]
    assert trashed(tmp_path) == IDS[:1]


@pytest.mark.parametrize("arguments", [(), ("--last", "--all"), (IDS[0], "--last")])
def test_restore_wants_to_know_what(tmp_path, arguments):
    assert hl7core("sessions", "restore", *arguments, cwd=tmp_path).returncode == 2
