"""Looks up host names on a thread of its own, so that a dead name server holds up nothing else.

asyncio's own look-ups share a few threads, cannot be cancelled, and keep the process from exiting while they hang.
Here at most one look-up per host runs, on a daemon thread, and whoever asks meanwhile shares its answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading

__all__ = ["Resolver"]


class Resolver:
    """Looks up names for one event loop.  Answers are not cached."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Future[list[str] | OSError]] = {}

    async def addresses(self, host: str) -> list[str]:
        """Return the IP addresses of ``host``, the preferred one first; an address is its own answer.

        Raises OSError (mostly ``socket.gaierror``) if the name cannot be looked up.
        """
        if _is_address(host):
            return [host]
        running = self._running.get(host)
        if running is None:
            loop = asyncio.get_running_loop()
            running = self._running[host] = loop.create_future()
            threading.Thread(target=self._look_up, args=(loop, host), name="hl7core-resolver", daemon=True).start()
        found = await asyncio.shield(running)
        if isinstance(found, OSError):
            raise found
        return found

    def _look_up(self, loop: asyncio.AbstractEventLoop, host: str) -> None:
        found: list[str] | OSError
        try:
            answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            found = list(dict.fromkeys(_address(answer[4]) for answer in answers))
        except OSError as error:
            found = error
        except UnicodeError:
            found = socket.gaierror(socket.EAI_NONAME, "not a host name")
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is waiting
            loop.call_soon_threadsafe(self._finish, host, found)

    def _finish(self, host: str, found: list[str] | OSError) -> None:
        running = self._running.pop(host)
        if not running.done():
            running.set_result(found)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _address(found: tuple[object, ...]) -> str:
    """Return the address of a ``getaddrinfo`` answer, with its zone where it needs one (``fe80::1%2``)."""
    address = str(found[0])
    zone = found[3] if len(found) == 4 else 0
    return f"{address}%{zone}" if zone and "%" not in address else address
