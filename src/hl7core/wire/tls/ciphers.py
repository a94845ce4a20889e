"""Record protection: opens records with the secrets of a key log.

Supported are TLS 1.3 (RFC 8446 sections 5.2 and 7) and TLS 1.2 (RFC 5246 sections 5 and 6.3) with AES-GCM (RFC 5288),
AES-CCM (RFC 6655), ChaCha20-Poly1305 (RFC 7905), and AES-CBC with HMAC in either order (RFC 7366).  The primitives come
from the package ``cryptography``, which is imported when the first cipher is made; nothing else in hl7core needs it.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

__all__ = ["SUITES", "Cipher", "Suite", "cipher_13", "ciphers_12", "next_secret"]

_TAG: Final = 16
_BLOCK: Final = 16


class Suite(NamedTuple):
    """A cipher suite: its kind, the length of its key in bytes, and the hash of its key derivation.

    ``mac`` is the hash of the HMAC of a CBC suite, ``tag`` the length of an AEAD tag in bytes.
    """

    kind: str
    key: int
    digest: str
    mac: str = ""
    tag: int = _TAG


def _table() -> dict[int, Suite]:
    """Return the suites by number (IANA, TLS Cipher Suites), whatever their key exchange."""
    suites = {
        0x1301: Suite("gcm", 16, "sha256"),
        0x1302: Suite("gcm", 32, "sha384"),
        0x1303: Suite("chacha", 32, "sha256"),
        0x1304: Suite("ccm", 16, "sha256"),
        0x1305: Suite("ccm", 16, "sha256", tag=8),
    }
    for number in (0x9C, 0x9E, 0xA2, 0xA8, 0xAA, 0xAC, 0xC02B, 0xC02D, 0xC02F, 0xC031):
        suites[number] = Suite("gcm", 16, "sha256")
        suites[number + 1] = Suite("gcm", 32, "sha384")
    for number in range(0xCCA8, 0xCCAF):
        suites[number] = Suite("chacha", 32, "sha256")
    for number in (0xC09C, 0xC09E, 0xC0A4, 0xC0A6, 0xC0AC):
        suites[number] = Suite("ccm", 16, "sha256")
        suites[number + 1] = Suite("ccm", 32, "sha256")
    for number in (0xC0A0, 0xC0A2, 0xC0A8, 0xC0AA, 0xC0AE):
        suites[number] = Suite("ccm", 16, "sha256", tag=8)
        suites[number + 1] = Suite("ccm", 32, "sha256", tag=8)
    for number in (0x2F, 0x32, 0x33, 0xC004, 0xC009, 0xC00E, 0xC013):
        suites[number] = Suite("cbc", 16, "sha256", "sha1")
    for number in (0x35, 0x38, 0x39, 0xC005, 0xC00A, 0xC00F, 0xC014):
        suites[number] = Suite("cbc", 32, "sha256", "sha1")
    for number in (0x3C, 0x40, 0x67, 0xC023, 0xC025, 0xC027, 0xC029):
        suites[number] = Suite("cbc", 16, "sha256", "sha256")
    for number in (0x3D, 0x6A, 0x6B):
        suites[number] = Suite("cbc", 32, "sha256", "sha256")
    for number in (0xC024, 0xC026, 0xC028, 0xC02A):
        suites[number] = Suite("cbc", 32, "sha384", "sha384")
    return suites


SUITES: Final = _table()


class Cipher(Protocol):
    """The protection of one direction from one change of keys to the next."""

    def open(self, seq: int, record: bytes) -> tuple[int, bytes] | None:
        """Return the type and content of ``record``, number ``seq`` under this cipher; None if the key does not fit."""


def ciphers_12(
    suite: Suite, master: bytes, client_random: bytes, server_random: bytes, *, encrypt_then_mac: bool
) -> tuple[Cipher, Cipher]:
    """Return the client's and the server's cipher for TLS 1.2, from the master secret (RFC 5246 section 6.3)."""
    mac = _SIZES[suite.mac] if suite.mac else 0
    iv = {"gcm": 4, "ccm": 4, "chacha": 12, "cbc": 0}[suite.kind]
    need = 2 * (mac + suite.key + iv)
    seed = b"key expansion" + server_random + client_random
    block, a = b"", seed
    while len(block) < need:
        a = hmac.digest(master, a, suite.digest)
        block += hmac.digest(master, a + seed, suite.digest)
    at = 0

    def cut(size: int) -> tuple[bytes, bytes]:
        nonlocal at
        at += 2 * size
        return block[at - 2 * size : at - size], block[at - size : at]

    macs, keys, ivs = cut(mac), cut(suite.key), cut(iv)
    if suite.kind == "cbc":
        return (
            _Cbc12(keys[0], macs[0], suite.mac, encrypt_then_mac=encrypt_then_mac),
            _Cbc12(keys[1], macs[1], suite.mac, encrypt_then_mac=encrypt_then_mac),
        )
    return _Aead12(suite, keys[0], ivs[0]), _Aead12(suite, keys[1], ivs[1])


def cipher_13(suite: Suite, secret: bytes) -> Cipher:
    """Return the cipher for TLS 1.3, from a traffic secret (RFC 8446 section 7.3)."""
    return _Aead13(
        suite, _expand_label(secret, b"key", suite.key, suite.digest), _expand_label(secret, b"iv", 12, suite.digest)
    )


def next_secret(suite: Suite, secret: bytes) -> bytes:
    """Return the traffic secret after a key update (RFC 8446 section 7.2)."""
    return _expand_label(secret, b"traffic upd", len(secret), suite.digest)


_SIZES: Final = {"sha1": 20, "sha256": 32, "sha384": 48}


def _expand_label(secret: bytes, label: bytes, size: int, digest: str) -> bytes:
    """HKDF-Expand-Label with an empty context (RFC 8446 section 7.1, RFC 5869 section 2.3)."""
    label = b"tls13 " + label
    info = size.to_bytes(2) + bytes((len(label),)) + label + b"\0"
    out, block, count = b"", b"", 0
    while len(out) < size:
        count += 1
        block = hmac.digest(secret, block + info + bytes((count,)), digest)
        out += block
    return out[:size]


def _aead(suite: Suite, key: bytes) -> tuple[Callable[[bytes, bytes, bytes], bytes], type[Exception]]:
    from cryptography.exceptions import InvalidTag  # the optional extra `tls`
    from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305

    if suite.kind == "gcm":
        return AESGCM(key).decrypt, InvalidTag
    if suite.kind == "ccm":
        return AESCCM(key, tag_length=suite.tag).decrypt, InvalidTag
    return ChaCha20Poly1305(key).decrypt, InvalidTag


def _mixed(iv: bytes, seq: int) -> bytes:
    return (int.from_bytes(iv) ^ seq).to_bytes(len(iv))


class _Aead12:
    def __init__(self, suite: Suite, key: bytes, iv: bytes) -> None:
        self._decrypt, self._wrong = _aead(suite, key)
        self._iv = iv
        self._tag = suite.tag
        self._explicit = 8 if len(iv) == 4 else 0

    def open(self, seq: int, record: bytes) -> tuple[int, bytes] | None:
        size = len(record) - 5 - self._explicit - self._tag
        if size < 0:
            return None
        nonce = self._iv + record[5:13] if self._explicit else _mixed(self._iv, seq)
        about = seq.to_bytes(8) + record[:3] + size.to_bytes(2)
        try:
            return record[0], self._decrypt(nonce, record[5 + self._explicit :], about)
        except self._wrong:
            return None


class _Aead13:
    def __init__(self, suite: Suite, key: bytes, iv: bytes) -> None:
        self._decrypt, self._wrong = _aead(suite, key)
        self._iv = iv
        self._tag = suite.tag

    def open(self, seq: int, record: bytes) -> tuple[int, bytes] | None:
        if len(record) < 5 + self._tag + 1:
            return None
        try:
            inner = self._decrypt(_mixed(self._iv, seq), record[5:], record[:5])
        except self._wrong:
            return None
        text = inner.rstrip(b"\0")  # padding, RFC 8446 section 5.4
        return (text[-1], text[:-1]) if text else None


class _Cbc12:
    def __init__(self, key: bytes, mac_key: bytes, mac: str, *, encrypt_then_mac: bool) -> None:
        from cryptography.hazmat.primitives.ciphers import algorithms

        self._key: Any = algorithms.AES(key)
        self._mac_key, self._mac, self._size = mac_key, mac, _SIZES[mac]
        self._encrypt_then_mac = encrypt_then_mac

    def open(self, seq: int, record: bytes) -> tuple[int, bytes] | None:
        body = record[5:]
        if self._encrypt_then_mac:
            body, given = body[: -self._size], body[-self._size :]
            if not hmac.compare_digest(self._sum(seq, record, body), given):
                return None
        if len(body) < 2 * _BLOCK or len(body) % _BLOCK:
            return None
        text = self._decrypted(body)
        padding = text[-1] + 1
        if padding > len(text) or text[-padding:] != bytes((padding - 1,)) * padding:
            return None
        text = text[:-padding]
        if self._encrypt_then_mac:
            return record[0], text
        text, given = text[: -self._size], text[-self._size :]
        return (record[0], text) if hmac.compare_digest(self._sum(seq, record, text), given) else None

    def _sum(self, seq: int, record: bytes, content: bytes) -> bytes:
        about = seq.to_bytes(8) + record[:3] + len(content).to_bytes(2)
        return hmac.digest(self._mac_key, about + content, self._mac)

    def _decrypted(self, body: bytes) -> bytes:
        from cryptography.hazmat.primitives.ciphers import Cipher as Mode
        from cryptography.hazmat.primitives.ciphers import modes

        reader = Mode(self._key, modes.CBC(body[:_BLOCK])).decryptor()
        text: bytes = reader.update(body[_BLOCK:]) + reader.finalize()
        return text
