r"""The tests that every dialect's framer must pass, so that no byte is lost and no noise becomes a session.

::

    class TestMyDialect(FramerContract):
        def make_dialect(self): return MY_DIALECT
        def pieces(self): return [b"\x02whole frame\x03", b"\x06"]
        def conversation(self): return b"\x02whole frame\x03", b"\x06"

It needs pytest and hypothesis, which the extra ``hl7core[testing]`` brings.
"""

# ruff: noqa: S101 - these are tests: they assert

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hl7core.model.frame import Frame, FrameKind
from hl7core.testing.noise import NOISE
from hl7core.wire.framing.framer import Dialect, Framer

__all__ = ["FramerContract", "Step", "codes", "cut_lengths", "frames_of", "hold_the_law", "joined", "recut", "streams"]

Step = bytes | int | None
"""Bytes to feed, a count to skip, or None to settle."""

_WITHOUT_TURNS: Final = {FrameKind.BLOCK, FrameKind.ACK, FrameKind.NAK, FrameKind.STRAY, FrameKind.GAP}
_ALLOWANCE: Final = 64 * 1024
_LARGEST: Final = 4096


def frames_of(framer: Framer, *steps: Step) -> list[Frame]:
    """Return all frames that the steps produce; the stream is closed after the last step."""
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
    """Return the codes of a frame's faults."""
    return [fault.code for fault in frame.faults]


def recut(steps: Sequence[Step], cuts: Sequence[int]) -> list[Step]:
    """Return the same steps with their bytes cut into pieces of the lengths ``cuts``, repeated as needed."""
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


def joined(steps: Sequence[Step]) -> list[Step]:
    """Return the same steps with adjacent bytes joined into one step."""
    again: list[Step] = []
    for step in steps:
        before = again[-1] if again else None
        if isinstance(step, bytes) and isinstance(before, bytes):
            again[-1] = before + step
        else:
            again.append(step)
    return again


def hold_the_law(make: Callable[[], Framer], steps: Sequence[Step], cuts: Sequence[int]) -> None:
    """Assert that every cut gives the same frames, and that their raw bytes, joined, are the stream."""
    frames = frames_of(make(), *joined(steps))
    assert frames_of(make(), *recut(steps, [1])) == frames, "the frames differ when the stream is fed byte by byte"
    assert frames_of(make(), *recut(joined(steps), cuts)) == frames, (
        "the frames differ when the stream is cut differently"
    )
    stream: list[int | None] = []
    for step in steps:
        stream += [None] * step if isinstance(step, int) else list(step or b"")
    at = frames[0].offset if frames else 0
    start = at
    for frame in frames:
        assert frame.offset == at, "a frame does not start where the previous one ended"
        assert bool(frame.raw) != bool(frame.missing), "a frame must either have bytes or stand for missing ones"
        assert (frame.kind is FrameKind.GAP) == bool(frame.missing), (
            "frames of missing bytes, and only those, must be of kind GAP"
        )
        if frame.raw:
            assert list(frame.raw) == stream[at - start : frame.end - start], (
                "the frame's raw bytes differ from the stream's"
            )
            assert 0 <= frame.head <= len(frame.raw) - frame.tail, "head and tail overlap"
        assert all(frame.offset <= fault.offset <= frame.end for fault in frame.faults), (
            "a fault's offset is outside its frame"
        )
        assert len(frame.faults) == len(set(codes(frame))), "a frame has the same fault twice"
        at = frame.end
    assert at - start == len(stream), "bytes were lost"


def streams(pieces: Sequence[bytes]) -> st.SearchStrategy[list[Step]]:
    """Return a strategy for streams made of these pieces, noise, gaps, and moments when the peer speaks."""
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
"""A strategy for the lengths to cut a stream into."""

_any_class = settings(suppress_health_check=[HealthCheck.differing_executors], deadline=None)


class FramerContract(ABC):
    """Inherit from it in a class whose name begins with ``Test`` and define the three abstract methods."""

    @abstractmethod
    def make_dialect(self) -> Dialect:
        """Return the dialect."""

    @abstractmethod
    def pieces(self) -> Sequence[bytes]:
        """Return frames, replies and parts of them; the test streams are composed of these."""

    @abstractmethod
    def conversation(self) -> tuple[bytes, bytes]:
        """Return the shortest complete conversation: the opener's bytes and the other side's."""

    def make(self) -> Framer:
        """Return a new framer for messages of at most 4 KiB."""
        return self.make_dialect().make(_LARGEST, 1000)

    @_any_class
    @given(st.data())
    def test_however_the_packets_cut_them_the_same_bytes_give_the_same_frames(self, data: st.DataObject) -> None:
        """The law of hl7core.Framer."""
        hold_the_law(self.make, data.draw(streams(self.pieces())), data.draw(cut_lengths))

    def test_its_frames_are_of_kinds_that_its_sessions_know(self) -> None:
        """Without turns, a session is a block and its answer, and knows no ENQ, EOT or DATA."""
        if not self.make_dialect().turns:
            found = {
                frame.kind for data in (*self.conversation(), *self.pieces()) for frame in frames_of(self.make(), data)
            }
            assert found <= _WITHOUT_TURNS, "use BLOCK for messages, or set turns=True"

    def test_its_frames_begin_at_the_offset_that_it_was_given(self) -> None:
        """A connection may be detected after its first byte."""
        for data in self.conversation():
            for frame in frames_of(self.make(), data)[:1]:
                assert frame.offset == 1000

    def test_what_it_holds_is_bounded_by_the_largest_message(self) -> None:
        """An endless frame, or endless noise, does not fill the memory."""
        for opening in self.pieces():
            for noise in (b"x", b"\0", b"\xfe"):
                framer = self.make()
                for data in (opening[:-1] or opening, *[noise * 1024] * 256):
                    framer.feed(data)
                    assert framer.pending <= _LARGEST + _ALLOWANCE

    def test_nothing_is_pending_between_frames(self) -> None:
        """After a whole conversation and a silence, nothing is left in the framer."""
        for data in self.conversation():
            framer = self.make()
            framer.feed(data)
            framer.settle()
            assert framer.pending == 0

    def test_its_conversations_are_recognised(self) -> None:
        """Some prefix of the conversation is recognized for certain, and no shorter one is ruled out."""
        score = self.make_dialect().score
        opener, other = self.conversation()
        answers = [score(opener[:size], b"") for size in range(1, len(opener) + 1)] + [score(opener, other)]
        assert answers[-1] >= 2
        sure = next(place for place, answer in enumerate(answers) if answer >= 2)
        assert 0 not in answers[:sure], (
            "score returned 0 before it was certain: detection drops a connection at the first 0"
        )

    def test_noise_is_not_taken_for_it(self) -> None:
        """The first bytes of other protocols are never recognized for certain."""
        score = self.make_dialect().score
        for name, (opener, other) in NOISE.items():
            assert score(opener, other) < 2, name
            assert score(opener, b"") < 2, name

    @_any_class
    @given(st.integers(0, 1 << 64), st.integers(0, 200), st.integers(0, 200))
    def test_random_bytes_are_not_taken_for_it(self, seed: int, opener: int, other: int) -> None:
        """Nor do they make it raise."""
        noise = Random(seed)  # hypothesis' own bytes contain strings from the sources, such as a header
        assert self.make_dialect().score(noise.randbytes(opener), noise.randbytes(other)) < 2
