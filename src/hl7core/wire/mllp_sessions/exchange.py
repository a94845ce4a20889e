"""One MLLP exchange in the making: a request, what acknowledges it, and the session that becomes of it.

Whether it is complete is decided by :mod:`hl7core.wire.mllp_sessions.acknowledgement` alone, from the MSA-1 codes that
are kept here.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from hl7core.model.frame import Fault
from hl7core.model.session import Element, Ending, Message, Session
from hl7core.wire.connection import Connection, Half
from hl7core.wire.memory_budget import EXCHANGE
from hl7core.wire.mllp_sessions.acknowledgement import canonical, completes, is_accept
from hl7core.wire.peek import Glance

__all__ = ["Exchange", "end_of"]

_COMPLETE: Final = Ending.COMPLETE
_NOTHING: Final[set[str]] = set()  # shared, since nothing is ever added
_new = tuple.__new__  # faster than the constructor of a named tuple


class Exchange:
    """A session in the making.  Default values stand in the class, so that making one is cheap.

    ``ids`` are the control ids that an acknowledgement of it may name, each once; ``owed`` those of a batch that none
    has named yet.  ``whole`` says that no block of it is cut; ``wants_none`` that its request asks for no
    acknowledgement; ``accepted`` and ``applied`` that an accept and an application acknowledgement have come;
    ``complete`` that all it asks for have.  ``weight`` is about what it takes in memory (bytes).  ``is_open``,
    ``is_ended``, ``counted``, ``queue``, ``index`` and ``gaps`` are set by
    :mod:`hl7core.wire.mllp_sessions.unanswered` alone.
    """

    ids: tuple[str, ...] = ("",)
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
    counted = 0
    gaps = 0
    _requests: dict[str, Message] | None = None
    _looked = 0
    queue: OrderedDict[str, Exchange] | None = None
    index: object = None

    def __init__(self, session_id: str, half: Half, start_ns: int, end_ns: int) -> None:
        self.id = session_id
        self.half = half
        self.start_ns = start_ns
        self.end_ns = end_ns
        self.owed = _NOTHING
        self.elements: list[Element] = []
        self.messages: list[Message] = []

    def add_request(self, seen: Glance, *, whole: bool) -> None:
        """Note the control id of a request, and which acknowledgements it asks for (MSH-15 and MSH-16)."""
        self.ids = (seen.control_id,)
        self.accept, self.application = seen.accept_ack, seen.application_ack
        self.wants_none = self.complete = whole and completes(self.accept, self.application, ())

    def add_acknowledgement(self, control_id: str, code: str) -> None:
        """Note an acknowledgement of the message of this control id, with this MSA-1."""
        self.owed.discard(control_id)
        if is_accept(code):
            self.accepted = True
        else:
            self.applied = True
        code = canonical(code)  # so that there are never more than six
        if code not in self.codes:
            self.codes = (*self.codes, code)
            self.complete = self.complete or completes(self.accept, self.application, self.codes)

    def concerns(self, side: int) -> bool:
        """Return whether an acknowledgement by ``side`` that names it answers it, or is another copy of it."""
        return (self.half.side != side) is not self.is_reply

    def awaits(self, side: int, control_id: str, *, accept: bool) -> bool:
        """Return whether it is a request of the other side that has no acknowledgement of this level yet.

        ``side`` acknowledges and names ``control_id``, which is one of its ids; ``accept``: an accept acknowledgement.
        Once false, it stays so.
        """
        if self.half.side == side or self.is_reply:
            return False
        return not (self.accepted if accept else self.applied) or control_id in self.owed

    def request(self, control_id: str) -> Message | None:
        """Return its first message that is no reply and has this control id."""
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

    def mark_evicted(self) -> None:
        """Note on its last element that it was ended for want of memory."""
        element = self.elements[-1]
        self.elements[-1] = element._replace(faults=(*element.faults, Fault("evicted", end_of(element))))

    def session(self, connection: Connection) -> Session:
        """Return it as a session, as it is now."""
        first, second = connection.ends
        device, lis = (second, first) if connection.device_side == 1 else (first, second)
        return _new(Session, (
            self.id, self.start_ns, self.end_ns, device, lis, tuple(self.elements), tuple(self.messages),
            self.complete and self.whole, connection.protocol, self.ending, connection.text, connection.options.sensor,
            (), (), False, None, None, None, None, self.revision,
        ))  # fmt: skip


def end_of(element: Element) -> int:
    """Return the offset right behind an element."""
    text = len(element.content) if element.message is None else element.span[1] - element.span[0]
    return element.offset + len(element.before) + text + len(element.after) + element.missing
