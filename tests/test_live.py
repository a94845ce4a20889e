"""Real clients and servers on the loopback interface, captured live: what was sent is what is stored, byte for byte."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from hl7core.engine.control.client import ControlClient

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="live capture on the loopback interface needs root on Linux"
)

ORU = "MSH|^~\\&|AN|LAB|LIS|LAB|20260101||ORU^R01|{}|P|2.5\rPID|1||X1||DÖE^JANE\rOBX|1|NM|GLU||5.{}\r"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Capture:
    """``hl7core capture`` on the loopback interface, in a process of its own."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        (folder / "settings.toml").write_text('[core]\noutput_folder = "data"\n')
        command = [
            sys.executable, "-m", "hl7core", "--settings", folder / "settings.toml", "capture", "-i", "lo",
            "-f", f"tcp port {port}", "-w", folder / "raw.pcapng",
        ]  # fmt: skip
        with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
            self.process = subprocess.Popen(command, stdout=out, stderr=err)
        self._knock_until_heard()

    def _knock_until_heard(self) -> None:
        until = time.monotonic() + 15
        while time.monotonic() < until:
            assert self.process.poll() is None, (self.folder / "err").read_text()
            with socket.create_server(("127.0.0.1", self.port)) as server:
                socket.create_connection(server.getsockname()).close()
                time.sleep(0.2)
            client = ControlClient(self.folder / "data").connect()
            if client is not None:
                with client:
                    if client.call("state")["packets"]:
                        return
        raise AssertionError("nothing was captured")

    def end(self) -> list[dict]:
        """Stop, and return the stored sessions by start."""
        time.sleep(0.5)
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(20) == 0, (self.folder / "err").read_text()
        found = [json.loads(path.read_bytes()) for path in (self.folder / "data/sessions").glob("*.json")]
        return sorted(found, key=lambda session: session["elements"][0]["timestamp"])


@pytest.fixture
def capture(tmp_path):
    started = Capture(tmp_path, free_port())
    yield started
    if started.process.poll() is None:
        started.process.kill()
        started.process.wait()


def texts(session: dict) -> list[bytes]:
    return [
        text.encode(info["encoding"]) for text, info in zip(session["messages"], session["messageInfo"], strict=True)
    ]


def test_the_hl7_packages_client_and_server(capture):
    from hl7.client import MLLPClient
    from hl7.mllp import start_hl7_server

    sent, answered = [], []

    served = []

    async def serve(reader, writer):
        served.append(asyncio.current_task())
        try:
            while True:
                message = await reader.readmessage()
                reply = message.create_ack()
                answered.append(str(reply).encode())
                writer.writemessage(reply)
                await writer.drain()
        except asyncio.IncompleteReadError:  # the client has closed
            writer.close()
            await writer.wait_closed()

    async def talk():
        server = await start_hl7_server(serve, port=capture.port, host="127.0.0.1", encoding="utf-8")
        async with server:
            await asyncio.to_thread(speak)
            await asyncio.wait_for(asyncio.gather(*served), 10)

    def speak():
        with MLLPClient("127.0.0.1", capture.port) as client:
            client.socket.settimeout(10)
            for number in range(20):
                text = ORU.format(f"M{number}", number)
                sent.append(text.encode())
                client.send_message(text)

    asyncio.run(talk())
    sessions = capture.end()
    assert [texts(session)[0] for session in sessions] == sent
    assert [texts(session)[1].rstrip(b"\r") for session in sessions] == [reply.rstrip(b"\r") for reply in answered]
    assert all(session["isComplete"] for session in sessions)


def test_hl7apys_server_and_a_client_of_raw_bytes(capture):
    from hl7apy.mllp import AbstractHandler, MLLPServer

    reply = "\x0bMSH|^~\\&|LIS|LAB|AN|LAB|20260101||ACK^R01|A1|P|2.5\rMSA|AA|M0\r\x1c\r"

    class Handler(AbstractHandler):
        def reply(self):
            return reply

    server = MLLPServer("127.0.0.1", capture.port, {"ORU^R01": (Handler,)})
    threading.Thread(target=server.serve_forever, daemon=True).start()
    text = ORU.format("M0", 1).encode()
    with socket.create_connection(("127.0.0.1", capture.port)) as client:
        client.sendall(b"\x0b" + text + b"\x1c\r")
        assert client.recv(4096) == reply.encode()
    server.shutdown()
    server.server_close()
    (session,) = capture.end()
    assert texts(session) == [text, reply[1:-2].encode()]
    assert session["deviceIP"] == session["lisIP"] == "127.0.0.1"


@contextmanager
def pair(port: int):
    with socket.create_server(("127.0.0.1", port)) as listener:
        analyzer = socket.create_connection(listener.getsockname())
        lis, _ = listener.accept()
    with analyzer, lis:
        yield analyzer, lis


def frame(number: int, text: bytes) -> bytes:
    body = b"%d" % (number % 8) + text + b"\x03"
    return b"\x02" + body + b"%02X\r\n" % (sum(body) & 0xFF)


def test_a_raw_analyzer_and_lis_speaking_lis01(capture):
    records = [b"H|\\^&|||SIM\r", *(b"R|%d|^^^GLU|5.%d\r" % (n, n) for n in range(1, 11)), b"L|1|N\r"]
    said = ([], [])
    with pair(capture.port) as ends:

        def say(side: int, data: bytes) -> None:
            said[side].append(data)
            ends[side].sendall(data)
            received = b""
            while len(received) < len(data):
                received += ends[1 - side].recv(4096)

        say(0, b"\x05")
        say(1, b"\x06")
        for number, record in enumerate(records, 1):
            if number == 3:
                say(0, frame(number, record)[:-4] + b"00\r\n")
                say(1, b"\x15")
            say(0, frame(number, record))
            say(1, b"\x06")
        say(0, b"\x04")
    (session,) = capture.end()
    assert session["protocol"] == "lis01"
    assert session["isComplete"]
    assert texts(session) == [b"".join(records)]
    from hl7core import Direction, session_from_json

    stored = session_from_json(json.dumps(session).encode())
    for side, direction in ((0, Direction.FROM_DEVICE), (1, Direction.FROM_LIS)):
        raw = [stored.raw_of(element) for element in stored.elements if element.direction is direction]
        assert b"".join(raw) == b"".join(said[side])


def test_reading_the_raw_packets_again_gives_the_same_sessions(capture):
    with pair(capture.port) as (analyzer, lis):
        for number in range(5):
            analyzer.sendall(b"\x0b" + ORU.format(f"M{number}", number).encode() + b"\x1c\r")
            lis.recv(4096)
            lis.sendall(b"\x0bMSH|^~\\&|L|L|A|L|||ACK|A|P|2.5\rMSA|AA|M%d\r\x1c\r" % number)
            analyzer.recv(4096)
    stored = capture.end()
    run = subprocess.run(
        [sys.executable, "-m", "hl7core", "read", capture.folder / "raw.pcapng", "-o", "jsonl"],
        capture_output=True, check=True, cwd=capture.folder / "data",
    )  # fmt: skip
    read = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(read) == 5
    assert [session["sessionId"] for session in read] == [session["sessionId"] for session in stored]
    for again, first in zip(read, stored, strict=True):
        assert {key: again[key] for key in again if key != "sensor"} == {
            key: first[key] for key in again if key != "sensor"
        }


def test_the_capture_ends_by_saying_what_came_and_what_was_lost(capture):
    with socket.create_server(("127.0.0.1", capture.port)) as server:
        with socket.create_connection(server.getsockname()) as client:
            client.sendall(b"\x0b" + ORU.format("M1", 1).encode() + b"\x1c\r")
        server.accept()[0].close()
    (session,) = capture.end()
    assert session["messageInfo"][0]["controlId"] == "M1"
    words = (capture.folder / "err").read_text()
    said = re.search(r"^(\d+) packets decoded, 0 lost; 1 session$", words, re.MULTILINE)
    assert said, words
    assert f"{said[1]} packets written to" in words
