"""Live capture with real sockets: on ``lo``, and on veth pairs whose other end lies in a network namespace of the test.

Frames of our own carry the EtherType for local experiments (0x88B5), which nothing else on the machine sends.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from hl7core import Hl7coreError, InterfaceMissing, Packet, PacketBatch, SourceError
from hl7core_plugins.scapy_source import LiveSource
from patience import eventually

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="packet sockets and network namespaces are Linux's"),
    pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="capturing live needs root here"),
]

OURS = "ether proto 0x88b5"
FRAME = b"\xff" * 6 + b"\x02\x00\x00\x00\x00\x01" + b"\x88\xb5"
SEND = """
import socket, sys, time
links = []
for name in sys.argv[3].split(","):
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); link.bind((name, 0)); links.append(link)
count, head, pause = int(sys.argv[1]), bytes.fromhex(sys.argv[2]), float(sys.argv[4])
for number in range(count):
    links[number % len(links)].send(head + number.to_bytes(4, "big") + bytes(150))
    if pause: time.sleep(pause)
"""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


class Cable:
    """veth pairs: ``a``, ``b`` ... on this side, their peers in a namespace from which frames are sent."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.namespace = f"hl7core-{label}"
        self._laid: list[str] = []
        ip("netns", "add", self.namespace)

    def lay(self, letter: str) -> str:
        near, far = f"hc{self.label}{letter}", f"far{letter}"
        self._laid += [near, near + "x"]
        ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", self.namespace)
        for prefix in ([], ["netns", "exec", self.namespace]):
            name = far if prefix else near
            command = [*(["ip", *prefix] if prefix else []), "sysctl", "-qw", f"net.ipv6.conf.{name}.disable_ipv6=1"]
            subprocess.run(command, check=False, capture_output=True)
        ip("link", "set", near, "up")
        ip("-n", self.namespace, "link", "set", far, "up")
        return near

    def send(self, count: int, letters: str = "a", head: bytes = FRAME, pause: float = 0.0) -> None:
        names = ",".join(f"far{letter}" for letter in letters)
        subprocess.run(
            [
                "ip",
                "netns",
                "exec",
                self.namespace,
                sys.executable,
                "-c",
                SEND,
                str(count),
                head.hex(),
                names,
                str(pause),
            ],
            check=True,
        )

    def remove(self) -> None:
        for near in self._laid:  # at once: a namespace takes its interfaces away when it finds the time
            subprocess.run(["ip", "link", "del", near], check=False, capture_output=True)
        ip("netns", "del", self.namespace)


@pytest.fixture
def cable(tmp_path) -> Iterator[Cable]:
    laid = Cable(f"{os.getpid() % 100000}")
    try:
        yield laid
    finally:
        laid.remove()


class Capture:
    """A source that runs on a thread for the length of a ``with``; its packets in the order handed on."""

    def __init__(self, *interfaces: str, **options) -> None:
        self.source = LiveSource(interfaces, **options)
        self.packets: list[Packet] = []
        self.batches: list[PacketBatch] = []
        self.error: Hl7coreError | None = None
        self.gate = threading.Event()
        self.gate.set()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.source.run(self._emit)
        except Hl7coreError as error:
            self.error = error

    def _emit(self, batch: PacketBatch) -> None:
        self.gate.wait(30)
        self.batches.append(batch)
        self.packets.extend(batch.packets())

    def __enter__(self) -> Self:
        self._thread.start()
        assert eventually(lambda: self.source._ready or not self._thread.is_alive(), 15)
        if self.error is not None:
            raise self.error
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def stop(self) -> None:
        self.gate.set()
        self.source.stop()
        self._thread.join(15)
        assert not self._thread.is_alive()

    def numbers(self) -> list[int]:
        """The numbers of our own frames, in the order handed on."""
        return [struct.unpack_from("!I", packet.data, 14)[0] for packet in self.packets]


def status_of(process: int, *keys: str) -> list[str]:
    text = Path(f"/proc/{process}/status").read_text()
    return [re.search(rf"^{key}:\s*(\S+)", text, re.MULTILINE)[1] for key in keys]


def children_of(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def alive(process: int) -> bool:
    try:
        return status_of(process, "State")[0] not in {"Z", "X"}
    except FileNotFoundError:
        return False


def streams(packets: list[Packet]) -> dict[int, bytes]:
    """Put the TCP payloads of captured IPv4 packets together, by source port."""
    segments: dict[int, dict[int, bytes]] = {}
    for packet in packets:
        header = 14 + (packet.data[14] & 15) * 4
        port, sequence = struct.unpack_from("!H2xI", packet.data, header)
        end = 14 + struct.unpack_from("!H", packet.data, 16)[0]
        payload = packet.data[header + (packet.data[header + 12] >> 4) * 4 : end]
        if payload:
            segments.setdefault(port, {})[sequence] = payload
    return {port: b"".join(parts[key] for key in sorted(parts)) for port, parts in segments.items()}


class TestWhatIsCaptured:
    @pytest.mark.parametrize("portable", [False, True], ids=["ring", "one by one"])
    def test_a_conversation_on_lo_comes_byte_for_byte_and_each_packet_once(self, portable):
        there, back = os.urandom(60_000), os.urandom(40_000)
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            with Capture("lo", bpf=f"tcp port {port}", portable=portable) as capture:
                began = time.time_ns()
                with socket.create_connection(("127.0.0.1", port)) as client:
                    other = client.getsockname()[1]
                    peer, _ = server.accept()
                    with peer:
                        for mine, yours, data in ((client, peer, there), (peer, client, back)):
                            for at in range(0, len(data), 10_000):
                                mine.sendall(data[at : at + 10_000])
                                got = b""
                                while len(got) < 10_000:
                                    got += yours.recv(65_536)
                ended = time.time_ns()
        found = streams(capture.packets)
        assert (found[other], found[port]) == (there, back)
        syns = [packet for packet in capture.packets if packet.data[14 + 20 + 13] & 2]
        assert len(syns) == 2, "the loopback shows each packet twice to whoever does not look"
        assert all(began <= packet.time_ns <= ended for packet in capture.packets)
        assert capture.source.stats().received == len(capture.packets)

    def test_several_interfaces_are_captured_at_once_in_the_order_of_time(self, cable):
        near = [cable.lay("a"), cable.lay("b")]
        with Capture(*near, bpf=OURS) as capture:
            cable.send(400, "ab", pause=0.0005)
        assert capture.numbers() == list(range(400))
        assert [packet.interface.name for packet in capture.packets] == near * 200

    def test_stop_hands_on_the_very_last_packets(self, cable):
        with Capture(cable.lay("a"), bpf=OURS) as capture:
            cable.send(50)
        assert capture.numbers() == list(range(50))

    def test_what_comes_is_handed_on_within_100_ms(self, cable):
        with Capture(cable.lay("a"), cable.lay("b"), bpf=OURS) as capture:
            late = []
            for sent in range(1, 6):
                cable.send(1)
                assert eventually(lambda sent=sent: len(capture.packets) == sent, 2)
                late.append(time.time_ns() - capture.packets[-1].time_ns)
        assert min(late) < 100_000_000, "the best of five: the machine may be busy"

    @pytest.mark.parametrize("tags", [b"\x81\x00\x60\x05", b"\x88\xa8\x00\x07\x81\x00\x00\x05"], ids=["VLAN", "QinQ"])
    def test_vlan_tags_are_where_they_were_on_the_wire(self, cable, tags):
        sent = FRAME[:12] + tags + FRAME[12:]
        with Capture(cable.lay("a")) as capture:
            cable.send(1, head=sent)
        (found,) = [packet for packet in capture.packets if FRAME[12:] in packet.data[:24]]
        assert found.data == sent + bytes(4 + 150)
        assert found.wire_length == len(found.data)

    def test_of_long_packets_the_first_bytes_are_kept_and_the_length_on_the_wire(self, cable):
        with Capture(cable.lay("a"), bpf=OURS, snaplen=64) as capture:
            cable.send(1)
        assert [(len(packet.data), packet.wire_length) for packet in capture.packets] == [(64, 14 + 4 + 150)]

    def test_what_the_filter_does_not_name_is_not_captured(self, cable):
        with Capture(cable.lay("a"), bpf="ether proto 0x88b6") as capture:
            cable.send(20)
        assert capture.packets == []

    def test_60000_packets_as_fast_as_they_can_be_sent_come_without_loss(self, cable):
        lost = []
        for name in "abc":
            with Capture(cable.lay(name), bpf=OURS) as capture:
                cable.send(60_000, name)
            stats = capture.source.stats()
            assert stats.received + stats.dropped == 60_000
            lost.append(stats.dropped)
        assert min(lost) == 0, "the best of three: the machine may be busy"

    def test_packets_that_the_kernel_drops_are_counted_to_the_last(self, cable):
        with Capture(cable.lay("a"), bpf=OURS, buffer_mib=1) as capture:
            capture.gate.clear()  # whoever takes the packets is stuck: the pipe fills, then the ring
            cable.send(60_000)
            capture.gate.set()
            capture.stop()
        stats = capture.source.stats()
        assert stats.dropped > 0
        assert stats.received + stats.dropped == 60_000
        assert len(capture.packets) == stats.received


class TestInterfacesThatComeAndGo:
    def seen_after(self, capture: Capture, cable: Cable, seconds: float, letter: str = "a") -> bool:
        """Send until something of ours comes through, for ``seconds`` at most."""
        before = len(capture.packets)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            cable.send(1, letter)
            if eventually(lambda: len(capture.packets) > before, 0.1):
                return True
        return False

    @pytest.mark.parametrize("portable", [False, True], ids=["ring", "one by one"])
    def test_down_and_up_again_the_capture_goes_on(self, cable, portable):
        near = cable.lay("a")
        with Capture(near, bpf=OURS, portable=portable) as capture:
            assert self.seen_after(capture, cable, 2)
            ip("link", "set", near, "down")
            assert eventually(lambda: capture.source.stats().detail, 3)
            ip("link", "set", near, "up")
            assert self.seen_after(capture, cable, 8 if portable else 2)
            assert eventually(lambda: not capture.source.stats().detail, 3)

    def test_deleted_and_made_anew_it_is_captured_again_and_the_others_never_stopped(self, cable):
        lost, kept = cable.lay("a"), cable.lay("b")
        with Capture(lost, kept, bpf=OURS) as capture:
            process = capture.source.process_id
            ip("link", "del", lost)
            assert eventually(lambda: "is gone, waiting" in capture.source.stats().detail, 3)
            assert self.seen_after(capture, cable, 2, "b")
            cable.lay("a")
            assert self.seen_after(capture, cable, 2, "a")
            assert {packet.interface.name for packet in capture.packets} == {lost, kept}
            assert eventually(lambda: not capture.source.stats().detail, 3)
            assert capture.source.process_id == process

    def test_renamed_it_is_still_captured(self, cable):
        near = cable.lay("a")
        with Capture(near, bpf=OURS) as capture:
            ip("link", "set", near, "down")
            ip("link", "set", near, "name", near + "x")
            ip("link", "set", near + "x", "up")
            assert self.seen_after(capture, cable, 2)
            assert eventually(lambda: not capture.source.stats().detail, 3)

    def test_an_interface_that_is_down_at_the_start_is_waited_for(self, cable):
        near = cable.lay("a")
        ip("link", "set", near, "down")
        with Capture(near, bpf=OURS) as capture:
            assert eventually(lambda: capture.source.stats().detail == f"{near} is down, waiting", 3)
            ip("link", "set", near, "up")
            assert self.seen_after(capture, cable, 3)


class TestRights:
    def test_the_process_that_reads_packets_has_none_left(self):
        with Capture("lo", bpf="tcp port 9") as capture:
            reader = capture.source.process_id
            assert status_of(reader, "CapEff", "CapPrm", "CapInh", "CapAmb") == ["0" * 16] * 4
            assert status_of(reader, "NoNewPrivs", "Uid", "Gid") == ["1", "65534", "65534"]

    def test_the_process_that_opens_sockets_keeps_that_right_alone(self):
        with Capture("lo", bpf="tcp port 9") as capture:
            (opener,) = children_of(capture.source.process_id)
            assert status_of(opener, "CapEff", "CapPrm", "NoNewPrivs", "Uid") == [f"{1 << 13:016x}"] * 2 + [
                "1",
                "65534",
            ]

    def test_one_by_one_there_is_one_process_and_it_has_none_left_either(self):
        with Capture("lo", bpf="tcp port 9", portable=True) as capture:
            reader = capture.source.process_id
            assert status_of(reader, "CapEff", "CapPrm", "NoNewPrivs", "Uid") == ["0" * 16] * 2 + ["1", "65534"]
            assert children_of(reader) == []

    def run_with(self, capabilities: str, act: str) -> str:
        script = (
            "import threading, time\n"
            "from hl7core import Hl7coreError\n"
            "from hl7core_plugins.scapy_source import LiveSource\n"
            "live = LiveSource(['lo'], bpf='tcp port 9')\n"
            "threading.Thread(target=lambda: (time.sleep(3), live.stop()), daemon=True).start()\n"
            "try:\n    live.run(print)\n"
            "except Hl7coreError as error:\n    print(type(error).__name__, error, getattr(error, 'remedy', ''))\n"
            "else:\n    print('captured', live._ready)\n"
        )
        told = subprocess.run(
            ["setpriv", f"--bounding-set={capabilities}", "--inh-caps=-all", sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
        )
        return told.stdout

    def test_without_rights_the_error_says_what_to_do(self):
        told = self.run_with("-all", "run")
        assert told.startswith("PermissionMissing no permission to capture on lo")
        assert "setcap cap_net_raw" in told
        assert "'Capture rights'" in told

    def test_cap_net_raw_alone_suffices(self):
        assert self.run_with("-all,+net_raw", "run").strip() == "captured True"


class TestErrors:
    def test_a_filter_that_is_none_is_told_in_a_sentence(self):
        with pytest.raises(SourceError, match=r"the filter 'tcp prt 2575' is refused: .*syntax error"):
            Capture("lo", bpf="tcp prt 2575").__enter__()

    def test_a_missing_interface_lists_those_that_exist(self):
        with pytest.raises(InterfaceMissing) as refused:
            Capture("nosuch0").__enter__()
        assert "lo" in refused.value.existing

    def test_without_libpcap_a_filter_fails_with_the_remedy_and_no_filter_works(self):
        script = (
            "for f in $(ls /usr/lib/*/libpcap.so.* /usr/lib/libpcap.so.* 2>/dev/null); do\n"
            '  [ -L "$f" ] || mount --bind /dev/null "$f" || exit 9\ndone\n'
            f'exec "{sys.executable}" -c "$1"\n'
        )
        python = (
            "import threading, time\n"
            "from hl7core import SourceError\n"
            "from hl7core_plugins.scapy_source import LiveSource\n"
            "try:\n    LiveSource(['lo'], bpf='tcp port 9').run(print)\n"
            "except SourceError as error:\n    print(error)\n"
            "live = LiveSource(['lo'])\n"
            "running = threading.Thread(target=live.run, args=(lambda batch: None,)); running.start()\n"
            "time.sleep(2); print(live._ready); live.stop(); running.join()\n"
        )
        told = subprocess.run(
            ["unshare", "-m", "sh", "-c", script, "sh", python], capture_output=True, text=True, check=False
        )
        if told.returncode == 9 or "unshare" in told.stderr:
            pytest.skip("this machine allows no mount namespace")
        lines = told.stdout.splitlines()
        assert "needs libpcap" in lines[0]
        assert "apt-get install" in lines[0]
        assert lines[1] == "True"


class TestProcesses:
    def test_killed_the_parent_takes_the_capture_with_it(self):
        script = (
            "import threading, time\n"
            "from hl7core_plugins.scapy_source import LiveSource\n"
            "live = LiveSource(['lo'], bpf='tcp port 9')\n"
            "threading.Thread(target=live.run, args=(print,), daemon=True).start()\n"
            "while not live._ready: time.sleep(0.01)\n"
            "print(live.process_id, flush=True); time.sleep(60)\n"
        )
        with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
            reader = int(parent.stdout.readline())
            family = [reader, *children_of(reader)]
            assert len(family) == 2
            parent.kill()
            parent.wait()
            assert eventually(lambda: not any(alive(process) for process in family), 5)

    def test_killed_itself_it_is_replaced(self, cable):
        with Capture(cable.lay("a"), bpf=OURS) as capture:
            first = capture.source.process_id
            os.kill(first, signal.SIGKILL)
            assert eventually(lambda: "starting another" in capture.source.stats().detail, 3)
            assert eventually(lambda: capture.source.process_id not in {0, first}, 3)
            assert eventually(lambda: not capture.source.stats().detail, 5)
            cable.send(10)
            assert eventually(lambda: len(capture.packets) == 10, 3)

    def test_signals_for_the_whole_service_leave_it_to_the_parent_when_to_end(self, cable):
        with Capture(cable.lay("a"), bpf=OURS) as capture:
            reader = capture.source.process_id
            for process in (reader, *children_of(reader)):
                os.kill(process, signal.SIGTERM)
                os.kill(process, signal.SIGINT)
            cable.send(10)
        assert len(capture.packets) == 10
        assert not alive(reader)

    def test_nothing_is_left_of_it_after_stop(self):
        with Capture("lo", bpf="tcp port 9") as capture:
            family = [capture.source.process_id, *children_of(capture.source.process_id)]
        assert eventually(lambda: not any(alive(process) for process in family), 3)
        assert not [thread for thread in threading.enumerate() if thread.name == "hl7core-capture-status"]
