"""The last line of ``capture``: how many packets came, how many were lost, how many sessions they gave."""

from __future__ import annotations

from hl7core.cli.output.text import counted
from hl7core.contract import State

__all__ = ["capture_summary"]


def capture_summary(state: State) -> str:
    """Return the numbers of a capture that has ended, in one line."""
    lost = state.dropped_kernel + state.dropped_intake
    detail = f" ({state.dropped_kernel} by the kernel, {state.dropped_intake} before decoding)" if lost else ""
    packets = counted(state.packets, "packet", digits=True)
    return f"{packets} decoded, {lost} lost{detail}; {counted(state.sessions, 'session', digits=True)}"
