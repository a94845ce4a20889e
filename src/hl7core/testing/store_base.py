"""The helpers of :class:`hl7core.testing.StoreContract`: a store, and ways to damage what it keeps.

Each has a default, which works for a store that keeps its data in files in the folder it is given, or else skips the
test with the reason.
"""

from __future__ import annotations

import inspect
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Final

import pytest

from hl7core.model.cleanup import CleanupReport
from hl7core.model.schema import at_stored_precision
from hl7core.model.session import Session, SessionQuery
from hl7core.testing.builders import make_session

__all__ = ["NOW", "StoreBase"]

NOW: Final = datetime(2026, 1, 3, 12, tzinfo=UTC)


class StoreBase(ABC):
    """How a store is made, called and damaged; see :class:`hl7core.testing.StoreContract`."""

    kills: ClassVar[int] = 50
    """How many times a process that is saving is killed."""
    saves: ClassVar[int] = 1000
    """How many saves at least must be acknowledged meanwhile."""

    # What you define.

    @abstractmethod
    def make_store(self, folder: Path) -> Any:
        """Return a store plugin, configured and started, that keeps its data in ``folder``.

        Another store made on the same folder must have the same sessions.
        """

    # What you may define, so that more is tested.

    def make_guest(self, folder: Path) -> Any:
        """Return a store as in a second process that only adds sessions: started with ``owner=False``."""
        pytest.skip("make_guest is not defined")

    def damage(self, store: Any, session_id: str) -> bool:
        """Damage the stored data of a session; return False if that cannot be done."""
        return False

    def make_newer(self, store: Any, session_id: str) -> None:
        """Make the stored data of a session look as if a later major version had written it."""
        pytest.skip("make_newer is not defined")

    def make_older(self, folder: Path) -> list[Session]:
        """Write to ``folder`` what an earlier version of the store would have written; return its sessions."""
        pytest.skip("make_older is not defined")

    @contextmanager
    def small_disk(self, tmp_path: Path) -> Iterator[Path]:
        """Yield a folder on a file system of its own of 2 MiB; by default a tmpfs, which needs root on Linux."""
        folder = tmp_path / "small"
        folder.mkdir(mode=0o700)
        mount = shutil.which("mount")
        command = [mount or "mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs", str(folder)]
        if mount is None or subprocess.run(command, check=False, capture_output=True).returncode:  # noqa: S603 - nothing from outside
            pytest.skip("a small file system cannot be mounted here: that needs root on Linux")
        try:
            yield folder
        finally:
            umount = shutil.which("umount") or "umount"
            subprocess.run([umount, "--lazy", str(folder)], check=True, capture_output=True)  # noqa: S603

    def check_rest(self, store: Any) -> None:  # noqa: B027 - there may be nothing else
        """Assert what else must hold after a crash, for example that no temporary files are left."""

    # Helpers.

    def load(self, store: Any, **query: Any) -> list[Session]:
        """Return the sessions in ``store`` that match the query."""
        return list(store.load_sessions(SessionQuery(**query)) or ())

    def fill(self, store: Any, count: int = 5, **fields: Any) -> list[Session]:
        """Save ``count`` sessions and return them, oldest first."""
        sessions = [at_stored_precision(make_session(number, **fields)) for number in range(1, count + 1)]
        for session in sessions:
            store.persist_session(session, replace=False)
        return sessions

    def save(self, store: Any, sessions: Sequence[Session], *, replace: bool = False) -> list[str | Exception]:
        """Save several sessions, in one call if the store can; return one entry per session.

        A group that raises has failed as a whole, as in the engine.
        """
        if hasattr(store, "persist_sessions"):
            try:
                return list(store.persist_sessions(sessions, replace))
            except Exception as error:  # noqa: BLE001 - handed back, for each session
                return [error] * len(sessions)
        outcomes: list[str | Exception] = []
        for session in sessions:
            try:
                outcomes.append(store.persist_session(session, replace) or "")
            except Exception as error:  # noqa: BLE001 - handed back, as a group would
                outcomes.append(error)
        return outcomes

    def delete(self, store: Any, ids: Sequence[str], *, to_trash: bool, deleted_at: datetime = NOW) -> list[str]:
        """Delete sessions; return the ids that were removed."""
        return list(_asked(store.delete_sessions, ids=ids, to_trash=to_trash, deleted_at=deleted_at) or ())

    def restore(self, store: Any, *ids: str) -> list[str]:
        """Restore sessions from the trash; return the ids that were restored."""
        return list(store.restore_sessions(ids) or ())

    def empty(self, store: Any, before: datetime, limit: int = 1_000_000) -> CleanupReport:
        """Empty the trash."""
        report = _asked(store.empty_trash, before=before, limit=limit)
        assert isinstance(report, CleanupReport)  # noqa: S101 - part of the contract
        return report

    def has(self, store: Any, hook: str) -> None:
        """Skip the test if the store does not implement this optional hook."""
        if not hasattr(store, hook):
            pytest.skip(f"this store has no {hook}")


def _asked(hook: Any, **offered: Any) -> Any:
    """Call a hook with the arguments that it declares, as the core does."""
    taken = inspect.signature(hook).parameters
    return hook(**{name: value for name, value in offered.items() if name in taken})
