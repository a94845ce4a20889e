"""The list of captures on disk."""

import json
import os

import pytest

from hl7core.cli.captures import CAPTURES_NAME, captures_between, note_capture


def listed(folder):
    return [json.loads(line) for line in (folder / CAPTURES_NAME).read_text().splitlines()]


def capture(folder, name, ended):
    path = folder / name
    path.write_bytes(b"")
    os.utime(path, (ended, ended))
    return path


@pytest.mark.parametrize("prune", [False, True])
def test_each_capture_is_one_line_in_a_private_file(tmp_path, prune):
    folder = tmp_path / "data"
    paths = [capture(tmp_path, f"{number}.pcapng", 10) for number in range(3)]
    for number, path in enumerate(paths):
        note_capture(folder, path, number, prune=prune)
    assert listed(folder) == [{"path": str(path), "begun": number} for number, path in enumerate(paths)]
    assert (folder / CAPTURES_NAME).stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in folder.iterdir()] == [CAPTURES_NAME]


def test_pruning_removes_what_no_longer_exists_and_lines_cut_short(tmp_path):
    kept, gone, new = (capture(tmp_path, name, 10) for name in ("kept", "gone", "new"))
    note_capture(tmp_path, kept, 1, prune=True)
    note_capture(tmp_path, gone, 2, prune=False)
    with (tmp_path / CAPTURES_NAME).open("a") as file:
        file.write('{"path": "/half/a/li\n')
    gone.unlink()
    note_capture(tmp_path, new, 3, prune=True)
    assert [entry["path"] for entry in listed(tmp_path)] == [str(kept), str(new)]


def test_what_is_noted_is_on_the_disk(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(os.fstat(descriptor).st_ino), fsync(descriptor)))
    for prune in (True, False):
        synced.clear()
        note_capture(tmp_path, tmp_path / "a", 1, prune=prune)
        assert (tmp_path / CAPTURES_NAME).stat().st_ino in synced


def test_a_link_in_the_lists_place_is_not_followed(tmp_path):
    (tmp_path / "victim").write_text("")
    (tmp_path / CAPTURES_NAME).symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"):
        note_capture(tmp_path, tmp_path / "a", 1, prune=False)
    assert (tmp_path / "victim").read_text() == ""


def test_those_that_may_hold_the_packets_are_found_oldest_first(tmp_path):
    for name, begun, ended in (("late", 2000, 3000), ("early", 0, 1000), ("gone", 0, 1000)):
        note_capture(tmp_path, capture(tmp_path, name, ended), begun, prune=False)
    (tmp_path / "gone").unlink()
    assert captures_between(tmp_path, 900, 2100) == [str(tmp_path / "early"), str(tmp_path / "late")]
    assert captures_between(tmp_path, 1040, 1050) == [str(tmp_path / "early")]  # within the clocks' difference
    assert captures_between(tmp_path, 1200, 1800) == []
    assert captures_between(tmp_path / "none", 0, 5000) == []
