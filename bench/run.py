"""Measures hl7core and its peers on the same machine and traffic, and compares hl7core with its floors.

    python bench/run.py                       everything at full scale: about ten minutes, most of them tshark's
    python bench/run.py --scale 0.05 --kinds a
    python bench/run.py --folder /dev/shm/bench --keep --check
    python bench/run.py --beside compiled=/opt/compiled/bin/python

``--beside NAME=PYTHON`` adds the hl7core of another environment to the comparison, such as one without C extensions.
Each figure is the minimum of ``--runs`` runs; the commands take turns, so that other load on the machine affects all.
Files were just written or read, so they are in the page cache.  Memory is the peak of a program's processes together,
shared memory counted once, sampled every 50 ms (elsewhere than on Linux: the kernel's figure for the largest process;
less than this script's own cannot be measured then, since a process starts as its copy).  Peers that are not installed
are left out, and so are the ratios to them.  scapy gets the first hundredth of the packets.

With ``--check`` the exit code is 1 if a floor is missed or a message differs from what was sent.  The floors are for
full scale: below it, starting up weighs too much.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import hashlib
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import traffic

HL7CORE = (sys.executable, "-m", "hl7core")
_RSS_UNIT = 1024 * 1024 if sys.platform == "darwin" else 1024  # ru_maxrss a mebibyte
_NOWHERE = tempfile.mkdtemp()  # where no settings file is, whose reading would be counted
atexit.register(os.rmdir, _NOWHERE)
_SHARES_TOLD = Path("/proc/self/smaps_rollup").exists()
TSHARK_FIELDS = ("-Y", "hl7", "-T", "fields", "-e", "frame.time_epoch", "-e", "tcp.stream", "-e", "hl7.message.type")


class Cost(NamedTuple):
    """What one run cost, or the minimum of several."""

    wall: float
    cpu: float
    memory_mib: float

    def least(self, other: Cost | None) -> Cost:
        return self if other is None else Cost(*map(min, self, other))


class Contender(NamedTuple):
    """A program to compare: ``command`` gets the capture's and an empty folder's path."""

    name: str
    command: Callable[[str, str], tuple[str, ...]]
    needs: tuple[str, ...] = ()
    kinds: str = "abcdo"


def _filtered(capture: str, _: str) -> tuple[str, ...]:
    pipe = 'tcpdump -r "$1" -w - tcp port 2575 2>/dev/null | tshark -r - "${@:2}"'
    return ("bash", "-c", pipe, "bash", capture, *TSHARK_FIELDS)


def _hl7core(name: str, python: str) -> tuple[Contender, Contender]:
    """Return the hl7core of ``python`` as it decides for itself, and with one process."""
    read = (python, "-m", "hl7core", "read", "-o", "jsonl")
    return (
        Contender(f"{name} read -o jsonl", lambda capture, _: (*read, capture)),
        Contender(f"{name}, one process", lambda capture, _: (*read, "-j", "1", capture)),
    )


CONTENDERS = (
    *_hl7core("hl7core", sys.executable),
    Contender("tcpdump -w /dev/null", lambda capture, _: ("tcpdump", "-r", capture, "-w", "/dev/null"), ("tcpdump",)),
    Contender("tcpflow", lambda capture, folder: ("tcpflow", "-q", "-r", capture, "-o", folder), ("tcpflow",), "ad"),
    Contender("tshark, HL7 fields", lambda capture, _: ("tshark", "-r", capture, *TSHARK_FIELDS), ("tshark",), "abcd"),
    Contender("tcpdump filter | tshark", _filtered, ("tcpdump", "tshark", "bash"), "c"),
)

SCAPY = """
import sys, time
from scapy.sendrecv import sniff
from scapy.sessions import TCPSession
import scapy.layers.inet, scapy.layers.l2
began = time.perf_counter()
sniff(offline=sys.argv[1], session=TCPSession, store=False, quiet=True, count=int(sys.argv[2]))
print(time.perf_counter() - began)
"""
"""scapy reads the first packets of a capture and puts the streams together; all of them would take it an hour."""

START_UPS = (
    ("python -c pass", (sys.executable, "-c", "pass"), None),
    ("hl7core --version", (*HL7CORE, "--version"), 120),
    ("hl7core --help", (*HL7CORE, "--help"), 200),
)


def measure(command: tuple[str, ...]) -> Cost:
    """Run ``command`` with its output discarded; return what it cost.  Raises SystemExit if it fails."""
    with tempfile.TemporaryFile() as complaints:
        began = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=complaints,
            env=_environment(),
            cwd=_NOWHERE,
        )
        with _Watch(process.pid) as watch:
            _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            complaints.seek(0)
            said = complaints.read()[-2000:].decode(errors="replace")
            raise SystemExit(f"{' '.join(command)} failed with {process.returncode}:\n{said}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, watch.peak_mib or usage.ru_maxrss / _RSS_UNIT)


def scapy_a_packet(capture: Path, packets: int) -> float | None:
    """Return the seconds a packet that scapy takes, over the first hundredth of a capture; None if it is not there."""
    count = max(1000, packets // 100)
    command = (sys.executable, "-c", SCAPY, str(capture), str(count))
    run = subprocess.run(command, capture_output=True, text=True, env=_environment(), cwd=_NOWHERE, check=False)
    return float(run.stdout) / min(count, packets) if run.returncode == 0 else None


class _Watch:
    """Looks at what a process and those it started hold in memory, while it runs; ``peak_mib`` is 0 if nobody says."""

    def __init__(self, pid: int) -> None:
        self.peak_mib = 0.0
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.05):
            self.peak_mib = max(self.peak_mib, sum(map(_held_mib, _family(self._pid))))


def _family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        children = []
    return [pid, *(one for child in children for one in _family(int(child)))]


def _held_mib(pid: int) -> float:
    """Return what a process holds, its part of what it shares with others; 0 if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)


def _environment() -> dict[str, str]:
    """Return our environment without what would change how hl7core runs."""
    return {name: value for name, value in os.environ.items() if not name.startswith("HL7CORE_")}


def race(captures: dict[str, Path], contenders: list[Contender], runs: int) -> dict[tuple[str, str], Cost]:
    """Return the minimum cost by kind of traffic and name of contender."""
    costs: dict[tuple[str, str], Cost] = {}
    for turn in range(runs):
        for contender in contenders:
            for kind, capture in captures.items():
                if kind not in contender.kinds:
                    continue
                _progress(f"run {turn + 1} of {runs}: {contender.name} on {kind}")
                with tempfile.TemporaryDirectory(dir=capture.parent) as folder:
                    cost = measure(contender.command(str(capture), folder))
                costs[kind, contender.name] = cost.least(costs.get((kind, contender.name)))
    _progress("")
    return costs


def finds_what_was_sent(capture: Path) -> str:
    """Return what hl7core's messages are, against the truth beside the capture: ``same`` or the difference."""
    truth = json.loads(traffic.truth_path(capture).read_text())
    command = (*HL7CORE, "read", str(capture), "-o", "messages")
    digests: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=_environment()) as process:
        assert process.stdout
        digests.extend(json.loads(line)["sha256"] for line in process.stdout)
    joined = "".join(f"{digest}\n" for digest in sorted(digests))
    if hashlib.sha256(joined.encode()).hexdigest() == truth["sha256"]:
        return "same"
    return f"DIFFERENT ({len(digests):,} found, {truth['messages']:,} sent)"


class Goal(NamedTuple):
    what: str
    measured: float
    floor: float
    unit: str
    at_least: bool

    @property
    def met(self) -> bool:
        return self.measured >= self.floor if self.at_least else self.measured <= self.floor


def goals(costs: dict[tuple[str, str], Cost], start_ups: dict[str, Cost], ours: str) -> Iterator[Goal]:
    """Yield every goal of the contender ``ours`` whose two sides were measured, and those of starting up."""

    def ratio(
        what: str, above: tuple[str, str], below: tuple[str, str], floor: float, *, at_least: bool
    ) -> Iterator[Goal]:
        if above in costs and below in costs:
            yield Goal(what, costs[above].wall / costs[below].wall, floor, "x", at_least)

    yield from ratio("speed on a, against tshark", ("a", "tshark, HL7 fields"), ("a", ours), 10, at_least=True)
    yield from ratio("speed on a, against tcpflow", ("a", "tcpflow"), ("a", ours), 0.35, at_least=True)
    yield from ratio(
        "speed on c, against filter | tshark", ("c", "tcpdump filter | tshark"), ("c", ours), 0.4, at_least=True
    )
    yield from ratio("time on d (disturbed), against a", ("d", ours), ("a", ours), 1.3, at_least=False)
    for kind in "abcdo":
        if (kind, ours) in costs:
            yield Goal(f"peak memory on {kind}", costs[kind, ours].memory_mib, 64, " MiB", at_least=False)
    bare = start_ups["python -c pass"].wall if start_ups else 0.0
    for name, _, floor in START_UPS:
        if floor is not None and name in start_ups:
            yield Goal(
                f"{name}, over a bare interpreter", (start_ups[name].wall - bare) * 1000, floor, " ms", at_least=False
            )


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _report(
    captures: dict[str, Path],
    costs: dict[tuple[str, str], Cost],
    start_ups: dict[str, Cost],
    own: float,
    beside: Sequence[str],
    *,
    peers: bool,
) -> bool:
    """Print the tables; return whether the hl7core of this Python is correct and meets its floors."""
    fine = True
    ours = CONTENDERS[0].name
    for kind, capture in captures.items():
        truth = json.loads(traffic.truth_path(capture).read_text())
        found = finds_what_was_sent(capture)
        fine &= found == "same"
        print(f"\n{kind}: {truth['packets']:,} packets, {truth['bytes'] / 1e6:,.0f} MB, {truth['messages']:,} messages")
        print(f"   messages found, against those sent: {found}")
        print(f"   {'':24} {'seconds':>9} {'CPU':>9} {'us/packet':>10} {'peak MiB':>9} {'hl7core is':>11}")
        for (of, name), cost in costs.items():
            if of == kind:
                faster = f"{cost.wall / costs[kind, ours].wall:10.2f}x"
                packet = cost.wall / truth["packets"] * 1e6
                memory = f"{cost.memory_mib:.0f}" if cost.memory_mib > own or _SHARES_TOLD else f"<{own:.0f}"
                print(f"   {name:24} {cost.wall:9.2f} {cost.cpu:9.2f} {packet:10.2f} {memory:>9} {faster}")
        scapy = scapy_a_packet(capture, truth["packets"]) if peers and kind != "o" else None
        if scapy is not None:
            faster = f"{scapy * truth['packets'] / costs[kind, ours].wall:10.2f}x"
            print(f"   {'scapy, the first packets':24} {'':9} {'':9} {scapy * 1e6:10.2f} {'':9} {faster}")
    print(f"\nstart-up\n   {'':24} {'ms':>9}")
    for name, cost in start_ups.items():
        print(f"   {name:24} {cost.wall * 1000:9.0f}")
    for name in (ours, *beside):
        print(f"\ngoals of {name}")
        for goal in goals(costs, start_ups if name == ours else {}, name):
            fine &= goal.met or name != ours
            bound = f"{'at least' if goal.at_least else 'at most'} {goal.floor:g}{goal.unit}"
            verdict = "met" if goal.met else "MISSED"
            print(f"   {goal.what:42} {goal.measured:8.2f}{goal.unit:4} floor: {bound:17} {verdict}")
    return fine


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, metavar="F", help="fraction of the traffic (default 1)")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="runs of each; the minimum counts (default 3)")
    parser.add_argument("--kinds", default="abcdo", metavar="LETTERS", help="which traffic (default abcdo)")
    parser.add_argument(
        "--folder", type=Path, metavar="DIR", help="where the traffic is written (default: a temporary folder)"
    )
    parser.add_argument("--keep", action="store_true", help="keep the traffic in DIR, and use what is already there")
    parser.add_argument("--no-peers", action="store_true", help="hl7core alone")
    parser.add_argument(
        "--beside",
        action="append",
        default=[],
        metavar="NAME=PYTHON",
        help="also measure the hl7core of another environment",
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 if a floor is missed")
    options = parser.parse_args()
    if options.runs < 1 or not set(options.kinds) <= set(traffic.KINDS) or not options.kinds:
        parser.error("--runs is at least 1, and --kinds some of " + "".join(traffic.KINDS))
    if options.keep and not options.folder:
        parser.error("--keep needs --folder")
    beside = [_hl7core(*entry.split("=", 1)) for entry in options.beside if "=" in entry]
    if len(beside) < len(options.beside):
        parser.error("--beside takes NAME=PYTHON")
    contenders = [
        contender
        for contender in (CONTENDERS[:2] if options.no_peers else CONTENDERS)
        if all(shutil.which(program) for program in contender.needs)
    ]
    contenders[2:2] = [contender for pair in beside for contender in pair]
    with contextlib.ExitStack() as stack:
        if options.folder:
            options.folder.mkdir(parents=True, exist_ok=True)
        folder = (
            options.folder.resolve()
            if options.keep
            else Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.folder)))
        )
        captures: dict[str, Path] = {}
        for kind in options.kinds:
            capture = captures[kind] = folder / f"{kind}-{options.scale:g}.pcap"
            if not traffic.truth_path(capture).exists():  # it is written last
                _progress(f"writing {kind}")
                # In a process of its own: what this one holds would be counted for all that it starts.
                script = (sys.executable, traffic.__file__, kind, str(capture), "--scale", str(options.scale))
                subprocess.run(script, check=True, stdout=subprocess.DEVNULL)
        print(
            f"Python {platform.python_version()} on {platform.machine()}, {os.cpu_count()} CPUs; "
            f"least of {options.runs} runs"
        )
        start_ups: dict[str, Cost] = {}
        for _ in range(max(options.runs, 5)):
            for name, command, _floor in START_UPS:
                start_ups[name] = measure(command).least(start_ups.get(name))
        costs = race(captures, contenders, options.runs)
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _RSS_UNIT * 1.05
        names = [pair[0].name for pair in beside]
        fine = _report(captures, costs, start_ups, own, names, peers=not options.no_peers)
    return 1 if options.check and not fine else 0


if __name__ == "__main__":
    sys.exit(main())
