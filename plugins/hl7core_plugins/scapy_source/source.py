"""The parent's side of a capture: starts the capture process, reads its pipe, and restarts it if it dies.

Law: no packet is parsed here and no socket opened.  ``run`` returns only after the pipe was read to its end, so packets
that the process passed on after ``stop`` are kept.  What a restart cannot fix (no permission, an invalid filter, a
missing interface at the start) raises; a process that dies is restarted after 1, 2, then every 5 seconds, and
``stats().detail`` says so meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from hl7core import (
    CaptureFileError,
    CaptureReader,
    Interface,
    InterfaceMissing,
    PacketBatch,
    PermissionMissing,
    SourceError,
    SourceStats,
)
from hl7core_plugins.scapy_source.interfaces import CHILD, list_interfaces

__all__ = ["REMEDY", "LiveSource"]

logger = logging.getLogger(__name__)

REMEDY = (
    "run as root, or in a systemd unit with AmbientCapabilities=CAP_NET_RAW, or with a copy of the Python interpreter "
    "that was given `setcap cap_net_raw+ep`; see 'Capture rights' in the README"
)
_PIPE_BYTES = 1024 * 1024
_F_SETPIPE_SZ = 1031
_STOP_SECONDS = 5.0
_BACKOFF = (1.0, 2.0, 5.0)
_STEADY_SECONDS = 10.0
_STATES = {"down": "is down", "gone": "is gone"}


class LiveSource:
    """Packets of one or more interfaces, as they arrive.

    Packets of different interfaces are in the order of their time, each in a batch that names its interface.
    """

    def __init__(
        self,
        interfaces: Sequence[str],
        *,
        bpf: str = "",
        promiscuous: bool = True,
        snaplen: int = 262_144,
        buffer_mib: int = 64,
        portable: bool = False,
        patient: bool = False,
    ) -> None:
        """Prepare a capture on ``interfaces``, keeping ``snaplen`` bytes a packet; nothing is opened before ``run``.

        ``buffer_mib`` MiB of kernel memory, all interfaces together, hold what waits to be read.  ``portable`` reads
        packet by packet through scapy even where the kernel offers a ring.  ``patient``: an interface that does not
        exist is waited for from the start.
        """
        self._names = tuple(interfaces)
        self._order: dict[str, Any] = {
            "interfaces": self._names,
            "bpf": bpf,
            "promiscuous": promiscuous,
            "snaplen": snaplen,
            "buffer_mib": buffer_mib,
            "portable": portable,
            "patient": patient,
        }
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._killer: threading.Timer | None = None
        self._waiting: dict[str, str] = {}
        self._trouble = ""
        self._error: dict[str, Any] = {}
        self._said = ""
        self._ready = False
        self._received = 0
        self._dropped = 0
        self._owed = 0

    @property
    def name(self) -> str:
        """The names of the interfaces, separated by commas."""
        return ", ".join(self._names)

    @property
    def process_id(self) -> int:
        """The id of the capture process, 0 if there is none."""
        process = self._process
        return process.pid if process is not None else 0

    @property
    def listening(self) -> bool:
        """Whether the capture process has opened every interface that is there."""
        return self._ready and self._process is not None and not self._trouble

    def interfaces(self) -> Sequence[Interface]:
        """Return the interfaces with their present addresses and state."""
        found = {interface.name: interface for interface in list_interfaces()}
        return [found.get(name, Interface(name, is_up=False)) for name in self._names]

    def stats(self) -> SourceStats:
        """Return how many packets were emitted and dropped by the kernel, and which interfaces it waits for."""
        waits = [f"{name} {_STATES[state]}, waiting" for name, state in sorted(self._waiting.copy().items())]
        return SourceStats(
            received=self._received,
            dropped=self._dropped,
            detail="; ".join([*([self._trouble] if self._trouble else []), *waits]),
        )

    def stop(self) -> None:
        """Ask the capture process to pass on its last packets and end; after 5 s it is killed."""
        self._stopping.set()
        with self._lock:
            self._ask_to_end()

    def run(self, emit: Callable[[PacketBatch], None]) -> None:
        """Emit batches until :meth:`stop`.

        Raises PermissionMissing (with the remedy), InterfaceMissing (with those that exist), SourceError for a filter
        that is refused or a capture process that cannot be started.
        """
        failures = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            self._one_process(emit)
            if self._stopping.is_set():
                return
            if self._error.get("kind") == "ring" and not self._order["portable"]:
                self._order["portable"] = True
                continue
            self._raise_if_lasting()
            if time.monotonic() - began > _STEADY_SECONDS:
                failures = 0
            wait = _BACKOFF[min(failures, len(_BACKOFF) - 1)]
            failures += 1
            reason = self._error.get("text") or self._said or "no word of why"
            self._trouble = f"the capture process ended ({reason}), starting another in {wait:.0f} s"
            logger.warning("%s: %s", self.name, self._trouble)
            self._stopping.wait(wait)

    def _one_process(self, emit: Callable[[PacketBatch], None]) -> None:
        """Run one capture process to its end."""
        self._error, self._said = {}, ""
        self._waiting.clear()
        with self._lock:
            if self._stopping.is_set():
                return
            try:
                process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                    CHILD,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    bufsize=0,
                    start_new_session=True,
                )
            except OSError as error:
                raise SourceError(f"the capture process cannot be started: {error.strerror}") from error
            self._process = process
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - asked for above
        listener = threading.Thread(target=self._listen, args=(process,), name="hl7core-capture-status", daemon=True)
        listener.start()
        try:
            if sys.platform == "linux":
                _widen(process.stdout.fileno())
            with contextlib.suppress(BrokenPipeError):  # it died at once: its last words and its end say why
                process.stdin.write(json.dumps(self._order).encode() + b"\n")
            self._read(process.stdout.fileno(), emit)
        finally:
            with self._lock:
                self._ask_to_end()
            process.stdout.close()  # if `emit` raised: nobody reads any more, and it ends at its next write
            process.wait()
            if self._killer is not None:
                self._killer.cancel()
            listener.join(_STOP_SECONDS)
            with self._lock:
                self._process = None

    def _ask_to_end(self) -> None:
        """Close the process's standard input, once, and make sure that it ends; called with the lock held."""
        process = self._process
        if process is None or process.stdin is None or process.stdin.closed:
            return
        process.stdin.close()
        self._killer = threading.Timer(_STOP_SECONDS, self._kill, (process,))
        self._killer.daemon = True
        self._killer.start()

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            logger.warning("%s: the capture process did not end within %.0f s, killing it", self.name, _STOP_SECONDS)
            try:
                process.kill()
            except PermissionError:  # root without CAP_KILL
                logger.exception("%s: the capture process %d may not be killed", self.name, process.pid)

    def _read(self, pipe: int, emit: Callable[[PacketBatch], None]) -> None:
        """Emit what arrives through the pipe, until its end."""
        reader = CaptureReader()
        packets_before, dropped_before = self._received, self._dropped
        while data := os.read(pipe, _PIPE_BYTES):
            try:
                batches = reader.feed(data)
            except CaptureFileError as error:
                self._said = f"it wrote no capture: {error}"
                return
            for batch in batches:
                skipped, self._owed = self._owed, 0
                emit(batch._replace(number=packets_before + batch.number, skipped=batch.skipped + skipped))
                self._received += batch.count
            lost = dropped_before + reader.drops - self._dropped
            self._dropped += lost
            self._owed += lost
            if reader.damage is not None:
                self._said = f"its stream is damaged: {reader.damage}"
                return

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        """Read status messages from the process's standard error until it ends; runs on a thread of its own."""
        if process.stderr is None:
            return
        with process.stderr as stream:
            for line in stream:
                try:
                    told = json.loads(line)
                    status = told["status"]
                except (ValueError, TypeError, KeyError):
                    self._said = line.decode(errors="replace").strip()[:300] or self._said
                    continue
                if status == "ready":
                    self._ready = True
                    self._order["patient"] = True  # what was there once is waited for
                    self._trouble = ""
                elif status == "error":
                    self._error = told
                elif status == "up":
                    self._waiting.pop(told["interface"], None)
                elif status in _STATES:
                    self._waiting[told["interface"]] = status

    def _raise_if_lasting(self) -> None:
        """Raise for an error that a restart would not fix."""
        kind, text = self._error.get("kind"), str(self._error.get("text", ""))
        if kind == "permission":
            raise PermissionMissing(f"no permission to capture on {self._error['interface']}: {text}", remedy=REMEDY)
        if kind == "missing":
            raise InterfaceMissing(
                str(self._error["interface"]), existing=tuple(entry.name for entry in list_interfaces())
            )
        if kind == "libpcap":
            raise SourceError(f"{text}; install libpcap (Debian: apt-get install libpcap0.8) or remove the filter")
        if kind in {"filter", "scapy"}:
            raise SourceError(text)
        if not self._ready:
            raise SourceError(
                f"the capture cannot start: {text or self._said or 'its process ended without a message'}"
            )


def _widen(pipe: int) -> None:
    """Let the pipe hold 1 MiB, or what the system allows."""
    import fcntl  # there is none on Windows

    with contextlib.suppress(PermissionError):  # over the user's share of pipe memory: the 64 KiB it has will do
        fcntl.fcntl(pipe, _F_SETPIPE_SZ, _PIPE_BYTES)
