"""The transport beneath httpx: httpcore's connection pool over a network of our own.

httpx's own transport takes no network backend, so this one stands in for it.  httpcore's errors pass through as they
are; :mod:`hl7core_plugins.rest_destination.failures` puts them into words.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from typing import Final

import httpcore
import httpx

from hl7core_plugins.rest_destination.network import Network, response_started

__all__ = ["Transport"]

_KEPT_OPEN: Final = 5.0
"""Seconds that an idle connection stays open."""


class Transport(httpx.AsyncBaseTransport):
    """Sends requests over at most ``connections`` HTTP/1.1 connections, through ``proxy`` if there is one."""

    def __init__(self, network: Network, context: ssl.SSLContext, proxy: httpx.Proxy | None, connections: int) -> None:
        self._network = network
        self._pool = (
            httpcore.AsyncConnectionPool(
                ssl_context=context,
                max_connections=connections,
                max_keepalive_connections=connections,
                keepalive_expiry=_KEPT_OPEN,
                network_backend=network,
            )
            if proxy is None
            else httpcore.AsyncHTTPProxy(
                proxy_url=_url(proxy.url),
                proxy_auth=proxy.raw_auth,
                ssl_context=context,
                max_connections=connections,
                max_keepalive_connections=connections,
                keepalive_expiry=_KEPT_OPEN,
                network_backend=network,
            )
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send ``request`` and return the response once its headers are here.  Raises httpcore's errors."""
        response = await self._pool.handle_async_request(
            httpcore.Request(
                method=request.method,
                url=_url(request.url),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        response_started()
        return httpx.Response(
            response.status, headers=response.headers, stream=_Body(response), extensions=response.extensions
        )

    async def aclose(self) -> None:
        """Close every connection; requests under way fail."""
        self._network.close()
        await self._pool.aclose()


class _Body(httpx.AsyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._response.aiter_stream():
            yield part

    async def aclose(self) -> None:
        await self._response.aclose()


def _url(url: httpx.URL) -> httpcore.URL:
    return httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
