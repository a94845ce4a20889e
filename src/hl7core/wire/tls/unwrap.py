"""From the records of a TLS connection to the sessions within.

It stands where the sessions' room stands for a plain connection: records come in, are opened with the keys of the key
log, and what they carry goes on as a connection of its own, to detection, framing and sessions, with the same two ends
and the times of the packets.  What cannot be opened is a gap there, never a guess.

TLS 1.2 changes keys at ChangeCipherSpec (RFC 5246 section 7.1); TLS 1.3 changes them unseen, behind Finished and at a
KeyUpdate (RFC 8446 sections 4.4, 4.6.3), so there the next key is tried where the present one does not fit.
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
"""Behind a gap so many records are taken to be missing at most."""
_NAMES: Final = {TLS12: "TLS 1.2", TLS13: "TLS 1.3"}
NO_HANDSHAKE: Final = "the beginning of its handshake was not captured, so no key can be told to be its"
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


class _Way:
    """One direction: its handshake messages, and the keys that it uses now and next."""

    def __init__(self) -> None:
        self.hello = bytearray()
        self.cipher: Cipher | None = None
        self.seq = 0
        self.next: list[tuple[Cipher, bytes]] = []  # with the traffic secret, b"" while the handshake goes on
        self.secret = b""
        self.lost = False  # records are missing since the last one that was opened
        self.opened = False


class Unwrapped:
    """The tracker of a TLS connection whose keys are in the key log of ``delivery``."""

    def __init__(self, connection: Connection, delivery: InnerDelivery) -> None:
        self._connection = connection
        self._delivery = delivery
        self._ways = (_Way(), _Way())
        self._client_random = b""
        self._client = -1
        self._suite: Suite | None = None
        self._version = 0
        self._over = False
        first, second = (Half(half.origin, half.side) for half in connection.halves)
        self._inner = Connection(connection.keys, (first, second), connection.options)
        self._inner.outer = connection
        self._out: list[Session] = []

    def take(self, half: Half, frames: list[Frame]) -> list[Session]:
        """Take the next records of one direction; return the sessions that ended or changed within."""
        for frame in frames:
            if self._over:
                break
            if frame.kind is FrameKind.DATA:
                self._record(half, frame)
            elif self._ways[half.side].cipher is None:
                self._give_up(NO_HANDSHAKE)
            else:
                self._missed(half, frame.missing or len(frame.raw))
        return self._told()

    def expire(self, now_ns: int) -> list[Session]:
        """End what has been silent within for too long."""
        inner = self._inner.tracker
        if inner is not None:
            self._out += inner.expire(now_ns)
        return self._told()

    def due(self) -> int:
        """Return when ``expire`` is next worth calling, 0 for not at all."""
        return self._inner.tracker.due() if self._inner.tracker is not None else 0

    def end(self, ending: Ending) -> list[Session]:
        """End every session within."""
        if not self._over:
            self._delivery.close(self._inner, ending, self._out)
            if not any(way.opened for way in self._ways):
                self._give_up(NO_HANDSHAKE if not self._suite else "its keys in the key log do not fit")
        return self._told()

    def let_go(self, upto: int) -> list[Session]:
        """Give up the oldest that is held within, until no more than ``upto`` bytes are."""
        if self._inner.tracker is not None:
            self._out += self._inner.tracker.let_go(upto)
        return self._told()

    def open_sessions(self) -> list[OpenSession]:
        """Summarise the sessions within that go on."""
        return self._inner.tracker.open_sessions() if self._inner.tracker is not None else []

    def _told(self) -> list[Session]:
        if not self._out:
            return []
        done, self._out = self._out, []
        name = _NAMES.get(self._version, "TLS")
        finding = Finding("tls", Severity.INFO, f"it was encrypted ({name}) and was read with a key log")
        return [session._replace(findings=(*session.findings, finding)) for session in done]

    def _give_up(self, reason: str) -> None:
        """Nothing of this connection can be read: let it go, named and counted."""
        self._over = True
        if self._connection.state != IGNORED:
            self._connection.state = IGNORED
            self._delivery.note_unread(self._connection, reason)

    # Records.

    def _record(self, half: Half, frame: Frame) -> None:
        raw, way = frame.raw, self._ways[half.side]
        kind = raw[0]
        if kind == CHANGE_CIPHER:
            if self._version == TLS12 and way.next:
                way.cipher, way.secret = way.next.pop(0)
                way.seq = 0
        elif way.cipher is None or (self._version == TLS13 and kind != APPLICATION):
            if kind == HANDSHAKE:
                self._handshake(half, way, raw[5:])
            elif kind == APPLICATION:
                self._give_up(NO_HANDSHAKE)
        else:
            opened = self._open(way, raw)
            if opened is None:
                if way.opened or self._version == TLS12:
                    self._missed(half, len(raw))
                return
            way.opened = True
            if opened[0] == APPLICATION and opened[1]:
                first_ns = half.captured_at(frame.offset) if half.marks else half.last_ns
                self._said(half, opened[1], first_ns, half.last_ns)

    def _open(self, way: _Way, record: bytes) -> tuple[int, bytes] | None:
        """Open a record with the key in use, or with the one that follows it."""
        count = _TRIED if way.lost else 1
        assert way.cipher is not None  # noqa: S101 - asked by the caller, stated for the type checker
        for seq in range(way.seq, way.seq + count):
            opened = way.cipher.open(seq, record)
            if opened is not None:
                way.seq = seq + 1
                way.lost = False
                return opened
        if self._version != TLS13 or self._suite is None:
            way.seq += 1
            way.lost = True
            return None
        following = list(way.next)
        if way.secret and not following:
            secret = next_secret(self._suite, way.secret)
            following = [(cipher_13(self._suite, secret), secret)]
        for place, (cipher, secret) in enumerate(following):
            for seq in range(count):
                opened = cipher.open(seq, record)
                if opened is not None:
                    way.cipher, way.secret, way.seq = cipher, secret, seq + 1
                    way.next = way.next[place + 1 :]
                    way.lost = False
                    return opened
        way.lost = way.opened
        return None

    def _handshake(self, half: Half, way: _Way, payload: bytes) -> None:
        """Take what stands in the clear of a handshake, until both hellos are known."""
        way.hello += payload
        hello = way.hello
        while len(hello) >= 4:
            size = 4 + int.from_bytes(hello[1:4])
            if size > _MAX_HELLO:
                self._give_up(NO_HANDSHAKE)
                return
            if len(hello) < size:
                return
            kind, body = hello[0], bytes(hello[4:size])
            del hello[:size]
            if kind == CLIENT_HELLO:
                self._client = half.side
                self._client_random = client_random(body) or self._client_random
                if not self._delivery.keys.of(self._client_random):
                    self._give_up(NO_KEY)
                    return
            elif kind == SERVER_HELLO:
                chosen = server_hello(body)
                if chosen is None or self._client != 1 - half.side:
                    self._give_up(NO_HANDSHAKE)
                    return
                if not chosen.retry:
                    self._agree(chosen)
                    return

    def _agree(self, chosen: ServerHello) -> None:
        """Make the ciphers that both sides will use."""
        suite = SUITES.get(chosen.suite)
        if suite is None or chosen.version not in _NAMES or chosen.compressed:
            self._give_up(f"its version or cipher suite (0x{chosen.suite:04X}) is not among those that can be read")
            return
        secrets = self._delivery.keys.of(self._client_random)
        self._suite, self._version = suite, chosen.version
        client, server = self._ways[self._client], self._ways[1 - self._client]
        if chosen.version == TLS12:
            master = secrets.get("CLIENT_RANDOM")
            if master is None:
                self._give_up(NO_KEY)
                return
            made = ciphers_12(
                suite, master, self._client_random, chosen.random, encrypt_then_mac=chosen.encrypt_then_mac
            )
            client.next, server.next = [(made[0], b"")], [(made[1], b"")]
            return
        for way, name in ((client, "CLIENT"), (server, "SERVER")):
            traffic = secrets.get(f"{name}_TRAFFIC_SECRET_0")
            if traffic is None:
                self._give_up(NO_KEY)
                return
            handshake = secrets.get(f"{name}_HANDSHAKE_TRAFFIC_SECRET")
            stages = [(cipher_13(suite, handshake), b"")] if handshake else []
            stages.append((cipher_13(suite, traffic), traffic))
            way.cipher, way.secret = stages.pop(0)
            way.next = stages

    # What they carry.

    def _said(self, half: Half, data: bytes, first_ns: int, last_ns: int) -> None:
        inner = self._inner.halves[half.side]
        if first_ns != last_ns and len(data) > 1:  # its first byte came with the record's, its last with the last
            self._delivery.add_bytes(inner, data[:1], first_ns, self._out)
            data = data[1:]
        self._delivery.add_bytes(inner, data, last_ns, self._out)

    def _missed(self, half: Half, count: int) -> None:
        self._ways[half.side].lost = True
        self._delivery.add_gap(self._inner.halves[half.side], count, half.last_ns, self._out)
