"""The client of ``control.sock``: how a command reaches the engine that owns the data folder.

It blocks, as commands do, and trusts nothing on the socket: lines are bounded, and an invalid answer raises
EngineError.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from hl7core.engine.control.protocol import (
    CONTROL_NAME,
    MAX_RESPONSE,
    POINTER_NAME,
    error_from_line,
    line_of,
    query_to_json,
    time_of,
)
from hl7core.engine.outbox.status import DestinationStatus
from hl7core.errors import EngineError
from hl7core.model.cleanup import CleanupReport
from hl7core.model.replay import ReplayReport
from hl7core.model.session import Session, SessionQuery

__all__ = ["ControlClient"]

_TIMEOUT: Final = 60.0
_MAX_POINTER: Final = 4096
_NO_ENGINE: Final = "what answers on the control socket is not an hl7core engine"


class ControlClient:
    """Talks to the engine that owns ``folder``.  Call ``connect`` first; it is a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._socket: socket.socket | None = None
        self._reader: Any = None

    def connect(self) -> Self | None:
        """Connect and return self, or None if no engine is listening.  Raises EngineError if it refuses."""
        for path in self._paths():
            if len(os.fsencode(path)) > 107:
                continue
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.settimeout(_TIMEOUT)
            try:
                connection.connect(path)
            except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
                connection.close()
                continue
            except OSError as error:
                connection.close()
                raise EngineError(f"cannot connect to the engine on {self.folder}: {error.strerror}") from error
            self._socket = connection
            self._reader = connection.makefile("rb")
            return self
        return None

    def _paths(self) -> Iterator[str]:
        yield str(self.folder / CONTROL_NAME)
        try:
            with (self.folder / POINTER_NAME).open("rb") as pointer:
                yield os.fsdecode(pointer.read(_MAX_POINTER)).strip()
        except OSError:
            return  # no pointer: the socket is in the folder itself, or nobody listens

    def close(self) -> None:
        """Disconnect."""
        if self._socket is not None:
            self._reader.close()
            self._socket.close()
            self._socket = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    # Any request.

    def call(self, do: str, **arguments: Any) -> Any:
        """Send ``do`` and return its result.  Raises the engine's error; EngineError if it does not answer."""
        for _ in self.stream(do, **arguments):
            pass
        return self.result

    result: Any = None
    """The result of the last request."""
    note: str = ""
    """What the engine had to say about an answer, "" if nothing."""

    def stream(self, do: str, *, timeout: float | None = _TIMEOUT, **arguments: Any) -> Iterator[Any]:
        """Send the request ``do`` and yield the items of the answer as they arrive; raises as ``call`` does."""
        if self._socket is None:
            raise EngineError("not connected to an engine")
        self.result = None
        self._socket.settimeout(timeout)
        try:
            self._socket.sendall(line_of({"do": do, **arguments}))
            while True:
                reply = self._reply()
                if "item" in reply:
                    yield reply["item"]
                elif "note" in reply:
                    self.note = str(reply["note"])
                elif reply.get("ok"):
                    self.result = reply.get("result")
                    return
                else:
                    raise error_from_line(reply)
        except TimeoutError as error:
            raise EngineError(f"the engine on {self.folder} does not answer") from error
        except OSError as error:
            raise EngineError(f"the engine on {self.folder} closed the connection") from error

    def _reply(self) -> dict[str, Any]:
        line = self._reader.readline(MAX_RESPONSE + 1)
        if not line.endswith(b"\n"):
            raise EngineError(
                f"the engine on {self.folder} closed the connection"
                if len(line) <= MAX_RESPONSE
                else "the engine sent a line that is too long"
            )
        try:
            reply = json.loads(line)
        except (ValueError, RecursionError):
            reply = None
        if not isinstance(reply, dict):
            raise EngineError(_NO_ENGINE)
        return reply

    # The requests of commands.

    def sessions(self, query: SessionQuery, *, or_memory: bool = False) -> Iterator[Session]:
        """Yield the matching sessions, at most ``query.limit``.

        ``or_memory``: while a store does not answer, those in memory alone; ``note`` then says so.
        """
        from hl7core.model.stored import session_from_json

        for item in self.stream("sessions", query=query_to_json(query), **({"or_memory": True} if or_memory else {})):
            yield session_from_json(json.dumps(item).encode())

    def retry(self, ids: Sequence[str]) -> list[str]:
        """Make sessions pending again; return the ids that were found."""
        return _ids(self.call("retry", ids=list(ids)))

    def ignore(self, ids: Sequence[str]) -> list[str]:
        """Mark sessions as never to be submitted; return the ids that were found."""
        return _ids(self.call("ignore", ids=list(ids)))

    def unignore(self, ids: Sequence[str]) -> list[str]:
        """Undo ``ignore``; return the ids that were found."""
        return _ids(self.call("unignore", ids=list(ids)))

    def delete(self, ids: Sequence[str], *, to_trash: bool = True) -> list[str]:
        """Delete sessions; return the ids that were deleted."""
        return _ids(self.call("delete", ids=list(ids), to_trash=to_trash))

    def restore(self, ids: Sequence[str]) -> list[str]:
        """Restore sessions from the trash; return the ids that were restored."""
        return _ids(self.call("restore", ids=list(ids)))

    def trash(self) -> list[tuple[str, datetime]]:
        """Return the ids of the sessions in the trash and when each was deleted, oldest first."""
        try:
            return [(str(entry["id"]), time_of(entry["deletedAt"])) for entry in self.call("trash")]
        except (TypeError, LookupError, OverflowError):
            raise EngineError(_NO_ENGINE) from None

    def store_size(self) -> int:
        """Return the size of the stored sessions on disk in bytes, the trash included."""
        return int(self.call("store_size"))

    def cleanup(
        self,
        *,
        dry_run: bool = False,
        confirmed: bool = False,
        progress: Callable[[int], None] = lambda _deleted: None,
    ) -> list[CleanupReport]:
        """Run every plugin's cleanup, however long it takes; return the reports.

        ``progress`` is called meanwhile with the number of sessions deleted so far.
        """
        for item in self.stream("cleanup", timeout=None, dry_run=dry_run, confirmed=confirmed):
            progress(int(item.get("deleted", 0)))
        return [CleanupReport(**{**r, "kept": tuple(map(tuple, r.get("kept", ())))}) for r in self.result]

    def submit_now(self) -> int:
        """Try everything pending now; return how many sessions are known to be."""
        return int(self.call("submit_now"))

    def submission(self) -> list[DestinationStatus]:
        """Return the status of every destination."""
        try:
            return [
                DestinationStatus(**{**entry, "until": None if entry["until"] is None else time_of(entry["until"])})
                for entry in self.call("submission")
            ]
        except (TypeError, LookupError, OverflowError):
            raise EngineError(_NO_ENGINE) from None

    def find_pending(self) -> None:
        """Make the engine look for sessions that another process has stored."""
        self.call("find_pending")

    def replay(self, files: Sequence[str], *, speed: str = "max") -> Iterator[ReplayReport]:
        """Replay capture files, given by absolute paths; yield reports of progress, the last one final.

        ``interrupt`` stops it.
        """
        for item in self.stream("replay", timeout=None, files=list(files), speed=speed):
            yield _replay_report(item)
        yield _replay_report(self.result)

    def interrupt(self) -> None:
        """Stop the replay whose reports are being read; it ends with its final report.  A signal handler may call it.

        Ask nothing else on this connection afterwards: a replay that had just ended takes this for a bad request.
        """
        if self._socket is not None:
            with contextlib.suppress(OSError):  # whoever reads the reports finds out
                self._socket.sendall(b"\n")

    def follow(self) -> Iterator[dict[str, Any]]:
        """Yield ``{"event": ...}`` and ``{"session": ...}`` objects as they happen, until the engine stops."""
        yield from self.stream("follow", timeout=None)


def _replay_report(item: Any) -> ReplayReport:
    if not isinstance(item, dict):
        raise EngineError(_NO_ENGINE)
    known = {name: value for name, value in item.items() if name in ReplayReport._fields}
    try:
        problems = tuple((str(file), str(text)) for file, text in known.pop("problems", ()))
    except (TypeError, ValueError):
        raise EngineError(_NO_ENGINE) from None
    return ReplayReport(**known, problems=problems)


def _ids(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise EngineError(_NO_ENGINE)
    return [str(item) for item in value]
