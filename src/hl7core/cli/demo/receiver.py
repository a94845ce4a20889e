"""The demo's receiver: a small HTTP server on the loopback interface that accepts sessions, as yours would.

The law: it has every session that it answered with 201, and a session sent again gets the same answer and counts once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Final, Self

__all__ = ["DemoReceiver"]

_LARGEST: Final = 64 * 1024 * 1024


class DemoReceiver:
    """An async context manager that listens while it is entered.  ``received`` has the ids of its sessions."""

    def __init__(self) -> None:
        self.received: dict[str, int] = {}
        self._server: asyncio.Server
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """The URL to POST to."""
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
                status, answer = self._accept(body)
                data = json.dumps(answer).encode()
                head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
                writer.write(head.encode() + data)
                await writer.drain()
        except (OSError, ValueError, EOFError, asyncio.LimitOverrunError):
            pass  # the client has gone, or does not speak HTTP: nobody to answer
        finally:
            self._writers.discard(writer)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _accept(self, body: bytes) -> tuple[str, dict[str, str]]:
        session = json.loads(body)
        if not isinstance(session, dict) or not isinstance(session.get("sessionId"), str):
            return "400 Bad Request", {}
        number = self.received.setdefault(session["sessionId"], len(self.received) + 1)
        return "201 Created", {"id": f"demo-{number}"}


async def _request(reader: asyncio.StreamReader) -> bytes:
    """Return the body of the next request, b"" at the end of the connection.  Raises ValueError if it is not valid."""
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
        raise ValueError("a body of that length is not accepted")
    return await reader.readexactly(length)
