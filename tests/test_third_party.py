"""Third-party plugins, installed as real distributions: found by entry point, toggled in a running engine."""

import csv
import json

import pytest

from third_party import distribution, feeder, install, running_with

FEED = """
# An analyzer and a LIS that never stop talking: one numbered exchange every 5 ms.
talk = TcpTalk()
talk.open()
number = 0
while not self.over.wait(0.005):
    text = b"MSH|^~\\\\&|AN|LAB|LIS|LAB|||ORU^R01|%d|P|2.5\\r" % number
    reply = b"MSH|^~\\\\&|LIS|LAB|AN|LAB|||ACK|A%d|P|2.5\\rMSA|AA|%d\\r" % (number, number)
    talk.opener(b"\\x0b" + text + b"\\x1c\\r")
    talk.acceptor(b"\\x0b" + reply + b"\\x1c\\r")
    emit(talk.batch())
    talk.packets.clear()
    number += 1
"""

RAISER = '''
from hl7core import PluginSettings, hookimpl


def _broken(name, arguments):
    scope = {}
    exec(f"def {name}(self, {arguments}): raise RuntimeError('on purpose')", scope)
    return hookimpl(scope[name])


class Raiser:
    """Raises in every hook that is called while it runs."""

    @hookimpl
    def register_settings(self):
        return PluginSettings

    @hookimpl
    def start(self, runtime):
        """The one hook that works, so that the others are called."""


for name, arguments in {
    "on_packet": "packet", "on_session_complete": "session", "on_event": "event", "diagnose": "session",
    "submit_session": "session", "cleanup": "now, dry_run", "stop": "", "open_source": "request",
    "list_interfaces": "",
}.items():
    setattr(Raiser, name, _broken(name, arguments))


class LateRaiser(Raiser):
    @hookimpl
    def start(self, runtime):
        raise RuntimeError("on purpose")
'''

BROKEN = "raise ImportError('this distribution is broken')\n"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the example plugin, installed by pip, and three distributions that misbehave."""
    folder = tmp_path_factory.mktemp("site")
    install(folder, "hl7core-journal")
    distribution(folder, "feeder", feeder(FEED), {"feeder": "Feeder"})
    distribution(folder, "raiser", RAISER, {"raiser": "Raiser", "late_raiser": "LateRaiser"})
    distribution(folder, "broken", BROKEN, {"broken": "Broken"})
    return folder


@pytest.fixture
def running(site, tmp_path):
    with running_with(site, tmp_path) as engine:
        yield engine


def test_the_example_is_found_and_off_until_it_is_enabled(running):
    running.wait(running.stored)
    row = running.plugins()["journal"]
    assert row["state"] == "disabled"
    assert (row["distribution"], row["version"], row["bundled"]) == ("hl7core-journal", "1.0.0", False)


def test_the_example_comes_and_goes_in_a_running_engine(running):
    journal = running.folder / "data/journal.csv"
    running.wait(running.stored)
    running.command("plugins", "enable", "journal")
    running.wait(lambda: journal.exists() and len(journal.read_text().splitlines()) > 20)
    assert running.plugins()["journal"]["state"] == "enabled"
    running.command("plugins", "disable", "journal")
    running.wait(lambda: running.plugins()["journal"]["state"] == "disabled")
    seen = len(journal.read_text().splitlines())
    count = len(running.stored())
    running.wait(lambda: len(running.stored()) > count + 20)
    assert len(journal.read_text().splitlines()) == seen
    with journal.open(newline="") as file:
        assert {row[4] for row in csv.reader(file)} == {"mllp"}


def test_plugins_that_raise_in_every_hook_or_cannot_be_imported_lose_no_session(running):
    running.wait(running.stored)
    for name in ("raiser", "late_raiser", "broken", "journal"):
        text = running.settings.read_text()
        running.settings.write_text(f"{text}\n[plugins.{name}]\nenabled = true\n")
        running.wait(lambda name=name: running.plugins()[name]["state"] != "disabled")
    journal = running.folder / "data/journal.csv"
    running.wait(lambda: journal.exists() and len(journal.read_text().splitlines()) > 50)
    rows = running.plugins()
    assert rows["broken"]["state"] == "failed"
    assert "ImportError" in rows["broken"]["error"]
    assert rows["late_raiser"]["state"] == "failed"
    assert rows["raiser"]["error"]
    assert rows["json_store"]["state"] == rows["journal"]["state"] == rows["feeder"]["state"] == "enabled"
    running.command("plugins", "disable", "raiser")
    running.wait(lambda: running.plugins()["raiser"]["state"] == "disabled")
    assert running.stop() == 0
    sessions = [json.loads(path.read_bytes()) for path in running.stored()]
    numbers = sorted(int(session["messageInfo"][0]["controlId"]) for session in sessions if session["isComplete"])
    assert numbers == list(range(len(numbers)))  # from the first to the last, each once
    assert len(numbers) > 100
    assert "on purpose" not in (running.folder / "log").read_text()  # a plugin's message might hold a patient's name
