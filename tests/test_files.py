"""Capture files on disk, compressed, in a pipe: real files, real pipes, real processes."""

from __future__ import annotations

import gzip
import os
import random
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hl7core.errors import CaptureFileError
from hl7core.files import CaptureFile
from hl7core.model.packet import Interface
from hl7core.wire.pcap.reader import PcapngWriter, pcap_header, pcap_record

NOON = 1_700_000_000_000_000_000
PACKETS = [f"packet {number} ".encode() * 9 for number in range(200)]


def capture(packets: list[bytes] = PACKETS) -> bytes:
    return pcap_header() + b"".join(pcap_record(NOON + number, data) for number, data in enumerate(packets))


def read(path: object) -> tuple[list[bytes], CaptureFile]:
    with CaptureFile(str(path)) as file:
        packets = [packet.data for batch in file for packet in batch.packets()]
    return packets, file


@pytest.fixture
def write(tmp_path):
    def write(data: bytes, name: str = "capture.pcap") -> str:
        path = tmp_path / name
        path.write_bytes(data)
        return str(path)

    return write


def test_a_file_gives_its_packets_and_says_how_far_it_is(write):
    data = capture()
    with CaptureFile(write(data)) as file:
        assert (file.size, file.position) == (len(data), 0)
        assert sum(batch.count for batch in file) == len(PACKETS)
        assert (file.size, file.position, file.packets) == (len(data), len(data), len(PACKETS))
        assert file.damage is None


def test_gzip_is_known_by_its_content_whatever_its_name(write):
    packed = gzip.compress(capture())
    packets, file = read(write(packed, "capture.pcap"))
    assert packets == PACKETS
    assert file.damage is None
    assert (file.size, file.position) == (len(packed), len(packed))
    assert read(write(capture(), "capture.pcap.gz"))[0] == PACKETS


def test_the_members_of_a_gzip_file_are_read_as_one(write):
    data = capture()
    packed = b"".join(gzip.compress(data[at : at + 1000]) for at in range(0, len(data), 1000))
    packets, file = read(write(packed + bytes(512)))  # and the padding of a tape is nothing
    assert packets == PACKETS
    assert file.damage is None


def test_a_gzip_file_cut_short_gives_every_packet_before_the_cut(write):
    # Random packets do not compress, so what a cut leaves is known.
    generator = random.Random(1)
    packets = [generator.randbytes(1000) for _ in range(400)]
    packed = gzip.compress(capture(packets))
    for cut in (len(packed) - 1, len(packed) - 9, len(packed) // 2, 2000):
        found, file = read(write(packed[:cut]))
        assert found == packets[: len(found)]
        assert len(found) >= (cut - 1000) // 1030 - 32  # a deflate block or so is lost, no more
        assert file.damage is not None
        assert file.damage.packet == len(found) + 1
        assert "the gzip data is cut short" in str(file.damage)


def test_a_gzip_file_with_a_broken_middle_gives_every_packet_before_it(write):
    generator = random.Random(2)
    packets = [generator.randbytes(1000) for _ in range(400)]
    first, second = gzip.compress(capture(packets[:200])), gzip.compress(capture(packets)[24 + 200 * 1016 :])
    found, file = read(write(first + b"\xff" + second))
    assert found == packets[:200]
    assert file.damage is not None
    assert file.damage.packet == 201
    assert "the gzip data is damaged" in str(file.damage)


def test_a_gzip_file_whose_checksum_is_wrong_loses_no_packet(write):
    packed = bytearray(gzip.compress(capture()))
    packed[-8] ^= 1
    packets, file = read(write(bytes(packed)))
    assert packets == PACKETS
    assert "the gzip data is damaged" in str(file.damage)


def test_a_gzip_file_that_holds_no_capture_is_refused(write):
    with pytest.raises(CaptureFileError, match="not a capture file"):
        read(write(gzip.compress(b"MSH|^~\\&|")))
    with pytest.raises(CaptureFileError, match="the gzip data is cut short") as refused:
        read(write(gzip.compress(capture())[:12]))
    assert refused.value.packet == 0


def test_what_compresses_a_thousandfold_stays_small_in_memory(write):
    packed = gzip.compress(capture([bytes(60_000)] * 4000))  # 240 MB
    tracemalloc.start()
    try:
        with CaptureFile(write(packed)) as file:
            assert sum(batch.count for batch in file) == 4000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * 1024 * 1024


def test_a_file_that_is_all_empty_gzip_members_ends_soon(write):
    began = time.process_time()
    packets, _ = read(write(gzip.compress(capture()) + gzip.compress(b"") * 40_000))
    assert packets == PACKETS
    assert time.process_time() - began < 10


def test_a_damaged_file_names_itself_and_the_packet(write):
    path = write(capture()[:-1])
    packets, file = read(path)
    assert packets == PACKETS[:-1]
    assert file.damage is not None
    assert file.damage.packet == 200
    assert str(file.damage).startswith(f"{path}: cut short in packet 200")


@pytest.mark.parametrize(
    ("data", "sentence"),
    [(b"", "the file is empty"), (b"\xd4\xc3", "cut short in the file header"), (b"hello", "not a capture file")],
)
def test_what_is_no_capture_file_is_refused_by_name(write, data, sentence):
    path = write(data)
    with pytest.raises(CaptureFileError) as refused:
        read(path)
    assert str(refused.value).startswith(f"{path}: {sentence}")
    assert refused.value.packet == 0


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(CaptureFileError, match=r"none\.pcap: no such file"):
        CaptureFile(str(tmp_path / "none.pcap"))


def test_a_folder_is_said_to_be_a_folder(tmp_path):
    with pytest.raises(CaptureFileError, match="this is a folder"):
        CaptureFile(str(tmp_path))


def test_a_name_that_no_file_can_have_is_refused():
    with pytest.raises(CaptureFileError, match="cannot be opened"):
        CaptureFile("a\0b")


def test_a_file_that_one_may_not_read_says_so(write):
    path = write(capture())
    Path(path).chmod(0)
    was_root = os.geteuid() == 0
    if was_root:  # root may read everything
        os.seteuid(65_534)
    try:
        with pytest.raises(CaptureFileError, match="permission denied"):
            CaptureFile(path)
    finally:
        if was_root:
            os.seteuid(0)


def test_drops_are_told(write):
    writer = PcapngWriter()
    path = write(writer.header("test", [Interface("eth0")]) + writer.statistics(0, NOON, 10, 3))
    packets, file = read(path)
    assert packets == []
    assert file.drops == 3


def test_a_named_pipe_gives_packets_as_they_come(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    data = capture(PACKETS[:2])
    heard = threading.Event()
    waited = []

    def write() -> None:
        with path.open("wb", buffering=0) as pipe:
            pipe.write(data[:-10])
            waited.append(heard.wait(30))  # the rest is not written until the first packet was read
            pipe.write(data[-10:])

    writer = threading.Thread(target=write)
    writer.start()
    packets = []
    with CaptureFile(str(path)) as file:
        assert file.size == 0
        for batch in file:
            packets += [packet.data for packet in batch.packets()]
            heard.set()
    writer.join()
    assert waited == [True]
    assert packets == PACKETS[:2]
    assert file.damage is None


COUNT = """
from hl7core.files import CaptureFile
with CaptureFile("-") as file:
    print(file.size, sum(batch.count for batch in file), file.damage)
"""


@pytest.mark.parametrize("packed", [False, True])
def test_standard_input_is_read_from_a_pipe(packed):
    data = gzip.compress(capture()) if packed else capture()
    done = subprocess.run([sys.executable, "-c", COUNT], input=data, capture_output=True, check=True)
    assert done.stdout.split() == [b"0", b"200", b"None"]


def test_standard_input_from_a_file_knows_its_size(write):
    path = write(capture()[:-3])
    with Path(path).open("rb") as file:
        done = subprocess.run([sys.executable, "-c", COUNT], stdin=file, capture_output=True, check=True)
    assert done.stdout.decode().startswith(f"{len(capture()) - 3} 199 standard input: cut short in packet 200")


def test_a_standard_input_that_does_not_block_is_waited_for():
    script = "import os; os.set_blocking(0, False)\n" + COUNT
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        for part in (capture()[:500], capture()[500:]):
            time.sleep(0.3)
            process.stdin.write(part)
            process.stdin.flush()
        process.stdin.close()
        assert process.stdout.read().split() == [b"0", b"200", b"None"]


def test_a_standard_input_that_is_closed_is_an_error_and_no_crash():
    script = (
        "import os; os.close(0)\n"
        "from hl7core.errors import CaptureFileError\n"
        "from hl7core.files import CaptureFile\n"
        "try: CaptureFile('-')\n"
        "except CaptureFileError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    assert done.stdout.startswith("standard input: cannot be opened: ")


@settings(deadline=None)
@given(st.integers(0, 4000), st.integers(1, 255))
def test_a_spoilt_byte_of_gzip_never_raises_anything_but_capture_file_error(tmp_path_factory, at, change):
    packed = bytearray(gzip.compress(capture(PACKETS[:30]) + bytes(range(256)) * 4))
    packed[at % len(packed)] ^= change
    path = tmp_path_factory.mktemp("spoilt") / "capture"
    path.write_bytes(packed)
    try:
        packets, _ = read(path)
    except CaptureFileError:
        return
    # What deflate decodes before it notices may be wrong, but no packet comes from nowhere.
    assert len(packets) <= 30 + 64
