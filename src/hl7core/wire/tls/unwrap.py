"""Unwrapping: from the records of a TLS connection to the sessions inside.

``Unwrapped`` is the tracker of the TLS connection.  It opens the records with the keys of the key log.  What they carry
is delivered as an inner connection with the same two ends and the times of the packets, through recognition, framing
and sessions.  A record that cannot be opened is a gap there.

TLS 1.2 changes keys at ChangeCipherSpec (RFC 5246 section 7.1).  TLS 1.3 changes them invisibly, after Finished and at
a KeyUpdate (RFC 8446 sections 4.4 and 4.6.3), so the next key is tried where the current one does not fit.
"""

from __future__ import annotations

from typing import Final, Protocol

from hl7core.model.finding import Finding, Severity
from hl7core.model.frame import Frame, FrameKind
from hl7core.model.session import Ending, OpenSession, Session
from hl7core.wire.connection import IGNORED, Connection, Half
from hl7core.wire.tls.ciphers import SUITES, Cipher, Suite, cipher_13, ciphers_12, next_secret
from hl7core.wire.tls.hello import CLIENT_HELLO, SERVER_HELLO, TLS12, TLS13, ServerHello, client_random, server_hello
from hl7core.wire.tls.keylog import KeyLog
from hl7core.wire.tls.records import APPLICATION, CHANGE_CIPHER, HANDSHAKE

__all__ = ["InnerDelivery", "Unwrapped"]

_MAX_HELLO: Final = 64 * 1024
_TRIED: Final = 1024
"""How many records may be missing after a gap: as many sequence numbers are tried."""
_NAMES: Final = {TLS12: "TLS 1.2", TLS13: "TLS 1.3"}
NO_HANDSHAKE: Final = "the beginning of its handshake was not captured, so its key cannot be identified"
NO_KEY: Final = "the key log has no key for it"


class InnerDelivery(Protocol):
    """Where the decrypted bytes go on: what :class:`hl7core.wire.delivery.Delivery` does for an inner connection."""

    keys: KeyLog

    def add_bytes(self, half: Half, data: bytes, now: int, out: list[Session]) -> None:
        """Deliver the next bytes of ``half``, captured at ``now``; append the sessions that end to ``out``."""

    def add_gap(self, half: Half, count: int, now: int, out: list[Session]) -> None:
        """Report that the next ``count`` bytes of ``half`` cannot be read."""

    def close(self, connection: Connection, ending: Ending, out: list[Session]) -> None:
        """Flush the framers of ``connection`` and end its sessions."""

    def note_unread(self, connection: Connection, reason: str) -> None:
        """Count ``connection`` as ignored; ``reason`` says why it cannot be read."""


class _Direction:
    """One direction: its handshake messages so far, and the keys that it uses now and next."""

    def __init__(self) -> None:
        self.hello = bytearray()
        self.cipher: Cipher | None = None
        self.seq = 0
        self.next: list[tuple[Cipher, bytes]] = []  # with the traffic secret, b"" for the keys of the handshake
        self.secret = b""
        self.lost = False  # records may be missing since the last one that was opened
        self.opened = False


class Unwrapped:
    """The tracker of a TLS connection; ``delivery`` has the key log and delivers what the records carry."""

    def __init__(self, connection: Connection, delivery: InnerDelivery) -> None:
        self._connection = connection
        self._delivery = delivery
        self._directions = (_Direction(), _Direction())
        self._client_random = b""
        self._client = -1
        self._suite: Suite | None = None
        self._version = 0
        self._over = False
        first, second = (Half(half.origin, half.side) for half in connection.halves)
        self._inner = Connection(connection.keys, (first, second), connection.options)
        self._inner.outer = connection
        self._out: list[Session] = []

    def add_frames(self, half: Half, frames: list[Frame]) -> list[Session]:
        """Add the next records of one direction; return the sessions inside that ended or changed."""
        for frame in frames:
            if self._over:
                break
            if frame.kind is FrameKind.DATA:
                self._record(half, frame)
            elif self._directions[half.side].cipher is None:
                self._ignore(NO_HANDSHAKE)
            else:
                self._skip(half, frame.missing or len(frame.raw))
        return self._collect()

    def expire(self, now_ns: int) -> list[Session]:
        """End the sessions inside that have been silent for too long; return them."""
        inner = self._inner.tracker
        if inner is not None:
            self._out += inner.expire(now_ns)
        return self._collect()

    def due(self) -> int:
        """Return when ``expire`` must be called next, 0 for never."""
        return self._inner.tracker.due() if self._inner.tracker is not None else 0

    def end(self, ending: Ending) -> list[Session]:
        """End every session inside as ``ending``; return them."""
        if not self._over:
            self._delivery.close(self._inner, ending, self._out)
            if not any(direction.opened for direction in self._directions):
                self._ignore(NO_HANDSHAKE if not self._suite else "its keys in the key log do not fit")
        return self._collect()

    def evict_to(self, upto: int) -> list[Session]:
        """Evict the oldest data inside until no more than ``upto`` bytes are held; return the sessions ended."""
        if self._inner.tracker is not None:
            self._out += self._inner.tracker.evict_to(upto)
        return self._collect()

    def open_sessions(self) -> list[OpenSession]:
        """Return a summary of each open session inside."""
        return self._inner.tracker.open_sessions() if self._inner.tracker is not None else []

    def _collect(self) -> list[Session]:
        if not self._out:
            return []
        done, self._out = self._out, []
        name = _NAMES.get(self._version, "TLS")
        finding = Finding("tls", Severity.INFO, f"it was encrypted ({name}) and was read with a key log")
        return [session._replace(findings=(*session.findings, finding)) for session in done]

    def _ignore(self, reason: str) -> None:
        """Ignore the connection, which cannot be read, and count it with the ``reason``."""
        self._over = True
        if self._connection.state != IGNORED:
            self._connection.state = IGNORED
            self._delivery.note_unread(self._connection, reason)

    # Records.

    def _record(self, half: Half, frame: Frame) -> None:
        raw, direction = frame.raw, self._directions[half.side]
        kind = raw[0]
        if kind == CHANGE_CIPHER:
            if self._version == TLS12 and direction.next:
                direction.cipher, direction.secret = direction.next.pop(0)
                direction.seq = 0
        elif direction.cipher is None or (self._version == TLS13 and kind != APPLICATION):
            if kind == HANDSHAKE:
                self._handshake(half, direction, raw[5:])
            elif kind == APPLICATION:
                self._ignore(NO_HANDSHAKE)
        else:
            opened = self._open(direction, raw)
            if opened is None:
                if direction.opened or self._version == TLS12:
                    self._skip(half, len(raw))
                return
            direction.opened = True
            if opened[0] == APPLICATION and opened[1]:
                first_ns = half.captured_at(frame.offset) if half.marks else half.last_ns
                self._deliver(half, opened[1], first_ns, half.last_ns)

    def _open(self, direction: _Direction, record: bytes) -> tuple[int, bytes] | None:
        """Open a record with the current or the next key; return its type and content, None if neither fits."""
        count = _TRIED if direction.lost else 1
        assert direction.cipher is not None  # noqa: S101 - asked by the caller, stated for the type checker
        for seq in range(direction.seq, direction.seq + count):
            opened = direction.cipher.open(seq, record)
            if opened is not None:
                direction.seq = seq + 1
                direction.lost = False
                return opened
        if self._version != TLS13 or self._suite is None:
            direction.seq += 1
            direction.lost = True
            return None
        following = list(direction.next)
        if direction.secret and not following:
            secret = next_secret(self._suite, direction.secret)
            following = [(cipher_13(self._suite, secret), secret)]
        for place, (cipher, secret) in enumerate(following):
            for seq in range(count):
                opened = cipher.open(seq, record)
                if opened is not None:
                    direction.cipher, direction.secret, direction.seq = cipher, secret, seq + 1
                    direction.next = direction.next[place + 1 :]
                    direction.lost = False
                    return opened
        direction.lost = direction.opened
        return None

    def _handshake(self, half: Half, direction: _Direction, payload: bytes) -> None:
        """Read the unencrypted part of the handshake until both hellos are known."""
        direction.hello += payload
        hello = direction.hello
        while len(hello) >= 4:
            size = 4 + int.from_bytes(hello[1:4])
            if size > _MAX_HELLO:
                self._ignore(NO_HANDSHAKE)
                return
            if len(hello) < size:
                return
            kind, body = hello[0], bytes(hello[4:size])
            del hello[:size]
            if kind == CLIENT_HELLO:
                self._client = half.side
                self._client_random = client_random(body) or self._client_random
                if not self._delivery.keys.of(self._client_random):
                    self._ignore(NO_KEY)
                    return
            elif kind == SERVER_HELLO:
                chosen = server_hello(body)
                if chosen is None or self._client != 1 - half.side:
                    self._ignore(NO_HANDSHAKE)
                    return
                if not chosen.retry:
                    self._agree(chosen)
                    return

    def _agree(self, chosen: ServerHello) -> None:
        """Make the ciphers of both directions from what the server chose."""
        suite = SUITES.get(chosen.suite)
        if suite is None or chosen.version not in _NAMES or chosen.compressed:
            self._ignore(f"its version or cipher suite (0x{chosen.suite:04X}) is not supported")
            return
        secrets = self._delivery.keys.of(self._client_random)
        self._suite, self._version = suite, chosen.version
        client, server = self._directions[self._client], self._directions[1 - self._client]
        if chosen.version == TLS12:
            master = secrets.get("CLIENT_RANDOM")
            if master is None:
                self._ignore(NO_KEY)
                return
            made = ciphers_12(
                suite, master, self._client_random, chosen.random, encrypt_then_mac=chosen.encrypt_then_mac
            )
            client.next, server.next = [(made[0], b"")], [(made[1], b"")]
            return
        for direction, name in ((client, "CLIENT"), (server, "SERVER")):
            traffic = secrets.get(f"{name}_TRAFFIC_SECRET_0")
            if traffic is None:
                self._ignore(NO_KEY)
                return
            handshake = secrets.get(f"{name}_HANDSHAKE_TRAFFIC_SECRET")
            stages = [(cipher_13(suite, handshake), b"")] if handshake else []
            stages.append((cipher_13(suite, traffic), traffic))
            direction.cipher, direction.secret = stages.pop(0)
            direction.next = stages

    # What the records carry.

    def _deliver(self, half: Half, data: bytes, first_ns: int, last_ns: int) -> None:
        inner = self._inner.halves[half.side]
        if first_ns != last_ns and len(data) > 1:  # the first byte arrived with the record's first, the rest later
            self._delivery.add_bytes(inner, data[:1], first_ns, self._out)
            data = data[1:]
        self._delivery.add_bytes(inner, data, last_ns, self._out)

    def _skip(self, half: Half, count: int) -> None:
        self._directions[half.side].lost = True
        self._delivery.add_gap(self._inner.halves[half.side], count, half.last_ns, self._out)
