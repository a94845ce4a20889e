"""``file_source``: capture files as a packet source."""

from pathlib import Path

import pytest

from engine.parts import exchange
from engine.replay.captures import write
from hl7core import CaptureFileError, SourceRequest
from hl7core_plugins.file_source import FileSource


def opened(*files):
    return FileSource().open_source(SourceRequest(files=tuple(map(str, files))))


def test_it_has_nothing_to_offer_for_a_live_capture():
    assert opened() is None


def test_files_come_in_the_order_given(tmp_path):
    first, second = exchange("A"), exchange("B")
    source = opened(write(tmp_path / "1.pcapng", first), write(tmp_path / "2.pcapng", second))
    batches = []
    source.run(batches.append)
    assert [time for batch in batches for time in batch.times] == [*first.times, *second.times]
    stats = source.stats()
    assert (stats.received, stats.position) == (first.count + second.count, stats.size)


def test_a_file_that_cannot_be_read_hides_none_behind_it(tmp_path):
    good = write(tmp_path / "good.pcapng", exchange("A"))
    cut = tmp_path / "cut.pcapng"
    cut.write_bytes(Path(good).read_bytes()[:-10])
    source = opened(tmp_path / "missing.pcap", cut, good)
    batches = []
    with pytest.raises(CaptureFileError, match="no such file"):
        source.run(batches.append)
    assert sum(batch.count for batch in batches) == 6 + 7
