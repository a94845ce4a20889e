"""Saves sessions in a separate process that can be killed: ``python -m hl7core.testing.store_worker FILE CLASS``.

``CLASS`` in ``FILE`` is a StoreContract.  For each line ``FOLDER MODE FIRST`` on standard input it starts a child and
writes ``pid N``; the child makes a store in ``FOLDER`` and saves sessions from number ``FIRST`` on until it is killed.
``MODE`` is insert, replace (save each session twice) or group.  Only after a save has returned, the child writes a line
with the number and the revision of each session that was saved.  When the child has ended, the worker writes ``end``.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from itertools import count
from pathlib import Path
from typing import Any, Final

from hl7core.model.schema import at_stored_precision
from hl7core.model.session import Session
from hl7core.testing.builders import make_session

__all__ = ["GROUP", "saved_session"]

GROUP: Final = 16


def saved_session(number: int, revision: int = 0) -> Session:
    """Return the session that the worker saves under this number, the same in both processes."""
    return at_stored_precision(make_session(number, revision=revision))


def main(file: str, name: str) -> None:
    """Run one child per line of standard input, until it ends."""
    spec = importlib.util.spec_from_file_location("store_under_test", file)
    if spec is None or spec.loader is None:
        raise ImportError(file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    contract: Any = module
    for part in name.split("."):
        contract = getattr(contract, part)
    for line in sys.stdin:
        folder, mode, first = line.rstrip("\n").split("\t")
        child = os.fork()
        if not child:
            _save(contract(), Path(folder), mode, int(first))
        _say(f"pid {child}")
        os.waitpid(child, 0)
        _say("end")


def _save(contract: Any, folder: Path, mode: str, first: int) -> None:
    store = contract.make_store(folder)
    step = GROUP if mode == "group" else 1
    for start in count(first, step):
        for revision in range(1 + (mode == "replace")):
            sessions = [saved_session(number, revision) for number in range(start, start + step)]
            outcomes = contract.save(store, sessions, replace=revision > 0)
            saved = [n for n, outcome in enumerate(outcomes, start) if isinstance(outcome, str)]
            _say(" ".join(["saved", *(f"{number}:{revision}" for number in saved)]))


def _say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
