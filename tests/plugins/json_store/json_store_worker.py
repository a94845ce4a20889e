"""Saves sessions for the durability tests, in a process of its own that can be killed.

``worker.py FOLDER MODE FIRST COUNT`` with MODE one of insert, replace, group.  After a save has returned, and not
before, it writes a line a session: its number, its revision, and "saved" or "failed".
"""

import os
import sys

from hl7core import StoreError
from hl7core.model.schema import at_stored_precision
from hl7core.testing import FakeRuntime, make_session
from hl7core_plugins.json_store import JsonStore

GROUP = 16


def session(number, revision=0):
    """The same on both sides of the pipe."""
    return at_stored_precision(make_session(number, revision=revision))


def say(lines):
    os.write(1, "".join(f"{line}\n" for line in lines).encode())


def save(store, numbers, revision, *, replace):
    sessions = [session(number, revision) for number in numbers]
    outcomes = store.persist_sessions(sessions, replace=replace)
    assert all(isinstance(outcome, str | StoreError) for outcome in outcomes)
    words = ["saved" if isinstance(outcome, str) else "failed" for outcome in outcomes]
    say(f"{number} {revision} {word}" for number, word in zip(numbers, words, strict=True))
    return "failed" not in words


def main(folder, mode, first, count):
    store = JsonStore()
    store.start(FakeRuntime(folder))
    step = GROUP if mode == "group" else 1
    for start in range(first, first + count, step):
        numbers = range(start, min(start + step, first + count))
        for revision in range(1 + (mode == "replace")):
            while not save(store, numbers, revision, replace=revision > 0):
                pass


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
