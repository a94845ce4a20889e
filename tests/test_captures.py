"""The corpus: every capture yields exactly what its senders said.

``captures/make.py`` writes the captures and, beside each, its truth; no decoder has a say in it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hl7core.files import CaptureFile
from hl7core.model.packet import PacketBatch
from hl7core.model.session import Direction, Session
from hl7core.wire.decoder import Decoder
from hl7core.wire.tcp.dissect import FRAGMENT, SYN, dissect, endpoints
from hl7core.wire.tcp.fragments import Fragments
from hl7core.wire.tcp.reassembly import Stream

CAPTURES = Path(__file__).parent / "captures"
_spec = importlib.util.spec_from_file_location("make", CAPTURES / "make.py")
assert _spec is not None
assert _spec.loader is not None
make = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make)
NAMES = sorted(path.stem for path in CAPTURES.glob("*.json"))


def capture_of(name: str) -> Path:
    return next(path for path in CAPTURES.glob(f"{name}.pcap*") if path.suffix in (".pcap", ".gz"))


def truth_of(name: str) -> dict:
    return json.loads((CAPTURES / f"{name}.json").read_text())


def read(path: Path) -> list[PacketBatch]:
    with CaptureFile(str(path)) as file:
        batches = list(file)
        assert file.damage is None
    return batches


def decoded(batches: list[PacketBatch]) -> list[Session]:
    """The sessions as they are in the end: of each the last word, in order of their first byte."""
    decoder = Decoder()
    last: dict[str, Session] = {}
    for session in [*(s for batch in batches for s in decoder.feed(batch)), *decoder.end()]:
        before = last.get(session.id)
        assert before is None or session.revision > before.revision, "a session is told twice"
        last[session.id] = session
    return sorted(last.values(), key=first_byte)


def first_byte(session: Session) -> tuple:
    element = min(session.elements, key=lambda element: (element.time_ns, element.offset))
    return (session.connection, session.start_ns, element.offset)


def side_of(session: Session, direction: Direction) -> int:
    sender = session.device if direction is Direction.FROM_DEVICE else session.lis
    return 0 if session.connection.startswith(f"{sender}-") else 1


def as_truth(session: Session) -> dict:
    """A session in the words of the truth."""
    return {
        "protocol": session.protocol,
        "connection": session.connection,
        "ending": session.ending.value,
        "isComplete": session.is_complete,
        "missing": sum(element.missing for element in session.elements),
        "messages": [
            make.message(side_of(session, message.direction), message.text, message.complete)
            for message in session.messages
        ],
        "faults": sorted(
            [fault.code, side_of(session, element.direction), fault.offset]
            for element in session.elements
            for fault in element.faults
        ),
    }


def streams_of(sessions: list[Session]) -> dict:
    """What the elements of all sessions hold of each direction, in order."""
    pieces: dict[str, list] = {}
    for session in sessions:
        for element in session.elements:
            ends = (session.device, session.lis)
            source, target = ends if element.direction is Direction.FROM_DEVICE else ends[::-1]
            pieces.setdefault(f"{source}->{target}", []).append(
                (session.start_ns // 10**12, element.offset, session.raw_of(element))
            )
    joined = {name: b"".join(raw for *_, raw in sorted(found)) for name, found in pieces.items()}
    return {
        name: {"length": len(said), "sha256": hashlib.sha256(said).hexdigest()} for name, said in joined.items() if said
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_capture_yields_exactly_what_its_senders_said(name):
    truth = truth_of(name)
    sessions = decoded(read(capture_of(name)))
    expected = sorted(truth["sessions"], key=lambda session: session["connection"])
    assert [as_truth(session) for session in sessions] == expected


@pytest.mark.parametrize("name", NAMES)
def test_every_captured_byte_is_in_exactly_one_element(name):
    assert streams_of(decoded(read(capture_of(name)))) == {
        stream: said for stream, said in truth_of(name)["streams"].items() if said["length"]
    }


def test_the_corpus_is_what_its_script_makes():
    assert sorted(make.CASES) == [name for name in NAMES if not name.startswith("real_")]
    for name in make.CASES:
        data, truth = make.files(name)
        assert capture_of(name).read_bytes() == data, name
        assert (CAPTURES / f"{name}.json").read_bytes() == truth, name


def test_the_corpus_is_small():
    assert sum(path.stat().st_size for path in CAPTURES.iterdir()) < 1_500_000


@pytest.mark.parametrize(
    "name",
    [
        "mllp_clean", "lis01_clean", "plain_clean", "lis01_bad_checksum_refused", "mllp_log_line_before_vt",
        "damaged_gap_in_a_message", "damaged_ip_fragments", "damaged_stored_out_of_order",
        "damaged_two_interfaces", "real_loss_5_at_the_receiver", "real_loss_15_at_the_sender",
    ],
)  # fmt: skip
def test_the_command_prints_every_message_of_a_capture_once(name):
    run = subprocess.run(
        [sys.executable, "-m", "hl7core", "read", str(capture_of(name)), "-o", "messages"],
        capture_output=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    printed = [json.loads(line) for line in run.stdout.splitlines()]
    told = sorted((line["connection"], line["sha256"], line["length"], line["complete"]) for line in printed)
    sent = []
    for session in truth_of(name)["sessions"]:
        for message in session["messages"]:
            if "text" in message:
                text = message["text"].encode("latin-1")
                digest, length = hashlib.sha256(text).hexdigest(), len(text)
            else:
                digest, length = message["sha256"], message["length"]
            sent.append((session["connection"], digest, length, message["complete"]))
    assert told == sorted(sent)


# Against another reassembly: what tshark makes of the same streams.

SOUND = [
    name
    for name in NAMES
    if not name.startswith("damaged_")
    or name
    in {
        "damaged_duplicates", "damaged_reordered", "damaged_keep_alives_and_zero_windows", "damaged_overlaps",
        "damaged_sequence_wrap", "damaged_one_byte_a_segment", "damaged_one_byte_a_segment_lis01",
        "damaged_reset_mid_message", "damaged_fin_mid_message", "damaged_ip_fragments", "damaged_ipv6_fragments",
    }
]  # fmt: skip


def reassembled(batches: list[PacketBatch]) -> dict[str, bytes]:
    """Each direction's bytes as our reassembly has them, with nothing around it."""
    streams: dict[bytes, Stream] = {}
    said: dict[str, bytes] = {}
    fragments = Fragments()
    for batch in batches:
        for packet in batch.packets():
            data, link_type = packet.data, batch.interface.link_type
            segment = dissect(data, 0, len(data), link_type)
            if segment is FRAGMENT:
                whole = fragments.add(data, 0, len(data), link_type, packet.time_ns)
                if whole is None:
                    continue
                data = whole
                segment = dissect(data, 0, len(data), 101)
            if segment is None:
                continue
            source, target = endpoints(segment.key)
            if segment.flags & SYN:
                streams[segment.key] = Stream(segment.seq + 1 & 0xFFFFFFFF)
            elif segment.end > segment.start:
                payload = data[segment.start : segment.end]
                pieces = streams[segment.key].push(segment.seq, payload, packet.time_ns)
                name = f"{source}->{target}"
                said[name] = said.get(name, b"") + b"".join(piece.data for piece in pieces)
    return {name: data for name, data in said.items() if data}


def followed(path: Path, connections: int) -> dict[str, bytes]:
    """The same as tshark has them."""
    follow = [argument for number in range(connections) for argument in ("-z", f"follow,tcp,raw,{number}")]
    command = ["tshark", "-n", "-q", "-o", "tcp.analyze_sequence_numbers:TRUE", "-r", str(path), *follow]
    out = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    said: dict[str, bytes] = {}
    names = ["", ""]
    for line in out.splitlines():
        if line.startswith("Node "):
            names[int(line[5])] = line[8:]
        elif line and all(character in "0123456789abcdef" for character in line.strip()):
            here, there = names[::-1] if line.startswith("\t") else names
            said[f"{here}->{there}"] = said.get(f"{here}->{there}", b"") + bytes.fromhex(line.strip())
    return {name: data for name, data in said.items() if data}


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
@pytest.mark.parametrize("name", SOUND)
def test_the_streams_are_byte_for_byte_what_tshark_makes_of_them(name):
    batches = read(capture_of(name))
    ours = reassembled(batches)
    assert ours
    connections = len({frozenset(stream.split("->")) for stream in ours})
    assert {stream: data.hex() for stream, data in followed(capture_of(name), connections).items()} == {
        stream: data.hex() for stream, data in ours.items()
    }
