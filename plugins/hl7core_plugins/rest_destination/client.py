"""One request, one answer: the only import of httpx.

The law: a call ends at its deadline whatever the receiver does, reads at most 64 KiB of an answer, follows nothing and
keeps no cookie.  What it raises holds no URL beyond scheme, host and port, no header and no body, and no reference to
what does.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any, Final

import httpx

from hl7core import DestinationBroken, DestinationUnreachable, SettingsError, SubmitError, __version__
from hl7core_plugins.rest_destination.answers import Answer
from hl7core_plugins.rest_destination.names import Names
from hl7core_plugins.rest_destination.settings import (
    HEADER_RULE,
    RestSettings,
    is_header_value,
    is_reserved,
    origin_of,
)

__all__ = ["LARGEST_ANSWER", "RestClient"]

LARGEST_ANSWER: Final = 65_536
"""How many bytes of an answer are read; what is longer is let go."""

_KEPT_OPEN: Final = 5.0
"""For how many seconds a connection that nobody uses stays open."""

_TABLE: Final = "plugins.rest_destination"

_CLOSED: Final = "it closed the connection before it had answered"

_PHASES: Final = {
    "connect_tcp": "connecting",
    "start_tls": "agreeing on TLS",
    "send_request_headers": "sending",
    "send_request_body": "sending",
    "receive_response_headers": "waiting for the answer",
    "receive_response_body": "reading the answer",
}


class RestClient:
    """A connection pool to one endpoint, under one set of settings; its connections belong to the loop that uses it.

    Raises SettingsError if the endpoint or the proxy is no URL after all, or the file with the header cannot be used.
    """

    def __init__(self, settings: RestSettings, context: ssl.SSLContext) -> None:
        for noisy in ("httpx", "httpcore"):  # they log URLs and headers
            logging.getLogger(noisy).setLevel(logging.WARNING)
        self.settings = settings
        self.users = 0
        """How many calls are under way: who uses it counts."""
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._url = _url("endpoint", settings.endpoint)
        self._proxy = _proxy(settings)
        self._context = context
        self._where = origin_of(settings.endpoint)
        self._httpx: httpx.AsyncClient | None = None
        self._names = Names("")
        try:
            self._authorization()
        except DestinationUnreachable as error:
            raise SettingsError(f"{_TABLE}.{error}") from None

    async def post(self, content: bytes, key: str) -> Answer:
        """Send ``content`` with the idempotency key ``key`` and return the answer.

        Raises DestinationUnreachable if there was none, or none in time.
        """
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        return await self._answered("POST", content, headers, self.settings.timeout)

    async def ask(self, seconds: float) -> Answer:
        """Ask what the endpoint allows, which hands nothing on, within ``seconds``; return the answer.

        Raises DestinationUnreachable if there was none, and DestinationBroken if the receiver hung up on the question,
        as one may that takes POST alone.
        """
        return await self._answered("OPTIONS", b"", {}, seconds)

    async def _answered(self, method: str, content: bytes, headers: Mapping[str, str], seconds: float) -> Answer:
        progress = _Progress(self.settings)
        failure: SubmitError | None = None
        try:
            async with asyncio.timeout(seconds):
                return await self._sent(method, content, headers, progress)
        except TimeoutError:
            failure = DestinationUnreachable(f"{self._where}: no answer within {seconds:g} s (it was {progress.phase})")
        except SubmitError as error:
            failure = error
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as error:
            reason = _reason(error, progress.phase)
            kind = DestinationBroken if (method, reason) == ("OPTIONS", _CLOSED) else DestinationUnreachable
            failure = kind(f"{self._where}: {reason}")
        finally:
            await progress.close()
        raise failure  # here, so that it does not hold the other error, which holds the request

    @property
    def idle(self) -> bool:
        """Whether this event loop may close it: it is the one that uses it, and nothing is under way."""
        return not self.users and self._loop in (None, asyncio.get_running_loop())

    async def close(self) -> None:
        """Close the connections; a call that is under way ends in an error."""
        self._closed = True
        client, self._httpx = self._httpx, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.aclose()

    async def _sent(self, method: str, content: bytes, headers: Mapping[str, str], progress: _Progress) -> Answer:
        headers = {**headers, **self._headers()}
        client = self._client()
        await self._names.known()
        if self._closed:
            raise DestinationUnreachable("rest_destination was stopped")
        request = client.build_request(
            method,
            self._url,
            content=content,
            headers=headers,
            extensions={"trace": progress.heard, "timeout": {}},  # one deadline for all, above
        )
        response = await client.send(request, stream=True, follow_redirects=False)
        try:
            told = {name.lower(): value for name, value in response.headers.items()}
            body = await _read(response) if response.is_success else b""
        finally:
            await response.aclose()
        return Answer(response.status_code, told, body)

    def _client(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        if self._httpx is None or self._loop is not loop:
            self._loop = loop
            self._names = Names((self._proxy.url if self._proxy else self._url).raw_host.decode("ascii"))
            most = self.settings.concurrency
            self._httpx = httpx.AsyncClient(
                transport=httpx.AsyncHTTPTransport(
                    verify=self._context,
                    trust_env=False,
                    http2=False,
                    proxy=self._proxy,
                    limits=httpx.Limits(
                        max_connections=most, max_keepalive_connections=most, keepalive_expiry=_KEPT_OPEN
                    ),
                ),
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
            reason = error.strerror or type(error).__name__
            raise DestinationUnreachable(f"auth_header_file: the file cannot be read: {reason}") from None
        except UnicodeDecodeError:
            first = ""
        value = first.rstrip("\r\n").strip(" \t")
        if not is_header_value(value):
            raise DestinationUnreachable(f"auth_header_file: its first line {HEADER_RULE}")
        return value


class _Progress:
    """How far one request has come, told by httpcore; knows the connection that it opened, if it did."""

    def __init__(self, settings: RestSettings) -> None:
        self.phase = "looking up its name"
        self._direct = not (settings.proxy or settings.allow_link_local)
        self._raw: Any = None

    async def heard(self, event: str, info: Mapping[str, Any]) -> None:
        """Take an event of httpcore."""
        step, state = event.split(".")[-2:]
        if state == "started":
            self.phase = _PHASES.get(step, self.phase)
        elif step == "connect_tcp" and state == "complete":
            self._raw = info["return_value"]
            peer = self._raw.get_extra_info("server_addr")
            if self._direct and peer and is_reserved(str(peer[0])):
                raise DestinationUnreachable(
                    "the endpoint's name leads to a link-local or cloud metadata address;"
                    " set allow_link_local if that is meant"
                )

    async def close(self) -> None:
        """Close a connection that was being made when the request ended: httpcore leaves it open."""
        if self._raw is not None and self.phase in (_PHASES["connect_tcp"], _PHASES["start_tls"]):
            await self._raw.aclose()


async def _read(response: httpx.Response) -> bytes:
    """Return the answer's body, or b"" if it is too long."""
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
        raise SettingsError(f"{_TABLE}.{name}: must be a URL that can be used; this one's host cannot") from None


def _proxy(settings: RestSettings) -> httpx.Proxy | None:
    if not settings.proxy:
        return None
    user, _, password = settings.proxy_auth.get_secret_value().partition(":")
    return httpx.Proxy(_url("proxy", settings.proxy), auth=(user, password) if user else None)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield ``error`` and what it was raised from, groups opened."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        found = waiting.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        waiting += [found.__cause__, found.__context__]
        if isinstance(found, BaseExceptionGroup):
            waiting += found.exceptions


def _reason(error: BaseException, phase: str) -> str:
    """Say in plain words why there was no answer; nothing of what the error itself says, but a system's own words."""
    causes = list(_chain(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not to be trusted ({cause.verify_message}); ca_file names whom to trust"
        if isinstance(cause, socket.gaierror):
            return "its name cannot be looked up"
    for cause in causes:
        if isinstance(cause, ssl.SSLError):
            return f"no agreement on TLS ({(cause.reason or type(cause).__name__).replace('_', ' ').lower()})"
    if isinstance(error, httpx.ProxyError):
        return "the proxy does not let us through"
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno is not None and cause.errno in errno.errorcode:
            return f"{os.strerror(cause.errno).lower()} (it was {phase})"
    if isinstance(error, httpx.RemoteProtocolError) and phase == "waiting for the answer":
        closed = str(error).startswith("Server disconnected")  # the one of them that quotes nothing
        return _CLOSED if closed else "what it answered is not HTTP"
    return f"the connection broke (it was {phase})"
