"""Captures of real TCP stacks that talk over a line which loses packets: ``python tests/captures/make.py --real``.

Two network namespaces, each with the stack of this kernel; between them a forwarder that drops, doubles and delays
frames; tcpdump at either end.  The peers note what they send as they send it, and that is the truth.  It needs root,
``ip`` and ``tcpdump``, and Linux; the captures it made stand in the repository, so nobody has to run it again.
"""

from __future__ import annotations

import ctypes
import fcntl
import gzip
import hashlib
import json
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from make import RECORDS, ack, block, frame, message, oru

DEVICE, LIS, LINE = "hl7dev", "hl7lis", "hl7line"
DEVICE_ADDRESS, LIS_ADDRESS = "10.9.0.1", "10.9.0.2"
MLLP_PORT, LIS01_PORT = 2575, 6661
CONNECTIONS, EXCHANGES, TURNS = 3, 12, 3

_SIOCETHTOOL = 0x8946
_OFFLOADS = (0x17, 0x19, 0x1F, 0x24, 0x2C)  # checksums, scatter-gather, TSO, GSO, GRO: off
_HEADER = ("protocol", "connection", "ending", "isComplete", "missing", "messages", "faults")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _without_offload(name: str) -> None:
    """Let the stack itself make the packets that it sends, as they go over the wire."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for command in _OFFLOADS:
            value = ctypes.create_string_buffer(struct.pack("II", command, 0), 8)
            request = struct.pack("16sP", name.encode(), ctypes.addressof(value)).ljust(40, b"\0")
            try:
                fcntl.ioctl(any_socket, _SIOCETHTOOL, request)
            except OSError:
                continue  # this kernel has no such switch


def forward(loss: float, seed: int) -> None:
    """Carry frames between the two lines: some are lost, a few doubled, a few late."""
    generator = random.Random(seed)
    lines = []
    for name in ("line-dev", "line-lis"):
        line = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        line.bind((name, 0))
        lines.append(line)
    late: list[tuple[float, socket.socket, bytes]] = []
    while True:
        ready, _, _ = select.select(lines, [], [], 0.002 if late else 1.0)
        for line in ready:
            data, origin = line.recvfrom(65_536)
            if origin[2] == socket.PACKET_OUTGOING:
                continue
            other = lines[1 - lines.index(line)]
            if generator.random() < loss:
                continue
            if generator.random() < 0.05:
                late.append((time.monotonic() + generator.random() * 0.01, other, data))
                continue
            other.send(data)
            if generator.random() < 0.02:
                other.send(data)
        for waiting in [w for w in late if w[0] <= time.monotonic()]:
            late.remove(waiting)
            waiting[1].send(waiting[2])


def lis(log: str) -> None:
    """Answer every message; note each answer, and what it answers."""
    noted = []
    listeners = []
    for port in (MLLP_PORT, LIS01_PORT):
        listener = socket.create_server((LIS_ADDRESS, port), backlog=16)
        listeners.append(listener)
    held: dict[socket.socket, bytes] = {}
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while not stop:
        for ready in select.select([*listeners, *held], [], [], 0.2)[0]:
            if ready in listeners:
                connection, _ = ready.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                held[connection] = b""
                continue
            data = ready.recv(65_536)
            if not data:
                del held[ready]
                ready.close()
                continue
            held[ready] += data
            port = ready.getpeername()[1]
            if ready.getsockname()[1] == LIS01_PORT:
                while held[ready]:
                    if held[ready][:1] == b"\x02":
                        end = held[ready].find(b"\n")
                        if end < 0:
                            break
                        held[ready] = held[ready][end + 1 :]
                    else:
                        first, held[ready] = held[ready][:1], held[ready][1:]
                        if first != b"\x05":
                            continue
                    ready.sendall(b"\x06")
                    noted.append([port, "06"])
            while b"\x1c\r" in held[ready]:
                raw, _, held[ready] = held[ready].partition(b"\x1c\r")
                number = raw.split(b"\r")[0].split(b"|")[9].decode()
                answer = block(ack(number))
                ready.sendall(answer)
                noted.append([port, answer.hex()])
    Path(log).write_text(json.dumps(noted))


def device(log: str, seed: int) -> None:
    """Send results over several connections; note what is sent."""
    generator = random.Random(seed)
    noted = []

    def connected(port: int) -> tuple[socket.socket, int]:
        connection = socket.create_connection((LIS_ADDRESS, port), timeout=120)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection, connection.getsockname()[1]

    def answered(connection: socket.socket, ending: bytes) -> None:
        data = b""
        while not data.endswith(ending):
            data += connection.recv(65_536)

    lines = [connected(MLLP_PORT) for _ in range(CONNECTIONS)]
    for number in range(EXCHANGES):
        for line, port in lines:
            lines_of_text = b"".join(
                b"OBX|%d|NM|T%d||%d\r" % (n, n, generator.randrange(100)) for n in range(generator.choice([1, 30, 120]))
            )
            text = oru(f"P{port}N{number}", extra=lines_of_text)
            noted.append(["mllp", port, text.hex()])
            line.sendall(block(text))
        for line, _ in lines:
            answered(line, b"\x1c\r")
    for line, _ in lines:
        line.close()
    line, port = connected(LIS01_PORT)
    for turn in range(TURNS):
        records = [*RECORDS[:3], *(b"R|%d|^^^T%d|%d\r" % (n, n, turn) for n in range(1, 6)), RECORDS[4]]
        noted.append(["lis01", port, b"".join(records).hex()])
        for raw in (b"\x05", *(frame(n, record) for n, record in enumerate(records, 1))):
            line.sendall(raw)
            answered(line, b"\x06")
        line.sendall(b"\x04")
    line.close()
    Path(log).write_text(json.dumps(noted))


def _truth(sent: Iterable[list[Any]], answers: list[list[Any]], about: str) -> dict[str, Any]:
    """What the peers noted, as sessions: each exchange of a connection, and each turn."""
    sessions: dict[str, list[dict[str, Any]]] = {}
    said: dict[str, bytes] = {}
    replies: dict[int, list[bytes]] = {}
    for port, raw in answers:
        replies.setdefault(port, []).append(bytes.fromhex(raw))
    for protocol, port, text in sent:
        data = bytes.fromhex(text)
        end = MLLP_PORT if protocol == "mllp" else LIS01_PORT
        there, back = f"{DEVICE_ADDRESS}:{port}", f"{LIS_ADDRESS}:{end}"
        messages = [message(0, data)]
        if protocol == "mllp":
            raw = block(data)
            answer = replies[port].pop(0)
            messages.append(message(1, answer[1:-2]))
        else:
            records = [record + b"\r" for record in data.split(b"\r")[:-1]]
            raw = b"\x05" + b"".join(frame(n, record) for n, record in enumerate(records, 1)) + b"\x04"
            answer = b"".join(replies[port].pop(0) for _ in range(len(records) + 1))
        said[f"{there}->{back}"] = said.get(f"{there}->{back}", b"") + raw
        said[f"{back}->{there}"] = said.get(f"{back}->{there}", b"") + answer
        values = (protocol, f"{there}-{back}", "complete", True, 0, messages, [])
        sessions.setdefault(f"{there}-{back}", []).append(dict(zip(_HEADER, values, strict=True)))
    return {
        "about": about,
        "streams": {
            name: {"length": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in said.items()
        },
        "sessions": [session for name in sorted(sessions) for session in sessions[name]],
    }


def capture(folder: Path, percent: int) -> None:
    """Make the two captures, one at each end, of a line that loses ``percent`` of a hundred packets."""
    _line_up()
    here = [sys.executable, __file__]
    work = Path(tempfile.mkdtemp())
    running: list[subprocess.Popen[bytes]] = []

    def started(where: str, *command: str) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        process = subprocess.Popen(["ip", "netns", "exec", where, *command], stdout=pipe, stderr=pipe)
        running.append(process)
        return process

    try:
        for where, name in ((DEVICE, "eth-dev"), (LIS, "eth-lis")):
            written = str(work / f"{where}.pcap")
            dump = started(where, "tcpdump", "-i", name, "-s", "0", "-U", "-Z", "root", "-w", written, "tcp")
            assert dump.stderr is not None
            dump.stderr.readline()
        started(LINE, *here, "forward", str(percent / 100), str(percent))
        host = started(LIS, *here, "lis", str(work / "lis.json"))
        assert host.stdout is not None
        host.stdout.readline()
        analyzer = started(DEVICE, *here, "device", str(work / "device.json"), str(percent))
        assert analyzer.wait(300) == 0, analyzer.stderr and analyzer.stderr.read()
        time.sleep(2)
        host.terminate()
        host.wait(10)
        time.sleep(1)
    finally:
        for process in running:
            if process.poll() is None:
                process.terminate()
                process.wait(10)
        for where in (DEVICE, LIS, LINE):
            _ip("netns", "del", where)
    sent, answers = (json.loads((work / f"{name}.json").read_text()) for name in ("device", "lis"))
    for where, name in ((DEVICE, "sender"), (LIS, "receiver")):
        about = f"two TCP stacks over a line that loses {percent} % of its packets, captured at the {name}"
        stem = f"real_loss_{percent}_at_the_{name}"
        (folder / f"{stem}.pcap.gz").write_bytes(gzip.compress((work / f"{where}.pcap").read_bytes(), 9, mtime=0))
        truth = _truth(sent, [list(answer) for answer in answers], about)
        (folder / f"{stem}.json").write_text(json.dumps(truth, separators=(",", ":")) + "\n")


def _line_up() -> None:
    for where in (DEVICE, LIS, LINE):
        _ip("netns", "add", where)
    ends = ((DEVICE, "eth-dev", "line-dev", DEVICE_ADDRESS), (LIS, "eth-lis", "line-lis", LIS_ADDRESS))
    for where, end, line, address in ends:
        _ip("link", "add", end, "netns", where, "type", "veth", "peer", "name", line, "netns", LINE)
        _ip("-n", where, "link", "set", end, "mtu", "576", "up")
        _ip("-n", LINE, "link", "set", line, "mtu", "576", "up")
        _ip("-n", where, "addr", "add", f"{address}/24", "dev", end)
        for place, name in ((where, end), (LINE, line)):
            subprocess.run(["ip", "netns", "exec", place, sys.executable, __file__, "plain", name], check=True)


def capture_all(folder: Path) -> None:
    for percent in (5, 15):
        capture(folder, percent)


if __name__ == "__main__":
    role, *rest = sys.argv[1:]
    if role == "forward":
        forward(float(rest[0]), int(rest[1]))
    elif role == "lis":
        lis(rest[0])
    elif role == "device":
        device(rest[0], int(rest[1]))
    elif role == "plain":
        _without_offload(rest[0])
