"""Live capture, as far as it can be promised without rights: which interfaces, which errors, which process does what.

The capture process is played by small scripts here; ``test_scapy_source_live.py`` has the real one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from hl7core import (
    Interface,
    InterfaceMissing,
    Packet,
    PacketSource,
    PcapngWriter,
    PermissionMissing,
    SourceError,
    SourceRequest,
)
from hl7core_plugins.scapy_source import LiveSource, ScapySource, ScapySourceSettings, interfaces, plugin, source
from patience import eventually

HERE = Path(source.__file__).parent
MACHINE = [
    Interface("lo", addresses=("127.0.0.1",)),
    Interface("eth0", addresses=("192.0.2.7",)),
    Interface("eth1", is_up=False),
    Interface("odd0", link_type=interfaces.UNKNOWN_LINK),
]


@pytest.fixture
def machine(monkeypatch):
    monkeypatch.setattr(plugin, "list_interfaces", lambda: MACHINE)
    monkeypatch.setattr(source, "list_interfaces", lambda: MACHINE)


@pytest.fixture
def capture_process(monkeypatch, tmp_path):
    """Let a script stand in for the capture process; it finds the configuration in ``order``."""

    def play(script: str) -> Path:
        path = tmp_path / "child.py"
        path.write_text(
            "import json, os, sys, time\norder = json.loads(sys.stdin.buffer.raw.readline())\n"
            "def tell(**what): os.write(2, json.dumps(what).encode() + b'\\n')\n" + textwrap.dedent(script)
        )
        monkeypatch.setattr(source, "CHILD", (sys.executable, str(path)))
        monkeypatch.setattr(source, "_BACKOFF", (0.05, 0.1))
        return path

    return play


def opened(request: SourceRequest, **settings) -> LiveSource | None:
    scapy_source = ScapySource()
    scapy_source.configure(ScapySourceSettings(**settings))
    return scapy_source.open_source(request)


class TestWhichPackets:
    def test_capture_files_are_for_another_plugin(self, machine):
        assert opened(SourceRequest(files=("day.pcap",))) is None

    def test_a_live_request_yields_a_packet_source(self, machine):
        assert isinstance(opened(SourceRequest()), PacketSource)

    def test_without_a_name_every_interface_that_is_up_and_can_be_captured_is_meant(self, machine):
        assert opened(SourceRequest()).name == "lo, eth0"
        assert opened(SourceRequest(interfaces=("any",))).name == "lo, eth0"

    def test_the_settings_name_interfaces_separated_by_commas(self, machine):
        assert opened(SourceRequest(), interfaces=" eth0 ,eth1,").name == "eth0, eth1"

    def test_what_a_person_asks_for_wins_over_the_settings(self, machine):
        asked = SourceRequest(interfaces=("lo",), bpf="tcp port 1", default_bpf="tcp port 3")
        found = opened(asked, interfaces="eth0", bpf="tcp port 2")
        assert (found.name, found._order["bpf"]) == ("lo", "tcp port 1")

    def test_the_filter_is_the_persons_else_the_settings_else_the_default(self, machine):
        assert opened(SourceRequest(default_bpf="tcp port 3"), bpf="tcp port 2")._order["bpf"] == "tcp port 2"
        assert opened(SourceRequest(default_bpf="tcp port 3"))._order["bpf"] == "tcp port 3"

    def test_an_interface_that_does_not_exist_is_refused_with_those_that_do(self, machine):
        with pytest.raises(InterfaceMissing, match="no interface 'eth9'") as refused:
            opened(SourceRequest(interfaces=("eth9",)))
        assert refused.value.existing == ("lo", "eth0", "eth1", "odd0")

    def test_a_machine_with_no_interface_up_is_told_so(self, monkeypatch):
        monkeypatch.setattr(plugin, "list_interfaces", lambda: [Interface("eth1", is_up=False)])
        with pytest.raises(SourceError, match="no interface is up"):
            opened(SourceRequest())

    def test_promiscuous_mode_needs_both_the_request_and_the_settings(self, machine):
        assert opened(SourceRequest())._order["promiscuous"] is True
        assert opened(SourceRequest(promiscuous=False))._order["promiscuous"] is False
        assert opened(SourceRequest(), promiscuous=False)._order["promiscuous"] is False

    @pytest.mark.parametrize("wrong", [{"snaplen": 10}, {"snaplen": 262_145}, {"buffer_mib": 0}, {"iface": "eth0"}])
    def test_settings_out_of_bounds_are_refused(self, wrong):
        with pytest.raises(ValueError):
            ScapySourceSettings(**wrong)


class TestInterfaces:
    def test_the_loopback_is_listed_with_its_address_state_and_link_layer(self):
        loopback = next(entry for entry in ScapySource().list_interfaces() if "127.0.0.1" in entry.addresses)
        assert loopback.is_up
        assert "loopback" in loopback.description
        if sys.platform == "linux":
            assert loopback.link_type == interfaces.ETHERNET

    def test_the_capture_process_can_list_them_where_the_system_library_cannot(self):
        theirs = {entry.name: entry.addresses for entry in interfaces._ask_scapy()}
        ours = {entry.name: entry.addresses for entry in interfaces.list_interfaces()}
        assert theirs.keys() == ours.keys()
        assert all(set(theirs[name]) == set(ours[name]) for name in ours)

    def test_a_source_names_its_interfaces_also_one_that_is_gone(self, machine):
        assert LiveSource(["eth0", "eth5"]).interfaces() == [MACHINE[1], Interface("eth5", is_up=False)]


class TestWhoImportsScapy:
    def test_neither_the_parent_nor_the_reader_of_packets_does(self):
        script = (
            "import sys\n"
            "from hl7core import SourceRequest\n"
            "from hl7core_plugins.scapy_source import ScapySource, child\n"
            "plugin = ScapySource(); plugin.list_interfaces(); plugin.open_source(SourceRequest())\n"
            "print([name for name in sys.modules if name.split('.')[0] == 'scapy'])\n"
        )
        told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert told.stdout.strip() == "[]"

    def test_the_reader_loads_neither_pydantic_nor_pluggy(self):
        script = "import sys, hl7core_plugins.scapy_source.child\nprint({'pydantic', 'pluggy'} & set(sys.modules))\n"
        told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert told.stdout.strip() == "set()"

    def test_one_module_imports_it_and_its_sniffer_thread_is_used_nowhere(self):
        texts = {path.name: path.read_text() for path in HERE.glob("*.py")}
        assert [name for name, text in texts.items() if "import scapy" in text or "from scapy" in text] == ["opener.py"]
        assert not [name for name, text in texts.items() if "AsyncSniffer" in text or "scapy.all" in text]


class TestErrors:
    """What another process would not mend is raised, in words that help."""

    def failing(self, capture_process, kind: str, text: str, interface: str = "eth0") -> LiveSource:
        capture_process(f"tell(status='error', kind={kind!r}, text={text!r}, interface={interface!r}); sys.exit(1)")
        return LiveSource([interface])

    def test_missing_rights_come_with_the_remedy(self, capture_process, machine):
        with pytest.raises(PermissionMissing, match="no right to capture on eth0") as refused:
            self.failing(capture_process, "permission", "a packet socket may not be opened").run(print)
        for way in ("root", "setcap cap_net_raw", "AmbientCapabilities=CAP_NET_RAW", "'Capture rights'"):
            assert way in refused.value.remedy

    def test_an_interface_that_went_before_it_was_opened_is_missing(self, capture_process, machine):
        with pytest.raises(InterfaceMissing) as refused:
            self.failing(capture_process, "missing", "no such thing", "eth7").run(print)
        assert (refused.value.name, refused.value.existing[0]) == ("eth7", "lo")

    def test_a_refused_filter_is_told_as_libpcap_tells_it(self, capture_process):
        with pytest.raises(SourceError, match="the filter 'tcp prt 1' is refused: syntax error"):
            self.failing(capture_process, "filter", "the filter 'tcp prt 1' is refused: syntax error").run(print)

    def test_without_libpcap_a_filter_is_impossible_and_the_package_is_named(self, capture_process):
        with pytest.raises(SourceError, match=r"libpcap0\.8"):
            self.failing(capture_process, "libpcap", "the filter needs libpcap").run(print)

    def test_a_process_that_dies_before_it_captured_is_an_error_with_its_last_words(self, capture_process):
        capture_process("raise RuntimeError('no memory for this')")
        with pytest.raises(SourceError, match="cannot begin: RuntimeError: no memory for this"):
            LiveSource(["eth0"]).run(print)

    def test_an_interpreter_that_is_gone_is_an_error(self, monkeypatch, tmp_path):
        monkeypatch.setattr(source, "CHILD", (str(tmp_path / "nothing"),))
        with pytest.raises(SourceError, match="cannot be started"):
            LiveSource(["eth0"]).run(print)

    def test_what_is_no_capture_on_the_pipe_is_an_error(self, capture_process):
        capture_process("os.write(1, b'Good morning, this is not pcapng'); time.sleep(0.1)")
        with pytest.raises(SourceError, match="wrote no capture"):
            LiveSource(["eth0"]).run(print)


class TestTheCaptureProcessDies:
    def stream(self, tmp_path, packets: int, *, dropped: int = 0, more: int = 0) -> Path:
        """Write what the process writes: packets, how many were dropped, then ``more`` packets."""
        writer = PcapngWriter()
        data = writer.header("test", [Interface("eth0")])
        for number in range(packets):
            data += writer.packet(0, number, b"early", 5)
        data += writer.statistics(0, 1, packets + dropped, dropped)
        for number in range(more):
            data += writer.packet(0, number, b"later", 5)
        path = tmp_path / "stream"
        path.write_bytes(data)
        return path

    def test_it_is_started_again_and_its_packets_and_drops_add_up(self, capture_process, tmp_path, caplog):
        stream = self.stream(tmp_path, 3, dropped=2)
        capture_process(f"tell(status='ready'); os.write(1, open({str(stream)!r}, 'rb').read()); sys.exit(1)")
        live, numbers = LiveSource(["eth0"]), []

        def emit(batch):
            numbers.extend(range(batch.number, batch.number + batch.count))
            if len(numbers) >= 9:
                live.stop()

        live.run(emit)
        assert numbers[:9] == list(range(1, 10)), "packets are numbered on"
        assert live.stats().dropped >= 4, "what every process dropped adds up"
        assert "eth0: the capture process ended" in caplog.text

    def test_an_interface_that_was_there_once_is_waited_for_by_the_next_process(self, capture_process, tmp_path):
        orders = tmp_path / "orders"
        capture_process(
            f"open({str(orders)!r}, 'a').write(json.dumps(order) + '\\n'); tell(status='ready'); time.sleep(0.05)"
        )
        live = LiveSource(["eth0"])
        running = threading.Thread(target=live.run, args=(print,))
        running.start()
        assert eventually(lambda: orders.exists() and orders.read_text().count("\n") >= 2)
        live.stop()
        running.join(5)
        told = [json.loads(line)["patient"] for line in orders.read_text().splitlines()]
        assert told[:2] == [False, True]

    def test_where_the_kernel_refuses_the_ring_packets_are_read_one_by_one(self, capture_process, tmp_path):
        stream = self.stream(tmp_path, 1)
        capture_process(f"""
            if not order["portable"]:
                tell(status="error", kind="ring", text="no ring", interface="eth0")
                sys.exit(1)
            tell(status="ready")
            os.write(1, open({str(stream)!r}, "rb").read())
            sys.stdin.read()
        """)
        live, seen = LiveSource(["eth0"]), []

        def emit(batch):
            seen.extend(batch.packets())
            live.stop()

        live.run(emit)
        assert seen == [Packet(b"early", 0, 5, Interface("eth0"))]

    def test_drops_are_counted_and_mark_the_next_batch(self, capture_process, tmp_path):
        # Two writes, so that the second batch comes after the count.
        first, second = self.stream(tmp_path, 2, dropped=7).read_bytes(), PcapngWriter().packet(0, 5, b"later", 5)
        (tmp_path / "first").write_bytes(first)
        (tmp_path / "second").write_bytes(second)
        capture_process(f"""
            tell(status="ready")
            os.write(1, open({str(tmp_path / "first")!r}, "rb").read()); time.sleep(0.3)
            os.write(1, open({str(tmp_path / "second")!r}, "rb").read())
            sys.stdin.read()
        """)
        live, batches = LiveSource(["eth0"]), []

        def emit(batch):
            batches.append(batch)
            if len(batches) == 2:
                live.stop()

        live.run(emit)
        assert [(batch.count, batch.skipped) for batch in batches] == [(2, 0), (1, 7)]
        assert (live.stats().received, live.stats().dropped) == (3, 7)

    def test_a_lost_interface_shows_in_the_detail_until_it_is_back(self, capture_process, tmp_path):
        go_on = tmp_path / "go_on"
        capture_process(f"""
            tell(status="ready"); tell(status="down", interface="eth0"); tell(status="gone", interface="eth1")
            while not os.path.exists({str(go_on)!r}): time.sleep(0.01)
            tell(status="up", interface="eth0"); tell(status="up", interface="eth1")
            sys.stdin.read()
        """)
        live = LiveSource(["eth0", "eth1"])
        running = threading.Thread(target=live.run, args=(print,))
        running.start()
        assert eventually(lambda: live.stats().detail == "eth0 is down, waiting; eth1 is gone, waiting")
        go_on.touch()
        assert eventually(lambda: not live.stats().detail)
        live.stop()
        running.join(5)


class TestStop:
    def test_before_run_it_lets_run_return_at_once(self):
        live = LiveSource(["eth0"])
        live.stop()
        live.stop()
        live.run(print)
        assert live.process_id == 0

    def test_what_the_process_hands_on_after_it_was_asked_still_counts(self, capture_process, tmp_path):
        writer = PcapngWriter()
        (tmp_path / "head").write_bytes(writer.header("test", [Interface("eth0")]))
        (tmp_path / "last").write_bytes(writer.packet(0, 1, b"the last", 8))
        capture_process(f"""
            os.write(1, open({str(tmp_path / "head")!r}, "rb").read()); tell(status="ready")
            sys.stdin.read(); time.sleep(0.2)
            os.write(1, open({str(tmp_path / "last")!r}, "rb").read())
        """)
        live, seen = LiveSource(["eth0"]), []
        running = threading.Thread(target=live.run, args=(lambda batch: seen.extend(batch.packets()),))
        running.start()
        assert eventually(lambda: live._ready)
        live.stop()
        running.join(5)
        assert [packet.data for packet in seen] == [b"the last"]

    def test_a_process_that_does_not_end_is_killed(self, capture_process, monkeypatch):
        monkeypatch.setattr(source, "_STOP_SECONDS", 0.3)
        capture_process("tell(status='ready'); time.sleep(60)")
        live = LiveSource(["eth0"])
        running = threading.Thread(target=live.run, args=(print,))
        running.start()
        assert eventually(lambda: live._ready)
        began = time.monotonic()
        live.stop()
        running.join(10)
        assert not running.is_alive()
        assert time.monotonic() - began < 5

    def test_when_the_receiver_of_batches_raises_the_process_ends_and_the_error_is_told(
        self, capture_process, tmp_path
    ):
        (tmp_path / "one").write_bytes(
            PcapngWriter().header("test", [Interface("eth0")]) + PcapngWriter().packet(0, 1, b"x", 1)
        )
        capture_process(f"""
            tell(status="ready"); os.write(1, open({str(tmp_path / "one")!r}, "rb").read()); sys.stdin.read()
        """)
        live = LiveSource(["eth0"])

        def emit(batch):
            raise LookupError("the intake broke")

        with pytest.raises(LookupError, match="the intake broke"):
            live.run(emit)
        assert live.process_id == 0
