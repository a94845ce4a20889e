"""Looking up the receiver's name, so that a dead name server costs nobody else a thread.

The law: at most one lookup runs, on a daemon thread of its own.  The event loop's own lookups wait on its few shared
threads, cannot be ended, and keep the process from stopping; they are made only after this one has answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from typing import Final

__all__ = ["Names"]

_FRESH: Final = 60.0
"""For how many seconds a name that was found counts as known."""


class Names:
    """Knows whether one host's name can be looked up; belongs to one event loop."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._until = float("-inf")
        self._running: asyncio.Future[OSError | None] | None = None
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(host.partition("%")[0])
            self._until = float("inf")  # an address needs no lookup

    async def known(self) -> None:
        """Return once the name is known.  Raises OSError if it cannot be looked up."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._until:
            return
        if self._running is None:
            self._running = loop.create_future()
            threading.Thread(target=self._look, args=(loop,), name="hl7core-lookup", daemon=True).start()
        failure = await asyncio.shield(self._running)
        if failure is not None:
            raise failure

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        failure: OSError | None = None
        try:
            socket.getaddrinfo(self._host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            failure = error if isinstance(error, OSError) else OSError("not a name")
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
            loop.call_soon_threadsafe(self._found, loop, failure)

    def _found(self, loop: asyncio.AbstractEventLoop, failure: OSError | None) -> None:
        running, self._running = self._running, None
        if failure is None:
            self._until = loop.time() + _FRESH
        if running is not None and not running.done():
            running.set_result(failure)
