"""The simulated lab: analyzers and a LIS that talk over real sockets on the loopback interface.

A conversation is a script of who says what.  Both ends follow it, over a TCP connection of its own.  All patients are
made up.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

__all__ = ["ANALYZER", "LIS", "Heard", "Script", "converse", "lis01_frame", "scripts"]

ANALYZER: Final = 0
"""The one who opens the connection."""
LIS: Final = 1

ENQ, ACK, NAK, EOT = b"\x05", b"\x06", b"\x15", b"\x04"


class Script(NamedTuple):
    """A conversation: each of ``steps`` is who speaks and what they say."""

    title: str
    steps: tuple[tuple[int, bytes], ...]


class Heard(NamedTuple):
    """What was said on a connection.  ``speaker`` is None at its opening and, with ``closing``, at its end."""

    speaker: int | None
    data: bytes
    opener: tuple[str, int]
    acceptor: tuple[str, int]
    closing: bool = False


def lis01_frame(number: int, text: bytes, *, last: bool = True, wrong_checksum: bool = False) -> bytes:
    """Return a LIS01 frame: STX, number, text, ETX or ETB, checksum, CR LF."""
    body = b"%d" % (number % 8) + text + (b"\x03" if last else b"\x17")
    return b"\x02" + body + b"%02X" % (sum(body) + wrong_checksum & 0xFF) + b"\r\n"


def scripts(round_number: int) -> Iterator[Script]:
    """Yield the conversations of one round, with a specimen of its own."""
    stamp = datetime.now(UTC).strftime("%Y%m%d%H%M%S").encode()
    specimen = b"S-%04d" % (1000 + round_number)
    yield _lis01(stamp, specimen)
    yield _mllp(stamp, specimen, b"HC%05d" % round_number, answered=True)
    yield _plain(stamp, specimen, b"PV%05d" % round_number)
    yield _mllp(stamp, specimen, b"XX%05d" % round_number, answered=False)


def converse(
    script: Script,
    hear: Callable[[Heard], None],
    *,
    listener: socket.socket,
    pace: float,
    stopped: threading.Event,
) -> None:
    """Play ``script`` over a connection to ``listener``, with ``pace`` seconds between steps, until ``stopped``.

    ``hear`` is called with each step right after it was sent.  Raises OSError if the connection breaks.
    """
    opener = socket.create_connection(listener.getsockname()[:2], timeout=10)
    acceptor, _ = listener.accept()
    ends = (opener, acceptor)
    addresses = (opener.getsockname()[:2], opener.getpeername()[:2])
    with opener, acceptor:
        acceptor.settimeout(10)
        hear(Heard(None, b"", *addresses))
        for speaker, data in script.steps:
            if stopped.wait(pace):
                break
            ends[speaker].sendall(data)
            hear(Heard(speaker, data, *addresses))
            _receive(ends[1 - speaker], len(data))
        hear(Heard(None, b"", *addresses, closing=True))


def _receive(end: socket.socket, count: int) -> None:
    while count > 0:
        data = end.recv(count)
        if not data:
            raise ConnectionError("the other end of the simulated conversation closed")
        count -= len(data)


def _lis01(stamp: bytes, specimen: bytes) -> Script:
    """A chemistry analyzer sends results.  One frame arrives damaged, is refused, and is sent again."""
    records = (
        b"H|\\^&|||CHEM-1^SIM|||||LIS||P|LIS2-A2|" + stamp + b"\r",
        b"P|1||SIM-0042||EXAMPLE^PATIENT||19700101|U\r",
        b"O|1|" + specimen + b"||^^^GLU\\^^^CREA|R||" + stamp + b"\r",
        b"R|1|^^^GLU|5.4|mmol/L|3.9^5.8|N||F||||" + stamp + b"\r",
        b"R|2|^^^CREA|84|umol/L|62^106|N||F||||" + stamp + b"\r",
        b"L|1|N\r",
    )
    steps: list[tuple[int, bytes]] = [(ANALYZER, ENQ), (LIS, ACK)]
    for number, record in enumerate(records, 1):
        if number == 4:
            steps += [(ANALYZER, lis01_frame(number, record, wrong_checksum=True)), (LIS, NAK)]
        steps += [(ANALYZER, lis01_frame(number, record)), (LIS, ACK)]
    return Script("LIS01: results, one frame refused and repeated", (*steps, (ANALYZER, EOT)))


def _mllp(stamp: bytes, specimen: bytes, control_id: bytes, *, answered: bool) -> Script:
    """A haematology analyzer sends an ORU.  The LIS acknowledges it, or does not answer."""
    message = b"\r".join(
        (
            b"MSH|^~\\&|HAEM-1|LAB|LIS|LAB|" + stamp + b"||ORU^R01|" + control_id + b"|P|2.5",
            b"PID|1||SIM-0042^^^LAB||EXAMPLE^PATIENT||19700101|U",
            b"OBR|1||" + specimen + b"|CBC^Blood count",
            b"OBX|1|NM|WBC^Leukocytes||6.1|10*9/L|4.0-10.0|N|||F",
            b"OBX|2|NM|HGB^Haemoglobin||141|g/L|120-160|N|||F",
            b"",
        )
    )
    steps = [(ANALYZER, b"\x0b" + message + b"\x1c\r")]
    if answered:
        reply = (
            b"MSH|^~\\&|LIS|LAB|HAEM-1|LAB|"
            + stamp
            + b"||ACK^R01|A"
            + control_id
            + b"|P|2.5\rMSA|AA|"
            + control_id
            + b"\r"
        )
        steps.append((LIS, b"\x0b" + reply + b"\x1c\r"))
    return Script(
        "MLLP: a result and its acknowledgement" if answered else "MLLP: a result without an answer", tuple(steps)
    )


def _plain(stamp: bytes, specimen: bytes, control_id: bytes) -> Script:
    """An immunology analyzer sends an ORU in the plain variant: no frame number, no checksum."""
    message = b"\r".join(
        (
            b"MSH|^~\\&|IMMU-1|LAB|LIS|LAB|" + stamp + b"||ORU^R01|" + control_id + b"|P|2.3",
            b"PID|1||SIM-0042^^^LAB||EXAMPLE^PATIENT",
            b"OBR|1||" + specimen + b"|TSH^Thyrotropin",
            b"OBX|1|NM|TSH^Thyrotropin||2.1|mIU/L|0.4-4.0|N|||F",
        )
    )
    steps: Sequence[tuple[int, bytes]] = (
        (ANALYZER, ENQ), (LIS, ACK), (ANALYZER, b"\x02" + message + b"\r\n"), (LIS, ACK), (ANALYZER, EOT),
    )  # fmt: skip
    return Script("plain variant: a result", tuple(steps))
