"""``read --store``: saving what is decoded, once."""

import time

from cli.data_folder import submission_statuses
from engine.parts import exchange
from hl7core.wire.pcap.synthetic_tcp import TcpTalk
from hl7core.wire.pcap.writer import pcap_header, pcap_record
from shell import engine, hl7core


def test_a_capture_file_is_stored_once(tmp_path):
    talk = TcpTalk()
    talk.open()
    talk.opener(b"\x0bMSH|^~\\&|A|B|C|D|||ORU^R01|M1|P|2.5\r\x1c\r")
    (tmp_path / "day.pcap").write_bytes(pcap_header() + b"".join(pcap_record(p.time_ns, p.data) for p in talk.packets))
    first = hl7core("read", "day.pcap", "--store", cwd=tmp_path)
    assert "1 session saved" in first.stderr
    again = hl7core("read", "day.pcap", "--store", cwd=tmp_path)
    assert "0 sessions saved" in again.stderr
    assert "1 already stored" in again.stderr
    (path,) = (tmp_path / "docs/sessions").glob("*.json")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_what_is_read_into_the_store_beside_an_engine_is_sent(receiver, tmp_path):
    records = (pcap_record(packet.time_ns, packet.data) for packet in exchange("READ1").packets())
    (tmp_path / "day.pcap").write_bytes(pcap_header() + b"".join(records))
    with engine(tmp_path):
        assert hl7core("read", "day.pcap", "--store", "-o", "jsonl", cwd=tmp_path).returncode == 0
        until = time.monotonic() + 30
        while not receiver.processed:
            assert time.monotonic() < until
            time.sleep(0.05)
    assert set(submission_statuses(tmp_path).values()) == {"submitted"}
