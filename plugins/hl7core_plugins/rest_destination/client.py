"""One request, one answer, under one set of settings.

The law: a call ends at its deadline whatever the receiver does, reads at most 64 KiB of an answer, follows no redirect
and keeps no cookie.  What it raises holds no URL beyond scheme, host and port, no header and no body, and no reference
to an error that does.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Final

import httpx

from hl7core import DestinationBroken, DestinationUnreachable, SettingsError, SubmitError, __version__
from hl7core_plugins.rest_destination.answers import Answer
from hl7core_plugins.rest_destination.failures import CLOSED, FAILURES, reason
from hl7core_plugins.rest_destination.network import Network, new_attempt
from hl7core_plugins.rest_destination.settings import HEADER_RULE, RestSettings, is_header_value, origin_of
from hl7core_plugins.rest_destination.transport import Transport

__all__ = ["LARGEST_ANSWER", "RestClient"]

LARGEST_ANSWER: Final = 65_536
"""How many bytes of an answer are read; a longer body is ignored."""

_TABLE: Final = "plugins.rest_destination"


class RestClient:
    """A connection pool to one endpoint, under one set of settings; its connections belong to the loop that uses it.

    Raises SettingsError if the endpoint's or the proxy's host is not a valid name, or auth_header_file cannot be used.
    """

    def __init__(self, settings: RestSettings, context: ssl.SSLContext) -> None:
        for noisy in ("httpx", "httpcore"):  # they log URLs and headers
            logging.getLogger(noisy).setLevel(logging.WARNING)
        self.settings = settings
        self.users = 0
        """How many calls are under way; whoever uses the client counts."""
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._url = _url("endpoint", settings.endpoint)
        self._proxy = _proxy(settings)
        self._context = context
        self._origin = origin_of(settings.endpoint)
        self._httpx: httpx.AsyncClient | None = None
        try:
            self._authorization()
        except DestinationUnreachable as error:
            raise SettingsError(f"{_TABLE}.{error}") from None

    async def post(self, content: bytes, key: str) -> Answer:
        """POST ``content`` with the idempotency key ``key`` and return the answer.

        Raises DestinationUnreachable if there was no whole answer within the timeout.
        """
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        return await self._request("POST", content, headers, self.settings.timeout)

    async def ask_options(self, seconds: float) -> Answer:
        """Send OPTIONS, which submits nothing, and return the answer.

        Raises DestinationUnreachable if there was none within ``seconds``, and DestinationBroken if the receiver closed
        the connection instead of answering, as one may that knows only POST.
        """
        return await self._request("OPTIONS", b"", {}, seconds)

    @property
    def idle(self) -> bool:
        """Whether the running event loop may close the client: it is the one that used it, and no call is under way."""
        return not self.users and self._loop in (None, asyncio.get_running_loop())

    async def close(self) -> None:
        """Close the connections; a call under way fails."""
        self._closed = True
        client, self._httpx = self._httpx, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.aclose()

    async def _request(self, method: str, content: bytes, headers: Mapping[str, str], seconds: float) -> Answer:
        failure: SubmitError
        with new_attempt() as attempt:
            try:
                async with asyncio.timeout(seconds):
                    return await self._exchange(method, content, headers)
            except TimeoutError:
                found = f"no answer within {seconds:g} s (while {attempt.phase})"
                failure = DestinationUnreachable(f"{self._origin}: {found}")
            except SubmitError as error:
                failure = error
            except FAILURES as error:
                found = "rest_destination was stopped" if self._closed else reason(error, attempt)
                kind = DestinationBroken if (method, found) == ("OPTIONS", CLOSED) else DestinationUnreachable
                failure = kind(f"{self._origin}: {found}")
        raise failure  # here, so that it keeps no reference to the other error, which has the request

    async def _exchange(self, method: str, content: bytes, headers: Mapping[str, str]) -> Answer:
        if self._closed:
            raise DestinationUnreachable("rest_destination was stopped")
        client = self._client()
        request = client.build_request(
            method,
            self._url,
            content=content,
            headers={**headers, **self._headers()},
            extensions={"timeout": {}},  # one deadline for everything: the caller's
        )
        response = await client.send(request, stream=True, follow_redirects=False)
        try:
            received = {name.lower(): value for name, value in response.headers.items()}
            body = await _read(response) if response.is_success else b""
        finally:
            await response.aclose()
        return Answer(response.status_code, received, body)

    def _client(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        if self._httpx is None or self._loop is not loop:
            self._loop = loop
            network = Network(allow_reserved=self.settings.allow_link_local or self._proxy is not None)
            self._httpx = httpx.AsyncClient(
                transport=Transport(network, self._context, self._proxy, self.settings.concurrency),
                trust_env=False,
                follow_redirects=False,
                cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=())),
            )
        return self._httpx

    def _headers(self) -> dict[str, str]:
        headers = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": f"hl7core/{__version__}",
        }
        authorization = self._authorization()
        if authorization:
            headers["Authorization"] = authorization
        return headers

    def _authorization(self) -> str:
        """Return the Authorization header's value, "" for none.  Raises DestinationUnreachable."""
        file = self.settings.auth_header_file
        if not file:
            return self.settings.auth_header.get_secret_value().strip()
        try:
            with Path(file).open(encoding="utf-8") as opened:
                first = opened.readline(LARGEST_ANSWER)
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise DestinationUnreachable(f"auth_header_file: the file cannot be read: {why}") from None
        except UnicodeDecodeError:
            first = ""
        value = first.rstrip("\r\n").strip(" \t")
        if not is_header_value(value):
            raise DestinationUnreachable(f"auth_header_file: its first line {HEADER_RULE}")
        return value


async def _read(response: httpx.Response) -> bytes:
    """Return the body, or b"" if it is too long."""
    body = b""
    async for part in response.aiter_raw():
        body += part
        if len(body) > LARGEST_ANSWER:
            return b""
    return body


def _url(name: str, text: str) -> httpx.URL:
    try:
        return httpx.URL(text)
    except httpx.InvalidURL:
        raise SettingsError(f"{_TABLE}.{name}: must be a URL with a valid host name") from None


def _proxy(settings: RestSettings) -> httpx.Proxy | None:
    if not settings.proxy:
        return None
    user, _, password = settings.proxy_auth.get_secret_value().partition(":")
    return httpx.Proxy(_url("proxy", settings.proxy), auth=(user, password) if user else None)
