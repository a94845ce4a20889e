"""Connections to the receiver or its proxy: the network beneath httpcore, and how far an attempt has come.

A name is looked up once per connection.  Its addresses are judged before anything is sent to them, and the connection
goes to an address that passed: there is no second look-up that could answer otherwise (DNS rebinding).  TLS still
verifies the certificate against the host name.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from typing import Any, Final

import httpcore

from hl7core import DestinationUnreachable
from hl7core_plugins.rest_destination.resolver import Resolver
from hl7core_plugins.rest_destination.settings import is_reserved

__all__ = ["Attempt", "Network", "Phase", "new_attempt", "response_started"]

_HEAD_START: Final = 0.25
"""Seconds that an address gets before the next one is tried beside it (RFC 8305, section 5)."""


class Phase(StrEnum):
    """What an attempt is doing; each value completes "while ..."."""

    QUEUED = "waiting for a free connection"
    RESOLVING = "looking up the host name"
    CONNECTING = "connecting"
    TLS = "negotiating TLS"
    SENDING = "sending"
    WAITING = "waiting for the answer"
    READING = "reading the answer"


class Attempt:
    """How far one request has come."""

    def __init__(self) -> None:
        self.phase = Phase.QUEUED
        self.closed_by_peer = False
        """Whether the receiver closed the connection while it was read from."""


_attempt: ContextVar[Attempt] = ContextVar("rest_destination_attempt")
"""The attempt of the running task: a connection serves one after another, and httpcore names none."""


@contextmanager
def new_attempt() -> Iterator[Attempt]:
    """Yield the attempt whose phase everything inside the block reports."""
    attempt = Attempt()
    token = _attempt.set(attempt)
    try:
        yield attempt
    finally:
        _attempt.reset(token)


def response_started() -> None:
    """Note that the answer's headers are here: what is read from now on is its body."""
    _attempt.get().phase = Phase.READING


class Network(httpcore.AsyncNetworkBackend):
    """Opens the connections of one pool, on one event loop.

    Unless ``allow_reserved``, link-local and cloud metadata addresses are never connected to.
    """

    def __init__(self, *, allow_reserved: bool) -> None:
        self._tcp = httpcore.AnyIOBackend()
        self._resolver = Resolver()
        self._allow_reserved = allow_reserved
        self._closed = False

    def close(self) -> None:
        """Open no more connections; one that is being opened is closed as soon as it is."""
        self._closed = True

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Return a connection to ``host``; our pools set neither timeout nor socket options.

        Raises OSError if the name cannot be looked up, httpcore.ConnectError if no address accepts the connection,
        and DestinationUnreachable if none may be connected to, or the plugin was stopped.
        """
        attempt = _attempt.get()
        attempt.phase = Phase.RESOLVING
        addresses = await self._resolver.addresses(host)
        if not self._allow_reserved:
            addresses = [address for address in addresses if not is_reserved(address)]
        if not addresses:
            raise DestinationUnreachable(
                "the endpoint's name leads to a link-local or cloud metadata address;"
                " set allow_link_local if that is intended"
            )
        attempt.phase = Phase.CONNECTING
        self._check_open()
        stream = await self._connect(addresses, port)
        try:
            self._check_open()
        except DestinationUnreachable:
            await stream.aclose()
            raise
        return _Stream(stream)

    def _check_open(self) -> None:
        if self._closed:
            raise DestinationUnreachable("rest_destination was stopped")

    async def _connect(self, addresses: Sequence[str], port: int) -> httpcore.AsyncNetworkStream:
        """Connect to the first of ``addresses`` that accepts.

        The next one is tried as soon as the one before failed, or has taken 250 ms.  Raises httpcore.ConnectError, that
        of the last to fail, if all do.
        """
        if len(addresses) == 1:
            return await self._tcp.connect_tcp(addresses[0], port)
        waiting = list(addresses)
        tried: list[asyncio.Future[httpcore.AsyncNetworkStream]] = []
        running: set[asyncio.Future[httpcore.AsyncNetworkStream]] = set()
        failure: BaseException | None = None
        connected: httpcore.AsyncNetworkStream | None = None
        try:
            while connected is None and (waiting or running):
                if waiting:
                    tried.append(asyncio.ensure_future(self._tcp.connect_tcp(waiting.pop(0), port)))
                    running.add(tried[-1])
                done, running = await asyncio.wait(
                    running, timeout=_HEAD_START if waiting else None, return_when=asyncio.FIRST_COMPLETED
                )
                for one in done:
                    failure = one.exception() or failure
                    if one.exception() is None:
                        connected = one.result()
        finally:
            for one in tried:
                one.cancel()
            for outcome in await asyncio.gather(*tried, return_exceptions=True):
                if isinstance(outcome, httpcore.AsyncNetworkStream) and outcome is not connected:
                    await outcome.aclose()
        if connected is not None:
            return connected
        assert failure is not None  # noqa: S101 - each that did not connect has failed
        raise failure


class _Stream(httpcore.AsyncNetworkStream):
    """A connection that reports what it is doing to the attempt it serves."""

    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's
        attempt = _attempt.get()
        if attempt.phase is not Phase.READING:
            attempt.phase = Phase.WAITING
        data = await self._inner.read(max_bytes, timeout)
        attempt.closed_by_peer = not data
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - httpcore's
        _attempt.get().phase = Phase.SENDING
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
    ) -> httpcore.AsyncNetworkStream:
        _attempt.get().phase = Phase.TLS
        try:
            return _Stream(await self._inner.start_tls(ssl_context, server_hostname, timeout))
        except BaseException:
            await self._inner.aclose()  # if the attempt was cancelled, httpcore leaves it open
            raise

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
