"""A virtual cable: two network namespaces joined by a pair of virtual interfaces.

It carries only what is sent (no addresses, no ARP, no IPv6), so packets can be counted exactly at the other end.  It is
removed when its ``with`` block ends.  Needs root, Linux and ``ip`` (iproute2).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from typing import Self

import sending

NEAR, FAR = "near", "far"


def what_is_missing() -> str:
    """Return why no cable can be made here, "" if one can."""
    if sys.platform != "linux":
        return "it needs Linux: network namespaces and packet sockets"
    if os.geteuid() != 0:
        return "it needs root, to make network namespaces of its own: sudo python bench/live.py"
    if not shutil.which("ip"):
        return "it needs ip (Debian: apt-get install iproute2)"
    return ""


class Cable:
    """Two ends in two namespaces: packets are sent at ``far`` and captured at ``near``."""

    def __init__(self) -> None:
        self._spaces = {end: f"hl7core-bench-{os.getpid()}-{end}" for end in (NEAR, FAR)}

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            undo.callback(self._remove)
            for space in self._spaces.values():
                _ip("netns", "add", space)
            peer = ("peer", "name", NEAR, "netns", self._spaces[NEAR])
            _ip("-n", self._spaces[FAR], "link", "add", "name", FAR, "type", "veth", *peer)
            for end, space in self._spaces.items():
                _ip("-n", space, "link", "set", "dev", end, "addrgenmode", "none")
                _ip("-n", space, "link", "set", "dev", end, "arp", "off", "up")
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def _remove(self) -> None:
        # The interfaces first: a namespace releases its own only some time later.
        subprocess.run(("ip", "-n", self._spaces[FAR], "link", "del", FAR), check=False, capture_output=True)
        for space in self._spaces.values():
            subprocess.run(("ip", "netns", "del", space), check=False, capture_output=True)

    def at(self, end: str, core: int) -> tuple[str, ...]:
        """Return the command prefix that runs a command at ``end``, only on ``core``, and keeps its pid."""
        return ("ip", "netns", "exec", self._spaces[end], "taskset", "-c", str(core))

    def arrived(self) -> tuple[int, int]:
        """Return how many packets reached the near end, and how many the kernel dropped on the way, so far."""
        told = _ip("-n", self._spaces[NEAR], "-s", "-j", "link", "show", "dev", NEAR)
        received = json.loads(told)[0]["stats64"]["rx"]
        told = _ip("-n", self._spaces[FAR], "-s", "-j", "link", "show", "dev", FAR)
        sent = json.loads(told)[0]["stats64"]["tx"]
        return received["packets"], received["dropped"] + sent["dropped"]

    @property
    def listened_to(self) -> bool:
        """Whether a packet socket is open at the near end."""
        return len(_ip("netns", "exec", self._spaces[NEAR], "cat", "/proc/net/packet").splitlines()) > 1


class Sender:
    """The process that sends, with its traffic in memory: a context manager."""

    def __init__(self, cable: Cable, core: int, kind: str, scale: float) -> None:
        script = (sys.executable, sending.__file__, FAR, kind, str(scale))
        self._process = subprocess.Popen(
            (*cable.at(FAR, core), *script), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        lap = self._answer()
        self.packets, self.bytes, self.sessions = lap["packets"], lap["bytes"], lap["sessions"]
        self.digests: list[str] = lap["digests"]

    def send(self, rate: float, laps: int) -> sending.Sent:
        """Send, and wait until all is sent."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"rate": rate, "laps": laps}) + "\n")
        self._process.stdin.flush()
        return sending.Sent(**self._answer())

    def _answer(self) -> dict[str, object]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the sender ended with {self._process.wait()}")
        return json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:  # still sending
            self._process.kill()
            self._process.wait()


def _ip(*arguments: str) -> str:
    done = subprocess.run(("ip", *arguments), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
