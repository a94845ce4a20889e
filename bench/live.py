"""Measures live capture: packets at a steady rate over a virtual cable, to hl7core and its peers in turn.

    sudo python bench/live.py                            50,000 packets/s for 60 s to each: a quarter of an hour
    sudo python bench/live.py --seconds 5 --no-peers     hl7core alone, in a minute
    sudo python bench/live.py --find                     the highest rate that hl7core captures without loss
    sudo python bench/live.py --check                    exit code 1 if hl7core loses a packet or a message

The capturing programs run on one core, the sender on another, and all get the same traffic.  Kind a is HL7 alone: more
than 10,000 messages with their answers per second, which no disk saves one by one, so hl7core only prints them.  Kind c
is a network's traffic with a little HL7, whose sessions are also saved, as they are by default.

``lost``: packets sent minus packets that the program reports; ``it says``: the loss that it reports itself.
``messages``: found of those sent; hl7core's are compared digest by digest, and no session may occur twice.  ``CPU``:
the share of one core while packets arrived, all processes of the program together.  ``MiB``: their peak memory, with
the kernel's ring.  ``behind``: how long after the last packet the last message came out.  The kernel fills a program's
ring on the sender's core, as it does where the network card's interrupts are; that work is not in ``CPU``.

It needs Linux, root, ``ip``, and two cores for a meaningful result.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import traffic
from cable import Cable, Sender, what_is_missing
from listeners import LISTENERS, Found, Listener, Running, Said
from sending import MOST_LAPS, Sent

_PACKETS_AT_FULL_SCALE = {"a": 847_000, "b": 2_200_000, "c": 2_000_000, "d": 930_000}
_LONGEST_LAP = 50_000
_REACHED = 0.98
_KEPT_UP_SECONDS = 1.0
_STEP = 1.25
_LOWEST_RATE = 1000


class Outcome(NamedTuple):
    """One run of one program; ``core`` is a share, ``missing`` the packets that did not reach the interface."""

    sent: Sent
    expected: int
    said: Said
    found: int
    strange: int
    core: float
    memory_mib: float
    behind: float | None
    missing: int

    @property
    def lost(self) -> int | None:
        return None if self.said.seen is None else self.sent.packets - self.said.seen

    @property
    def whole(self) -> bool:
        """Whether no packet or message was lost, duplicated or changed."""
        return self.lost == 0 and self.found == self.expected and not self.strange

    @property
    def kept_up(self) -> bool:
        """Whether nothing was lost, and almost no work was left when the last packet had been sent."""
        return self.whole and self.behind is not None and self.behind <= _KEPT_UP_SECONDS

    def at_rate(self, rate: float) -> bool:
        """Return whether the sender reached ``rate``."""
        return self.sent.packets / self.sent.seconds >= rate * _REACHED


class Bench(NamedTuple):
    cable: Cable
    sender: Sender
    core: int
    folder: Path
    patience: float

    def hear(self, listener: Listener, rate: float, seconds: float) -> Outcome:
        """Send at ``rate`` for about ``seconds`` while ``listener`` captures; return the result."""
        laps = min(MOST_LAPS, math.ceil(rate * seconds / self.sender.packets))
        with tempfile.TemporaryDirectory(dir=self.folder) as place:
            running = Running(listener, self.cable, self.core, Path(place))
            with running:
                arrived, dropped = self.cable.arrived()
                used = running.used()
                sent = self.sender.send(rate, laps)
                ended = time.monotonic()
                used = running.used() - used
                running.wait_until_quiet(self.patience)
                now_arrived, now_dropped = self.cable.arrived()
                said = running.end(self.patience + 10)
        found = running.found
        expected = self._messages(laps)
        got, strange = self._compare(found, laps) if found.sessions else (found.messages, 0)
        return Outcome(
            sent,
            expected,
            said,
            said.messages if said.messages is not None else got,
            strange,
            used / sent.seconds,
            running.peak_mib,
            max(0.0, found.last_at - ended) if found.last_at else None,
            max(sent.packets - (now_arrived - arrived), now_dropped - dropped),
        )

    def _messages(self, laps: int) -> int:
        return len(self.sender.digests) * laps

    def _compare(self, found: Found, laps: int) -> tuple[int, int]:
        """Return how many of the messages sent were found, and how many others there are."""
        wanted = dict.fromkeys((digest.encode() for digest in self.sender.digests), 0)
        for digest in self.sender.digests:
            wanted[digest.encode()] += laps
        right = sum(min(count, wanted.get(digest, 0)) for digest, count in found.digests.items())
        return right, found.messages - right + found.lines - len(found.sessions)


def measure(bench: Bench, listeners: list[Listener], rate: float, seconds: float) -> bool:
    """Run each listener and print its results; return whether hl7core lost nothing."""
    print(f"   {'':22} {'sent/s':>8} {'lost':>10} {'it says':>10} {'messages':>19} {'CPU':>5} {'MiB':>5} {'behind':>7}")
    fine = True
    for listener in listeners:
        _progress(f"{listener.name}: {seconds:g} s")
        one = bench.hear(listener, rate, seconds)
        _progress("")
        reached = one.sent.packets / one.sent.seconds
        counted = one.found > 0 or listener.reads is not None
        messages = f"{one.found:,} of {one.expected:,}" if counted else "-"
        behind = "-" if one.behind is None else f"{one.behind:.1f} s"
        print(
            f"   {listener.name:22} {reached:8,.0f} {_count(one.lost):>10} {_count(one.said.lost):>10} {messages:>19} "
            f"{one.core:5.0%} {one.memory_mib:5.0f} {behind:>7}"
        )
        for remark in _remarks(one, rate):
            print(f"      {remark}")
        if listener.held_to_it:
            fine &= one.whole and one.at_rate(rate)
    return fine


def find(bench: Bench, listener: Listener, rate: float, seconds: float) -> None:
    """Print the highest rate, in steps of a quarter, at which ``listener`` loses nothing and keeps up."""

    def holds(rate: float) -> tuple[bool, bool]:
        _progress(f"{listener.name}: {rate:,.0f} packets/s")
        one = bench.hear(listener, rate, seconds)
        _progress("")
        reached, result = one.at_rate(rate), "kept up"
        if not reached:
            result = f"the sender reached {one.sent.packets / one.sent.seconds:,.0f}"
        elif not one.whole:
            result = f"lost {_count(one.lost)} packets, {one.expected - one.found:,} messages"
        elif not one.kept_up:
            result = f"lost nothing, but {one.behind:.1f} s behind"
        print(f"   {listener.name:22} {rate:10,.0f} packets/s  CPU {one.core:4.0%}  {result}")
        return one.kept_up and reached, reached

    kept_up, reached = holds(rate)
    best = 0.0
    if kept_up:
        while kept_up and reached:
            best, rate = rate, rate * _STEP
            kept_up, reached = holds(rate)
    else:
        while not kept_up and rate / _STEP >= _LOWEST_RATE:
            rate /= _STEP
            kept_up, _ = holds(rate)
        best, reached = (rate if kept_up else 0.0), True
    more = "" if reached else ", or more: the sender reached no higher rate"
    print(f"   {listener.name:22} {best:10,.0f} packets/s is the highest rate without loss{more}")


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _remarks(one: Outcome, rate: float) -> list[str]:
    remarks = []
    if not one.at_rate(rate):
        remarks.append("the sender did not reach the rate: the machine is too slow, or busy")
    if one.sent.late > 0.05:
        remarks.append(f"the sender was held up for {one.sent.late:.2f} s in all: is the machine busy?")
    if one.missing > 0:
        remarks.append(f"{one.missing:,} packets were dropped before any program could see them")
    if one.strange > 0:
        remarks.append(f"{one.strange:,} messages or sessions are not what was sent, or came twice")
    if one.lost is not None and one.said.lost is not None and one.lost != one.said.lost:
        remarks.append("what it says it lost is not what it lost")
    return remarks


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=50_000, metavar="N", help="packets per second (default 50000)")
    parser.add_argument("--seconds", type=float, metavar="S", help="duration of each (default 60; with --find 10)")
    parser.add_argument("--kinds", default="ac", metavar="LETTERS", help="which traffic (default ac)")
    parser.add_argument("--find", action="store_true", help="find the highest rate that hl7core captures without loss")
    parser.add_argument("--no-peers", action="store_true", help="hl7core alone")
    parser.add_argument(
        "--patience",
        type=float,
        default=10,
        metavar="S",
        help="seconds to wait for a program that is behind (default 10)",
    )
    parser.add_argument(
        "--folder", type=Path, metavar="DIR", help="where the programs write (default: a temporary folder)"
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 if hl7core loses anything")
    options = parser.parse_args()
    seconds = options.seconds if options.seconds is not None else 10 if options.find else 60
    if not set(options.kinds) <= set(traffic.KINDS) or not options.kinds:
        parser.error("--kinds is some of " + "".join(traffic.KINDS))
    if options.rate < 1 or seconds <= 0:
        parser.error("--rate is at least 1, and --seconds more than 0")
    if missing := what_is_missing():
        raise SystemExit(f"bench/live.py: {missing}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the cable is removed
    cores = sorted(os.sched_getaffinity(0))
    sending_core, listening_core = cores[0], cores[-1]
    print(f"Python {platform.python_version()} on {platform.machine()}, Linux {platform.release()}, {len(cores)} cores")
    if len(cores) < 2:
        print("Only one core: sender and listener share it, and the figures include both.")
    os.sched_setaffinity(0, {sending_core})
    fine = True
    with Cable() as cable, tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for kind in options.kinds:
            lap = min(_LONGEST_LAP, options.rate * seconds) / _PACKETS_AT_FULL_SCALE[kind]
            with Sender(cable, sending_core, kind, lap) as sender:
                bench = Bench(cable, sender, listening_core, Path(folder), options.patience)
                listeners = [
                    one
                    for one in LISTENERS
                    if kind in one.kinds
                    and all(map(shutil.which, one.needs))
                    and (one.held_to_it or not options.no_peers)
                ]
                laps = min(MOST_LAPS, math.ceil(options.rate * seconds / sender.packets))
                megabytes = sender.bytes * laps / 1e6
                print(
                    f"\n{kind}: {options.rate:,.0f} packets/s for {seconds:g} s: {sender.packets * laps:,} packets, "
                    f"{megabytes:,.0f} MB, {len(sender.digests) * laps:,} messages"
                )
                if options.find:
                    for listener in listeners:
                        if listener.held_to_it:
                            find(bench, listener, options.rate, seconds)
                else:
                    fine &= measure(bench, listeners, options.rate, seconds)
    return 1 if options.check and not fine else 0


if __name__ == "__main__":
    sys.exit(main())
