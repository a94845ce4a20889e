"""A store that is started, sessions for it, and its files."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from hl7core import SessionQuery
from hl7core.model.schema import at_stored_precision
from hl7core.testing import FakeRuntime, make_session
from hl7core_plugins.json_store import JsonStore, JsonStoreSettings

OLD = Path(__file__).parents[2] / "data" / "sessions" / "v1"
NOW = datetime(2026, 1, 3, 12, tzinfo=UTC)


def started(folder, runtime=None):
    store = JsonStore()
    store.configure(JsonStoreSettings())
    store.start(runtime or FakeRuntime(folder, now=NOW))
    return store


def session(number=1, **changes):
    return at_stored_precision(make_session(number, **changes))


def loaded(store, **query):
    return store.load_sessions(SessionQuery(**query))


def files_in(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name != ".schema-2")


class Run:
    """A store in a run of its own; ``work`` does what the engine has done every second."""

    def __init__(self, folder, *, owner=True):
        self.runtime = FakeRuntime(folder, now=NOW, owner=owner)
        self.store = JsonStore()
        self.store.start(self.runtime)
        self.work = self.runtime.jobs[0][1]

    def __getattr__(self, name):
        return getattr(self.store, name)

    def find(self, **query):
        return [s.id for s in self.store.load_sessions(SessionQuery(**query))]


def save(run, *numbers):
    made = [session(number) for number in numbers]
    assert all(isinstance(outcome, str) for outcome in run.persist_sessions(made, replace=False))
    return made


def index_file(folder):
    return next((folder / "index").glob("sessions-*.index"))


def path_of(run, number):
    return run.folder / f"{session(number).id}.json"


def rewrite(path, data):
    """Write to a file as an editor does that keeps the file, surely later than its last change."""
    before = path.stat().st_ctime_ns
    while path.stat().st_ctime_ns == before:
        path.write_bytes(data)
