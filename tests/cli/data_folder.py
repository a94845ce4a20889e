"""Sessions in the default store of a data folder, ``docs`` in the working folder of a command."""

import json
from datetime import UTC, datetime, timedelta

from hl7core import Delivery
from hl7core.testing import FakeRuntime, make_session
from hl7core_plugins.json_store import JsonStore

__all__ = ["DAY", "expiring", "store_in", "store_statuses", "stored", "submission_statuses", "trashed"]

DAY = timedelta(days=1)


def expiring(number, *, left, saved=timedelta(hours=1), **fields):
    """A session that expires after ``left`` and was saved so long ago."""
    until = datetime.now(UTC) + left
    return make_session(
        number,
        saved_at=datetime.now(UTC) - saved,
        first_saved_at=until - 30 * DAY,
        persisted_until=until,
        retention_days=30,
        **fields,
    )


def store_in(cwd, *sessions):
    """Store sessions as they are."""
    store = JsonStore()
    store.start(FakeRuntime(cwd / "docs"))
    assert all(isinstance(place, str) for place in store.persist_sessions(sessions, replace=False))
    store.stop()


def stored(cwd):
    """The ids in the store."""
    return sorted(path.stem for path in (cwd / "docs/sessions").glob("*.json"))


def trashed(cwd):
    """The ids in the trash."""
    return sorted(path.stem for path in (cwd / "docs/trash").glob("cleanup-*/*.json"))


def store_statuses(cwd, *statuses, **fields):
    """Store a session for each status of its delivery to rest_destination; return the ids."""
    sessions = [
        expiring(number, left=30 * DAY)._replace(deliveries=(Delivery("rest_destination", status),), **fields)
        for number, status in enumerate(statuses)
    ]
    store_in(cwd, *sessions)
    return [session.id for session in sessions]


def submission_statuses(cwd):
    """The submission status of each stored session, by id."""
    texts = [path.read_text() for path in (cwd / "docs/sessions").glob("*.json")]
    return {session["sessionId"]: session["submissionStatus"] for session in map(json.loads, texts)}
