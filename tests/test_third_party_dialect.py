"""A third-party dialect, installed as a real distribution: found, toggled in a running engine, used by ``read``."""

import json

import pytest

from hl7core.testing import TcpTalk
from hl7core.wire.pcap.writer import pcap_header, pcap_record
from third_party import Running, distribution, feeder, hl7core, install, running_with

RESULT = b"\x02RS-0001    GLU          5.4mmol/l\x03"
END = b"\x02E" + b" " * 32 + b"\x03"

FEED = f"""
# An analyzer that speaks the dialect, and one that speaks MLLP: a new connection every 20 ms.
number = 0
while not self.over.wait(0.02):
    number += 1
    talk = TcpTalk(opener=("10.0.0.5", 20000 + number % 40000), isn=(number, number), time_ns=10**18 + number * 10**8)
    talk.open()
    talk.opener({RESULT!r})
    talk.acceptor(b"\\x06")
    talk.opener({END!r})
    talk.close()
    emit(talk.batch())
    talk = TcpTalk(opener=("10.0.0.6", 20000 + number % 40000), isn=(number, number), time_ns=10**18 + number * 10**8)
    talk.open()
    talk.opener(b"\\x0bMSH|^~\\\\&|AN|LAB|LIS|LAB|||ORU^R01|%d|P|2.5\\r\\x1c\\r" % number)
    talk.close()
    emit(talk.batch())
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    install(folder, "hl7core-fixed-frames")
    distribution(folder, "feeder", feeder(FEED), {"feeder": "Feeder"})
    return folder


@pytest.fixture
def running(site, tmp_path):
    with running_with(site, tmp_path) as engine:
        yield engine


def protocols(engine: Running) -> list[str]:
    return [json.loads(path.read_bytes())["protocol"] for path in engine.stored()]


def test_the_dialect_comes_and_goes_in_a_running_engine(running):
    running.wait(lambda: "mllp" in protocols(running))
    assert "fixed_frames" not in protocols(running)
    running.command("plugins", "enable", "fixed_frames")
    running.wait(lambda: protocols(running).count("fixed_frames") > 5)
    session = next(
        found for path in running.stored()
        if (found := json.loads(path.read_bytes()))["protocol"] == "fixed_frames"
    )  # fmt: skip
    assert session["isComplete"] is True
    assert session["messages"] == [RESULT[1:-1].decode()]
    running.command("plugins", "disable", "fixed_frames")
    running.wait(lambda: running.plugins()["fixed_frames"]["state"] == "disabled")
    count = len(running.stored())
    running.wait(lambda: len(running.stored()) > count + 5)
    seen = protocols(running).count("fixed_frames")
    mllp = protocols(running).count("mllp")
    running.wait(lambda: protocols(running).count("mllp") > mllp + 5)
    assert protocols(running).count("fixed_frames") == seen
    assert running.stop() == 0


@pytest.fixture
def capture(tmp_path):
    talk = TcpTalk()
    talk.open()
    talk.opener(RESULT)
    talk.acceptor(b"\x06")
    talk.opener(END)
    path = tmp_path / "day.pcap"
    path.write_bytes(pcap_header() + b"".join(pcap_record(p.time_ns, p.data) for p in talk.packets))
    return path


def test_read_speaks_the_dialects_of_enabled_plugins(site, tmp_path, capture):
    settings = tmp_path / "settings.toml"
    settings.write_text("[plugins.fixed_frames]\nenabled = false\n")
    assert hl7core(site, "--settings", settings, "read", capture).returncode == 3
    settings.write_text("[plugins.fixed_frames]\nenabled = true\n")
    run = hl7core(site, "--settings", settings, "read", capture)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["protocol"] == "fixed_frames"


def test_a_place_can_be_pinned_to_the_dialect_while_its_plugin_is_enabled(site, tmp_path, capture):
    settings = tmp_path / "settings.toml"
    pin = '[core]\nprotocols = ":2575=fixed_frames"\n'
    settings.write_text(f"{pin}[plugins.fixed_frames]\nenabled = true\n")
    run = hl7core(site, "--settings", settings, "read", capture)
    assert json.loads(run.stdout)["protocol"] == "fixed_frames"
    assert hl7core(site, "--settings", settings, "settings", "check").returncode == 0
    settings.write_text(pin)
    for arguments in (("read", capture), ("settings", "check")):
        run = hl7core(site, "--settings", settings, *arguments)
        assert run.returncode == 5
        assert "core.protocols: unknown protocol fixed_frames; known protocols are lis01, mllp, plain" in run.stderr
