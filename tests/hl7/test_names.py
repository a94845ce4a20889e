"""Names of parts: a help where they are known, and never a condition."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import hl7core
from hl7core.hl7.names import LARGEST, MessageNames
from hl7core.hl7.records import RECORD_FIELDS
from hl7core.hl7.tree import MessageTree


def lines_of(text: str) -> dict:
    return {line.name: line for line in MessageTree(text.encode())}


def message(version: str = "2.5.1", more: str = "") -> str:
    return f"MSH|^~\\&|A|B|C|D|||ORU^R01|1|P|{version}\rPID|1||4711\rOBX|1|CE|GLU||A^B\rZXX|1\r{more}"


LINES = lines_of(message())


def names(text: str) -> MessageNames:
    return MessageNames.of(MessageTree(text.encode()))


def test_segments_fields_components_and_subcomponents_have_names():
    known = names(message())
    pid, msh = LINES["PID"], LINES["MSH"]
    assert known.line(pid) == "Patient identification"
    assert known.field(pid, 3) == "Patient identifier list"
    assert known.component(pid, 3, 1) == "ID number"
    assert known.subcomponent(pid, 3, 4, 1) == "Namespace ID"
    assert [known.field(msh, number) for number in (1, 7, 10)] == [
        "Field separator",
        "Date/time of message",
        "Message control ID",
    ]
    assert (known.field(pid, 1), known.field(pid, 6), known.note) == ("Set ID", "Mother's maiden name", "")


def test_the_data_type_of_a_result_is_the_one_that_the_message_says():
    known = names(message())
    assert known.component(LINES["OBX"], 5, 1, "CE") == "Identifier"
    assert known.component(LINES["OBX"], 5, 1, "XPN") == "Family name"
    assert known.component(LINES["OBX"], 5, 1, "no type") == ""


def test_names_are_those_of_the_version_that_the_message_declares():
    assert names(message("2.3")).field(LINES["PID"], 3) == "Patient ID internal ID"
    assert names(message("2.5.1^DEU")).field(LINES["PID"], 3) == "Patient identifier list"


def test_what_the_standard_does_not_know_has_no_name_and_is_no_fault():
    known = names(message())
    assert (known.line(LINES["ZXX"]), known.field(LINES["ZXX"], 1), known.field(LINES["PID"], 99)) == ("", "", "")
    assert known.component(LINES["ZXX"], 1, 1) == known.subcomponent(LINES["ZXX"], 1, 1, 1) == known.note == ""


@pytest.mark.parametrize(
    ("version", "name", "note"),
    [
        ("2.9", "Patient identifier list", "names are those of HL7 2.8.2: hl7apy knows no 2.9"),
        ("2.3.2", "Patient identifier list", "names are those of HL7 2.3.1: hl7apy knows no 2.3.2"),
        ("3.0", "", "names are left out: hl7apy knows no HL7 3.0"),
        ("1.0", "", "names are left out: hl7apy knows no HL7 1.0"),
        ("", "", "names are left out: the message declares no HL7 version (MSH-12)"),
        ("\x1b[31m", "", "names are left out: the message declares no HL7 version (MSH-12)"),
    ],
)
def test_a_version_that_hl7apy_refuses_costs_names_and_is_said(version, name, note):
    known = names(message(version))
    assert (known.field(LINES["PID"], 3), known.note) == (name, note)
    assert known.line(LINES["PID"]) == "Patient identification"


def test_a_large_message_gets_no_names_and_it_is_said():
    known = names(message(more="OBX|1|NM|GLU||5\r" * (LARGEST // 16)))
    assert known.field(LINES["PID"], 3) == ""
    assert known.note == "names are left out: the message is longer than 256 KiB"


def test_where_hl7apy_is_not_installed_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "hl7apy", None)
    known = names(message())
    assert (known.field(LINES["PID"], 3), known.note) == ("", "names are left out: hl7apy is not installed")


@pytest.mark.parametrize("where", ["load_library", "get"])
def test_an_hl7apy_that_fails_costs_names_and_its_words_are_not_quoted(monkeypatch, where):
    import hl7apy

    def fail(*_):
        raise ValueError("SECRET")

    target = hl7apy if where == "load_library" else hl7apy.load_library("2.5.1")
    monkeypatch.setattr(target, where, fail)
    known = names(message())
    assert known.field(LINES["PID"], 3) == known.field(LINES["PID"], 5) == ""
    assert known.note.endswith("hl7apy failed (ValueError)")


def test_an_hl7apy_that_takes_too_long_is_given_up_and_what_is_known_stays():
    times = iter([0.0, 1.5, 1.5, 3.0])
    known = MessageNames("2.5.1", 100, seconds=2.0, clock=lambda: next(times))
    assert known.field(LINES["PID"], 3) == "Patient identifier list"
    assert known.field(LINES["PID"], 5) == "Patient name"
    assert known.note == "the other names are left out: hl7apy takes too long"
    assert (known._library, known.field(LINES["PID"], 3)) == (None, "Patient identifier list")


def test_records_have_names_without_hl7apy(monkeypatch):
    monkeypatch.setitem(sys.modules, "hl7apy", None)
    text = "H|\\^&|C7\rP|1\rO|1|S\rR|1|^^^GLU|5\rL|1|N\r"
    known = names(text)
    lines = lines_of(text)
    assert [known.line(lines[letter]) for letter in "HPORL"] == [
        "Message header", "Patient information", "Test order", "Result", "Message terminator",
    ]  # fmt: skip
    assert [known.field(lines["P"], number) for number in (3, 4, 35, 36)] == [
        "Practice-assigned patient ID", "Laboratory-assigned patient ID", "Dosage category", "",
    ]  # fmt: skip
    assert (known.field(lines["H"], 3), known.field(lines["O"], 3), known.field(lines["R"], 4)) == (
        "Message control ID", "Specimen ID", "Data or measurement value",
    )  # fmt: skip
    assert known.component(lines["R"], 3, 4) == "Manufacturer's code"
    assert known.subcomponent(lines["R"], 3, 4, 1) == known.note == ""


def test_each_record_has_as_many_fields_as_the_standard_lists():
    assert {letter: len(fields) for letter, fields in RECORD_FIELDS.items()} == {
        "H": 14, "P": 35, "O": 31, "R": 14, "C": 5, "Q": 13, "M": 2, "S": 21, "L": 3,
    }  # fmt: skip


def test_one_module_imports_hl7apy_and_only_when_names_are_asked_for():
    trees = [Path(hl7core.__file__).parent, Path(hl7core.__file__).parents[2] / "plugins"]
    importing = [
        path.name
        for tree in trees
        for path in tree.rglob("*.py")
        if re.search(r"\bimport hl7apy|from hl7apy", path.read_text())
    ]
    assert importing == ["names.py"]
    script = "import sys\nfrom hl7core import MessageNames, MessageTree\ntree = MessageTree(b'MSH|^~\\\\&|A|||||||1|P|2.5')\n"
    script += "names = MessageNames.of(tree)\nprint('hl7apy' in sys.modules, names.field(next(iter(tree)), 3), 'hl7apy' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False Sending application True"


def test_a_line_that_is_neither_has_no_names():
    (line,) = MessageTree(b"free text")
    known = MessageNames("2.5.1", 9)
    assert (known.line(line), known.field(line, 1), known.component(line, 1, 1), known.note) == ("", "", "", "")
