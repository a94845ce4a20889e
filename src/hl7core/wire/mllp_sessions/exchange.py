"""One MLLP exchange in the making: a block, what acknowledges it, and which acknowledgements it waits for.

Which ones a request waits for: HL7 v2 chapter 2.9 (original and enhanced mode), tables 0008 and 0155.  The law of what
it waits for: it never grows, so what has once been found not to wait for an acknowledgement need not be asked again.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from hl7core.model.session import Element, Ending, Message
from hl7core.wire.connection import Half
from hl7core.wire.memory_budget import EXCHANGE
from hl7core.wire.mllp_sessions.acknowledgement import canonical, completes, is_accept
from hl7core.wire.peek import Glance

__all__ = ["Exchange", "end_of"]

_COMPLETE: Final = Ending.COMPLETE
_NOTHING: Final[set[str]] = set()  # shared, since nothing is ever added


class Exchange:
    """A session in the making.  What is usual stands in the class, so that making one is cheap.

    ``wants_none`` says that its request asks for no acknowledgement, ``is_open`` that it waits, ``is_ended`` that it
    has ended (or changed since) and is still to be told.
    ``weight`` is about what it takes in memory; ``weighed``, ``line``, ``by_id`` and ``gaps`` are
    :mod:`hl7core.wire.mllp_sessions.unanswered`'s alone.
    """

    control_id = ""
    batch: tuple[str, ...] = ()
    is_reply = False
    accept = ""
    application = ""
    codes: tuple[str, ...] = ()
    accepted = False
    applied = False
    complete = False
    wants_none = False
    whole = True
    gapped = False
    is_open = False
    is_ended = False
    revision = 0
    ending = _COMPLETE
    weight = EXCHANGE
    weighed = 0
    gaps = 0
    _requests: dict[str, Message] | None = None
    _looked = 0
    line: OrderedDict[str, Exchange] | None = None
    by_id: object = None

    def __init__(self, session_id: str, half: Half, start_ns: int, end_ns: int) -> None:
        self.id = session_id
        self.half = half
        self.start_ns = start_ns
        self.end_ns = end_ns
        self.owed = _NOTHING  # of a batch: the messages that no acknowledgement has named yet
        self.elements: list[Element] = []
        self.messages: list[Message] = []

    def ask(self, seen: Glance, *, whole: bool) -> None:
        """Note which acknowledgements a request asks for (MSH-15 and MSH-16)."""
        self.control_id = seen.control_id
        self.accept, self.application = seen.accept_ack, seen.application_ack
        self.wants_none = self.complete = whole and completes(self.accept, self.application, ())

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids that an acknowledgement of it may name, each once."""
        return tuple(dict.fromkeys((self.control_id, *self.batch))) if self.batch else (self.control_id,)

    def concerns(self, side: int) -> bool:
        """Say whether an acknowledgement by ``side`` that names it is of it, or is the same as it."""
        return (self.half.side != side) is not self.is_reply

    def awaits(self, side: int, control_id: str, code: str) -> bool:
        """Say whether it is a request that no acknowledgement of this level (C.: accept, A.: application) answers yet.

        ``side`` acknowledges, and names ``control_id``, which is one of its ids.
        """
        if self.half.side == side or self.is_reply:
            return False
        return not (self.accepted if is_accept(code) else self.applied) or control_id in self.owed

    def settle(self, control_id: str, code: str) -> None:
        """Take an acknowledgement into account."""
        self.owed.discard(control_id)
        if is_accept(code):
            self.accepted = True
        else:
            self.applied = True
        code = canonical(code)  # so that there are never more than a few
        if code not in self.codes:
            self.codes = (*self.codes, code)
            self.complete = self.complete or completes(self.accept, self.application, self.codes)

    def request(self, control_id: str) -> Message | None:
        """Return its first message that asks and goes by ``control_id``."""
        first = self.messages[0]
        if first.control_id == control_id and first.reply_to is None:
            return first
        if self._requests is None:
            self._requests = {}
        for message in self.messages[self._looked :]:
            if message.reply_to is None:
                self._requests.setdefault(message.control_id, message)
        self._looked = len(self.messages)
        return self._requests.get(control_id)


def end_of(element: Element) -> int:
    """Return the offset right behind an element."""
    text = len(element.content) if element.message is None else element.span[1] - element.span[0]
    return element.offset + len(element.before) + text + len(element.after) + element.missing
