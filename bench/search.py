"""Measures how fast the bundled stores find one session among many, and load the newest ones at a start.

    python bench/search.py                     100,000 sessions in each store: some minutes, most of them filling
    python bench/search.py --count 10000 --stores sqlite --check

``--folder DIR --keep`` keeps the filled stores for the next run.  Each figure is the minimum of ``--runs`` runs on a
newly opened store, so nothing is cached from filling it, except the files in the page cache.  "a page, turned" is a
page of 100 sessions in the middle of many, as a cleanup or an export reads them.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from run import Goal

from hl7core import Delivery, DeliveryStatus, Session, SessionQuery
from hl7core.testing import FakeRuntime, make_session
from hl7core_plugins.json_store import JsonStore, JsonStoreSettings
from hl7core_plugins.sqlite_store import SqliteStore, SqliteStoreSettings

GROUP = 256
NOW = datetime(2026, 3, 1, tzinfo=UTC)


class Store(NamedTuple):
    """``make`` returns a store and its settings; a search must take at most ``search`` seconds, a start ``start``."""

    name: str
    make: Callable[[], tuple[Any, Any]]
    search: float
    start: float


STORES = (
    Store("sqlite", lambda: (SqliteStore(), SqliteStoreSettings(enabled=True)), 0.1, 0.5),
    Store("json", lambda: (JsonStore(), JsonStoreSettings()), 3.0, 1.0),
)


def queries(number: int) -> dict[str, SessionQuery]:
    """Return the searches for session ``number``, each by another value, and the lists that the engine wants."""
    return {
        "by specimen": SessionQuery(specimen=f"S-{number:04}"),
        "by patient": SessionQuery(patient=f"P-{number:04}"),
        "by control id": SessionQuery(control_id=f"M{number:06}"),
        "all three": SessionQuery(specimen=f"S-{number:04}", patient=f"P-{number:04}", control_id=f"M{number:06}"),
        "by id": SessionQuery(ids=(made(number).id,)),
        "newest 100": SessionQuery(newest_first=True, limit=100),
        "100 pending": SessionQuery(pending_for="rest_destination", limit=100),
        "100 expired": SessionQuery(expired_at=NOW, limit=100),
    }


PAGE = 100
PAGES = 20
FLOORED = ("by specimen", "by patient", "by control id")
START = "start, newest 1,000"


def made(number: int) -> Session:
    """Return a session; one in a hundred is pending, and one in a hundred has expired."""
    status = DeliveryStatus.PENDING if number % 100 == 0 else DeliveryStatus.SUBMITTED
    until = NOW + timedelta(days=-1 if number % 100 == 1 else 30)
    return make_session(number, deliveries=(Delivery("rest_destination", status),), persisted_until=until)


@contextlib.contextmanager
def opened(store: Store, folder: Path) -> Iterator[Any]:
    plugin, settings = store.make()
    plugin.configure(settings)
    plugin.start(FakeRuntime(folder, now=NOW))
    try:
        yield plugin
    finally:
        plugin.stop()


def fill(store: Store, folder: Path, count: int) -> float:
    """Save ``count`` sessions; return the seconds that it took."""
    began = time.perf_counter()
    with opened(store, folder) as plugin:
        for first in range(1, count + 1, GROUP):
            group = [made(number) for number in range(first, min(first + GROUP, count + 1))]
            failed = [one for one in plugin.persist_sessions(group, replace=False) if isinstance(one, Exception)]
            if failed:
                raise SystemExit(f"a save failed: {failed[0]}")
            if sys.stderr.isatty():
                print(f"\r\033[K{store.name}: {first:,} of {count:,}", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    return time.perf_counter() - began


def measure(store: Store, folder: Path, count: int, runs: int) -> dict[str, float]:
    """Return the minimum seconds for each search.  Raises SystemExit if a search finds the wrong sessions."""
    least: dict[str, float] = {}

    def note(what: str, began: float, count: int = 1) -> None:
        took = (time.perf_counter() - began) / count
        least[what] = min(took, least.get(what, took))

    for turn in range(runs):
        began = time.perf_counter()
        with opened(store, folder) as plugin:
            newest = plugin.load_sessions(SessionQuery(newest_first=True, limit=1000))
            note(START, began)
            if len(newest) != min(count, 1000):
                raise SystemExit(f"{store.name}: {len(newest)} sessions were loaded at the start")
            number = count * (turn + 1) // (runs + 1) + 1
            for what, query in queries(number).items():
                began = time.perf_counter()
                found = plugin.load_sessions(query)
                note(what, began)
                if what.startswith("by") and [one.id for one in found] != [made(number).id]:
                    raise SystemExit(f"{store.name}: {what} finds {len(found)} sessions")
            turned(plugin, note)
    return least


def turned(plugin: Any, note: Callable[[str, float, int], None]) -> None:
    """Read page after page of submitted sessions and yield the cost of each from the third on, with a listing."""
    query = SessionQuery(status=(DeliveryStatus.SUBMITTED,), limit=PAGE)
    began, pages = 0.0, 0
    while pages < PAGES:
        if pages == 2:
            began = time.perf_counter()
        page = plugin.load_sessions(query)
        pages += 1
        if len(page) < PAGE:
            break
        query = query._replace(after=(page[-1].started_at, page[-1].id))
    if pages > 2:
        note("a page, turned", began, pages - 2)


def goals(store: Store, costs: dict[str, float]) -> Iterator[Goal]:
    """Yield the floors for searches and starts, in milliseconds."""
    for what in FLOORED:
        yield Goal(f"{store.name}, {what}", costs[what] * 1000, store.search * 1000, " ms", at_least=False)
    yield Goal(f"{store.name}, {START}", costs[START] * 1000, store.start * 1000, " ms", at_least=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000, metavar="N", help="sessions in each (default 100,000)")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="runs of each; the minimum counts (default 3)")
    parser.add_argument("--stores", default="sqlite,json", metavar="NAMES", help="which stores (default sqlite,json)")
    parser.add_argument(
        "--folder", type=Path, metavar="DIR", help="where the stores are made (default: a temporary folder)"
    )
    parser.add_argument("--keep", action="store_true", help="keep the stores in DIR, and use those already there")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a floor is missed")
    options = parser.parse_args()
    wanted = set(options.stores.split(","))
    if options.runs < 1 or options.count < 10 or not wanted <= {store.name for store in STORES}:
        parser.error("--runs is at least 1, --count 10, and --stores some of sqlite,json")
    if options.keep and not options.folder:
        parser.error("--keep needs --folder")
    print(
        f"Python {platform.python_version()} on {platform.machine()}, {os.cpu_count()} CPUs; {options.count:,} sessions"
    )
    fine = True
    for store in (store for store in STORES if store.name in wanted):
        folder = options.folder / f"{store.name}-{options.count}" if options.folder else Path(tempfile.mkdtemp())
        try:
            if not (folder / "filled").exists():  # it is written last
                took = fill(store, folder, options.count)
                (folder / "filled").touch()
                print(f"\n{store.name}: filled in {took:.0f} s")
            costs = measure(store, folder, options.count, options.runs)
        finally:
            if not options.keep:
                shutil.rmtree(folder)
        for what, cost in costs.items():
            print(f"   {what:24} {cost * 1000:9.1f} ms")
        for goal in goals(store, costs):
            fine &= goal.met
            verdict = "met" if goal.met else "MISSED"
            print(
                f"   {goal.what:32} {goal.measured:9.1f}{goal.unit} floor: at most {goal.floor:g}{goal.unit}  {verdict}"
            )
    return 1 if options.check and not fine else 0


if __name__ == "__main__":
    sys.exit(main())
