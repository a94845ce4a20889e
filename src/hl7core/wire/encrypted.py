"""Encrypted connections: named and counted, so that nobody mistakes unread traffic for an idle line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hl7core.wire.tcp.dissect import endpoints

__all__ = ["UNREAD", "Encrypted"]

UNREAD: Final = "hl7core read FILE --keylog KEYS reads a capture of it if its keys were logged"
"""The reason given where no keys were."""

_MAX_NAMED: Final = 100
_MAX_SHOWN: Final = 3


class Encrypted:
    """The TLS connections that could not be decrypted.

    ``count`` is how many there were, ``reasons`` how many for each reason.  ``named`` has one connection for each
    server, at most 100.
    """

    def __init__(self) -> None:
        self.named: dict[str, str] = {}
        self.count = 0
        self._servers: set[bytes] = set()
        self.reasons: dict[str, int] = {}

    def note(self, key: bytes, reason: str) -> None:
        """Record a connection, by the key of its opener's direction, and why it cannot be read."""
        self.count += 1
        self.reasons[reason] = self.reasons.get(reason, 0) + 1
        servers = self._servers
        if len(servers) < _MAX_NAMED and (server := key[(len(key) - 4) // 2 : -4] + key[-2:]) not in servers:
            servers.add(server)
            client, target = endpoints(key)
            self.named[str(target)] = f"{client}-{target}"

    def sentence(self, total: int = 0) -> str:
        """Return a summary, "" if there were none; ``total`` may count connections that others recorded too."""
        count = max(self.count, total)
        if not count:
            return ""
        shown = list(self.named.values())[:_MAX_SHOWN]
        if count == 1 and shown:
            what = f"connection {shown[0]} is encrypted (TLS)"
        else:
            what = f"{count} connection{'s are' if count > 1 else ' is'} encrypted (TLS)"
            what += f", such as {_listed(shown)}" if shown else ""
        reasons = self.reasons or {UNREAD: count}
        why = "; ".join(reason if len(reasons) == 1 else f"{n}: {reason}" for reason, n in reasons.items())
        return f"{what}: {why}"


def _listed(names: Sequence[str]) -> str:
    """Return "A", "A and B" or "A, B and C"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
