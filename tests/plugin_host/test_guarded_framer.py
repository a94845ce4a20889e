import pytest

from hl7core.model.frame import Frame, FrameKind
from plugin_host.parts import ERRORS, Lines, dialect, service


def framed(offered, *, largest=100, offset=0):
    """The guarded framer of what a plugin offers, and the dispatch."""
    with service({"a": {"register_framers": lambda self: iter([offered])}}) as dispatch:
        (guarded,) = dispatch.dialects()
        return guarded, guarded.make(largest, offset), dispatch


def test_a_dialect_works_through_its_guard():
    guarded, framer, _ = framed(dialect(), offset=10)
    assert (guarded.name, guarded.turns, guarded.score(b"", b"")) == ("vendor", True, 3)
    assert framer.name == "vendor"
    frames = [*framer.feed(b"ab\nc"), *framer.skip(5), *framer.feed(b"d\ne"), *framer.settle()]
    assert framer.pending == 1
    frames += framer.close()
    assert [(str(frame.kind), frame.offset, frame.raw, frame.missing) for frame in frames] == [
        ("block", 10, b"ab\n", 0),
        ("stray", 13, b"c", 0),
        ("gap", 14, b"", 5),
        ("block", 19, b"d\n", 0),
        ("stray", 21, b"e", 0),
    ]


@pytest.mark.parametrize("answer", [*ERRORS, "sure", 9, -4, None], ids=str)
def test_a_score_is_a_number_from_0_to_3_whatever_the_plugin_does(answer):
    def score(opener, other):
        if isinstance(answer, BaseException):
            raise answer
        return answer

    guarded, _, _ = framed(dialect(score=score))
    assert guarded.score(b"a", b"b") == (3 if answer == 9 else 0)


@pytest.mark.parametrize("method", ["make", "feed", "skip", "settle", "close"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_framer_that_raises_loses_no_byte(method, error):
    class Bad(Lines):
        pass

    def fail(*_):
        raise error

    if method == "make":
        _, framer, _ = framed(dialect(make=fail))
    else:
        setattr(Bad, method, fail)
        _, framer, _ = framed(dialect(make=lambda largest, offset: Bad(offset)))
    frames = [*framer.feed(b"ab\nc"), *framer.settle(), *framer.skip(4), *framer.feed(b"d\ne"), *framer.close()]
    position = 0
    joined = b""
    for frame in frames:
        assert frame.offset == position
        position += len(frame.raw) + frame.missing
        joined += frame.raw
    assert joined == b"ab\ncd\ne"
    assert position == 11
    assert sum(frame.missing for frame in frames) == 4
    if method != "close":
        assert "dialect-failed" in str(frames)


@pytest.mark.parametrize(
    "frames",
    [
        [Frame(FrameKind.BLOCK, 0, b"other")],
        [Frame(FrameKind.BLOCK, 0, b"abcd")],
        [Frame(FrameKind.GAP, 0, b"", missing=3)],
        5,
        ["frame"],
    ],
    ids=str,
)
def test_a_framer_that_invents_bytes_is_dropped(frames):
    class Bad(Lines):
        def feed(self, data):
            return frames

    _, framer, _ = framed(dialect(make=lambda largest, offset: Bad(offset)))
    assert [frame.raw for frame in framer.feed(b"abc")] == [b"abc"]
    assert [frame.raw for frame in framer.feed(b"def")] == [b"def"]
