"""The runtime for tests of plugins."""

import asyncio

from hl7core import ReplayReport
from hl7core.testing import FakeRuntime


def test_a_replay_is_recorded_and_reported(tmp_path):
    runtime, reports = FakeRuntime(tmp_path), []
    report = asyncio.run(runtime.replay(["/day.pcap"], speed="1", progress=reports.append))
    assert runtime.asked == [("replay", (("/day.pcap",), "1"))]
    assert reports == [report] == [ReplayReport(state="done")]
