"""Changes the settings of a live capture under traffic, and counts the conversations that are lost or doubled.

    sudo python tests/soak/reload.py
    sudo python tests/soak/reload.py --changes 20 --rate 300 --pause 3

An engine of its own captures on the loopback interface while conversations pass over real connections, each an MLLP
message and its acknowledgement.  Twenty times one of five capture settings is changed in ``settings.toml``.  At the end
every conversation must be stored once, and no packet seen twice.
"""

from __future__ import annotations

import argparse
import json
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from hl7core.engine.control.client import ControlClient
from hl7core.model.session import SessionQuery
from hl7core.settings.file import change

MESSAGE = b"\x0bMSH|^~\\&|AN|LAB|LIS|LAB|||ORU^R01|%s|P|2.5\rOBX|1|NM|GLU||5.%s\r\x1c\r"
ANSWER = b"\x0bMSH|^~\\&|LIS|LAB|AN|LAB|||ACK|A%s|P|2.5\rMSA|AA|%s\r\x1c\r"
CHANGES = (
    {"plugins.scapy_source.snaplen": 65_536},
    {"core.lis_port": 0},
    {"core.device_address": "127.0.0.0/8"},
    {"plugins.scapy_source.bpf": "tcp"},
    {"plugins.scapy_source.promiscuous": False},
    {"plugins.scapy_source.snaplen": 262_144},
    {"core.lis_port": 1},  # the port of the LIS, once it is known
    {"core.device_address": ""},
    {"plugins.scapy_source.bpf": ""},
    {"plugins.scapy_source.promiscuous": True},
)


class Lis:
    """Answers every message on a port of the loopback interface."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self.listener.getsockname()[1]
        for _ in range(8):
            threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self.listener.accept()
            with connection:
                data = b""
                while not data.endswith(b"\x1c\r"):
                    got = connection.recv(4096)
                    if not got:
                        break
                    data += got
                control_id = data.split(b"|")[9] if data else b""
                connection.sendall(ANSWER % (control_id, control_id))
                connection.recv(1)


def talk(port: int, numbers: range, rate: float, until: threading.Event, sent: list[str]) -> None:
    """Hold conversations, ``rate`` a second."""
    due = time.monotonic()
    for number in numbers:
        if until.is_set():
            return
        due += 1 / rate
        time.sleep(max(0.0, due - time.monotonic()))
        with socket.create_connection(("127.0.0.1", port)) as connection:
            control_id = b"C%d" % number
            connection.sendall(MESSAGE % (control_id, control_id))
            data = b""
            while not data.endswith(b"\x1c\r"):
                got = connection.recv(4096)
                if not got:
                    break
                data += got
            sent.append(control_id.decode())


def main() -> int:
    """Run the engine and the traffic, change the settings, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=20)
    parser.add_argument("--rate", type=float, default=300, help="conversations a second")
    parser.add_argument("--pause", type=float, default=3, help="seconds between two changes")
    options = parser.parse_args()
    lis, sent, over = Lis(), [], threading.Event()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = folder / "settings.toml"
        settings.touch()
        change(
            settings, {"core.store": "sqlite_store", "core.lis_port": lis.port, "plugins.scapy_source.interfaces": "lo"}
        )
        engine = subprocess.Popen(
            [sys.executable, "-m", "hl7core", "run"], cwd=folder, stderr=(folder / "log").open("w")
        )
        client = None
        while client is None:
            time.sleep(0.2)
            client = ControlClient(folder / "docs").connect()
        while not client.call("state")["capturing"]:
            time.sleep(0.1)
        time.sleep(1)
        threads = [
            threading.Thread(target=talk, args=(lis.port, range(n, 10**9, 8), options.rate / 8, over, sent))
            for n in range(8)
        ]
        for thread in threads:
            thread.start()
        time.sleep(2)
        for number in range(options.changes):
            new = dict(CHANGES[number % len(CHANGES)])
            if new.get("core.lis_port"):
                new["core.lis_port"] = lis.port
            change(settings, new)
            time.sleep(options.pause)
        over.set()
        for thread in threads:
            thread.join()
        time.sleep(3)
        state = client.call("state")
        stored = [
            message.control_id
            for session in client.sessions(SessionQuery(limit=1_000_000))
            for message in session.messages[:1]
        ]
        faulty = sum(not session.is_complete for session in client.sessions(SessionQuery(limit=1_000_000)))
        client.close()
        engine.send_signal(signal.SIGTERM)
        engine.wait(timeout=30)
        said = (folder / "log").read_text()
    lost = set(sent) - set(stored)
    doubled = len(stored) - len(set(stored))
    sys.stdout.write(
        f"{options.changes} changes, {len(sent):,} conversations: {len(lost)} lost, {doubled} doubled, {faulty} not"
        f" complete; dropped {state['dropped_kernel']} by the kernel, {state['dropped_intake']} before decoding;"
        f" {json.dumps({key: value for key, value in state['counters'].items() if value and key != 'saved'})}\n"
    )
    sys.stderr.write(said)
    return 1 if lost or doubled or faulty else 0


if __name__ == "__main__":
    sys.exit(main())
