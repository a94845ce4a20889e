"""Finding the original packets of stored sessions in capture files (those that ``capture -w`` wrote).

The law: a session's packets count as found only if they decode to that session again, with the same id and the same
messages.  So a capture with gaps or of other traffic is never taken for the original, and a session that was changed
before it was stored (redacted) is never exported as it was on the wire.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from hl7core.errors import CaptureFileError
from hl7core.files import CaptureFile
from hl7core.model.packet import Endpoint, Interface, PacketBatch
from hl7core.model.session import Session
from hl7core.wire.decoder import Decoder, DecoderOptions
from hl7core.wire.tcp.dissect import dissect, endpoints

__all__ = ["OriginalPackets"]

_MILLISECOND: Final = 1_000_000
_SECOND: Final = 1_000_000_000
_AROUND: Final = 2 * _SECOND
"""Packets without data (the handshake, bare acknowledgements) belong to a session if they are this near to it."""

_Key = frozenset[Endpoint]


class _Window(NamedTuple):
    start_ns: int
    end_ns: int


class OriginalPackets:
    """Finds the packets of sessions in the capture files ``files``.

    ``add`` the sessions, then ``search``: ``ids`` are the sessions whose packets are all there, and ``batches`` yields
    those packets.  ``interfaces`` are where they were captured; ``problems`` are sentences on what cannot be read.
    """

    def __init__(self, files: Sequence[str], options: DecoderOptions) -> None:
        self.files = files
        self.ids: set[str] = set()
        self.interfaces: list[Interface] = []
        self.problems: list[str] = []
        self._options = options
        self._wanted: dict[str, bytes] = {}
        self._windows: dict[_Key, dict[str, _Window]] = {}
        self._sorted: dict[_Key, tuple[list[int], list[int]]] = {}
        self._keys: dict[bytes, _Key] = {}

    def add(self, session: Session) -> None:
        """Search for the packets of ``session`` too."""
        self._wanted[session.id] = _digest(session)
        key = frozenset((session.device, session.lis))
        self._windows.setdefault(key, {})[session.id] = _Window(session.start_ns, session.end_ns + _MILLISECOND)

    def search(self) -> None:
        """Read the files once and note which of the sessions their packets decode to."""
        if not self._wanted:
            return
        self._sort(self._wanted)
        decoder = Decoder(self._options)
        seen: dict[str, bytes] = {}
        for batch in self._picked():
            if batch.interface not in self.interfaces:
                self.interfaces.append(batch.interface)
            self._match(decoder.feed(batch), seen)
        self._match(decoder.end(), seen)
        self.ids = {session_id for session_id, digest in seen.items() if digest == self._wanted[session_id]}
        self._sort(self.ids)

    def batches(self) -> Iterator[PacketBatch]:
        """Read the files again and yield the packets of the sessions in ``ids``, in the order captured."""
        if self.ids:
            problems = list(self.problems)
            yield from self._picked()
            self.problems = problems

    def _match(self, sessions: Iterable[Session], seen: dict[str, bytes]) -> None:
        for session in sessions:
            if session.id in self._wanted:
                seen[session.id] = _digest(session)  # after a late acknowledgement the session comes again, longer

    def _sort(self, ids: Iterable[str]) -> None:
        """Sort the time windows of ``ids`` by connection: their starts, and the latest end up to each of them."""
        chosen = set(ids)
        self._sorted = {}
        for key, windows in self._windows.items():
            spans = sorted(window for session_id, window in windows.items() if session_id in chosen)
            reach, ends = 0, []
            for _, end_ns in spans:
                reach = max(reach, end_ns)
                ends.append(reach)
            if spans:
                self._sorted[key] = ([start_ns for start_ns, _ in spans], ends)

    def _picked(self) -> Iterator[PacketBatch]:
        for name in self.files:
            try:
                with CaptureFile(name) as capture:
                    for batch in capture:
                        chosen = self._pick(batch)
                        if chosen is not None:
                            yield chosen
                    if capture.damage is not None:
                        self.problems.append(str(capture.damage))
            except CaptureFileError as error:
                self.problems.append(str(error))

    def _pick(self, batch: PacketBatch) -> PacketBatch | None:
        buffer, link_type = batch.buffer, batch.interface.link_type
        chosen: list[int] = []
        for number, (start, end, time_ns) in enumerate(zip(batch.starts, batch.ends, batch.times, strict=True)):
            segment = dissect(buffer, start, end, link_type)
            if segment is None or not segment.key:
                continue
            key = self._keys.get(segment.key)
            if key is None:
                if len(self._keys) > 100_000:
                    self._keys.clear()
                key = self._keys[segment.key] = frozenset(endpoints(segment.key))
            spans = self._sorted.get(key)
            if spans is not None and _within(spans, time_ns, 0 if segment.end > segment.start else _AROUND):
                chosen.append(number)
        if not chosen:
            return None
        return batch._replace(
            starts=[batch.starts[number] for number in chosen],
            ends=[batch.ends[number] for number in chosen],
            times=[batch.times[number] for number in chosen],
            wire_lengths=[batch.wire_lengths[number] for number in chosen],
        )


def _within(spans: tuple[list[int], list[int]], time_ns: int, around: int) -> bool:
    starts, ends = spans
    at = bisect_right(starts, time_ns + around)
    return at > 0 and ends[at - 1] >= time_ns - around


def _digest(session: Session) -> bytes:
    hashed = sha256(len(session.elements).to_bytes(8))
    for message in session.messages:
        hashed.update(sha256(message.text).digest())
    return hashed.digest()
