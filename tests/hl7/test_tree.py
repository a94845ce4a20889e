"""The tree of a message: every part with its place, and not a byte lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hl7core.hl7.tree import Form, MessageLine, MessagePart, MessageTree
from hl7core.testing import make_session

ORU = (
    b"MSH|^~\\&|AN|LAB|LIS||20260102||ORU^R01|M1|P|2.5.1\r"
    b"PID|1||4711^^^LAB&1.2&ISO~0815||TEST^PATIENT\r"
    b"OBX|1|NM|GLU^Glucose||5.4\\T\\5\r"
)


def outline(part: MessagePart):
    """The texts of a part, nested as deep as it is divided."""
    return [outline(one) for one in part.parts()] if part.divided else part.text


def fields_of(data: bytes, name: str, charset: str = "") -> dict:
    line = next(line for line in MessageTree(data, charset) if line.name == name)
    return {field.number: outline(field) for field in line.fields()}


def test_segments_fields_repetitions_components_and_subcomponents():
    assert [(line.form, line.name) for line in MessageTree(ORU)] == [("hl7", "MSH"), ("hl7", "PID"), ("hl7", "OBX")]
    assert fields_of(ORU, "PID") == {
        1: "1",
        2: "",
        3: [["4711", "", "", ["LAB", "1.2", "ISO"]], "0815"],
        4: "",
        5: [["TEST", "PATIENT"]],
    }


def test_msh_1_is_the_separator_and_msh_2_is_never_divided():
    fields = fields_of(ORU, "MSH")
    assert (fields[1], fields[2], fields[3], fields[12]) == ("|", "^~\\&", "AN", "2.5.1")
    assert fields[9] == [["ORU", "R01"]]


def test_records_count_from_their_letter_and_their_header_declares_the_separators():
    data = b"H;!*_;C7;;AN*1\rO;1;S-1*2!S-3;;***GLU\rL;1;N\r"
    assert [(line.form, line.name) for line in MessageTree(data)] == [("lis02", "H"), ("lis02", "O"), ("lis02", "L")]
    assert fields_of(data, "H") == {1: "H", 2: "!*_", 3: "C7", 4: "", 5: [["AN", "1"]]}
    assert fields_of(data, "O")[3] == [["S-1", "2"], "S-3"]


def test_each_header_of_a_batch_declares_anew():
    data = b"FHS|^~\\&|F\rBHS|^~\\&|B\rMSH$%*!#$A\rPID$1$$1%2\rMSH|^~\\&|B\rPID|1||3^4\rBTS|2\rFTS|1\r"
    lines = list(MessageTree(data))
    assert [line.name for line in lines] == ["FHS", "BHS", "MSH", "PID", "MSH", "PID", "BTS", "FTS"]
    ids = [outline(field) for line in lines if line.name == "PID" for field in line.fields() if field.number == 3]
    assert ids == [[["1", "2"]], [["3", "4"]]]


@pytest.mark.parametrize("ending", [b"\r", b"\n", b"\r\n", b"\r\r\n"])
def test_every_line_ending_will_do(ending):
    data = ORU.replace(b"\r", ending)
    assert [line.text for line in MessageTree(data)] == ORU.decode().rstrip("\r").split("\r")


def test_what_stands_before_a_line_is_not_part_of_it():
    (line,) = MessageTree(b"\xef\xbb\xbf \r\nMSH|^~\\&|A\r")
    assert (line.name, line.start, line.end) == ("MSH", 0, 17)
    assert [(field.text, field.start) for field in line.fields()] == [("|", 9), ("^~\\&", 10), ("A", 15)]


def test_a_line_that_is_no_segment_is_kept_as_text():
    lines = list(MessageTree(b"MSH|^~\\&|A\rfree text | of a kind\rZXX|1\rPI\r"))
    assert [(line.form, line.name) for line in lines] == [(Form.HL7, "MSH"), ("", ""), (Form.HL7, "ZXX"), ("", "")]
    assert lines[1].text == "free text | of a kind"
    assert not list(lines[1].fields())


def test_a_message_whose_header_was_lost_is_read_by_the_usual_separators():
    assert fields_of(b"PID|1||1^2\r", "PID")[3] == [["1", "2"]]
    assert fields_of(b"O|1|S^1\\T\r", "O")[3] == [["S", "1"], "T"]


def test_escapes_of_separators_are_undone_in_values_alone():
    (field,) = [f for line in MessageTree(ORU) for f in line.fields() if line.name == "OBX" and f.number == 5]
    assert (field.text, field.value) == ("5.4\\T\\5", "5.4&5")
    (other,) = [f for line in MessageTree(b"H|\\^&\rC|1|I|a&S&b&X41&\r") for f in line.fields() if f.number == 4]
    assert other.value == "a^b&X41&"


def test_nothing_is_divided_by_what_the_header_does_not_declare():
    assert fields_of(b"MSH|^|A\rPID|1||a~b&c\r", "PID")[3] == "a~b&c"


@pytest.mark.parametrize(
    ("charset", "codec", "name"),
    [
        ("UNICODE UTF-8", "utf-8", "Müller 山田"),
        ("8859/1", "latin-1", "Müller"),
        ("8859/2", "iso8859-2", "Dvořák"),
        ("GB 18030-2000", "gb18030", "張三^€"),
        ("BIG-5", "big5", "功能許"),  # its second bytes are \ ^ and |
        ("ISO IR87", "iso2022_jp", "山田^太郎"),  # whole characters of it look like separators
        ("KS X 1001", "euc_kr", "홍길동"),
    ],
)
def test_offsets_are_those_of_the_bytes_in_any_character_set(charset, codec, name):
    text = f"MSH|^~\\&|{name}\rPID|1||{name}~x||{name}\rNTE|1||{name}"
    data = text.encode(codec)
    tree = MessageTree(data, charset)
    assert (tree.text, tree.codec) == (text, codec)
    (field,) = [f for line in tree for f in line.fields() if line.name == "PID" and f.number == 5]
    assert data[field.start : field.end].decode(codec) == name
    check(data, tree)


def test_the_messages_of_a_session_are_read_in_the_character_set_that_they_declare():
    message = make_session(1).messages[0]
    assert MessageTree.of(message._replace(charset="8859/1")).codec == "latin-1"
    assert MessageTree.of(message).text == message.text.decode()


def check(data: bytes, tree: MessageTree) -> None:
    """Lines follow each other without a gap, parts lie in order with one separator between, and none is lost."""
    at = 0
    for line in tree:
        assert line.start == at
        at = line.end
        inner = line.start
        fields = list(line.fields())
        for field in fields:
            assert inner <= field.start <= field.end <= line.end
            inner = field.end
            descend(field)
        if fields:
            assert joined(line, fields) == line.text
    assert at == len(data)


def joined(line: MessageLine, fields: list[MessagePart]) -> str:
    separator = line.text[len(line.name) : len(line.name) + 1]
    if line.form is Form.LIS02:
        return separator.join(field.text for field in fields)
    if fields[0].level == 0 and line.name in ("MSH", "FHS", "BHS"):
        return line.name + separator + separator.join(field.text for field in fields[1:])
    return separator.join([line.name, *(field.text for field in fields)])


def descend(part: MessagePart) -> None:
    parts = list(part.parts())
    if not parts:
        return
    assert (parts[0].start, parts[0].text) == (part.start, part.text[: len(parts[0].text)])
    assert (parts[-1].end, [one.number for one in parts]) == (part.end, list(range(1, len(parts) + 1)))
    assert sum(len(one.text) for one in parts) + len(parts) - 1 == len(part.text)
    for one in parts:
        descend(one)


LINES = st.sampled_from(
    ["MSH|^~\\&|", "MSH$%*!#$", "PID|1||", "H|\\^&|", "O|1|", "BHS|^~\\&|", "", " ", "\ufeff", "MSH|", "OBX"]
)
TEXTS = st.text(st.sampled_from("ab1|^~&\\$%\r\n\0 ü山|"), max_size=20)


@given(
    st.lists(st.tuples(LINES, TEXTS, st.sampled_from(["\r", "\n", "\r\n", ""])), max_size=6),
    st.sampled_from(["utf-8", "gb18030", "euc_jp", "utf-16", "iso2022_jp_1"]),
)
def test_joined_the_parts_are_the_message(lines, codec):
    text = "".join("".join(line) for line in lines)
    try:
        data = text.encode(codec)
    except UnicodeEncodeError:
        data = text.encode()
    check(data, MessageTree(data, codec))


@given(
    st.binary(max_size=300),
    st.sampled_from(
        ["", "8859/1", "UNICODE UTF-16", "UTF-7", "ISO IR87", "punycode", "idna", "hz", "rot13", "unicode_escape"]
    ),
)
def test_no_bytes_make_it_raise(data, charset):
    for start in (b"", b"MSH|^~\\&|", b"H|\\^&", b"\x1b$B"):
        check(start + data, MessageTree(start + data, charset))


def test_reading_a_part_of_a_large_message_costs_no_more_than_that_part():
    tree = MessageTree(b"MSH|^~\\&|A\r" + b"OBX|1||x\r" * 1_000_000)
    assert next(iter(tree)).name == "MSH"
