"""Measures how long a durable save takes in each bundled store, beside the raw cost of the same bytes on the same disk.

    python bench/saves.py                     takes some seconds, in a temporary folder in the working folder
    python bench/saves.py --folder /var/lib/hl7core --count 5000 --runs 5 --check

A save is done when a power cut can no longer undo it, so every figure includes reaching the disk.  "one by one" waits
for the disk after each session, "groups" after every 64, as the engine does.  "raw" appends the sessions' JSON to one
file and syncs it equally often, to show what the disk alone takes.  Each figure is the least of ``--runs`` runs in new
folders; contenders take turns, so that other load on the machine affects all of them.  Compare ratios, not
microseconds, which depend on the disk.

Do not delete many files on that disk in the minutes before: ext4 without a journal does not reuse the inode of a
deleted file at once, and skipping thousands of them takes a millisecond per file.  The script deletes its files last.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from run import Goal

from hl7core import Session, session_to_json
from hl7core.testing import FakeRuntime, make_session
from hl7core_plugins.json_store import JsonStore, JsonStoreSettings
from hl7core_plugins.sqlite_store import SqliteStore, SqliteStoreSettings

GROUP = 64


class Contender(NamedTuple):
    """``save`` saves sessions to an empty folder, ``size`` at a time, and returns the seconds it took."""

    name: str
    size: int
    save: Callable[[Path, Sequence[Session], int], float]


def _in_store(make: Callable[[], tuple[Any, Any]]) -> Callable[[Path, Sequence[Session], int], float]:
    def save(folder: Path, sessions: Sequence[Session], size: int) -> float:
        store, settings = make()
        store.configure(settings)
        store.start(FakeRuntime(folder))
        store.persist_session(make_session(0), replace=False)  # create what is created only once
        began = time.perf_counter()
        for at in range(0, len(sessions), size):
            group = sessions[at : at + size]
            outcomes = store.persist_sessions(group, replace=False)
            failed = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
            if failed:
                raise SystemExit(f"a save failed: {failed[0]}")
        took = time.perf_counter() - began
        store.stop()
        return took

    return save


def _raw(folder: Path, sessions: Sequence[Session], size: int) -> float:
    lines = [session_to_json(session) + b"\n" for session in sessions]
    with (folder / "raw.jsonl").open("wb", buffering=0) as file:
        began = time.perf_counter()
        for at in range(0, len(lines), size):
            file.write(b"".join(lines[at : at + size]))
            os.fsync(file.fileno())
        return time.perf_counter() - began


_JSON = _in_store(lambda: (JsonStore(), JsonStoreSettings()))
_SQLITE = _in_store(lambda: (SqliteStore(), SqliteStoreSettings(enabled=True)))
CONTENDERS = (
    Contender("raw, one by one", 1, _raw),
    Contender("raw, groups", GROUP, _raw),
    Contender("JSON, one by one", 1, _JSON),
    Contender("JSON, groups", GROUP, _JSON),
    Contender("SQLite, one by one", 1, _SQLITE),
    Contender("SQLite, groups", GROUP, _SQLITE),
)


def race(folder: Path, count: int, runs: int) -> dict[str, float]:
    """Return the least seconds per save, by contender; one by one, a tenth of ``count`` sessions is enough."""
    sessions = [make_session(number) for number in range(1, count + 1)]
    costs: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=folder) as top:  # deleted at the end: see above
        for run in range(runs):
            for contender in CONTENDERS:
                some = sessions if contender.size > 1 else sessions[: max(10, count // 10)]
                place = Path(top) / f"{run} {contender.name}"
                place.mkdir()
                cost = contender.save(place, some, contender.size) / len(some)
                costs[contender.name] = min(cost, costs.get(contender.name, cost))
    return costs


def goals(costs: dict[str, float]) -> Iterator[Goal]:
    """Yield the goals of durable saves."""
    yield Goal(
        "JSON in groups, against one by one", costs["JSON, one by one"] / costs["JSON, groups"], 2, "x", at_least=True
    )
    yield Goal(
        "SQLite in groups, against JSON in groups",
        costs["JSON, groups"] / costs["SQLite, groups"],
        3,
        "x",
        at_least=True,
    )


def report(costs: dict[str, float]) -> bool:
    """Print the tables; return whether every goal is met."""
    print(f"\n   {'':20} {'us a save':>10} {'saves/s':>9} {'of raw':>8}")
    for contender in CONTENDERS:
        cost = costs[contender.name]
        raw = costs["raw, one by one" if contender.size == 1 else "raw, groups"]
        print(f"   {contender.name:20} {cost * 1e6:10.0f} {1 / cost:9,.0f} {cost / raw:7.1f}x")
    print("\ngoals")
    fine = True
    for goal in goals(costs):
        fine &= goal.met
        verdict = "met" if goal.met else "MISSED"
        print(
            f"   {goal.what:42} {goal.measured:8.2f}{goal.unit:4} floor: at least {goal.floor:g}{goal.unit}  {verdict}"
        )
    return fine


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2048, metavar="N", help="sessions saved in groups (default 2048)")
    parser.add_argument(
        "--runs", type=int, default=5, metavar="N", help="runs of each, of which the least counts (default 5)"
    )
    parser.add_argument("--folder", type=Path, default=Path(), metavar="DIR", help="a folder on the disk to measure")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a floor is missed")
    options = parser.parse_args()
    if options.runs < 1 or options.count < GROUP:
        parser.error(f"--runs must be at least 1 and --count at least {GROUP}")
    options.folder.mkdir(parents=True, exist_ok=True)
    machine = f"Python {platform.python_version()} on {platform.machine()}, {os.cpu_count()} CPUs"
    print(f"{machine}; least of {options.runs} runs")
    fine = report(race(options.folder, options.count, options.runs))
    return 1 if options.check and not fine else 0


if __name__ == "__main__":
    sys.exit(main())
