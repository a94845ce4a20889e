"""Engines side by side, each with a plugin that fails in one hook while conversations pass: none may be lost.

    python tests/soak/isolation.py

Each engine gets ten conversations, twenty more while its plugin hangs, raises or returns the wrong thing, and ten more
40 seconds later; then a store's call returns, or a person has disabled a failing required plugin.  All forty must be
stored at the end, the plugin named within 5 seconds of its first bad call, and the stop clean.  It takes about a minute.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import test_isolation as table
from engine.parts import exchange
from hl7core.model.session import SessionQuery
from hl7core.settings.file import change
from hl7core.testing import EngineHarness
from hl7core_plugins.json_store import JsonStore

CASES = (
    ("`on_packet`", "hangs"),
    ("a framer", "hangs"),
    ("a dialect's `score`", "hangs"),
    ("`before_persist`, required", "hangs"),
    ("`before_persist`, required", "Exception"),
    ("`before_persist`, required", "wrong"),
    ("`persist_session`, `persist_sessions`", "hangs"),
    ("other hooks of a store", "hangs"),
    ("`on_event`", "hangs"),
    ("`diagnose`", "hangs"),
    ("`cleanup`", "hangs"),
)


class Outcome(NamedTuple):
    """How a case ended: sessions stored, seconds until the plugin was named, and what was wrong."""

    stored: int
    named: float
    state: str
    wrong: str


def run(hook: str, kind: str, folder: Path) -> Outcome:
    """Run one engine."""
    fault = table.Fault(kind)
    is_store = "store" in hook or "persist_session" in hook
    plugins: dict[str, Any] = {"json_store": JsonStore, "bad": table.ROWS[hook](fault)}
    wrong = []
    with EngineHarness(folder, plugins, settings={"core.store": "bad"} if is_store else {}) as harness:
        registry = harness.engine.registry

        def talk(start: int, count: int) -> None:
            for number in range(start, start + count):
                harness.feed(exchange(f"C{number}"))
                if "framer" in hook or "dialect" in hook:
                    harness.feed(table.vendor_talk(number))
                time.sleep(0.05)

        talk(0, 10)
        harness.wait_for(lambda: not harness.state().unsaved, 20)
        saved = harness.engine.ledger.saved_count
        fault.on = True
        began = time.monotonic()
        threading.Thread(target=table._ask, args=(harness, hook), daemon=True).start()
        talk(10, 20)
        while not registry.info("bad").error and time.monotonic() - began < 30:
            time.sleep(0.05)
        named = time.monotonic() - began
        time.sleep(max(0.0, began + 40 - time.monotonic()))
        state = str(registry.info("bad").state)
        if "required" in hook and harness.engine.ledger.saved_count != saved:
            wrong.append("something was saved past a required redactor")
        talk(30, 10)
        if is_store:
            fault.on = False
            fault.gate.set()
        elif "before_persist" in hook:
            change(harness.path, {"plugins.bad.enabled": False})
        try:
            harness.wait_for(lambda: not harness.state().unsaved, 60)
        except TimeoutError:
            wrong.append("sessions stayed unsaved")
        found = {
            session.messages[0].control_id
            for session in harness.sessions(SessionQuery(limit=1000))
            if session.messages and session.messages[0].control_id.startswith("C")
        }
        if harness.state().dropped_intake:
            wrong.append(f"{harness.state().dropped_intake} packets dropped")
    fault.gate.set()
    if harness.engine.unsaved:
        wrong.append("the stop left sessions unsaved")
    return Outcome(len(found), named, state, "; ".join(wrong))


def main() -> int:
    """Run all cases at once and print how they ended."""
    outcomes: dict[tuple[str, str], Outcome | str] = {}

    def one(case: tuple[str, str], folder: str) -> None:
        try:
            outcomes[case] = run(*case, Path(folder))
        except Exception as error:  # noqa: BLE001 - shown below
            outcomes[case] = f"{type(error).__name__}: {error}"

    with tempfile.TemporaryDirectory() as folder:
        threads = [threading.Thread(target=one, args=(case, f"{folder}/{number}")) for number, case in enumerate(CASES)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    bad = 0
    for case in CASES:
        outcome = outcomes[case]
        hook, kind = case
        if isinstance(outcome, str):
            sys.stdout.write(f"{hook:40} {kind:10} {outcome}\n")
            bad += 1
            continue
        good = outcome.stored == 40 and not outcome.wrong and outcome.named <= 5.5
        bad += not good
        sys.stdout.write(
            f"{hook:40} {kind:10} {outcome.stored} of 40 stored, named after {outcome.named:.1f} s, {outcome.state}"
            f"{'' if good else '   BAD ' + outcome.wrong}\n"
        )
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
