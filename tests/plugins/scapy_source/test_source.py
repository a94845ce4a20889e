"""The parent's side of a capture: errors, a capture process that dies, the end.

The capture process is played by small scripts here; ``test_live.py`` has the real one.
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from hl7core import Interface, InterfaceMissing, Packet, PcapngWriter, PermissionMissing, SourceError
from hl7core_plugins.scapy_source import LiveSource, source
from patience import eventually


class TestErrors:
    """What another process would not mend is raised, in words that help."""

    def failing(self, capture_process, kind: str, text: str, interface: str = "eth0") -> LiveSource:
        capture_process(f"tell(status='error', kind={kind!r}, text={text!r}, interface={interface!r}); sys.exit(1)")
        return LiveSource([interface])

    def test_missing_rights_come_with_the_remedy(self, capture_process, machine):
        with pytest.raises(PermissionMissing, match="no permission to capture on eth0") as refused:
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
