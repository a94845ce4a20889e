"""The bundled destination: POSTs each session to an endpoint that the settings name.

The law: a call is one POST and ends by the deadline; its receipt or exception is one of the six outcomes that the
outbox knows.  No log line and no error ever holds a secret, or what was sent or answered.  httpx is imported only once
there is an endpoint.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from hl7core import (
    DestinationUnreachable,
    PluginSettings,
    Receipt,
    Runtime,
    Session,
    SessionRefused,
    SessionRejected,
    SubmitError,
    hookimpl,
)
from hl7core_plugins.rest_destination.answers import meaning_of, meanings_of
from hl7core_plugins.rest_destination.body import body_of, body_of_several, key_of
from hl7core_plugins.rest_destination.settings import RestSettings, origin_of

if TYPE_CHECKING:
    from hl7core_plugins.rest_destination.answers import Answer
    from hl7core_plugins.rest_destination.client import RestClient

__all__ = ["RestDestination", "RestSettings"]

logger = logging.getLogger(__name__)

_NO_OPTIONS = (HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED)
"""What a receiver that accepts only POST answers to OPTIONS."""
_LARGE = 262_144
"""Bytes of messages beyond which the body is built off the event loop."""


class RestDestination:
    """The plugin."""

    def __init__(self) -> None:
        self._settings = RestSettings()
        self._client: RestClient | None = None
        self._retired: list[RestClient] = []
        self._runtime: Runtime | None = None
        self._logged_off = False

    # Lifecycle.

    @hookimpl
    def register_settings(self) -> type[PluginSettings]:
        """Return the model of ``[plugins.rest_destination]``."""
        return RestSettings

    @hookimpl
    def configure(self, settings: RestSettings) -> None:
        """Use ``settings`` from the next POST on; requests under way finish with the ones they started with.

        Raises SettingsError if a file that they name cannot be used; the old settings then stay in force.
        """
        client = None
        if settings.active:
            from hl7core_plugins.rest_destination.client import RestClient
            from hl7core_plugins.rest_destination.tls import context_for

            client = RestClient(settings, context_for(settings))
        if not settings.active and not self._logged_off:
            logger.info("rest_destination has no endpoint: no sessions are submitted")
        if _sends_secret_unencrypted(settings):
            logger.warning("the Authorization header is sent unencrypted: use https:// in endpoint")
        self._logged_off = not settings.active
        self._settings = settings
        self._replace_client(client)

    @hookimpl
    def start(self, runtime: Runtime) -> None:
        """Start; connections are opened when they are needed."""
        self._runtime = runtime
        if self._client is None and self._settings.active:  # started again after a stop
            self.configure(self._settings)

    @hookimpl
    async def stop(self) -> None:
        """Close every connection."""
        self._runtime = None
        self._replace_client(None)
        retired, self._retired = self._retired, []
        for client in retired:
            await client.close()

    def _replace_client(self, client: RestClient | None) -> None:
        """Use ``client`` from now on; the one before is closed once its requests have ended."""
        old, self._client = self._client, client
        if old is not None:
            self._retired.append(old)
            if self._runtime is not None:
                self._runtime.call(self._close_retired())

    async def _close_retired(self) -> None:
        """Close the replaced clients that have no request under way."""
        while (client := next((client for client in self._retired if client.idle), None)) is not None:
            self._retired.remove(client)
            await client.close()

    # Submitting.

    @hookimpl
    async def submit_session(self, session: Session) -> Receipt:
        """POST one session, once, and return the receipt.  Raises a kind of SubmitError if it was not accepted."""
        if self._settings.batch_size > 1:  # such a receiver expects arrays, and perhaps nothing else
            entry = (await self._submit([session]))[0]
            if isinstance(entry, Exception):
                raise entry
            return entry
        client, answer = await self._post([session], several=False)
        meaning = self._meaning(client, answer)
        if isinstance(meaning, Exception):
            raise meaning
        return meaning

    @hookimpl
    async def submit_sessions(self, sessions: Sequence[Session]) -> list[Receipt | Exception]:
        """POST several sessions in one array; return a receipt or an error for each, in order.

        Raises a kind of SubmitError if the receiver refused them all with one status.
        """
        return await self._submit(sessions)

    async def _submit(self, sessions: Sequence[Session]) -> list[Receipt | Exception]:
        client, answer = await self._post(sessions, several=True)
        meanings = meanings_of([session.id for session in sessions], answer, self._now())
        if meanings is not None:
            return list(meanings)
        meaning = self._meaning(client, answer)
        if isinstance(meaning, Exception):
            raise meaning
        return [meaning] * len(sessions)

    async def _post(self, sessions: Sequence[Session], *, several: bool) -> tuple[RestClient, Answer]:
        async with self._in_use() as client:
            content = await _content(sessions, client.settings.performer, several=several)
            return client, await client.post(content, key_of(sessions))

    @hookimpl
    async def reach_destination(self, seconds: float) -> str:
        """Send OPTIONS to the endpoint, which submits nothing, and return a sentence that it answered.

        Raises a kind of SubmitError if there is no answer within ``seconds``, or one that would refuse a session.
        """
        async with self._in_use() as client:
            answer = await client.ask_options(min(seconds, client.settings.timeout))
        if answer.status not in _NO_OPTIONS:
            meaning = self._meaning(client, answer)
            if isinstance(meaning, Exception):
                raise meaning
        return f"{origin_of(client.settings.endpoint)} answers (HTTP {answer.status})"

    @asynccontextmanager
    async def _in_use(self) -> AsyncIterator[RestClient]:
        """Yield the client, which stays open inside the block."""
        client = self._client
        if client is None:
            raise DestinationUnreachable("rest_destination has no endpoint, or was stopped")
        client.users += 1
        try:
            yield client
        finally:
            client.users -= 1
            if client is not self._client:  # replaced meanwhile
                await self._close_retired()

    def _meaning(self, client: RestClient, answer: Answer) -> Receipt | SubmitError:
        return meaning_of(answer, self._now(), through_proxy=bool(client.settings.proxy))

    def _now(self) -> datetime:
        return self._runtime.now() if self._runtime is not None else datetime.now(UTC)


async def _content(sessions: Sequence[Session], performer: str, *, several: bool) -> bytes:
    """Return the body of a POST.  Raises SessionRejected if a session cannot be written as JSON."""
    make = partial(body_of_several, sessions, performer) if several else partial(body_of, sessions[0], performer)
    size = sum(len(message.text) for session in sessions for message in session.messages)
    try:
        return make() if size <= _LARGE else await asyncio.to_thread(make)
    except SessionRefused as error:
        raise SessionRejected(str(error)) from None


def _sends_secret_unencrypted(settings: RestSettings) -> bool:
    if not (settings.auth_header.get_secret_value() or settings.auth_header_file):
        return False
    parts = urlsplit(settings.endpoint)
    return parts.scheme == "http" and not _is_loopback(parts.hostname or "")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
