"""Why there was no answer, in plain words: one table of what httpcore, httpx and the system raise.

Nothing of an error's own text is repeated, since it may quote what was sent or answered; only the system's words for
an errno and OpenSSL's for a handshake are.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any, Final

import httpcore
import httpx

from hl7core_plugins.rest_destination.network import Attempt, Phase

__all__ = ["CLOSED", "FAILURES", "reason"]

CLOSED: Final = "the receiver closed the connection before it answered"
_NOT_HTTP: Final = "the answer is not valid HTTP"

FAILURES: Final = (
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.TimeoutException,
    httpx.HTTPError,
    httpx.InvalidURL,
    httpx.StreamError,
    OSError,
)
"""All that a request may raise when there is no whole answer."""


def _certificate(error: ssl.SSLCertVerificationError, _: Attempt) -> str:
    return f"its certificate is not trusted ({error.verify_message}); ca_file names the CA to trust"


def _name(_: socket.gaierror, __: Attempt) -> str:
    return "the host name cannot be looked up"


def _tls(error: ssl.SSLError, _: Attempt) -> str:
    return f"the TLS handshake failed ({(error.reason or type(error).__name__).replace('_', ' ').lower()})"


def _proxy(_: httpcore.ProxyError, __: Attempt) -> str:
    return "the proxy refused to connect to it"


def _system(error: OSError, attempt: Attempt) -> str:
    if error.errno is None or error.errno not in errno.errorcode:  # getaddrinfo and OpenSSL have numbers of their own
        return ""
    return f"{os.strerror(error.errno).lower()} (while {attempt.phase})"


def _protocol(_: httpcore.RemoteProtocolError, attempt: Attempt) -> str:
    if attempt.phase is not Phase.WAITING:
        return ""
    return CLOSED if attempt.closed_by_peer else _NOT_HTTP


def _redirect(_: httpx.RemoteProtocolError, __: Attempt) -> str:
    return _NOT_HTTP  # httpx reads where a redirect leads, though it is not to follow it


_WORDS: Final[tuple[tuple[type[BaseException], Callable[[Any, Attempt], str]], ...]] = (
    (ssl.SSLCertVerificationError, _certificate),
    (socket.gaierror, _name),
    (ssl.SSLError, _tls),
    (httpcore.ProxyError, _proxy),
    (OSError, _system),
    (httpcore.RemoteProtocolError, _protocol),
    (httpx.RemoteProtocolError, _redirect),
)
"""By kind of error, the most telling first; "" leaves it to the next row."""


def reason(error: BaseException, attempt: Attempt) -> str:
    """Return why ``attempt`` ended with ``error``, without quoting it; what caused the error counts too."""
    causes = list(_causes(error))
    for kind, words in _WORDS:
        for cause in causes:
            if isinstance(cause, kind) and (found := words(cause, attempt)):
                return found
    return f"the connection broke (while {attempt.phase})"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield ``error`` and the errors that it was raised from."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        found = waiting.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        waiting += [found.__cause__, found.__context__]
