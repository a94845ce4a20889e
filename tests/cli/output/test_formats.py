"""The output formats, and the one table from which every command takes its choices."""

import csv
import io
import json

import click
import pytest

from hl7core.cli.commands.capture import command as capture
from hl7core.cli.commands.read import command as read
from hl7core.cli.commands.sessions import command as sessions
from hl7core.cli.output import formats
from hl7core.cli.output.formats import FORMATS, Csv, OutputFormat, format_of_file, safe_cell, writer_for
from hl7core.testing import make_message, make_session

COMMANDS = {"read": read, "capture": capture} | {name: sessions.commands[name] for name in ("list", "show", "export")}
SESSIONS = [make_session(1), make_session(2, protocol="lis01"), make_session(3, messages=(), elements=())]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_offers_what_the_table_gives_it(name):
    (option,) = [each for each in COMMANDS[name].params if each.name == "output"]
    assert isinstance(option.type, click.Choice)
    assert tuple(option.type.choices) == formats.formats_of(name)
    assert {command for row in FORMATS.values() for command in row.commands} == set(COMMANDS)


def test_a_format_added_to_the_table_is_offered_written_and_chosen_by_suffix(monkeypatch):
    class Ids(formats.Format):
        def of(self, session):
            return session.id.encode() + b"\n"

    monkeypatch.setitem(FORMATS, "ids", OutputFormat(Ids, frozenset({"read", "export"})))
    assert formats.formats_of("read")[-1] == "ids"
    assert format_of_file(".IDS") == "ids"
    assert written("ids", SESSIONS) == "".join(f"{session.id}\n" for session in SESSIONS)


def written(name, sessions, *, saved=False):
    out = io.BytesIO()
    writer = writer_for(name, out, saved=saved)
    writer.sessions(sessions[:1])
    writer.sessions(sessions[1:])
    writer.close()
    return out.getvalue().decode()


@pytest.mark.parametrize("sessions", [[], SESSIONS[:1], SESSIONS], ids=["none", "one", "several"])
def test_json_is_one_array_of_the_objects_that_jsonl_has_on_lines(sessions):
    lines = [json.loads(line) for line in written("jsonl", sessions).splitlines()]
    assert json.loads(written("json", sessions)) == lines
    assert [line["sessionId"] for line in lines] == [session.id for session in sessions]


@pytest.mark.parametrize("name", ["json", "jsonl", "csv"])
def test_what_only_a_save_adds_is_written_of_stored_sessions_alone(name):
    assert "submissionStatus" not in written(name, SESSIONS)
    assert "submissionStatus" in written(name, SESSIONS, saved=True)


def test_hl7_is_every_messages_exact_bytes():
    assert written("hl7", SESSIONS) == "".join(f"{m.text.decode()}\n" for each in SESSIONS for m in each.messages)


def test_csv_has_one_row_per_message_and_one_for_a_session_without_any():
    rows = list(csv.DictReader(io.StringIO(written("csv", SESSIONS), newline="")))
    assert [row["sha256"] for row in rows] == [m.sha256 for each in SESSIONS for m in each.messages] + [""]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"])  # noqa: RUF001
def test_no_cell_can_be_taken_for_a_formula(start):
    evil = f'{start}HYPERLINK("http://x","y")'
    message = make_message(1, control_id=evil, message_type=evil, ack_code=evil, reply_to=evil)
    session = make_session(1, messages=(message,))
    (row,) = csv.reader(io.StringIO(Csv(saved=True).of(session).decode(), newline=""))
    assert sum(cell == f"'{evil}" for cell in row) == 4
    assert not any(cell.startswith(start) for cell in row)
    assert safe_cell("ORU^R01") == "ORU^R01"


def test_text_has_no_colour_off_a_terminal_and_an_id_where_sessions_are_stored():
    assert "\x1b" not in written("text", SESSIONS)
    lines = written("text", SESSIONS, saved=True).splitlines()
    assert [line[:13] for line in lines] == [session.id[:13] for session in SESSIONS]


def test_messages_has_no_sessions():
    assert written("messages", SESSIONS) == ""


@pytest.mark.parametrize(
    ("suffix", "name"), [(".csv", "csv"), (".PCAPNG", "pcapng"), (".txt", "jsonl"), ("", "jsonl"), (".text", "jsonl")]
)
def test_a_files_suffix_names_its_format(suffix, name):
    assert format_of_file(suffix) == name
