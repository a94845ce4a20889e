"""The framer's law, as ``hl7core.testing`` offers it to the authors of dialects, and short ways to read with a framer."""

from collections.abc import Callable

from hl7core.model.frame import Frame, FrameKind
from hl7core.testing.framer_contract import Step, codes, cut_lengths, frames_of, hold_the_law, joined, recut, streams
from hl7core.wire.framing.framer import Framer

__all__ = [
    "CONTROL_BYTES",
    "Step",
    "codes",
    "cut_lengths",
    "frames_of",
    "hold_the_law",
    "joined",
    "readers",
    "recut",
    "streams",
]

CONTROL_BYTES = [(b"\x05", FrameKind.ENQ), (b"\x06", FrameKind.ACK), (b"\x15", FrameKind.NAK), (b"\x04", FrameKind.EOT)]


def readers(framer: Callable[[], Framer]) -> tuple[Callable[..., list[Frame]], Callable[..., Frame]]:
    """Return ``read``, which gives a new framer steps and returns its frames, and ``only``, which returns the only one."""

    def read(*steps: Step) -> list[Frame]:
        return frames_of(framer(), *steps)

    def only(*steps: Step) -> Frame:
        (frame,) = read(*steps)
        return frame

    return read, only
