"""One MLLP exchange in the making: a block, what acknowledges it, and which acknowledgements it waits for.

Which ones a request waits for: HL7 v2 chapter 2.9 (original and enhanced mode), tables 0008 and 0155.
"""

from __future__ import annotations

from typing import Final

from hl7core.model.session import Element, Ending, Message
from hl7core.wire.connection import Half
from hl7core.wire.peek import Glance

__all__ = ["ASKED", "NEVER", "POSITIVE", "Exchange"]

_COMPLETE: Final = Ending.COMPLETE
ASKED: Final = frozenset({"AL", "SU"})
"""The values of MSH-15 and MSH-16 for which an acknowledgement comes if all is well."""
NEVER: Final = frozenset({"NE", ""})
"""Those for which none ever comes, where the other of the two is given."""
POSITIVE: Final = frozenset({"AA", "CA"})
"""The values of MSA-1 that accept."""


class Exchange:
    """A session in the making.  What is usual stands in the class, so that making one is cheap."""

    control_id = ""
    batch: tuple[str, ...] = ()
    is_reply = False
    needs_accept = False
    needs_application = False
    accepted = False
    applied = False
    complete = False
    whole = True
    gapped = False
    revision = 0
    ending = _COMPLETE

    def __init__(self, session_id: str, half: Half, start_ns: int, end_ns: int) -> None:
        self.id = session_id
        self.half = half
        self.start_ns = start_ns
        self.end_ns = end_ns
        self.owed: set[str] = set()  # of a batch: the messages that no acknowledgement has named yet
        self.elements: list[Element] = []
        self.messages: list[Message] = []

    def ask(self, seen: Glance, *, whole: bool) -> None:
        """Note which acknowledgements a request asks for (MSH-15 and MSH-16)."""
        self.control_id = seen.control_id
        if seen.accept_ack or seen.application_ack:
            self.needs_accept = seen.accept_ack in ASKED
            self.needs_application = seen.application_ack in ASKED
            # Only "never" is certain at once; "on error" (ER) waits, and silence then means success.
            self.complete = whole and seen.accept_ack in NEVER and seen.application_ack in NEVER
        else:
            self.needs_application = True

    def waits_for(self, code: str) -> bool:
        """Say whether no acknowledgement of this level (C.: accept, A.: application) has come yet."""
        return not (self.accepted if code[:1] == "C" else self.applied)

    def names(self, control_id: str) -> bool:
        """Say whether an acknowledgement of ``control_id`` is meant for it."""
        return control_id == self.control_id or control_id in self.batch

    def settle(self, code: str) -> None:
        """Take an acknowledgement into account."""
        if code[:1] == "C":
            self.accepted = True
            if code != "CA":  # refused on acceptance: no application acknowledgement will follow
                self.complete = True
        else:
            self.applied = True
        if self.accepted or not self.needs_accept:
            self.complete = self.complete or self.applied or not self.needs_application
        elif self.applied and not self.needs_application:
            self.complete = True
