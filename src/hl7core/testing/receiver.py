"""A scripted HTTP server on the loopback interface, to test destinations against.

::

    with HttpReceiver() as receiver:
        receiver.script = [receives(status=503), drops(), receives()]
        ...  # a destination POSTs to receiver.url
        assert receiver.processed == [session.id]

Each request is answered by the next behaviour in ``script``; when the script is used up, by ``behaviour``.  A behaviour
is a function that is called with the :class:`Turn`: it may read the request, mark it as processed, and write any bytes.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

__all__ = ["Behaviour", "HttpReceiver", "Received", "Turn", "drips", "drops", "hangs", "receives", "says"]

_LARGEST_HEAD: Final = 65_536
_PATIENCE: Final = 60.0


class Received(NamedTuple):
    """A request as it arrived; header names in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed as JSON."""
        return json.loads(self.body)

    @property
    def ids(self) -> list[str]:
        """The ``sessionId`` of each session in the body."""
        found = self.json
        return [item["sessionId"] for item in (found if isinstance(found, list) else [found])]

    @property
    def key(self) -> str:
        """The idempotency key, without its quotes."""
        return self.headers.get("idempotency-key", "").strip('"')


class Turn:
    """One request on one connection, as a behaviour sees it."""

    def __init__(self, receiver: HttpReceiver, connection: socket.socket, rest: bytes) -> None:
        self.receiver = receiver
        self.connection = connection
        self.rest = rest
        self.keep = False
        """Whether another request may follow on this connection."""

    @property
    def stopped(self) -> threading.Event:
        """Set when the receiver closes; a behaviour that waits must then return."""
        return self.receiver.closed

    def read(self) -> Received | None:
        """Read the whole request, add it to ``requests`` and return it; None if the connection ended before that."""
        while b"\r\n\r\n" not in self.rest:
            if len(self.rest) > _LARGEST_HEAD or not self._more():
                return None
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        while len(self.rest) < length:
            if not self._more():
                return None
        body, self.rest = self.rest[:length], self.rest[length:]
        request = Received(method, target, headers, body)
        self.receiver.note(request)
        return request

    def _more(self) -> bool:
        data = self.connection.recv(65_536)
        self.rest += data
        return bool(data)

    def write(self, data: bytes) -> None:
        """Write ``data`` unchanged."""
        self.connection.sendall(data)

    def answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        """Write a valid answer and keep the connection open for another request."""
        self.write(answer_bytes(status, body, headers))
        self.keep = True

    def reset(self) -> None:
        """Let the connection end with a reset instead of a close."""
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


Behaviour = Callable[[Turn], None]


def answer_bytes(status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> bytes:
    """Return a valid HTTP/1.1 answer."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in (headers or {}).items())]
    if status >= HTTPStatus.OK and status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def receives(status: int = 201, body: bytes | str = b"", headers: Mapping[str, str] | None = None) -> Behaviour:
    """Return a behaviour that reads the request and answers; a 2xx marks the sessions in the body as processed."""

    def behave(turn: Turn) -> None:
        request = turn.read()
        if request is None:
            return
        if request.body and HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            turn.receiver.process(request)
        turn.answer(status, body.encode() if isinstance(body, str) else body, headers)

    return behave


def drops(*, processed: bool = True, reset: bool = True) -> Behaviour:
    """Return a behaviour that reads the request and ends the connection without an answer.

    ``processed``: whether the sessions are marked as processed; ``reset``: a reset instead of a close.
    """

    def behave(turn: Turn) -> None:
        request = turn.read()
        if request is not None and processed:
            turn.receiver.process(request)
        if reset:
            turn.reset()

    return behave


def hangs(*, before_reading: bool = False, first: bytes = b"") -> Behaviour:
    """Return a behaviour that writes ``first``, then nothing, and keeps the connection open."""

    def behave(turn: Turn) -> None:
        if not before_reading and turn.read() is None:
            return
        turn.write(first)
        turn.stopped.wait(_PATIENCE)

    return behave


def drips(data: bytes, every: float = 0.05) -> Behaviour:
    """Return a behaviour that writes ``data`` one byte every ``every`` seconds, over and over."""

    def behave(turn: Turn) -> None:
        if turn.read() is None:
            return
        while True:
            for number in range(len(data)):
                turn.write(data[number : number + 1])
                if turn.stopped.wait(every):
                    return

    return behave


def says(data: bytes, *, processed: bool = False, reset: bool = False) -> Behaviour:
    """Return a behaviour that reads the request, writes ``data`` unchanged, and closes the connection."""

    def behave(turn: Turn) -> None:
        request = turn.read()
        if request is not None and processed:
            turn.receiver.process(request)
        turn.write(data)
        if reset:
            turn.reset()

    return behave


class HttpReceiver:
    """Listens from ``open`` to ``close``, or inside a ``with`` block; one thread per connection.

    With ``context`` it speaks TLS.  ``requests`` has each complete request, in order; ``processed`` the id of each
    session that was accepted, one entry each time; ``connections`` counts connections.  All may be read at any time.
    """

    def __init__(self, *, context: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.behaviour: Behaviour = receives()
        self.script: list[Behaviour] = []
        self.requests: list[Received] = []
        self.processed: list[str] = []
        self.connections = 0
        self.closed = threading.Event()
        self._context = context
        self._host = host
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._port = 0

    @property
    def url(self) -> str:
        """The URL to POST to."""
        return f"{'https' if self._context else 'http'}://{self._host}:{self._port}/sessions"

    @property
    def port(self) -> int:
        """The TCP port; it stays the same when the receiver is closed and opened again."""
        return self._port

    def open(self) -> None:
        """Listen."""
        self.closed.clear()
        self._listener = socket.create_server((self._host, self._port), backlog=128)
        self._port = self._listener.getsockname()[1]
        self._start_thread(self._accept, self._listener)

    def close(self) -> None:
        """Close the port and every connection.  The requests are kept, and ``open`` listens on the same port again."""
        self.closed.set()
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(_PATIENCE)
        self._threads.clear()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def note(self, request: Received) -> None:
        """Add a complete request to ``requests``."""
        with self._lock:
            self.requests.append(request)

    def process(self, request: Received) -> None:
        """Add the ids in a request to ``processed``."""
        with self._lock:
            self.processed += request.ids

    def next(self) -> Behaviour:
        """Return the behaviour for the next request."""
        with self._lock:
            return self.script.pop(0) if self.script else self.behaviour

    def _start_thread(self, function: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=function, args=arguments, name="hl7core-receiver", daemon=True)
        self._threads = [known for known in self._threads if known.is_alive()]
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            with self._lock:
                self._open.add(connection)
            self._start_thread(self._serve, connection)

    def _serve(self, raw: socket.socket) -> None:
        connection = raw
        try:
            if self._context is not None:
                connection = self._context.wrap_socket(raw, server_side=True)
                with self._lock:
                    self._open.discard(raw)
                    self._open.add(connection)
            rest = b""
            keep = True
            while keep and not self.closed.is_set():
                if not rest:
                    rest = connection.recv(65_536)
                    if not rest:
                        break
                turn = Turn(self, connection, rest)
                self.next()(turn)
                keep, rest = turn.keep, turn.rest
        except (OSError, ValueError):
            pass  # the client went away, or did not send HTTP
        finally:
            with self._lock:
                self._open -= {raw, connection}
            connection.close()
