"""Recognition: which dialect a connection speaks.

A pin of the user decides, otherwise the first bytes of both directions, as :mod:`hl7core.wire.detect` reads them.
Bytes on the two sides of a gap are never read as one.  A gap may hide what would tell, so a connection is not ignored
because of one.  Control bytes alone do not tell LIS01 from the plain variant; the first frame does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hl7core.wire.connection import Connection, DecoderOptions, Half
from hl7core.wire.detect import HELD_BYTES, UNKNOWN, WAIT, Verdict, builtin, choose, encrypted
from hl7core.wire.framing.framer import Dialect
from hl7core.wire.pins import pinned
from hl7core.wire.tcp.reassembly import Piece
from hl7core.wire.tls.records import tls_score

__all__ = ["Recognition"]

_STX: Final = b"\x02"
_GAP: Final = b"\0"
_PROOF: Final = 64
_AGAIN: Final = (b"\x0bMSH", b"\x17\x03\x03")


class Recognition:
    """Recognizes the built-in and the registered dialects.

    ``again`` are the beginnings of a segment at which an ignored connection is examined again.
    """

    def __init__(self, options: DecoderOptions, dialects: Sequence[Dialect]) -> None:
        self.configure(options, dialects)

    def configure(self, options: DecoderOptions, dialects: Sequence[Dialect]) -> None:
        """Use other options and dialects from now on."""
        self._dialects = (*dialects, *builtin(options))
        self._named = {dialect.name: dialect for dialect in reversed(self._dialects)}
        self._openers = bytes({0x05, options.start_marker})
        self.again = tuple(dict.fromkeys([*_AGAIN, *(start for dialect in dialects for start in dialect.again)]))

    def verdict(self, connection: Connection, *, final: bool) -> Verdict:
        """Return what a connection speaks: the protocol its ends are pinned to, else what its first bytes tell.

        ``final`` says that the decision cannot wait for more bytes.
        """
        (first, first_behind), (second, second_behind) = [_shown(connection, half) for half in connection.halves]
        pins = connection.options.protocols
        if pins:
            dialect = self._named.get(pinned(pins, connection.ends))
            if dialect is not None:
                if not first and not second:
                    return UNKNOWN if final else WAIT
                return encrypted(first[:HELD_BYTES], second[:HELD_BYTES], final=final) or dialect
        verdict = choose(self._dialects, first, second, final=final, openers=self._openers)
        if not (first_behind or second_behind) or (verdict is not UNKNOWN and verdict is not WAIT):
            return verdict
        # The bytes behind the gap may tell more, as they would if the capture had begun there.
        behind = choose(
            self._dialects, first_behind or first, second_behind or second, final=final, openers=self._openers
        )
        if behind is not UNKNOWN and behind is not WAIT:
            return behind
        return verdict if final else WAIT

    def is_pinned(self, connection: Connection) -> bool:
        """Return whether the user pins one of the connection's ends to a protocol."""
        return bool(connection.options.protocols) and bool(pinned(connection.options.protocols, connection.ends))

    def is_told(self, connection: Connection, waiting: Sequence[tuple[Half, Piece]]) -> bool:
        """Return whether the dialect is certain: the connection is pinned, or ``waiting`` holds a frame's start."""
        return self.is_pinned(connection) or any(_STX in piece.data for _, piece in waiting)

    def prove(self, half: Half, data: bytes) -> tuple[Dialect, bytes] | None:
        """Return the dialect that the next bytes of an unproven connection prove, if it is not the one chosen.

        Returned with it are the bytes of the first frame that arrived before ``data``.
        """
        connection = half.connection
        unproven = connection.unproven
        assert unproven is not None  # noqa: S101 - asked by the caller, stated for the type checker
        known = unproven[1]
        if known and unproven[0] is not half:
            return None
        text = known + data if known else data[data.find(_STX) :] if _STX in data else b""
        if not text:
            return None
        verdict = choose(self._dialects, b"\x05" + text, b"\x06", final=False)
        if verdict is WAIT and len(text) < _PROOF:
            connection.unproven = (half, text)
            return None
        connection.unproven = None
        if not isinstance(verdict, Dialect) or not verdict.turns or verdict.name == connection.protocol:
            return None
        return verdict, known

    def is_encrypted(self, data: bytes) -> bool:
        """Return whether a connection that begins with ``data`` is certainly TLS."""
        return tls_score(data[:HELD_BYTES]) > 1


def _shown(connection: Connection, half: Half) -> tuple[bytes, bytes]:
    """Return the bytes held back of one direction, with a NUL for each gap, and those behind its last gap."""
    parts: list[bytes] = []
    behind = 0
    cut = False
    for held, piece in connection.waiting:
        if held is not half:
            continue
        if piece.missing:
            cut = bool(parts)
        else:
            if cut:
                parts.append(_GAP)
                behind = len(parts)
                cut = False
            parts.append(piece.data)
    return b"".join(parts), b"".join(parts[behind:]) if behind else b""
