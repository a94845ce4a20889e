"""A key log: the secrets of TLS connections, as programs write them for debugging (SSLKEYLOGFILE).

Each line is ``LABEL CLIENT_RANDOM SECRET`` in hexadecimal digits (RFC 9850; the NSS key log format).  Only the
decryption in this package reads the secrets; the ``repr`` of a key log shows how many there are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

__all__ = ["KeyLog"]

_LINE: Final = re.compile(
    rb"[ \t]*(CLIENT_RANDOM|(?:CLIENT|SERVER)_(?:HANDSHAKE_TRAFFIC_SECRET|TRAFFIC_SECRET_0))"
    rb"[ \t]+([0-9A-Fa-f]{64})[ \t]+((?:[0-9A-Fa-f]{2}){32,64})[ \t]*\Z"
)
_NOTHING: Final[Mapping[str, bytes]] = {}


class KeyLog:
    """The secrets of a key log, by connection."""

    def __init__(self, text: bytes = b"") -> None:
        self._secrets: dict[bytes, dict[str, bytes]] = {}
        self.add(text)

    def add(self, text: bytes) -> int:
        """Add the secrets in the lines of a key log; return how many there were.  Other lines are skipped."""
        count = 0
        for line in text.splitlines():
            found = _LINE.match(line)
            if found:
                client_random = bytes.fromhex(found[2].decode("ascii"))
                secrets = self._secrets.setdefault(client_random, {})
                secrets[found[1].decode("ascii")] = bytes.fromhex(found[3].decode("ascii"))
                count += 1
        return count

    def of(self, client_random: bytes) -> Mapping[str, bytes]:
        """Return the secrets by label of the connection whose ClientHello has this random (32 bytes); empty if none."""
        return self._secrets.get(client_random, _NOTHING)

    def __len__(self) -> int:
        return len(self._secrets)

    def __repr__(self) -> str:
        return f"KeyLog({len(self)} connections)"
