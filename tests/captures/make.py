"""Makes the corpus: small captures of made-up conversations, and beside each what its senders said.

    python tests/captures/make.py             write every capture of this script anew (byte for byte the same)
    python tests/captures/make.py --real      the captures of real TCP stacks too (root, network namespaces, tcpdump)

The truth is written by the senders: what each of them said is noted as it is said, and the sessions that a capture
must yield are stated beside the conversation, by hand.  No decoder is asked.  NAME.json holds

``streams``   for each direction ("from->to") the length and SHA-256 of its captured bytes, in order, gaps left out
``sessions``  in order of their first byte: protocol, ending, isComplete, elements lost to gaps (``missing``), the messages
              (which end sent it, its text as latin-1, whether it is whole), and the faults ([code, sender, offset])

All patients, devices and results are made up.
"""

from __future__ import annotations

import hashlib
import json
import random
import struct
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from hl7core.model.packet import Interface, Packet
from hl7core.wire.pcap.synthetic_tcp import TcpTalk
from hl7core.wire.pcap.writer import PcapngWriter, pcap_header, pcap_record

HERE = Path(__file__).parent
DEVICE, LIS = 0, 1
SECOND = 1_000_000_000
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16

LONG = 4000
"""Of a longer message the truth holds length and SHA-256 alone."""

Said = tuple[int, bytes, bool]
"""A message as its sender knows it: who sent it, its bytes, whether the capture holds it whole."""


def message(side: int, text: bytes, whole: bool = True) -> dict[str, Any]:
    """A message in the words of the truth."""
    if len(text) > LONG:
        said: dict[str, Any] = {"length": len(text), "sha256": hashlib.sha256(text).hexdigest()}
    else:
        said = {"text": text.decode("latin-1")}
    return {"from": side, **said, "complete": whole}


def block(text: bytes) -> bytes:
    return b"\x0b" + text + b"\x1c\r"


def frame(number: int, text: bytes, end: bytes = b"\x03") -> bytes:
    body = b"%d" % (number % 8) + text + end
    return b"\x02" + body + b"%02X\r\n" % (sum(body) & 0xFF)


def oru(
    control_id: str, *, accept: str = "", application: str = "", kind: str = "ORU^R01", extra: bytes = b""
) -> bytes:
    head = f"MSH|^~\\&|ANALYZER|LAB|LIS|LAB|20260105080000||{kind}|{control_id}|P|2.5.1|||{accept}|{application}\r"
    return head.encode() + b"PID|1||P-17^^^LAB||DOE^JANE\rOBR|1||S-4711|GLU\rOBX|1|NM|GLU||5.4|mmol/L\r" + extra


def ack(reply_to: str, code: str = "AA", *, kind: str = "ACK^R01", control_id: str = "") -> bytes:
    own = control_id or f"A{reply_to}"
    return f"MSH|^~\\&|LIS|LAB|ANALYZER|LAB|20260105080001||{kind}|{own}|P|2.5.1\rMSA|{code}|{reply_to}\r".encode()


RECORDS = (
    b"H|\\^&|||ANALYZER^1.0|||||||P|LIS2-A2|20260105080000\r",
    b"P|1||P-17||DOE^JANE\r",
    b"O|1|S-4711||^^^GLU\r",
    b"R|1|^^^GLU|5.4|mmol/L||N||F\r",
    b"L|1|N\r",
)


class Case(TcpTalk):
    """A conversation, and what its senders know of it."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.said = [b"", b""]  # what the capture holds of each direction, gaps left out
        self.offsets = [0, 0]
        self.sessions: list[dict[str, Any]] = []
        self.protocol = "mllp"

    def device(self, data: bytes, *, mss: int = 1460) -> int:
        """Let the opener speak; return the offset of what it says."""
        return self._spoken(0, data, mss)

    def lis(self, data: bytes, *, mss: int = 1460) -> int:
        return self._spoken(1, data, mss)

    def _spoken(self, side: int, data: bytes, mss: int) -> int:
        at = self.offsets[side]
        self.said[side] += data
        self.offsets[side] += len(data)
        (self.opener if side == 0 else self.acceptor)(data, mss=mss)
        return at

    def missed(self, side: int, data: bytes) -> int:
        """Let a side speak where the capture does not hear it."""
        at = self.offsets[side]
        self.offsets[side] += len(data)
        self.lose(side, data)
        return at

    def expect(
        self,
        *messages: Said | tuple[int, bytes],
        faults: Iterable[tuple[str, int, int]] = (),
        complete: bool = True,
        ending: str = "complete",
        missing: int = 0,
    ) -> None:
        """State a session that the capture must yield."""
        self.sessions.append(
            {
                "protocol": self.protocol,
                "connection": f"{self.ends[0]}-{self.ends[1]}",
                "ending": ending,
                "isComplete": complete,
                "missing": missing,
                "messages": [message(*said) for said in messages],
                "faults": sorted([code, side, offset] for code, side, offset in faults),
            }
        )

    def streams(self) -> dict[str, dict[str, Any]]:
        names = (f"{self.ends[0]}->{self.ends[1]}", f"{self.ends[1]}->{self.ends[0]}")
        return {
            name: {"length": len(said), "sha256": hashlib.sha256(said).hexdigest()}
            for name, said in zip(names, self.said, strict=True)
            if said
        }


CASES: dict[str, Callable[[], Any]] = {}


def case(make: Callable[[], Any]) -> Callable[[], Any]:
    CASES[make.__name__] = make
    return make


def mllp() -> Case:
    talk = Case()
    talk.open()
    return talk


def lis01() -> Case:
    talk = Case(acceptor=("10.0.0.9", 6661))
    talk.protocol = "lis01"
    talk.open()
    return talk


def turn(talk: Case, records: Iterable[bytes] = RECORDS, *, first: int = 1) -> None:
    """One LIS01 session, every record in a frame of its own."""
    talk.device(b"\x05")
    talk.lis(b"\x06")
    for number, record in enumerate(records, first):
        talk.device(frame(number, record))
        talk.lis(b"\x06")
    talk.device(b"\x04")


def answered(talk: Case, number: str = "M2", **expected: Any) -> None:
    """An exchange as it should be, to show that what went before does it no harm."""
    talk.device(block(oru(number)))
    talk.lis(block(ack(number)))
    talk.expect((DEVICE, oru(number)), (LIS, ack(number)), **expected)


# Section 1: MLLP.


@case
def mllp_clean() -> Case:
    talk = mllp()
    for number in ("M1", "M2", "M3"):
        answered(talk, number)
    talk.close()
    return talk


@case
def mllp_missing_vt() -> Case:
    talk = mllp()
    at = talk.device(oru("M1") + b"\x1c\r")
    talk.lis(block(ack("M1")))
    talk.expect((DEVICE, oru("M1")), (LIS, ack("M1")), faults=[("missing-vt", DEVICE, at)])
    answered(talk)
    return talk


@case
def mllp_log_line_before_vt() -> Case:
    talk = mllp()
    at = talk.device(b"2026-01-05 08:00:00 sending result\r\n" + block(oru("M1")))
    talk.lis(block(ack("M1")))
    talk.expect((DEVICE, oru("M1")), (LIS, ack("M1")), faults=[("stray-bytes", DEVICE, at)])
    answered(talk)
    return talk


@case
def mllp_fs_without_cr() -> Case:
    talk = mllp()
    at = talk.device(b"\x0b" + oru("M1") + b"\x1c")
    talk.lis(block(ack("M1")))
    talk.expect((DEVICE, oru("M1")), (LIS, ack("M1")), faults=[("missing-cr", DEVICE, at + 1 + len(oru("M1")))])
    both = b"\x0b" + oru("M2") + b"\x1c" + b"\x0b" + oru("M3") + b"\x1c"
    at = talk.device(both)
    talk.lis(block(ack("M2")) + block(ack("M3")))
    size = len(oru("M2")) + 2
    talk.expect((DEVICE, oru("M2")), (LIS, ack("M2")), faults=[("missing-cr", DEVICE, at + size - 1)])
    talk.expect((DEVICE, oru("M3")), (LIS, ack("M3")), faults=[("missing-cr", DEVICE, at + 2 * size - 1)])
    return talk


@case
def mllp_fs_lf() -> Case:
    talk = mllp()
    at = talk.device(b"\x0b" + oru("M1") + b"\x1c\n")
    talk.lis(block(ack("M1")))
    talk.expect((DEVICE, oru("M1")), (LIS, ack("M1")), faults=[("fs-lf", DEVICE, at + 1 + len(oru("M1")))])
    answered(talk)
    return talk


@case
def mllp_cr_ff() -> Case:
    talk = mllp()
    at = talk.device(b"\x0b" + oru("M1") + b"\x0c")  # the text's own CR, then FF
    talk.lis(block(ack("M1")))
    talk.expect((DEVICE, oru("M1")[:-1]), (LIS, ack("M1")), faults=[("ff-end", DEVICE, at + len(oru("M1")))])
    answered(talk)
    return talk


def _behind_the_block(behind: bytes) -> Case:
    talk = mllp()
    first = talk.device(block(oru("M1")) + behind)
    back = talk.lis(block(ack("M1")) + behind)
    size, answer = len(block(oru("M1"))), len(block(ack("M1")))
    faults = [("stray-whitespace", DEVICE, first + size + at) for at in range(len(behind))]
    faults += [("stray-whitespace", LIS, back + answer + at) for at in range(len(behind))]
    talk.expect((DEVICE, oru("M1")), (LIS, ack("M1")), faults=faults)
    answered(talk)
    talk.close()
    return talk


@case
def mllp_lf_behind_block() -> Case:
    return _behind_the_block(b"\n")


@case
def mllp_crlf_behind_block() -> Case:
    return _behind_the_block(b"\r\n")


@case
def mllp_lf_behind_block_in_a_later_packet() -> Case:
    talk = mllp()
    faults = []
    talk.device(block(oru("M1")))
    faults.append(("stray-whitespace", DEVICE, talk.device(b"\n")))
    talk.lis(block(ack("M1")))
    faults.append(("stray-whitespace", LIS, talk.lis(b"\n")))
    talk.expect((DEVICE, oru("M1")), (LIS, ack("M1")), faults=faults)
    answered(talk)
    talk.close()
    return talk


def _separators(separator: bytes) -> Case:
    talk = mllp()
    text, answer = oru("M1").replace(b"\r", separator), ack("M1").replace(b"\r", separator)
    at = talk.device(block(text))
    back = talk.lis(block(answer))
    faults = [
        ("lf-separator", DEVICE, at + 1 + text.index(b"\n")),
        ("lf-separator", LIS, back + 1 + answer.index(b"\n")),
    ]
    talk.expect((DEVICE, text), (LIS, answer), faults=faults)
    answered(talk)
    return talk


@case
def mllp_lf_separators() -> Case:
    return _separators(b"\n")


@case
def mllp_crlf_separators() -> Case:
    return _separators(b"\r\n")


@case
def mllp_empty_block() -> Case:
    talk = mllp()
    at = talk.device(b"\x0b\x1c\r")
    talk.device(block(oru("M1")))
    talk.lis(block(ack("M1")))
    talk.expect((DEVICE, oru("M1")), (LIS, ack("M1")), faults=[("empty-block", DEVICE, at + 1)])
    return talk


@case
def mllp_unframed_acknowledgement() -> Case:
    talk = mllp()
    for number in ("M1", "M2"):
        talk.device(block(oru(number)))
        at = talk.lis(ack(number))
        faults = [("missing-vt", LIS, at), ("unframed", LIS, at + len(ack(number)))]
        talk.expect((DEVICE, oru(number)), (LIS, ack(number)), faults=faults)
    talk.close()
    return talk


@case
def mllp_fs_in_text() -> Case:
    talk = mllp()
    text = oru("M1", extra=b"NTE|1||left\x1cright\r")
    at = talk.device(block(text))
    talk.lis(block(ack("M1")))
    talk.expect((DEVICE, text), (LIS, ack("M1")), faults=[("fs-in-text", DEVICE, at + 1 + text.index(b"\x1c"))])
    answered(talk)
    return talk


@case
def mllp_vt_in_text() -> Case:
    talk = mllp()
    text = oru("M1", extra=b"NTE|1||left\x0bright\r")
    at = talk.device(block(text))
    talk.lis(block(ack("M1")))
    talk.expect((DEVICE, text), (LIS, ack("M1")), faults=[("vt-in-text", DEVICE, at + 1 + text.index(b"\x0b"))])
    answered(talk)
    return talk


@case
def mllp_block_begun_anew() -> Case:
    talk = mllp()
    cut = oru("M1")[:50]
    at = talk.device(b"\x0b" + cut + block(oru("M1")))
    talk.lis(block(ack("M1")))
    talk.expect(
        (DEVICE, cut, False), complete=False, ending="captureEnd", faults=[("truncated", DEVICE, at + 1 + len(cut))]
    )
    talk.expect((DEVICE, oru("M1")), (LIS, ack("M1")))
    answered(talk)
    return talk


@case
def mllp_two_blocks_in_a_segment() -> Case:
    talk = mllp()
    talk.device(b"".join(block(oru(number)) for number in ("M1", "M2", "M3")))
    talk.lis(b"".join(block(ack(number)) for number in ("M1", "M2", "M3")))
    for number in ("M1", "M2", "M3"):
        talk.expect((DEVICE, oru(number)), (LIS, ack(number)))
    return talk


@case
def mllp_envelope_bytes_alone() -> Case:
    talk = mllp()
    for number in ("M1", "M2"):
        for said in (b"\x0b", oru(number), b"\x1c", b"\r"):
            talk.device(said)
        for said in (b"\x0b" + ack(number), b"\x1c", b"\r"):
            talk.lis(said)
        talk.expect((DEVICE, oru(number)), (LIS, ack(number)))
    return talk


@case
def mllp_byte_order_mark() -> Case:
    talk = mllp()
    text = b"\xef\xbb\xbf" + oru("M1")
    at = talk.device(block(text))
    talk.lis(block(ack("M1")))
    talk.expect((DEVICE, text), (LIS, ack("M1")), faults=[("bom", DEVICE, at + 1)])
    return talk


@case
def mllp_blank_lines() -> Case:
    talk = mllp()
    text = b"\r\r" + oru("M1")
    at = talk.device(block(text))
    talk.lis(block(ack("M1")))
    talk.expect((DEVICE, text), (LIS, ack("M1")), faults=[("blank-lines", DEVICE, at + 1)])
    return talk


@case
def mllp_message_of_one_segment() -> Case:
    talk = mllp()
    text = oru("M1").split(b"\r")[0] + b"\r"
    talk.device(block(text))
    talk.lis(block(ack("M1")))
    talk.expect((DEVICE, text), (LIS, ack("M1")))
    return talk


@case
def mllp_other_delimiters() -> Case:
    talk = mllp()
    for number, separator, encoding in (("M1", b"$", b"*~\\@"), ("M2", b"|", b"^~\\&#")):
        text = oru(number).replace(b"|", separator).replace(b"^~\\&", encoding, 1)
        answer = ack(number).replace(b"|", separator).replace(b"^~\\&", encoding, 1)
        talk.device(block(text))
        talk.lis(block(answer))
        talk.expect((DEVICE, text), (LIS, answer))
    return talk


@case
def mllp_large_message() -> Case:
    talk = mllp()
    text = oru("M1", extra=b"OBX|2|ED|PDF||^^^Base64^" + b"QUJD" * 16_500 + b"\r")
    talk.device(block(text))
    talk.lis(block(ack("M1")))
    talk.expect((DEVICE, text), (LIS, ack("M1")))
    return talk


def _batch(*ids: str, count: int, files: int = 1) -> bytes:
    head = b"FHS|^~\\&|ANALYZER|LAB\rBHS|^~\\&|ANALYZER|LAB\r"
    return head + b"".join(oru(number) for number in ids) + b"BTS|%d\rFTS|%d\r" % (count, files)


@case
def mllp_batch() -> Case:
    talk = mllp()
    talk.device(block(_batch("M1", "M2", count=2)))
    talk.lis(block(ack("M1")))
    talk.expect((DEVICE, oru("M1")), (DEVICE, oru("M2")), (LIS, ack("M1")))
    answered(talk, "M3")
    return talk


@case
def mllp_batch_counted_wrongly() -> Case:
    talk = mllp()
    text = _batch("M1", "M2", count=3, files=2)
    at = talk.device(block(text))
    talk.lis(block(ack("M1")))
    faults = [("batch-count", DEVICE, at + 1 + text.index(name)) for name in (b"BTS", b"FTS")]
    talk.expect((DEVICE, oru("M1")), (DEVICE, oru("M2")), (LIS, ack("M1")), faults=faults)
    return talk


@case
def mllp_batch_without_header() -> Case:
    talk = mllp()
    text = oru("M1") + oru("M2") + oru("M3")
    at = talk.device(block(text))
    talk.lis(block(ack("M1")))
    faults = [("batch-without-header", DEVICE, at + 1 + len(oru("M1")))]
    talk.expect(*((DEVICE, oru(number)) for number in ("M1", "M2", "M3")), (LIS, ack("M1")), faults=faults)
    answered(talk, "M4")
    return talk


@case
def mllp_batch_acknowledged_message_by_message() -> Case:
    talk = mllp()
    talk.device(block(_batch("M1", "M2", "M3", count=3)))
    for number in ("M1", "M2", "M3"):
        talk.lis(block(ack(number)))
    talk.expect(*((DEVICE, oru(n)) for n in ("M1", "M2", "M3")), *((LIS, ack(n)) for n in ("M1", "M2", "M3")))
    return talk


@case
def mllp_commit_bytes() -> Case:
    talk = mllp()
    for number in ("M1", "M2"):
        talk.device(block(oru(number)))
        talk.lis(b"\x0b\x06\x1c\r")
        talk.lis(block(ack(number)))
        talk.device(b"\x0b\x06\x1c\r")
        talk.expect((DEVICE, oru(number)), (LIS, ack(number)))
    return talk


@case
def mllp_commit_refused() -> Case:
    talk = mllp()
    talk.device(block(oru("M1")))
    talk.lis(b"\x0b\x15\x1c\r")
    talk.expect((DEVICE, oru("M1")), complete=False, ending="captureEnd")
    talk.device(block(oru("M1")))
    talk.lis(b"\x0b\x06\x1c\r")
    talk.expect((DEVICE, oru("M1")), complete=False, ending="captureEnd")
    return talk


# Section 2: acknowledgements.


@case
def ack_enhanced_mode() -> Case:
    talk = mllp()
    text = oru("M1", accept="AL", application="AL")
    talk.device(block(text))
    talk.lis(block(ack("M1", "CA")))
    talk.wait(5)
    talk.lis(block(ack("M1", "AA", control_id="B1")))
    talk.expect((DEVICE, text), (LIS, ack("M1", "CA")), (LIS, ack("M1", "AA", control_id="B1")))
    only = oru("M2", accept="AL", application="NE")
    talk.device(block(only))
    talk.lis(block(ack("M2", "CA")))
    talk.expect((DEVICE, only), (LIS, ack("M2", "CA")))
    silent = oru("M3", accept="NE", application="NE")
    talk.device(block(silent))
    talk.expect((DEVICE, silent))
    refused = oru("M4", accept="AL", application="AL")
    talk.device(block(refused))
    talk.lis(block(ack("M4", "CR")))
    talk.expect((DEVICE, refused), (LIS, ack("M4", "CR")))
    return talk


@case
def ack_by_another_name() -> Case:
    talk = mllp()
    query = oru("Q1", kind="QBP^Q11^QBP_Q11")
    answer = ack("Q1", kind="RSP^K11^RSP_K11")
    talk.device(block(query))
    talk.lis(block(answer))
    talk.expect((DEVICE, query), (LIS, answer))
    return talk


@case
def ack_late() -> Case:
    talk = mllp()
    talk.device(block(oru("M1")))
    talk.wait(61)
    talk.device(block(oru("M2")))
    talk.lis(block(ack("M1")))
    talk.lis(block(ack("M2")))
    talk.expect((DEVICE, oru("M1")), (LIS, ack("M1")), ending="silent")
    talk.expect((DEVICE, oru("M2")), (LIS, ack("M2")))
    return talk


@case
def ack_duplicate() -> Case:
    talk = mllp()
    answered(talk, "M1")
    at = talk.lis(block(ack("M1")))
    talk.expect((LIS, ack("M1")), complete=False, ending="captureEnd", faults=[("duplicate-acknowledgement", LIS, at)])
    answered(talk, "M2")
    return talk


@case
def ack_unknown() -> Case:
    talk = mllp()
    at = talk.lis(block(ack("X9")))
    talk.expect((LIS, ack("X9")), complete=False, ending="captureEnd", faults=[("unknown-request", LIS, at)])
    answered(talk, "M2")
    return talk


@case
def ack_of_an_acknowledgement() -> Case:
    talk = mllp()
    answered(talk, "M1")
    at = talk.device(block(ack("AM1")))
    talk.expect(
        (DEVICE, ack("AM1")), complete=False, ending="captureEnd",
        faults=[("acknowledged-acknowledgement", DEVICE, at)],
    )  # fmt: skip
    answered(talk, "M2")
    return talk


@case
def ack_pipelined() -> Case:
    talk = mllp()
    for number in ("M1", "M2", "M3", "M4"):
        talk.device(block(oru(number)))
    for number in ("M3", "M1", "M4"):
        talk.lis(block(ack(number)))
    for number in ("M1", "M2", "M3", "M4"):
        if number == "M2":
            talk.expect((DEVICE, oru(number)), complete=False, ending="captureEnd")
        else:
            talk.expect((DEVICE, oru(number)), (LIS, ack(number)))
    return talk


@case
def ack_for_what_was_sent_again() -> Case:
    talk = mllp()
    talk.device(block(oru("M1")))
    talk.wait(10)
    talk.device(block(oru("M1")))
    talk.lis(block(ack("M1")))
    talk.lis(block(ack("M1")))
    talk.expect((DEVICE, oru("M1")), (LIS, ack("M1")))
    talk.expect((DEVICE, oru("M1")), (LIS, ack("M1")))
    return talk


@case
def ack_without_ids() -> Case:
    talk = mllp()
    talk.device(block(oru("")))
    talk.lis(block(ack("", control_id="ACK")))
    talk.expect((DEVICE, oru("")), (LIS, ack("", control_id="ACK")))
    return talk


@case
def ack_all_of_one_id() -> Case:
    talk = mllp()
    for number in ("M1", "M2"):
        talk.device(block(oru(number)))
        talk.lis(block(ack(number, control_id="ACK")))
        talk.expect((DEVICE, oru(number)), (LIS, ack(number, control_id="ACK")))
    return talk


# Section 4: LIS01.


@case
def lis01_clean() -> Case:
    talk = lis01()
    for _ in range(2):
        turn(talk)
        talk.expect((DEVICE, b"".join(RECORDS)))
    talk.close()
    return talk


@case
def lis01_records_over_frames() -> Case:
    talk = lis01()
    text = b"".join(RECORDS)
    talk.device(b"\x05")
    talk.lis(b"\x06")
    cuts = [0, 20, 21, 70, 110, len(text)]
    for number in range(1, len(cuts)):
        end = b"\x03" if number == len(cuts) - 1 else b"\x17"
        talk.device(frame(number, text[cuts[number - 1] : cuts[number]], end))
        talk.lis(b"\x06")
    talk.device(b"\x04")
    talk.expect((DEVICE, text))
    return talk


@case
def lis01_many_records_in_a_frame() -> Case:
    talk = lis01()
    turn(talk, [b"".join(RECORDS)])
    talk.expect((DEVICE, b"".join(RECORDS)))
    return talk


@case
def lis01_two_messages_and_more_than_eight_frames() -> Case:
    talk = lis01()
    turn(talk, RECORDS + RECORDS)
    talk.expect((DEVICE, b"".join(RECORDS)), (DEVICE, b"".join(RECORDS)))
    return talk


@case
def lis01_hl7_in_frames() -> Case:
    talk = lis01()
    turn(talk, [oru("M1"), oru("M2")])
    talk.expect((DEVICE, oru("M1")), (DEVICE, oru("M2")))
    return talk


@case
def lis01_frames_without_crlf() -> Case:
    talk = lis01()
    faults = []
    talk.device(b"\x05")
    talk.lis(b"\x06")
    for number, record in enumerate(RECORDS, 1):
        raw = frame(number, record)[:-2]
        faults.append(("missing-crlf", DEVICE, talk.device(raw) + len(raw)))
        talk.lis(b"\x06")
    talk.device(b"\x04")
    talk.expect((DEVICE, b"".join(RECORDS)), faults=faults)
    return talk


@case
def lis01_frames_without_checksum() -> Case:
    talk = lis01()
    faults = []
    talk.device(b"\x05")
    talk.lis(b"\x06")
    for number, record in enumerate(RECORDS, 1):
        raw = frame(number, record)[:-4] + b"\r\n"
        faults.append(("missing-checksum", DEVICE, talk.device(raw) + len(raw) - 2))
        talk.lis(b"\x06")
    talk.device(b"\x04")
    talk.expect((DEVICE, b"".join(RECORDS)), faults=faults)
    return talk


@case
def lis01_lower_case_checksum() -> Case:
    talk = lis01()
    talk.device(b"\x05")
    talk.lis(b"\x06")
    for number, record in enumerate(RECORDS, 1):
        raw = frame(number, record)
        talk.device(raw[:-4] + raw[-4:].lower())
        talk.lis(b"\x06")
    talk.device(b"\x04")
    talk.expect((DEVICE, b"".join(RECORDS)))
    return talk


def _damaged(raw: bytes) -> bytes:
    return raw[:5] + b"?" + raw[6:]


@case
def lis01_bad_checksum_refused() -> Case:
    talk = lis01()
    faults = []
    talk.device(b"\x05")
    talk.lis(b"\x06")
    for number, record in enumerate(RECORDS, 1):
        raw = frame(number, record)
        if number == 3:
            faults.append(("checksum", DEVICE, talk.device(_damaged(raw)) + len(raw) - 4))
            talk.lis(b"\x15")
        talk.device(raw)
        talk.lis(b"\x06")
    talk.device(b"\x04")
    talk.expect((DEVICE, b"".join(RECORDS)), faults=faults)
    return talk


@case
def lis01_bad_checksum_accepted() -> Case:
    talk = lis01()
    faults = []
    talk.device(b"\x05")
    talk.lis(b"\x06")
    for number, record in enumerate(RECORDS, 1):
        raw = frame(number, record)
        wrong = b"%02X" % ((int(raw[-4:-2], 16) + 1) & 0xFF)
        faults.append(("checksum", DEVICE, talk.device(raw[:-4] + wrong + b"\r\n") + len(raw) - 4))
        talk.lis(b"\x06")
    talk.device(b"\x04")
    talk.expect((DEVICE, b"".join(RECORDS)), faults=faults)
    return talk


@case
def lis01_repeated_frame() -> Case:
    talk = lis01()
    faults = []
    talk.device(b"\x05")
    talk.lis(b"\x06")
    for number, record in enumerate(RECORDS, 1):
        talk.device(frame(number, record))
        talk.lis(b"\x06")
        if number == 2:
            faults.append(("repeated-frame", DEVICE, talk.device(frame(number, record))))
            talk.lis(b"\x06")
    talk.device(b"\x04")
    talk.expect((DEVICE, b"".join(RECORDS)), faults=faults)
    return talk


@case
def lis01_skipped_frame_number() -> Case:
    talk = lis01()
    faults = []
    talk.device(b"\x05")
    talk.lis(b"\x06")
    for number, record in zip((1, 2, 4, 5, 6), RECORDS, strict=True):
        at = talk.device(frame(number, record))
        if number == 4:
            faults.append(("frame-number", DEVICE, at))
        talk.lis(b"\x06")
    talk.device(b"\x04")
    talk.expect((DEVICE, b"".join(RECORDS)), faults=faults)
    return talk


@case
def lis01_first_number_is_not_one() -> Case:
    talk = lis01()
    turn(talk, first=0)
    talk.expect((DEVICE, b"".join(RECORDS)), faults=[("frame-number", DEVICE, 1)])
    return talk


@case
def lis01_frame_without_number() -> Case:
    talk = lis01()
    talk.device(b"\x05")
    talk.lis(b"\x06")
    body = b"".join(RECORDS) + b"\x03"
    at = talk.device(b"\x02" + body + b"%02X\r\n" % (sum(body) & 0xFF))
    talk.lis(b"\x06")
    talk.device(b"\x04")
    talk.expect((DEVICE, b"".join(RECORDS)), faults=[("bad-frame-number", DEVICE, at + 1)])
    return talk


@case
def lis01_empty_session() -> Case:
    talk = lis01()
    talk.device(b"\x05")
    talk.lis(b"\x06")
    talk.device(b"\x04")
    talk.expect()
    turn(talk)
    talk.expect((DEVICE, b"".join(RECORDS)))
    talk.device(b"\x05")
    talk.lis(b"\x06")
    talk.device(b"\x04")
    talk.expect()
    return talk


@case
def lis01_eot_and_enq_together() -> Case:
    talk = lis01()
    talk.device(b"\x05")
    for again in range(3):
        talk.lis(b"\x06")
        talk.device(frame(1, b"".join(RECORDS)))
        talk.lis(b"\x06")
        talk.device(b"\x04" if again == 2 else b"\x04\x05")
        talk.expect((DEVICE, b"".join(RECORDS)))
    return talk


@case
def lis01_contention() -> Case:
    talk = lis01()
    talk.device(b"\x05")
    faults = [("contention", LIS, talk.lis(b"\x05"))]
    talk.wait(1)  # the analyzer has priority: it asks again, the host yields
    turn(talk)
    talk.expect((DEVICE, b"".join(RECORDS)), faults=faults)
    return talk


@case
def lis01_busy_host() -> Case:
    talk = lis01()
    faults = []
    for _ in range(2):
        talk.device(b"\x05")
        faults.append(("busy", LIS, talk.lis(b"\x15")))
        talk.wait(10)
    turn(talk)
    talk.expect((DEVICE, b"".join(RECORDS)), faults=faults)
    return talk


@case
def lis01_receiver_interrupt() -> Case:
    talk = lis01()
    talk.device(b"\x05")
    talk.lis(b"\x06")
    for number in (1, 2):
        talk.device(frame(number, RECORDS[number - 1]))
        if number == 1:
            talk.lis(b"\x06")
    faults = [("receiver-interrupt", LIS, talk.lis(b"\x04"))]
    talk.device(b"\x04")
    talk.expect((DEVICE, RECORDS[0] + RECORDS[1], False), faults=faults)
    turn(talk)
    talk.expect((DEVICE, b"".join(RECORDS)))
    return talk


@case
def lis01_interrupt_after_the_last_frame() -> Case:
    talk = lis01()
    talk.device(b"\x05")
    talk.lis(b"\x06")
    talk.device(frame(1, b"".join(RECORDS)))
    faults = [("receiver-interrupt", LIS, talk.lis(b"\x04"))]
    talk.device(b"\x04")
    talk.expect((DEVICE, b"".join(RECORDS)), faults=faults)
    return talk


@case
def lis01_every_frame_answered_twice() -> Case:
    talk = lis01()
    talk.device(b"\x05")
    talk.lis(b"\x06")
    for number, record in enumerate(RECORDS, 1):
        talk.device(frame(number, record))
        talk.lis(b"\x06")
        talk.lis(b"\x06")
    talk.device(b"\x04")
    talk.expect((DEVICE, b"".join(RECORDS)))
    return talk


@case
def lis01_without_an_eot() -> Case:
    talk = lis01()
    talk.device(b"\x05")
    talk.lis(b"\x06")
    for number in (1, 2):
        talk.device(frame(number, RECORDS[number - 1]))
        talk.lis(b"\x06")
    talk.expect((DEVICE, RECORDS[0] + RECORDS[1], False), complete=False, ending="silent")
    talk.wait(40)
    turn(talk)
    talk.expect((DEVICE, b"".join(RECORDS)))
    return talk


@case
def lis01_refused_for_good() -> Case:
    talk = lis01()
    talk.device(b"\x05")
    talk.lis(b"\x06")
    talk.device(frame(1, RECORDS[0]))
    talk.lis(b"\x06")
    for _ in range(6):
        talk.device(frame(2, RECORDS[1]))
        talk.lis(b"\x15")
    talk.device(b"\x04")
    talk.expect((DEVICE, RECORDS[0], False))
    return talk


@case
def lis01_control_in_text() -> Case:
    talk = lis01()
    records = (RECORDS[0], b"P|1||P\x05\x0617\r", RECORDS[4])
    at = 1 + len(frame(1, RECORDS[0])) + 2
    turn(talk, records)
    talk.expect((DEVICE, b"".join(records)), faults=[("control-in-text", DEVICE, at + records[1].index(b"\x05"))])
    return talk


@case
def lis01_text_without_frames() -> Case:
    talk = lis01()
    text = b"".join(RECORDS)
    talk.device(b"\x05")
    talk.lis(b"\x06")
    at = talk.device(text)
    talk.lis(b"\x06")
    talk.device(b"\x04")
    talk.expect((DEVICE, text), faults=[("unframed", DEVICE, at)])
    return talk


@case
def lis01_noise_between_frames() -> Case:
    talk = lis01()
    talk.device(b"\x05")
    talk.lis(b"\x06")
    talk.device(frame(1, RECORDS[0]))
    talk.lis(b"\x06")
    at = talk.device(b"\xff\xfe" + frame(2, RECORDS[4]))
    talk.lis(b"\x06")
    talk.device(b"\x04")
    talk.expect((DEVICE, RECORDS[0] + RECORDS[4]), faults=[("stray-bytes", DEVICE, at)])
    return talk


@case
def lis01_host_sends_orders() -> Case:
    talk = lis01()
    query = (RECORDS[0], b"Q|1|^S-4711||ALL\r", b"L|1|N\r")
    turn(talk, query)
    talk.expect((DEVICE, b"".join(query)))
    order = (b"H|\\^&|||LIS\r", b"P|1||P-17\r", b"O|1|S-4711||^^^GLU\r", b"L|1|F\r")
    talk.lis(b"\x05")
    talk.device(b"\x06")
    for number, record in enumerate(order, 1):
        talk.lis(frame(number, record))
        talk.device(b"\x06")
    talk.lis(b"\x04")
    talk.expect((LIS, b"".join(order)))
    return talk


# Section 5: the plain variant.


def plain() -> Case:
    talk = Case(acceptor=("10.0.0.9", 6001))
    talk.protocol = "plain"
    talk.open()
    return talk


def _plain_turn(talk: Case, *raws: bytes) -> list[int]:
    talk.device(b"\x05")
    talk.lis(b"\x06")
    offsets = []
    for raw in raws:
        offsets.append(talk.device(raw))
        talk.lis(b"\x06")
    talk.device(b"\x04")
    return offsets


@case
def plain_clean() -> Case:
    talk = plain()
    texts = [oru("M1")[:-1], oru("M2")[:-1]]
    _plain_turn(talk, *(b"\x02" + text + b"\r\n" for text in texts))
    talk.expect(*((DEVICE, text) for text in texts))
    talk.close()
    return talk


@case
def plain_crlf_separators() -> Case:
    talk = plain()
    texts = [oru(number)[:-1].replace(b"\r", b"\r\n") for number in ("M1", "M2")]
    offsets = _plain_turn(talk, *(b"\x02" + text + b"\r\n" for text in texts))
    faults = [("lf-separator", DEVICE, at + 1 + text.index(b"\n")) for at, text in zip(offsets, texts, strict=True)]
    talk.expect(*((DEVICE, text) for text in texts), faults=faults)
    return talk


@case
def plain_with_checksum() -> Case:
    talk = plain()
    texts = [oru("M1")[:-1], oru("M2")[:-1]]
    sums = [sum(text + b"\x03") & 0xFF for text in texts]
    sums[1] ^= 1
    raws = [b"\x02" + text + b"\x03%02X\r\n" % total for text, total in zip(texts, sums, strict=True)]
    offsets = _plain_turn(talk, *raws)
    talk.expect(*((DEVICE, text) for text in texts), faults=[("checksum", DEVICE, offsets[1] + 2 + len(texts[1]))])
    return talk


# Captures that are damaged: the conversation is sound, and the truth is what of it was captured.


class Day:
    """A sound conversation of each protocol, one after the other, and then what the capture makes of it."""

    def __init__(self, *, closed: bool = True) -> None:
        self.talks = [Case(), Case(opener=("10.0.0.6", 49153), acceptor=("10.0.0.9", 6661))]
        first, second = self.talks
        second.time_ns += 500_000
        for talk in self.talks:
            talk.open()
        for number in ("M1", "M2", "M3", "M4", "M5", "M6"):
            first.device(block(oru(number)), mss=90)
            first.lis(block(ack(number)))
            first.expect((DEVICE, oru(number)), (LIS, ack(number)))
        second.protocol = "lis01"
        for _ in range(3):
            turn(second)
            second.expect((DEVICE, b"".join(RECORDS)))
        if closed:
            for talk in self.talks:
                talk.close()
        self.packets = sorted((p for talk in self.talks for p in talk.packets), key=lambda p: p.time_ns)

    @property
    def sessions(self) -> list[dict[str, Any]]:
        return [session for talk in self.talks for session in talk.sessions]

    def streams(self) -> dict[str, dict[str, Any]]:
        return self.talks[0].streams() | self.talks[1].streams()


def _tcp(packet: Packet) -> tuple[int, int, int, int]:
    """Where the payload begins and ends; sequence number; flags (Ethernet, IPv4 and TCP without options)."""
    total = struct.unpack_from(">H", packet.data, 16)[0]
    return 54, 14 + total, struct.unpack_from(">I", packet.data, 38)[0], packet.data[47]


def _later(packet: Packet, nanoseconds: int) -> Packet:
    return packet._replace(time_ns=packet.time_ns + nanoseconds)


@case
def damaged_duplicates() -> Day:
    day = Day()
    day.packets = [copy for packet in day.packets for copy in (packet, _later(packet, 10_000))]
    return day


@case
def damaged_reordered() -> Day:
    day = Day()
    generator = random.Random(7)
    packets = day.packets
    for at in range(0, len(packets) - 1, 2):
        if generator.random() < 0.5:
            packets[at], packets[at + 1] = packets[at + 1], packets[at]
    return day


@case
def damaged_stored_out_of_order() -> Day:
    """As several capture threads write: runs of packets change places, each with its right time."""
    day = Day()
    generator = random.Random(11)
    packets, mixed = day.packets, []
    for at in range(0, len(packets), 7):
        run = packets[at : at + 7]
        generator.shuffle(run)
        mixed += run
    day.packets = mixed
    return day


@case
def damaged_two_interfaces() -> Day:
    """The same traffic on two interfaces, the second a little later, and written by turns of ten packets."""
    day = Day()
    both = []
    for at in range(0, len(day.packets), 10):
        run = day.packets[at : at + 10]
        both += run + [_later(packet, 30_000)._replace(interface=Interface("other")) for packet in run]
    day.packets = both
    return day


@case
def damaged_two_interfaces_one_after_the_other() -> Day:
    day = Day()
    day.packets += [_later(packet, 30_000)._replace(interface=Interface("other")) for packet in day.packets]
    return day


@case
def damaged_keep_alives_and_zero_windows() -> Day:
    """Between the packets: keep-alives with and without their old byte, zero windows, window probes."""
    day = Day()
    out = []
    for packet in day.packets:
        out.append(packet)
        start, end, seq, flags = _tcp(packet)
        if end > start:
            data = bytearray(packet.data)
            for length in (0, 1):  # one before the next byte: an old one
                struct.pack_into(">I", data, 38, seq + end - start - 1 & 0xFFFFFFFF)
                struct.pack_into(">H", data, 16, 40 + length)
                data[47] = ACK
                raw = bytes(data[:54]) + b"\0" * length
                out.append(packet._replace(data=raw.ljust(60, b"\0"), time_ns=packet.time_ns + 1000))
        elif flags == ACK:
            data = bytearray(packet.data)
            struct.pack_into(">H", data, 48, 0)
            out.append(packet._replace(data=bytes(data), time_ns=packet.time_ns + 1000))
    day.packets = out
    return day


@case
def damaged_overlaps() -> Day:
    """Every data packet is followed by a repeat that covers its second half, and by one of the whole."""
    day = Day()
    out = []
    for packet in day.packets:
        out.append(packet)
        start, end, seq, _ = _tcp(packet)
        if end - start > 2:
            half = (end - start) // 2
            data = bytearray(packet.data[:54] + packet.data[start + half : end])
            struct.pack_into(">I", data, 38, seq + half & 0xFFFFFFFF)
            struct.pack_into(">H", data, 16, 40 + end - start - half)
            out.append(_later(packet._replace(data=bytes(data).ljust(60, b"\0")), 1000))
            out.append(_later(packet, 2000))
    day.packets = out
    return day


@case
def damaged_conflicting_repeats() -> Day:
    """Every data packet comes again with other bytes: what was first is what was said."""
    day = Day()
    out = []
    for packet in day.packets:
        start, end, _, _ = _tcp(packet)
        out.append(packet)
        if end > start:
            out.append(_later(packet._replace(data=packet.data[:54] + b"\x05" * (end - start)), 1000))
    day.packets = out
    return day


@case
def damaged_sequence_wrap() -> Case:
    talk = Case(isn=(0xFFFFFF00, 0xFFFFFFF0))
    talk.open()
    for number in ("M1", "M2", "M3"):
        talk.device(block(oru(number)), mss=50)
        talk.lis(block(ack(number)), mss=30)
        talk.expect((DEVICE, oru(number)), (LIS, ack(number)))
    talk.close()
    return talk


@case
def damaged_one_byte_a_segment() -> Case:
    talk = mllp()
    for number in ("M1", "M2"):
        talk.device(block(oru(number)), mss=1)
        talk.lis(block(ack(number)), mss=1)
        talk.expect((DEVICE, oru(number)), (LIS, ack(number)))
    talk.close()
    return talk


@case
def damaged_one_byte_a_segment_lis01() -> Case:
    talk = lis01()
    talk.device(b"\x05")
    talk.lis(b"\x06")
    for number, record in enumerate(RECORDS, 1):
        talk.device(frame(number, record), mss=1)
        talk.lis(b"\x06")
    talk.device(b"\x04")
    talk.expect((DEVICE, b"".join(RECORDS)))
    return talk


@case
def damaged_gap_in_a_message() -> Case:
    """Bytes that are missing from the capture only: the end of one message and the beginning of the next."""
    talk = mllp()
    answered(talk, "M1")
    second, third = block(oru("M2")), block(oru("M3"))
    talk.device(second[:60])
    gap = talk.missed(DEVICE, second[60:] + third[:40])
    talk.device(third[40:])
    talk.lis(block(ack("M2")) + block(ack("M3")))
    talk.wait(3)
    answered(talk, "M4")
    lost = len(second) - 60 + 40
    back = talk.offsets[LIS] - len(block(ack("M4"))) - len(block(ack("M3")))
    last = talk.sessions.pop()
    second_, faults = (DEVICE, second[1:60], False), [("gap", DEVICE, gap)]
    talk.expect(second_, (LIS, ack("M2")), faults=faults, missing=lost, complete=False, ending="gapped")
    faults = [("unknown-request", LIS, back)]
    talk.expect((LIS, ack("M3")), complete=False, ending="captureEnd", faults=faults)
    last["faults"] = [["stray-bytes", DEVICE, gap + lost]]  # the rest of the third, which has no beginning
    talk.sessions.append(last)
    return talk


@case
def damaged_gap_in_an_answer() -> Case:
    talk = mllp()
    answered(talk, "M1")
    talk.device(block(oru("M2")))
    talk.missed(LIS, block(ack("M2")))
    talk.device(block(oru("M3")))
    talk.lis(block(ack("M3")))
    talk.expect((DEVICE, oru("M2")), complete=False, ending="gapped", missing=len(block(ack("M2"))))
    talk.expect((DEVICE, oru("M3")), (LIS, ack("M3")))  # asked when the gap was over
    talk.wait(3)
    answered(talk, "M4")
    return talk


@case
def damaged_gap_between_frames() -> Case:
    talk = lis01()
    talk.device(b"\x05")
    talk.lis(b"\x06")
    lost = 0
    for number, record in enumerate(RECORDS, 1):
        if number == 3:
            lost = len(frame(number, record))
            talk.missed(DEVICE, frame(number, record))
        else:
            talk.device(frame(number, record))
        talk.lis(b"\x06")
    talk.device(b"\x04")
    text = b"".join(RECORDS[:2] + RECORDS[3:])
    talk.expect((DEVICE, text, False), complete=False, ending="gapped", missing=lost)
    talk.wait(3)
    turn(talk)
    talk.expect((DEVICE, b"".join(RECORDS)))
    return talk


@case
def damaged_begins_mid_connection() -> Case:
    talk = mllp()
    talk.device(block(oru("M1")))
    talk.lis(block(ack("M1")))
    _forget(talk)
    answered(talk, "M2")
    talk.close()
    return talk


def _forget(talk: Case) -> None:
    """The capture begins here."""
    talk.packets.clear()
    talk.said = [b"", b""]
    talk.offsets = [0, 0]
    talk.sessions.clear()


@case
def damaged_begins_mid_connection_out_of_order() -> Case:
    talk = mllp()
    talk.device(block(oru("M1")))
    _forget(talk)
    talk.device(block(oru("M2")), mss=60)
    talk.packets[:3] = talk.packets[2::-1]
    talk.lis(block(ack("M2")))
    talk.expect((DEVICE, oru("M2")), (LIS, ack("M2")))
    return talk


@case
def damaged_begins_mid_message() -> Case:
    talk = mllp()
    whole = block(oru("M1"))
    talk.device(whole[:70])
    _forget(talk)
    rest = talk.device(whole[70:])
    at = talk.lis(block(ack("M1")))
    talk.expect((LIS, ack("M1")), complete=False, ending="closed", faults=[("unknown-request", LIS, at)])
    answered(talk, "M2", faults=[("stray-bytes", DEVICE, rest)])
    talk.close()
    return talk


@case
def damaged_begins_mid_turn() -> Case:
    talk = lis01()
    talk.device(b"\x05")
    talk.lis(b"\x06")
    for number in (1, 2):
        talk.device(frame(number, RECORDS[number - 1]))
        talk.lis(b"\x06")
    _forget(talk)
    faults: list[tuple[str, int, int]] = []
    for number in (3, 4, 5):
        talk.device(frame(number, RECORDS[number - 1]))
        talk.lis(b"\x06")
    talk.device(b"\x04")
    talk.expect((DEVICE, b"".join(RECORDS[2:]), False), complete=False, ending="gapped", faults=faults)
    turn(talk)
    talk.expect((DEVICE, b"".join(RECORDS)))
    return talk


@case
def damaged_one_direction_device() -> Case:
    talk = lis01()
    for _ in range(2):
        turn(talk)
        talk.expect((DEVICE, b"".join(RECORDS)))
    talk.packets = [packet for packet in talk.packets if packet.data[26:30] == bytes((10, 0, 0, 5))]
    talk.said[LIS] = b""
    return talk


@case
def damaged_one_direction_mllp() -> Case:
    talk = mllp()
    for number in ("M1", "M2"):
        talk.device(block(oru(number)))
        talk.lis(block(ack(number)))
        talk.expect((DEVICE, oru(number)), complete=False, ending="captureEnd")
    talk.packets = [packet for packet in talk.packets if packet.data[26:30] == bytes((10, 0, 0, 5))]
    talk.said[LIS] = b""
    return talk


@case
def damaged_reset_mid_message() -> Case:
    talk = mllp()
    answered(talk, "M1")
    cut = block(oru("M2"))[:60]
    at = talk.device(cut)
    talk.reset(1)
    talk.expect((DEVICE, cut[1:], False), complete=False, ending="reset", faults=[("truncated", DEVICE, at + len(cut))])
    return talk


@case
def damaged_reset_before_the_data() -> Case:
    """The reset is stored before the last packet that was sent ahead of it."""
    talk = mllp()
    answered(talk, "M1")
    talk.device(block(oru("M2")))
    talk.lis(block(ack("M2")))
    talk.expect((DEVICE, oru("M2")), (LIS, ack("M2")))
    talk.reset(1)
    talk.packets[-1], talk.packets[-3] = talk.packets[-3], talk.packets[-1]
    return talk


@case
def damaged_fin_mid_message() -> Case:
    talk = mllp()
    answered(talk, "M1")
    cut = block(oru("M2"))[:60]
    at = talk.device(cut)
    talk.close()
    talk.expect(
        (DEVICE, cut[1:], False), complete=False, ending="closed", faults=[("truncated", DEVICE, at + len(cut))]
    )
    return talk


class Several:
    """Conversations one after the other in one capture."""

    def __init__(self, *talks: Case) -> None:
        self.talks = talks
        self.packets = sorted((p for talk in talks for p in talk.packets), key=lambda p: p.time_ns)
        self.sessions = [session for talk in talks for session in talk.sessions]

    def streams(self) -> dict[str, dict[str, Any]]:
        said: dict[str, bytes] = {}
        for talk in self.talks:
            for side in (0, 1):
                name = f"{talk.ends[side]}->{talk.ends[1 - side]}"
                said[name] = said.get(name, b"") + talk.said[side]
        return {name: {"length": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in said.items()}


@case
def damaged_lost_fin_and_the_same_ports() -> Several:
    first = mllp()
    answered(first, "M1")
    first.device(block(oru("M2")))
    first.expect((DEVICE, oru("M2")), complete=False, ending="closed")
    second = Case(time_ns=first.time_ns + SECOND, isn=(3_000_000_000, 4_000_000_000))
    second.open()
    answered(second, "M2")
    return Several(first, second)


@case
def damaged_lost_fin_and_lost_syn() -> Several:
    first = mllp()
    answered(first, "M1")
    second = Case(time_ns=first.time_ns + SECOND, isn=(3_000_000_000, 4_000_000_000))
    second.open()
    second.packets.clear()
    answered(second, "M2")
    return Several(first, second)


@case
def damaged_snaplen() -> Case:
    """The capture keeps 150 bytes of each packet: the longer ones are cut."""
    talk = mllp()
    kept = 150 - 54
    for number in ("M1", "M2", "M3"):
        text = oru(number, extra=b"NTE|1||" + b"x" * 200 + b"\r")
        at = talk.device(block(text))
        lost = len(block(text)) - kept
        talk.said[DEVICE] = talk.said[DEVICE][:-lost]
        assert len(block(ack(number))) <= kept
        talk.lis(block(ack(number)))
        talk.wait(3)
        cut = (DEVICE, text[: kept - 1], False)
        faults = [("gap", DEVICE, at + kept)]
        talk.expect(cut, (LIS, ack(number)), complete=False, ending="gapped", missing=lost, faults=faults)
    talk.packets = [packet._replace(data=packet.data[:150]) for packet in talk.packets]
    return talk


@case
def damaged_segmentation_offload() -> Case:
    """Packets of 64 KiB, some with the IP length that the network card would have set."""
    talk = mllp()
    for number in ("M1", "M2"):
        text = oru(number, extra=b"OBX|2|ED|PDF||^^^Base64^" + b"QUJD" * 16_500 + b"\r")
        talk.device(block(text), mss=65_000)
        talk.lis(block(ack(number)))
        talk.expect((DEVICE, text), (LIS, ack(number)))
    for at, packet in enumerate(talk.packets):
        if len(packet.data) > 60_000 and at % 2:
            talk.packets[at] = packet._replace(data=packet.data[:16] + b"\0\0" + packet.data[18:])
    return talk


def _fragmented(packet: Packet, size: int) -> list[Packet]:
    """Cut an IPv4 packet into fragments that carry ``size`` bytes (a multiple of 8)."""
    total = struct.unpack_from(">H", packet.data, 16)[0]
    payload = packet.data[34 : 14 + total]
    parts = []
    for at in range(0, len(payload), size):
        piece = payload[at : at + size]
        more = 0x2000 if at + size < len(payload) else 0
        head = bytearray(packet.data[:34])
        struct.pack_into(">H", head, 16, 20 + len(piece))
        struct.pack_into(">HH", head, 18, packet.time_ns // 1000 & 0xFFFF, more | at // 8)
        parts.append(packet._replace(data=(bytes(head) + piece).ljust(60, b"\0")))
    return parts


@case
def damaged_ip_fragments() -> Day:
    day = Day()
    generator = random.Random(3)
    out: list[Packet] = []
    for packet in day.packets:
        start, end, _, _ = _tcp(packet)
        if end - start > 40:
            parts = _fragmented(packet, 32)
            generator.shuffle(parts)
            out += parts
        else:
            out.append(packet)
    day.packets = out
    return day


@case
def damaged_ipv6_fragments() -> Case:
    talk = Case(opener=("fd00::5", 49152), acceptor=("fd00::9", 2575))
    talk.open()
    answered(talk, "M1")
    answered(talk, "M2")
    generator = random.Random(5)
    out: list[Packet] = []
    for packet in talk.packets:
        length = struct.unpack_from(">H", packet.data, 18)[0]
        payload = packet.data[54 : 54 + length]
        if length < 100:
            out.append(packet)
            continue
        parts = []
        for at in range(0, len(payload), 48):
            piece = payload[at : at + 48]
            head = bytearray(packet.data[:54])
            struct.pack_into(">H", head, 18, 8 + len(piece))
            head[20] = 44
            extension = struct.pack(">BBHI", 6, 0, at | (at + 48 < len(payload)), packet.time_ns & 0xFFFFFFFF)
            parts.append(packet._replace(data=bytes(head) + extension + piece))
        generator.shuffle(parts)
        out += parts
    talk.packets = out
    return talk


@case
def damaged_overlapping_fragments() -> Case:
    """An attack of old: fragments that would overwrite what came before.  The first stands."""
    talk = mllp()
    answered(talk, "M1")
    out: list[Packet] = []
    for packet in talk.packets:
        start, end, _, _ = _tcp(packet)
        if end - start > 80:
            parts = _fragmented(packet, 48)
            evil = [part._replace(data=part.data[:34] + b"?" * (len(part.data) - 34)) for part in parts]
            for part, other in zip(parts, evil, strict=True):
                out += [part, other]
        else:
            out.append(packet)
    talk.packets = out
    return talk


# Other traffic in between, other link layers: nothing is taken for a conversation that is none.


@case
def other_traffic() -> Several:
    talk = mllp()
    answered(talk, "M1")
    web = Case(opener=("10.0.0.5", 50000), acceptor=("10.0.0.9", 443), time_ns=talk.time_ns)
    web.open()
    web.opener(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + random.Random(1).randbytes(500))
    web.acceptor(b"\x16\x03\x03\x00\x7a" + random.Random(2).randbytes(900))
    mail = Case(opener=("10.0.0.5", 50001), acceptor=("10.0.0.9", 25), time_ns=web.time_ns)
    mail.open()
    mail.acceptor(b"220 mail ready\r\n")
    mail.opener(b"EHLO example\r\nMAIL FROM:<a@example.org>\r\n")
    return Several(talk, web, mail)


@case
def link_ipv6_vlan() -> Case:
    talk = Case(opener=("fd00::5", 49152), acceptor=("fd00::9", 2575))
    talk.open()
    answered(talk, "M1")
    talk.packets = [p._replace(data=p.data[:12] + b"\x88\xa8\0\x64\x81\0\0\x05" + p.data[12:]) for p in talk.packets]
    return talk


def _data(made: Any) -> bytes:
    """The capture file: classic pcap, or pcapng where the packets are of several interfaces."""
    names = list(dict.fromkeys(packet.interface for packet in made.packets))
    if len(names) == 1:
        return pcap_header() + b"".join(pcap_record(p.time_ns, p.data, p.wire_length) for p in made.packets)
    writer = PcapngWriter()
    packets = [writer.packet(names.index(p.interface), p.time_ns, p.data, p.wire_length) for p in made.packets]
    return writer.header("", names) + b"".join(packets)


def files(name: str) -> tuple[bytes, bytes]:
    """Return a capture and its truth."""
    make = CASES[name]
    made = make()
    truth = {"about": (make.__doc__ or name.replace("_", " ")).strip(), "streams": made.streams()}
    truth["sessions"] = made.sessions
    return _data(made), (json.dumps(truth, indent=1) + "\n").encode()


def main() -> None:
    for name in CASES:
        data, truth = files(name)
        (HERE / f"{name}.pcap").write_bytes(data)
        (HERE / f"{name}.json").write_bytes(truth)
    if "--real" in sys.argv:
        from real import capture_all

        capture_all(HERE)


if __name__ == "__main__":
    main()
