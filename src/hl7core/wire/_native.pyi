from collections.abc import Callable, Iterator
from typing import Any

from hl7core.model.packet import PacketBatch
from hl7core.model.session import Session
from hl7core.wire.connection import Half
from hl7core.wire.decoder import Decoder
from hl7core.wire.mllp_sessions.fast_path import FastExchange
from hl7core.wire.streams import Streams

SOURCE: str
"""The SHA-256 of the sources that this was built from, in hexadecimal."""

def blocks(
    buffer: bytes,
    at: int,
    big: bool,
    current: int,
    starts: list[int],
    ends: list[int],
    ticks: list[int],
    wires: list[int],
) -> int: ...
def keep_memory() -> None: ...
def records(
    buffer: bytes,
    at: int,
    big: bool,
    header: int,
    unit: int,
    starts: list[int],
    ends: list[int],
    times: list[int],
    wires: list[int],
) -> int: ...

class SlowPathPackets(Iterator[tuple[int, int, int]]):
    def __init__(
        self,
        decoder: Decoder,
        streams: Streams,
        batch: PacketBatch,
        halves: dict[bytes, Half],
        bypassed: set[bytes],
        out: list[Any],
        places: list[int] | None,
        base: int,
        shard: range | None,
    ) -> None: ...
    def __next__(self) -> tuple[int, int, int]: ...

class FastJsonLine:
    def __init__(self, slow: Callable[[FastExchange], bytes]) -> None: ...
    def __call__(self, exchange: FastExchange) -> bytes: ...

class FastSession:
    def __init__(self, slow: Callable[[FastExchange], Session]) -> None: ...
    def __call__(self, exchange: FastExchange) -> Session: ...
