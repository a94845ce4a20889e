"""The demo's receiver: a little HTTP server on the loopback interface that takes sessions, as yours would.

The law: what it has answered 201 to, it has; a session that comes again is answered the same and counted once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Final, Self

__all__ = ["DemoReceiver"]

_LARGEST: Final = 64 * 1024 * 1024


class DemoReceiver:
    """An async context manager: it listens while it is entered.  ``taken`` are the ids of the sessions it has."""

    def __init__(self) -> None:
        self.taken: dict[str, int] = {}
        self._server: asyncio.Server
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """Where to POST to."""
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"http://{host}:{port}/sessions"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._server.close()
        for writer in list(self._writers):
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while body := await _request(reader):
                status, answer = self._taken(body)
                data = json.dumps(answer).encode()
                head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
                writer.write(head.encode() + data)
                await writer.drain()
        except (OSError, ValueError, EOFError, asyncio.LimitOverrunError):
            pass  # the other end went away, or spoke no HTTP: then there is nobody to answer
        finally:
            self._writers.discard(writer)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _taken(self, body: bytes) -> tuple[str, dict[str, str]]:
        session = json.loads(body)
        if not isinstance(session, dict) or not isinstance(session.get("sessionId"), str):
            return "400 Bad Request", {}
        number = self.taken.setdefault(session["sessionId"], len(self.taken) + 1)
        return "201 Created", {"id": f"demo-{number}"}


async def _request(reader: asyncio.StreamReader) -> bytes:
    """Return the body of the next request, b"" when the connection ends.  Raises ValueError for what is no request."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            length = int(value)
    if not 0 < length <= _LARGEST:
        raise ValueError("a body of that length is not taken")
    return await reader.readexactly(length)
