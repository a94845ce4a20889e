"""``sessions import``: from another store or from files, beside an engine or through it."""

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest

from hl7core.model.delivery import Delivery, DeliveryStatus
from hl7core.model.schema import at_stored_precision, session_to_json
from hl7core.testing import TcpTalk, make_session
from hl7core.wire.pcap.writer import pcap_header, pcap_record
from test_third_party import distribution

LONG_AGO = datetime(2026, 1, 2, tzinfo=UTC)


def saved(number):
    """A session as a store keeps it."""
    return at_stored_precision(
        make_session(
            number,
            first_saved_at=LONG_AGO,
            saved_at=LONG_AGO + timedelta(days=3),
            persisted_until=LONG_AGO + timedelta(days=365),
            retention_days=365,
            deliveries=(Delivery("lab", DeliveryStatus.FAILED, 3, None, None, "HTTP 500"),),
        )
    )


SHELF = '''
import pathlib

from hl7core import CleanupReport, PluginSettings, hookimpl, matches, session_from_json, session_to_json


class Shelf:
    """A store of files: sound, and slow."""

    @hookimpl
    def register_settings(self):
        return PluginSettings

    @hookimpl
    def start(self, runtime):
        self.folder = pathlib.Path(runtime.core().output_folder) / "shelf"
        self.folder.mkdir(parents=True, exist_ok=True)

    @hookimpl
    def persist_session(self, session, replace):
        path = self.folder / session.id
        if replace or not path.exists():
            path.write_bytes(session_to_json(session))
        return str(path)

    @hookimpl
    def load_sessions(self, query):
        paths = [self.folder / i for i in query.ids] if query.ids else sorted(self.folder.iterdir())
        found = [session_from_json(path.read_bytes()) for path in paths if path.exists()]
        found = [session for session in found if matches(session, query)]
        found.sort(key=lambda s: (s.started_at, s.id), reverse=query.newest_first)
        return found[: query.limit]

    @hookimpl
    def delete_sessions(self, ids, to_trash):
        there = [i for i in ids if (self.folder / i).exists()]
        for i in there:
            (self.folder / i).unlink()
        return there

    @hookimpl
    def restore_sessions(self, ids):
        return []

    @hookimpl
    def empty_trash(self, before):
        return CleanupReport()
'''


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    distribution(folder, "shelf", SHELF, {"shelf": "Shelf"})
    return folder


class Place:
    """A data folder with settings, and commands on it."""

    def __init__(self, site, folder):
        self.folder = folder
        self.settings = folder / "settings.toml"
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("HL7CORE_")} | {"PYTHONPATH": str(site)}
        self.write('store = "json_store"')

    def write(self, core, rest=""):
        self.settings.write_text(
            f'[core]\noutput_folder = "data"\n{core}\n[plugins.scapy_source]\nenabled = false\n{rest}'
        )

    def start(self, *arguments, **options):
        command = [sys.executable, "-m", "hl7core", "--settings", str(self.settings), *map(str, arguments)]
        return subprocess.Popen(command, env=self.env, text=True, cwd=self.folder, **options)

    def run(self, *arguments):
        process = self.start(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def json_files(self):
        return {path.stem: path.read_bytes() for path in (self.folder / "data/sessions").rglob("*.json")}

    def shelved(self):
        return {path.name: path.read_bytes() for path in (self.folder / "data/shelf").iterdir()}

    def shelve(self, count):
        sessions = [saved(n) for n in range(1, count + 1)]
        (self.folder / "data/shelf").mkdir(parents=True)
        for session in sessions:
            (self.folder / "data/shelf" / session.id).write_bytes(session_to_json(session))
        return sessions


@pytest.fixture
def place(site, tmp_path):
    return Place(site, tmp_path)


def test_sessions_move_between_stores_and_back_unchanged(place):
    sessions = place.shelve(7)
    run = place.run("sessions", "import", "--from", "shelf")  # it is not even enabled: for the moment it is
    assert run.returncode == 0, run.stderr
    assert run.stdout == "7 sessions found, 7 copied and verified\n"
    assert "hl7core plugins disable shelf" in run.stderr
    assert place.json_files() == {session.id: session_to_json(session) for session in sessions}
    assert place.run("sessions", "import", "--from", "shelf").stdout.endswith("7 already there\n")
    moved = place.run("sessions", "import", "--from", "shelf", "--move")
    assert "7 deleted from shelf" in moved.stdout
    assert not place.shelved()
    place.write('store = "shelf"')
    assert "7 copied" in place.run("sessions", "import", "--from", "json_store").stdout
    assert place.shelved() == place.json_files()


def test_without_an_engine_too_the_sessions_of_all_enabled_stores_are_found(place):
    place.shelve(2)
    assert place.run("sessions", "list").returncode == 3
    place.write('store = "json_store"', "[plugins.shelf]\nenabled = true\n")
    assert len(place.run("sessions", "list").stdout.splitlines()) == 2
    place.run("sessions", "import", "--from", "shelf")
    assert len(place.run("sessions", "list").stdout.splitlines()) == 2


def test_an_import_goes_through_the_running_engine(place):
    place.shelve(250)
    place.write('store = "json_store"', "[plugins.shelf]\nenabled = true\n")
    engine = place.start("run", stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 30
        while not (place.folder / "data/control.sock").exists():
            assert time.monotonic() < until
            time.sleep(0.05)
        run = place.run("sessions", "import", "--from", "shelf")
        assert run.stdout == "250 sessions found, 250 copied and verified\n", run.stderr
        assert len(place.json_files()) == 250
        assert place.run("sessions", "import", "--from", "json_store").returncode == 1
        (place.folder / "one.jsonl").write_bytes(session_to_json(saved(999)) + b"\n")
        assert "1 copied" in place.run("sessions", "import", "one.jsonl").stdout  # the engine finds it by its full name
    finally:
        engine.send_signal(signal.SIGTERM)
        assert engine.wait(20) == 0


def test_killed_at_any_time_and_begun_again_nothing_is_missing_and_nothing_is_twice(place):
    sessions = place.shelve(400)
    wanted = {session.id: session_to_json(session) for session in sessions}
    for _ in range(4):
        before = len(place.json_files())
        process = place.start("sessions", "import", "--from", "shelf", "--move", stdout=subprocess.PIPE)
        until = time.monotonic() + 60
        while process.poll() is None and len(place.json_files()) < before + 60 and time.monotonic() < until:
            time.sleep(0.002)
        process.kill()
        process.communicate()
        assert set(place.json_files()) | set(place.shelved()) >= set(wanted)
    run = place.run("sessions", "import", "--from", "shelf", "--move")
    assert run.returncode in (0, 3), run.stderr
    assert place.json_files() == wanted
    assert not place.shelved()


def test_files_come_in_and_a_damaged_entry_is_exit_4(place):
    sessions = [saved(n) for n in range(1, 4)]
    lines = [session_to_json(session) for session in sessions]
    (place.folder / "good.jsonl").write_bytes(b"\n".join(lines[:2]))
    (place.folder / "bad.jsonl").write_bytes(lines[2] + b"\n{\n")
    assert place.run("sessions", "import", "good.jsonl").returncode == 0
    run = place.run("sessions", "import", "bad.jsonl")
    assert run.returncode == 4
    assert "1 invalid entry" in run.stderr
    assert len(place.json_files()) == 3
    assert place.run("sessions", "import", "no-such-file").returncode == 1


def test_an_export_imported_elsewhere_is_the_same_store(place, site, tmp_path_factory):
    place.shelve(5)
    place.run("sessions", "import", "--from", "shelf")
    for name in ("all.jsonl", "all.json"):
        place.run("sessions", "export", "-w", place.folder / name)
        other = Place(site, tmp_path_factory.mktemp("other"))
        assert other.run("sessions", "import", place.folder / name).returncode == 0
        assert other.json_files() == place.json_files()


@pytest.mark.parametrize(
    "arguments", [[], ["--from", "shelf", "x.jsonl"], ["--move", "x.jsonl"]], ids=["neither", "both", "move a file"]
)
def test_what_makes_no_sense_is_exit_2(place, arguments):
    assert place.run("sessions", "import", *arguments).returncode == 2


def test_a_store_that_is_none_is_refused_by_name(place):
    run = place.run("sessions", "import", "--from", "jsn_store")
    assert run.returncode != 0
    assert "jsn_store" in run.stderr
    assert "Traceback" not in run.stderr
    assert place.run("sessions", "import", "--from", "file_source").returncode == 1


def test_a_capture_whose_sessions_are_in_an_attached_store_is_not_stored_again(place):
    talk = TcpTalk()
    talk.open()
    talk.opener(b"\x0bMSH|^~\\&|AN|LAB|LIS|LAB|||ORU^R01|1|P|2.5\r\x1c\r")
    talk.acceptor(b"\x0bMSH|^~\\&|LIS|LAB|AN|LAB|||ACK|1|P|2.5\rMSA|AA|1\r\x1c\r")
    capture = place.folder / "day.pcap"
    capture.write_bytes(pcap_header() + b"".join(pcap_record(p.time_ns, p.data) for p in talk.packets))
    assert "1 session saved" in place.run("read", capture, "--store").stderr
    place.write('store = "shelf"')
    run = place.run("read", capture, "--store")
    assert "0 sessions saved" in run.stderr
    assert "1 already stored" in run.stderr
    assert not place.shelved()
