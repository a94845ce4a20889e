"""The framer's law, to be held against any framer: however the packets cut them, the same bytes give the same frames."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st

from hl7core.model.frame import Frame, FrameKind
from hl7core.wire.framing import Framer

Step = bytes | int | None
"""Bytes to feed, a count to skip, or None to settle."""


def frames_of(framer: Framer, *steps: Step) -> list[Frame]:
    """Every frame of the steps, with the stream closed behind them."""
    frames: list[Frame] = []
    for step in steps:
        if step is None:
            frames += framer.settle()
        elif isinstance(step, int):
            frames += framer.skip(step)
        else:
            frames += framer.feed(step)
    return frames + framer.close()


def codes(frame: Frame) -> list[str]:
    return [fault.code for fault in frame.faults]


def recut(steps: list[Step], cuts: list[int]) -> list[Step]:
    """The same steps with their bytes cut into pieces whose lengths are ``cuts``, over and over."""
    again: list[Step] = []
    turn = 0
    for step in steps:
        if not isinstance(step, bytes):
            again.append(step)
            continue
        at = 0
        while at < len(step):
            size = cuts[turn % len(cuts)]
            again.append(step[at : at + size])
            at += size
            turn += 1
    return again


def joined(steps: list[Step]) -> list[Step]:
    """The same steps with neighbouring bytes fed at once."""
    again: list[Step] = []
    for step in steps:
        if isinstance(step, bytes) and again and isinstance(again[-1], bytes):
            again[-1] += step
        else:
            again.append(step)
    return again


def hold_the_law(make: Callable[[], Framer], steps: list[Step], cuts: list[int]) -> None:
    """Any cut gives the same frames; they lie end to end; together they are the stream."""
    frames = frames_of(make(), *joined(steps))
    assert frames_of(make(), *recut(steps, [1])) == frames
    assert frames_of(make(), *recut(joined(steps), cuts)) == frames
    stream: list[int | None] = []
    for step in steps:
        stream += [None] * step if isinstance(step, int) else list(step or b"")
    at = frames[0].offset if frames else 0
    start = at
    for frame in frames:
        assert frame.offset == at
        assert bool(frame.raw) != bool(frame.missing)
        assert (frame.kind is FrameKind.GAP) == bool(frame.missing)
        if frame.raw:
            assert list(frame.raw) == stream[at - start : frame.end - start]
            assert 0 <= frame.head <= len(frame.raw) - frame.tail
        assert all(frame.offset <= fault.offset <= frame.end for fault in frame.faults)
        assert len(frame.faults) == len(set(codes(frame)))
        at = frame.end
    assert at - start == len(stream)


def streams(pieces: list[bytes]) -> st.SearchStrategy[list[Step]]:
    """Streams of these pieces, noise, gaps, and the peer's turns."""
    return st.lists(
        st.one_of(
            st.sampled_from(pieces),
            st.sampled_from(pieces),
            st.binary(max_size=6),
            st.none(),
            st.integers(1, 50),
        ),
        max_size=14,
    )


cut_lengths = st.lists(st.integers(1, 9), min_size=1, max_size=6)
