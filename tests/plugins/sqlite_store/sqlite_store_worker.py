"""Saves sessions for the durability tests, in a process of its own whose system calls can be watched and made to fail.

``worker.py FOLDER MODE COUNT`` with MODE replace (each session, and then once more) or group.  It says "ready" when the
store has started; after a save has returned, and not before, it writes a line a session: its number, its revision, and
"saved" or "failed".  What failed is tried again, up to ten times.
"""

import os
import sys

from hl7core import StoreError
from hl7core.testing import FakeRuntime
from hl7core.testing.store_worker import saved_session
from hl7core_plugins.sqlite_store import SqliteStore

TRIES = 10


def say(lines):
    os.write(1, "".join(f"{line}\n" for line in lines).encode())


def save(store, numbers, revision, *, replace):
    outcomes = store.persist_sessions([saved_session(number, revision) for number in numbers], replace)
    assert all(isinstance(outcome, str | StoreError) for outcome in outcomes)
    words = ["saved" if isinstance(outcome, str) else "failed" for outcome in outcomes]
    say(f"{number} {revision} {word}" for number, word in zip(numbers, words, strict=True))
    return "failed" not in words


def main(folder, mode, count):
    store = SqliteStore()
    store.start(FakeRuntime(folder))
    say(["ready"])
    groups = [range(1, count + 1)] if mode == "group" else [[number] for number in range(1, count + 1)]
    for numbers in groups:
        for revision in range(1 + (mode == "replace")):
            any(save(store, numbers, revision, replace=revision > 0) for _ in range(TRIES))
    store.stop()
    say(["stopped"])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
