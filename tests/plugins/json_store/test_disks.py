"""What becomes of a disk and of files while an engine runs: told once, nothing lost, saved when it can be."""

import os
import shutil
import subprocess
from itertools import count, repeat

import pytest

from engine.parts import exchange
from hl7core import DeliveryStatus, NoticeRaised, SessionQuery, SessionSaved, SessionUnsaved, StoreError, hookimpl
from hl7core.testing import EngineHarness
from hl7core_plugins.json_store import JsonStore


def can_mount():
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    command = ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


needs_mount = pytest.mark.skipif(not can_mount(), reason="only root may mount a disk to take away")
names = count()


def mount(*arguments):
    subprocess.run(["mount", *map(str, arguments)], check=True, capture_output=True)


def umount(*arguments, check=True):
    subprocess.run(["umount", *map(str, arguments)], check=check, capture_output=True)


class Listener:
    """Hears what a page would show."""

    def __init__(self):
        self.events = []

    @hookimpl
    def on_event(self, event):
        self.events.append(event)

    def of(self, kind):
        return [event for event in list(self.events) if isinstance(event, kind)]

    def told(self):
        """What a person was told about the store, and that it works again."""
        return [not event.resolved for event in self.of(NoticeRaised) if event.key == "store"]


class Site:
    """An engine with this store, on a folder."""

    def __init__(self, folder, tmp_path):
        self.output = folder
        self.sessions = folder / "sessions"
        self.listener = Listener()
        plugins = {"json_store": JsonStore, "listener": self.listener}
        self.harness = EngineHarness(tmp_path / "site", plugins, settings={"core.output_folder": str(folder)})

    def __enter__(self):
        self.harness.start()
        return self

    def __exit__(self, *_):
        self.harness.stop()

    def feed(self, number=1):
        for _ in range(number):
            self.harness.feed(exchange(f"A{next(names)}"))
        self.harness.wait_decoded()

    def saved(self, number):
        self.harness.wait_for(lambda: self.harness.state().unsaved == 0 and self.stored() == number)

    def waiting(self, number):
        self.harness.wait_for(lambda: self.harness.state().unsaved == number and self.listener.told()[-1:] == [True])

    def stored(self):
        return len(list(self.sessions.rglob("*.json"))) if self.sessions.exists() else 0


@pytest.fixture
def disk(tmp_path):
    """A disk of 2 MB; it stays mounted at ``keep`` while it is taken away."""
    place, keep = tmp_path / "disk", tmp_path / "keep"
    for folder in (place, keep):
        folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs", place)
    mount("--bind", place, keep)
    yield place
    for folder in (place / "out" / "sessions", place, keep):
        umount("-l", folder, check=False)


@needs_mount
def test_a_disk_that_is_taken_away_is_waited_for(disk, tmp_path):
    with Site(disk / "out", tmp_path) as site:
        site.feed(2)
        site.saved(2)
        umount("-l", disk)
        site.feed(3)
        site.waiting(3)
        with pytest.raises(
            StoreError, match="is gone; saving continues when it is back"
        ):  # a short list would look like a loss
            site.harness.sessions()
        assert list(disk.iterdir()) == []  # nothing was hidden under what will be mounted again
        mount("--bind", tmp_path / "keep", disk)
        site.saved(5)
        site.harness.wait_for(lambda: site.listener.told() == [True, False])
        assert len(site.harness.sessions()) == 5
    assert len(site.listener.of(SessionUnsaved)) == len(
        {event.session_id for event in site.listener.of(SessionUnsaved)}
    )


@needs_mount
def test_a_folder_that_turns_read_only_is_told_once_and_waited_for(disk, tmp_path):
    with Site(disk / "out", tmp_path) as site:
        site.feed(2)
        site.saved(2)
        mount("--bind", site.sessions, site.sessions)
        mount("-o", "remount,ro,bind", site.sessions)
        site.feed(3)
        site.waiting(3)
        assert len(site.harness.sessions()) == 5
        umount("-l", site.sessions)
        site.saved(5)
        site.harness.wait_for(lambda: site.listener.told() == [True, False])


@needs_mount
def test_a_disk_that_is_full_is_told_once_and_what_waits_is_saved_when_there_is_room(disk, tmp_path):
    with Site(disk / "out", tmp_path) as site:
        site.feed(2)
        site.saved(2)
        with (disk / "filling").open("wb", buffering=0) as filling, pytest.raises(OSError, match="No space left"):
            filling.writelines(repeat(b"x" * 4096))
        site.feed(3)
        site.waiting(3)
        assert not list(site.sessions.glob("*.tmp"))
        (disk / "filling").unlink()
        site.saved(5)
        site.harness.wait_for(lambda: site.listener.told() == [True, False])


def test_a_folder_that_is_removed_or_moved_away_is_made_again(tmp_path):
    with Site(tmp_path / "out", tmp_path) as site:
        site.feed(2)
        site.saved(2)
        site.sessions.rename(tmp_path / "away")
        site.feed(2)
        site.saved(2)
        shutil.move(tmp_path / "away", site.sessions / "before")
        assert len(site.harness.sessions()) == 4  # nothing that was told as saved is missing
        shutil.rmtree(site.output / "sessions")
        site.feed(1)
        site.saved(1)


@pytest.mark.parametrize("thing", ["link", "link to a session", "folder"])
def test_what_takes_the_place_of_a_session_is_left_alone_and_the_session_waits(tmp_path, thing):
    with Site(tmp_path / "out", tmp_path) as site:
        site.feed(2)
        site.saved(2)
        path, other = sorted(site.sessions.glob("*.json"))
        session_id, before = path.stem, path.read_bytes()
        aside = tmp_path / path.name
        path.rename(aside)
        if thing == "folder":
            path.mkdir()
        else:
            path.symlink_to(aside if thing == "link to a session" else tmp_path / "nowhere")
        assert site.harness.call(site.harness.runtime.ignore([session_id])) == [session_id]
        site.harness.wait_for(lambda: site.listener.of(SessionUnsaved))
        assert site.harness.call(site.harness.runtime.ignore([other.stem])) == [other.stem]  # it holds up no other
        site.harness.wait_for(lambda: site.harness.state().unsaved == 1)
        assert path.is_symlink() or path.is_dir()
        assert aside.read_bytes() == before
        if thing == "folder":
            path.rmdir()
        else:
            path.unlink()
        site.harness.wait_for(lambda: site.harness.state().unsaved == 0)
        assert path.is_file()
        assert [event.session_id for event in site.listener.of(SessionUnsaved)] == [session_id]


@pytest.mark.parametrize("content", [b"", b"{", b"\0" * 5000, b'{"sessionId": "', b"[" * 100_000])
def test_a_damaged_file_keeps_no_engine_from_starting_and_is_made_good_by_the_next_save(tmp_path, content):
    with Site(tmp_path / "out", tmp_path) as site:
        site.feed(3)
        site.saved(3)
        damaged = sorted(site.sessions.glob("*.json"))[1]
        damaged.write_bytes(content)
        assert site.harness.call(site.harness.runtime.ignore([damaged.stem])) == [damaged.stem]
        site.harness.wait_for(lambda: damaged.read_bytes() != content)
        site.saved(3)
        damaged.write_bytes(content)
    with Site(tmp_path / "out", tmp_path) as site:
        assert len(site.harness.sessions()) == 2
        site.feed(1)
        site.saved(4)
        assert damaged.read_bytes() == content  # it is left to the person who may know what it is


def test_what_a_person_changed_in_a_file_is_what_is_shown(tmp_path):
    with Site(tmp_path / "out", tmp_path) as site:
        site.feed(2)
        site.saved(2)
        path = min(site.sessions.glob("*.json"))
        text = path.read_text().replace('"submissionStatus":"pending"', '"submissionStatus":"ignored"')
        path.write_text(text)
        ignored = site.harness.sessions(SessionQuery(status=(DeliveryStatus.IGNORED,)))
        assert [session.id for session in ignored] == [path.stem]
        assert len(site.listener.of(SessionSaved)) == 2


def test_a_file_of_a_size_that_no_session_has_hides_no_other(tmp_path):
    with Site(tmp_path / "out", tmp_path) as site:
        site.feed(2)
        site.saved(2)
    path = min(site.sessions.glob("*.json"))
    with path.open("wb") as file:
        file.truncate(1 << 40)  # takes no room
    with Site(tmp_path / "out", tmp_path) as site:
        assert len(site.harness.sessions()) == 1
