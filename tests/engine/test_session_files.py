"""Files of sessions: one per line, in an array, or formatted by another program."""

import json

import pytest

from hl7core.engine.session_files import read_sessions, session_files
from hl7core.errors import SessionRefused, StoreError
from hl7core.model.schema import session_to_json
from hl7core.testing import make_session

LINES = [session_to_json(make_session(number)) for number in range(1, 4)]
IDS = [make_session(number).id for number in range(1, 4)]


@pytest.mark.parametrize(
    "content",
    [
        b"\n".join(LINES),
        b"\xef\xbb\xbf[\n" + b",\n".join(LINES) + b"\n]\n",
        json.dumps([json.loads(line) for line in LINES], indent=2).encode(),
    ],
    ids=["one per line", "an array with a session per line", "formatted"],
)
def test_every_layout_gives_the_same_sessions(tmp_path, content):
    file = tmp_path / "day.json"
    file.write_bytes(content)
    assert [session.id for session in read_sessions(file)] == IDS


def test_a_damaged_line_is_named_and_affects_no_other(tmp_path):
    file = tmp_path / "day.jsonl"
    file.write_bytes(LINES[0] + b"\nPATIENT^NAME\n" + LINES[2] + b"\n")
    first, damaged, last = read_sessions(file)
    assert [first.id, last.id] == [IDS[0], IDS[2]]
    assert isinstance(damaged, SessionRefused)
    assert "line 2" in str(damaged)
    assert "PATIENT" not in str(damaged)


def test_what_is_not_json_is_one_damaged_entry(tmp_path):
    file = tmp_path / "page.json"
    file.write_text("<html>")
    (damaged,) = read_sessions(file)
    assert str(damaged) == f"{file}: not valid JSON"


def test_a_folder_gives_its_session_files_and_follows_no_links(tmp_path):
    (tmp_path / "in/deeper").mkdir(parents=True)
    for name in ("in/b.jsonl", "in/a.json", "in/deeper/c.json", "in/notes.txt"):
        (tmp_path / name).write_bytes(LINES[0])
    (tmp_path / "in/link.json").symlink_to(tmp_path / "in/a.json")
    found = [str(path.relative_to(tmp_path)) for path in session_files([str(tmp_path / "in")])]
    assert found == ["in/a.json", "in/b.jsonl", "in/deeper/c.json"]


def test_a_path_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(StoreError, match="nowhere: no such file or folder"):
        session_files([str(tmp_path / "nowhere")])
