"""``hl7core cleanup``."""

import json
import time

from cli.data_folder import DAY, expiring, store_in, stored, trashed
from hl7core import Delivery
from shell import engine, hl7core

SUMMARY = {"filesDeleted", "bytesFreed", "filesInTrash", "startTime", "endTime", "dryRun"}
OLD, YOUNG = [expiring(number, left=-DAY) for number in (1, 2, 3)], expiring(9, left=DAY)
IDS = [one.id for one in OLD]


def test_a_dry_run_says_what_would_go_and_nothing_goes(tmp_path):
    store_in(tmp_path, *OLD, YOUNG)
    run = hl7core("cleanup", "--dry-run", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "3 sessions would be deleted" in run.stdout
    assert len(stored(tmp_path)) == 4
    assert not trashed(tmp_path)


def test_it_cleans_up_without_an_engine_and_its_summary_is_for_programs(tmp_path):
    store_in(tmp_path, *OLD, YOUNG)
    run = hl7core("cleanup", "-o", "json", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    summary = json.loads(run.stdout)
    assert summary.keys() >= SUMMARY
    assert (summary["filesDeleted"], summary["filesInTrash"], summary["dryRun"]) == (3, 3, False)
    assert summary["bytesFreed"] == sum(path.stat().st_size for path in (tmp_path / "docs/trash").glob("*/*.json"))
    assert stored(tmp_path) == [YOUNG.id]
    assert trashed(tmp_path) == IDS


def test_what_it_took_comes_back_by_one_command(tmp_path):
    store_in(tmp_path, *OLD, YOUNG)
    hl7core("cleanup", cwd=tmp_path)
    listed = [json.loads(line) for line in hl7core("sessions", "restore", "--list", cwd=tmp_path).stdout.splitlines()]
    assert [entry["sessionId"] for entry in listed] == IDS
    run = hl7core("sessions", "restore", "--last", cwd=tmp_path, HL7CORE_CORE__RETENTION_DAYS="60")
    assert run.stdout == "3 restored\n"
    assert run.stderr == ""
    assert len(stored(tmp_path)) == 4
    again = hl7core("cleanup", cwd=tmp_path)
    assert "0 sessions deleted" in again.stdout
    assert hl7core("sessions", "restore", "--all", cwd=tmp_path).returncode == 3


def test_what_is_still_to_be_sent_is_kept_without_an_engine_too_and_nothing_is_sent(tmp_path):
    waiting = expiring(1, left=-DAY, deliveries=(Delivery("rest_destination"),))
    store_in(tmp_path, waiting, *OLD[1:])
    endpoint = {"HL7CORE_PLUGINS__REST_DESTINATION__ENDPOINT": "http://127.0.0.1:9/"}
    run = hl7core("cleanup", cwd=tmp_path, **endpoint)
    assert "1 kept: still pending, within the grace period of 30 days" in run.stdout
    assert waiting.id in stored(tmp_path)
    assert b'"attempts":0' in (tmp_path / f"docs/sessions/{waiting.id}.json").read_bytes()
    run = hl7core("cleanup", cwd=tmp_path)  # without the endpoint nobody waits for it
    assert waiting.id not in stored(tmp_path)


def test_a_clock_in_doubt_is_exit_1_and_yes_settles_it(tmp_path):
    store_in(tmp_path, expiring(1, left=-DAY, saved=40 * DAY))
    run = hl7core("cleanup", cwd=tmp_path)
    assert run.returncode == 1
    assert "hl7core cleanup --yes" in run.stderr
    assert stored(tmp_path)
    assert hl7core("cleanup", "--yes", cwd=tmp_path).returncode == 0
    assert not stored(tmp_path)


def test_while_nothing_is_saved_or_retention_is_off_it_says_so(tmp_path):
    store_in(tmp_path, *OLD)
    run = hl7core("cleanup", cwd=tmp_path, HL7CORE_CORE__ENABLE_PERSISTENCE="false")
    assert run.returncode == 1
    assert "enable_persistence" in run.stderr
    run = hl7core("cleanup", cwd=tmp_path, HL7CORE_PLUGINS__RETENTION__ENABLED="false")
    assert run.returncode == 1
    assert "retention" in run.stderr
    assert len(stored(tmp_path)) == 3


def test_through_a_running_engine_it_is_the_same(tmp_path):
    store_in(tmp_path, *OLD, YOUNG)
    (tmp_path / "settings.toml").write_text("[plugins.retention]\ndry_run = true\n")
    with engine(tmp_path):
        run = hl7core("cleanup", cwd=tmp_path)
        assert "3 sessions would be deleted" in run.stdout, run.stderr
        assert len(stored(tmp_path)) == 4
        (tmp_path / "settings.toml").write_text("[plugins.retention]\ndry_run = false\n")
        until = time.monotonic() + 20
        while stored(tmp_path) != [YOUNG.id]:
            assert time.monotonic() < until
            run = hl7core("cleanup", cwd=tmp_path)
        assert hl7core("sessions", "restore", "--last", cwd=tmp_path).stdout == "3 restored\n"
        assert (
            hl7core("sessions", "delete", "--for-good", "-y", IDS[0], cwd=tmp_path).stdout == "1 deleted permanently\n"
        )
