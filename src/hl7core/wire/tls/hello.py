"""The parts of ClientHello and ServerHello that decryption needs (RFC 5246 section 7.4.1, RFC 8446 section 4.1)."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["CLIENT_HELLO", "SERVER_HELLO", "ServerHello", "client_random", "server_hello"]

CLIENT_HELLO: Final = 1
SERVER_HELLO: Final = 2
TLS12: Final = 0x0303
TLS13: Final = 0x0304

# The random of a HelloRetryRequest (RFC 8446 section 4.1.3).
_RETRY: Final = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
_ENCRYPT_THEN_MAC: Final = 22
_SUPPORTED_VERSIONS: Final = 43


class ServerHello(NamedTuple):
    """What the server chose; ``retry`` says that it asks for another ClientHello instead."""

    random: bytes
    version: int
    suite: int
    compressed: bool = False
    encrypt_then_mac: bool = False
    retry: bool = False


def client_random(body: bytes) -> bytes:
    """Return the random of a ClientHello body (32 bytes), b"" if the body is cut short."""
    return body[2:34] if len(body) >= 34 else b""


def server_hello(body: bytes) -> ServerHello | None:
    """Return what a ServerHello body says, None if it is cut short."""
    if len(body) < 38:
        return None
    at = 35 + body[34]
    if len(body) < at + 3:
        return None
    random = body[2:34]
    version = int.from_bytes(body[:2])
    suite = int.from_bytes(body[at : at + 2])
    compressed = body[at + 2] != 0
    encrypt_then_mac = False
    at += 5
    while at + 4 <= len(body):
        kind, size = int.from_bytes(body[at : at + 2]), int.from_bytes(body[at + 2 : at + 4])
        if kind == _ENCRYPT_THEN_MAC:
            encrypt_then_mac = True
        elif kind == _SUPPORTED_VERSIONS and size == 2:
            version = int.from_bytes(body[at + 4 : at + 6])
        at += 4 + size
    return ServerHello(random, version, suite, compressed, encrypt_then_mac, random == _RETRY)
