"""The last line of ``capture``."""

from hl7core.cli.output.capture_summary import capture_summary
from hl7core.contract import State

EMPTY = State(
    running=False, paused=False, capturing=False, sources=(), packets=0, dropped_intake=0, dropped_kernel=0,
    open_sessions=0, sessions=0, sessions_in_memory=0, unsaved=0, counters=(), notices=(),
)  # fmt: skip


def test_what_was_lost_is_said_with_the_place_where_it_was_lost():
    state = EMPTY._replace(packets=90, dropped_kernel=3, dropped_intake=4, sessions=2)
    assert capture_summary(state) == "90 packets decoded, 7 lost (3 by the kernel, 4 before decoding); 2 sessions"
    many = EMPTY._replace(packets=123_456, sessions=1_000)
    assert capture_summary(many) == "123456 packets decoded, 0 lost; 1000 sessions", "digits alone, for scripts"
    assert capture_summary(EMPTY) == "0 packets decoded, 0 lost; 0 sessions"
