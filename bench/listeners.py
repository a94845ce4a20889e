"""The programs that capture at the near end: hl7core and its peers, how to start them and how to read their results.

A listener has four parts: its command, how the messages in its output are counted, what its last output reports, and
what to check when it has ended.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self

from cable import NEAR, Cable

_LOOK_EVERY = 0.25
_READY_SECONDS = 30.0
_QUIET_LOOKS = 6  # tcpdump reads once a second, and an interrupt makes it drop what has arrived since
_QUIET_SHARE = 0.05
"""A program that uses less of a core than this has nothing left to do."""


class Found:
    """What the output of a program says: messages, and for hl7core each by its digest, and its session."""

    def __init__(self) -> None:
        self.messages = 0
        self.digests: Counter[bytes] = Counter()
        self.sessions: set[int] = set()
        self.lines = 0
        self.last_at = 0.0

    def of_hl7core(self, lines: list[bytes]) -> None:
        for line in lines:
            digests = _DIGEST(line)
            self.digests.update(digests)
            self.messages += len(digests)
            self.sessions.add(hash(line[: line.index(b",")]))  # the session id stands first
        self.lines += len(lines)

    def of_tshark(self, lines: list[bytes]) -> None:
        self.messages += sum(line.rpartition(b"\t")[2].count(b",") + 1 for line in lines)
        self.lines += len(lines)


_DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"').findall

SCAPY = f"""
import signal, struct
from scapy.config import conf
from scapy.packet import Raw
from scapy.sendrecv import sniff
import scapy.layers.inet, scapy.layers.l2, scapy.arch
seen = messages = 0
def take(packet):
    global seen, messages
    seen += 1
    messages += Raw in packet and packet[Raw].load.startswith(b"\\x0bMSH|")
listener = conf.L2listen(iface="{NEAR}")
sniff(opened_socket=listener, prn=take, store=False)
_, dropped = struct.unpack("=II", listener.ins.getsockopt(263, 6, 8))
print(f"{{seen}} packets captured, {{dropped}} packets dropped, {{messages}} messages")
"""
"""scapy's sniff, which AsyncSniffer runs on a thread, with the kernel's count of drops; it counts blocks that begin."""


class Said(NamedTuple):
    """What a program reported at its end; None where it reports nothing."""

    seen: int | None = None
    lost: int | None = None
    messages: int | None = None


def _hl7core(words: str, _folder: Path) -> Said:
    return Said(_number(r"(\d+) packets decoded", words), _number(r"decoded, (\d+) lost", words))


def _captured(words: str, _folder: Path) -> Said:
    return Said(
        _number(r"(\d+) packets? captured", words),
        _number(r"(\d+) packets? dropped", words),
        _number(r"(\d+) messages", words),
    )


def _tshark(words: str, _folder: Path) -> Said:
    return Said(lost=_number(r"(\d+) packets? dropped", words) or 0)  # "captured" are those that it displayed


def _tcpflow(_words: str, folder: Path) -> Said:
    flows = [path for path in folder.iterdir() if path.name != "report.xml"]
    return Said(messages=sum(path.read_bytes().count(b"\x0bMSH|") for path in flows if path.is_file()))


def _number(pattern: str, words: str) -> int | None:
    found = re.search(pattern, words)
    return int(found[1]) if found else None


class Listener(NamedTuple):
    """A program that captures: ``command`` gets an empty folder's path; an interrupt ends it."""

    name: str
    kinds: str
    command: Callable[[Path], tuple[str, ...]]
    said: Callable[[str, Path], Said]
    reads: Callable[[Found, list[bytes]], None] | None = None
    needs: tuple[str, ...] = ()
    held_to_it: bool = False


def _capture(*options: str) -> Callable[[Path], tuple[str, ...]]:
    def command(folder: Path) -> tuple[str, ...]:
        settings = folder / "settings.toml"
        settings.write_text('[core]\noutput_folder = "data"\n')
        ours = (sys.executable, "-m", "hl7core", "--settings", str(settings))
        return (*ours, "capture", "-i", NEAR, *options, "-o", "jsonl")

    return command


LISTENERS = (
    Listener("hl7core capture", "bc", _capture(), _hl7core, Found.of_hl7core, held_to_it=True),
    Listener("hl7core, --no-store", "abcd", _capture("--no-store"), _hl7core, Found.of_hl7core, held_to_it=True),
    Listener(
        "tcpdump -w /dev/null",
        "abcd",
        lambda _: ("tcpdump", "-i", NEAR, "-w", "/dev/null"),
        _captured,
        None,
        ("tcpdump",),
    ),
    Listener(
        "tcpflow",
        "ad",
        lambda folder: ("tcpflow", "-q", "-i", NEAR, "-o", str(folder)),
        _tcpflow,
        None,
        ("tcpflow",),
    ),
    Listener(
        "tshark, HL7 fields",
        "abcd",
        lambda _: ("tshark", "-i", NEAR, "-Y", "hl7", "-T", "fields", "-e", "tcp.stream", "-e", "hl7.message.type"),
        _tshark,
        Found.of_tshark,
        ("tshark",),
    ),
    Listener("scapy, sniff", "abcd", lambda _: (sys.executable, "-c", SCAPY), _captured),
)


class Running:
    """A running listener, as a context manager: ready when entered, ended when left."""

    def __init__(self, listener: Listener, cable: Cable, core: int, folder: Path) -> None:
        self._listener, self._folder = listener, folder
        self.found = Found()
        self.peak_mib = 0.0
        with (folder / "last-words").open("wb") as words:
            self._process = subprocess.Popen(
                (*cable.at(NEAR, core), *listener.command(folder)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if listener.reads else words,
                stderr=words,
                cwd=folder,
                env=_environment(folder),
            )
        self._cable = cable
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._look)]
        if listener.reads:
            self._threads.append(threading.Thread(target=self._read))

    @property
    def words(self) -> str:
        return (self._folder / "last-words").read_text(errors="replace")

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        until = time.monotonic() + _READY_SECONDS
        while not self._cable.listened_to:
            if self._process.poll() is not None or time.monotonic() > until:
                self.__exit__()
                raise SystemExit(f"{self._listener.name} does not listen:\n{self.words[-2000:]}")
            time.sleep(0.1)
        self.wait_until_quiet(_READY_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self.end(20)

    def used(self) -> float:
        """Return the CPU time, in seconds, that the program's processes have taken so far."""
        return sum(map(_cpu, family(self._process.pid)))

    def wait_until_quiet(self, patience: float) -> None:
        """Wait until the program is idle, ``patience`` seconds at most."""
        until = time.monotonic() + patience
        used = deque([self.used()], maxlen=_QUIET_LOOKS + 1)
        while time.monotonic() < until:
            time.sleep(_LOOK_EVERY)
            used.append(self.used())
            if len(used) > _QUIET_LOOKS and used[-1] - used[0] < _QUIET_SHARE * _LOOK_EVERY * _QUIET_LOOKS:
                return

    def end(self, patience: float) -> Said:
        """Interrupt the program, wait for it; return what it said.  It is killed after ``patience`` seconds."""
        for act in (lambda: self._process.send_signal(signal.SIGINT), self._kill):
            if self._process.poll() is None:
                act()
                try:
                    self._process.wait(patience)
                except subprocess.TimeoutExpired:
                    continue
        self._over.set()
        for thread in self._threads:
            thread.join()
        return self._listener.said(self.words, self._folder)

    def _kill(self) -> None:
        for pid in family(self._process.pid)[1:]:
            subprocess.run(("kill", "-KILL", str(pid)), check=False, capture_output=True)
        self._process.kill()

    def _look(self) -> None:
        while not self._over.wait(_LOOK_EVERY):
            self.peak_mib = max(self.peak_mib, sum(map(_held_mib, family(self._process.pid))))

    def _read(self) -> None:
        stream: Any = self._process.stdout
        left = b""
        while data := stream.read1(1 << 20):
            *lines, left = (left + data).split(b"\n")
            self.found.last_at = time.monotonic()
            assert self._listener.reads
            self._listener.reads(self.found, lines)


def _environment(folder: Path) -> dict[str, str]:
    """Return our environment without what would change how hl7core runs, and with ``folder`` for temporary files."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HL7CORE_")}
    return {**kept, "TMPDIR": str(folder)}


def family(pid: int) -> list[int]:
    """Return a process and its descendants that are still running."""
    try:
        children = [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in _children(task)]
    except OSError:
        children = []
    return [pid, *(one for child in children for one in family(child))]


def _children(task: Path) -> list[str]:
    return (task / "children").read_text().split()


def _cpu(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def _held_mib(pid: int) -> float:
    """Return what a process holds, its part of what it shares with others; 0 if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)
