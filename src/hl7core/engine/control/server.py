"""The control socket: how commands in another process reach the running engine.

The socket is in the data folder with mode 0600, and only our own user and root may connect: the kernel says who the
peer is.  Requests are bounded and checked; a bad one is answered with an error and never ends the engine.  If the path
is too long for a socket, the socket goes to a private folder and ``control.path`` says where.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import socket
import struct
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from hl7core.engine.cleaning import clean
from hl7core.engine.control.protocol import (
    CONTROL_NAME,
    MAX_REQUEST,
    MAX_RESPONSE,
    POINTER_NAME,
    Request,
    error_to_line,
    event_to_json,
    flag_in,
    ids_in,
    line_of,
    millis_of,
    query_from_json,
    request_from_line,
    table_in,
    text_in,
    texts_in,
)
from hl7core.engine.imports import ImportReport, Imports
from hl7core.engine.parts import Parts
from hl7core.engine.replay.replay import Replays
from hl7core.engine.runtime import EngineRuntime
from hl7core.engine.stores import PAGE
from hl7core.errors import EngineError, StoreError
from hl7core.guard import reason_of
from hl7core.hl7.query import sort_key
from hl7core.model.events import CleanupProgress
from hl7core.model.schema import session_to_json
from hl7core.model.session import Session, SessionQuery

__all__ = ["Control"]

logger = logging.getLogger(__name__)

_MAX_PATH: Final = 107
_MAX_CLIENTS: Final = 64
_PEER: Final = struct.Struct("3i")


class Control:
    """Serves ``control.sock`` of an engine on its event loop.

    ``problems`` returns what is wrong with the settings; ``retry_plugin`` enables one that has failed.
    ``request_stop`` stops the engine.
    """

    def __init__(
        self,
        parts: Parts,
        runtime: EngineRuntime,
        replays: Replays,
        *,
        problems: Callable[[], list[str]],
        retry_plugin: Callable[[str], Awaitable[None]],
        request_stop: Callable[[], None],
    ) -> None:
        self._parts = parts
        self._runtime = runtime
        self._replays = replays
        self._problems = problems
        self._request_stop = request_stop
        self._server: asyncio.Server | None = None
        self._path = parts.folder / CONTROL_NAME
        self._pointer = parts.folder / POINTER_NAME
        self._private: str | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._commands: dict[str, Callable[[Request], Awaitable[Any]]] = {
            "ping": self._ping,
            "state": self._state,
            "plugins": self._plugins,
            "settings_problems": self._settings_problems,
            "retry": lambda r: runtime.retry(ids_in(r)),
            "ignore": lambda r: runtime.ignore(ids_in(r)),
            "unignore": lambda r: runtime.unignore(ids_in(r)),
            "delete": lambda r: runtime.delete(ids_in(r), to_trash=flag_in(r, "to_trash", default=True)),
            "restore": lambda r: runtime.restore(ids_in(r)),
            "trash": self._trash,
            "store_size": lambda _: runtime.store_size(),
            "submit_now": lambda _: runtime.submit_now(),
            "submission": self._submission,
            "find_pending": self._find_pending,
            "interfaces": self._interfaces,
            "change_settings": lambda r: runtime.change_settings(table_in(r, "changes")),
            "enable": lambda r: runtime.change_settings({f"plugins.{text_in(r, 'name')}.enabled": True}),
            "retry_plugin": lambda r: retry_plugin(text_in(r, "name")),
            "disable": lambda r: runtime.change_settings({f"plugins.{text_in(r, 'name')}.enabled": False}),
            "start_capture": lambda r: runtime.start_capture(texts_in(r, "interfaces"), text_in(r, "bpf", "")),
            "stop_capture": lambda _: runtime.stop_capture(),
            "pause": lambda _: runtime.pause(),
            "resume": lambda _: runtime.resume(),
            "clear": lambda _: runtime.clear(),
        }

    async def start(self) -> None:
        """Start listening.  Raises EngineError if the socket cannot be created."""
        try:
            path = self._place()
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            mask = os.umask(0o177)
            try:
                listener.bind(path)
            finally:
                os.umask(mask)
            self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=MAX_REQUEST)
        except OSError as error:
            raise EngineError(f"cannot listen for commands in {self._parts.folder}: {error.strerror}") from error

    async def stop(self) -> None:
        """Disconnect all clients and remove the socket."""
        if self._server is None:
            return
        self._server.close()
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        self._server = None
        self._remove()

    def _place(self) -> str:
        self._remove()
        if len(os.fsencode(self._path)) <= _MAX_PATH:
            return str(self._path)
        base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
        self._private = tempfile.mkdtemp(prefix="hl7core-", dir=base if len(base) < 60 else "/tmp")  # noqa: S108
        path = str(Path(self._private) / CONTROL_NAME)
        handle = os.open(self._pointer, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "wb") as pointer:
            pointer.write(os.fsencode(path) + b"\n")
        return path

    def _remove(self) -> None:
        """Remove the socket of this engine, or of one that was killed: we hold the lock, so nobody else listens."""
        self._path.unlink(missing_ok=True)
        self._pointer.unlink(missing_ok=True)
        if self._private is not None:
            shutil.rmtree(self._private, ignore_errors=True)
            self._private = None

    # One client.

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or not _ours(writer):
            writer.close()
            return
        full = len(self._clients) >= _MAX_CLIENTS
        self._clients.add(task)
        try:
            if full:
                await reader.readline()
                raise EngineError(f"the engine is already serving {_MAX_CLIENTS} commands; try again later")  # noqa: TRY301 - answered below
            await self._converse(reader, writer)
        except EngineError as error:
            await _send(writer, error_to_line(error))
        except (ConnectionError, BrokenPipeError):
            logger.debug("a command disconnected")
        except asyncio.CancelledError:
            logger.debug("the engine stops and disconnects a command")
        finally:
            self._clients.discard(task)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                line = await reader.readline()
            except ValueError:  # longer than the limit
                await _send(writer, error_to_line(EngineError(f"a request may have at most {MAX_REQUEST} bytes")))
                return
            if not line:
                return
            try:
                await self._answer(request_from_line(line), reader, writer)
            except ConnectionError:
                raise
            except Exception as error:  # noqa: BLE001 - every request is answered
                logger.debug("a command was refused: %s", reason_of(error))
                await _send(writer, error_to_line(error))

    async def _answer(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        do = request.get("do")
        if do == "sessions":
            result: Any = await self._sessions(request, writer)
        elif do == "import":
            result = await self._import(request, writer)
        elif do == "cleanup":
            result = await self._cleanup(request, writer)
        elif do == "replay":
            result = await self._replay(request, reader, writer)
        elif do == "follow":
            await self._follow(reader, writer)
            result = None
        elif do == "stop":
            await _send(writer, line_of({"ok": True, "result": os.getpid()}))
            self._request_stop()
            return
        else:
            command = self._commands.get(do) if isinstance(do, str) else None
            if command is None:
                raise EngineError(f"the engine has no command {str(do)[:50]!r}")
            result = await command(request)
        await _send(writer, line_of({"ok": True, "result": result}))

    async def _sessions(self, request: Request, writer: asyncio.StreamWriter) -> int:
        """Send matching sessions page by page, so that memory stays flat; return how many.

        With ``or_memory``, what is in memory is sent while a store does not answer, and a note says so.
        """
        query = query_from_json(request.get("query", {}))
        or_memory = flag_in(request, "or_memory", default=False)
        count = 0
        noted = False
        while count < query.limit:
            part = query._replace(limit=min(PAGE, query.limit - count))
            page, missing = await self._page(part, or_memory=or_memory)
            if missing and not noted:
                noted = True
                await _send(writer, line_of({"note": f"stored sessions may be missing here: {missing}"}))
            for session in page:
                await _send(writer, b'{"item":' + session_to_json(session) + b"}\n")
            count += len(page)
            if len(page) < PAGE:
                break
            query = query._replace(after=(page[-1].started_at, page[-1].id))
        return count

    async def _page(self, query: SessionQuery, *, or_memory: bool) -> tuple[list[Session], str]:
        """Return matching sessions, and which store does not answer, if that is allowed.  Raises StoreError if not."""
        stores, ledger = self._parts.dispatch.stores, self._parts.ledger
        if not or_memory:
            return await self._runtime.sessions(query), ""
        found: list[Session] = []
        if not stores.not_answering():
            try:
                found = await self._runtime.sessions(query)
            except StoreError:
                if not stores.not_answering():
                    raise
        silent = stores.not_answering()
        if silent:
            both = {session.id: session for session in (*found, *ledger.matching(query))}
            found = sorted(both.values(), key=sort_key, reverse=query.newest_first)[: query.limit]
        return found, "; ".join(silent.values())

    async def _import(self, request: Request, writer: asyncio.StreamWriter) -> dict[str, Any]:
        """Import sessions, reporting after each page how far it has come."""
        imports, source = Imports(self._parts), text_in(request, "source", "")
        empty = flag_in(request, "empty", default=False)
        pages = imports.from_store(source, empty=empty) if source else imports.from_files(texts_in(request, "files"))
        report = ImportReport()
        async for report in pages:
            await _send(writer, line_of({"item": report.as_json()}))
        return report.as_json()

    async def _replay(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> dict[str, Any]:
        """Replay capture files and report how far it has come; a byte of the client, or its end, stops the replay."""
        replay = self._replays.begin(texts_in(request, "files"), speed=text_in(request, "speed", "max"))

        async def listen() -> None:
            await reader.read(1)
            replay.stop()

        listening = asyncio.create_task(listen())
        report = replay.report()
        try:
            async for report in replay.progress():
                await _send(writer, line_of({"item": report._asdict()}))
        finally:
            replay.stop()
            await _cancelled(listening)
        return report._asdict()

    async def _follow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send events and ended sessions until the engine stops, or until the client sends a byte or disconnects."""
        follower = self._parts.news.follow(asyncio.get_running_loop())

        async def listen() -> None:
            await reader.read(1)
            self._parts.news.unfollow(follower)

        listening = asyncio.create_task(listen())
        try:
            async for item in follower:
                if isinstance(item, Session):
                    await _send(writer, b'{"item":{"session":' + session_to_json(item) + b"}}\n")
                else:
                    await _send(writer, line_of({"item": event_to_json(item)}))
        finally:
            self._parts.news.unfollow(follower)
            await _cancelled(listening)

    # Commands that are more than one call.

    async def _ping(self, _request: Request) -> dict[str, Any]:
        return {"pid": os.getpid(), "folder": str(self._parts.folder)}

    async def _state(self, _request: Request) -> dict[str, Any]:
        state = self._runtime.state()
        return {
            **state._asdict(),
            "sources": {name: stats._asdict() for name, stats in state.sources},
            "counters": dict(state.counters),
            "notices": dict(state.notices),
        }

    async def _plugins(self, _request: Request) -> list[dict[str, Any]]:
        return [info._asdict() for info in self._parts.registry.infos()]

    async def _settings_problems(self, _request: Request) -> list[str]:
        return self._problems()

    async def _cleanup(self, request: Request, writer: asyncio.StreamWriter) -> list[dict[str, Any]]:
        """Clean up and send the progress; if the client disconnects meanwhile, the cleanup goes on."""
        dry_run, confirmed = flag_in(request, "dry_run", default=False), flag_in(request, "confirmed", default=False)

        async def tell(item: CleanupProgress) -> None:
            await _send(writer, line_of({"item": event_to_json(item)}))

        reports = await clean(self._runtime, self._parts.news, dry_run=dry_run, confirmed=confirmed, progress=tell)
        return [report._asdict() for report in reports]

    async def _trash(self, _request: Request) -> list[dict[str, Any]]:
        return [{"id": i, "deletedAt": millis_of(when)} for i, when in await self._runtime.trash()]

    async def _submission(self, _request: Request) -> list[dict[str, Any]]:
        return [
            {**status._asdict(), "until": None if status.until is None else millis_of(status.until)}
            for status in self._parts.outbox.status()
        ]

    async def _find_pending(self, _request: Request) -> None:
        self._parts.outbox.search()

    async def _interfaces(self, _request: Request) -> list[dict[str, Any]]:
        return [interface._asdict() for interface in await self._runtime.interfaces()]


async def _cancelled(listening: asyncio.Task[None]) -> None:
    """Cancel a task that reads from a client, and wait until it has ended: two may not read at the same time."""
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


async def _send(writer: asyncio.StreamWriter, line: bytes) -> None:
    if len(line) > MAX_RESPONSE:
        line = error_to_line(
            EngineError(f"the answer is longer than {MAX_RESPONSE} bytes; read the session from the store instead")
        )
    writer.write(line)
    await writer.drain()


def _ours(writer: asyncio.StreamWriter) -> bool:
    """Return whether the peer runs as our user or as root."""
    peer: socket.socket = writer.get_extra_info("socket")
    _, uid, _ = _PEER.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return uid in (0, os.geteuid())
