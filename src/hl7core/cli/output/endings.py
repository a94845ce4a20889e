"""How a session ended, in words: one table of ending and protocol, for every command that shows sessions.

The words claim only what the capture shows: "no answer seen", not "no answer came".  In the LIS01 protocol and its
plain variant (ENQ to EOT) the words for silence depend on who was expected to speak; in MLLP they depend on whether
anything came back at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from hl7core.model.session import ElementType, Ending, Session

__all__ = ["ending_text"]

_Words = str | Callable[[Session], str]


class _Row(NamedTuple):
    """The words for one ending; ``other`` is for the protocols that plugins add."""

    mllp: _Words
    lis01: _Words
    plain: _Words
    other: _Words


def ending_text(session: Session) -> str:
    """Return how ``session`` ended, in a few words ("complete", "no EOT seen").

    A session that is complete though its ending is another was answered late.  An ending that the table does not know
    is described by its own name.
    """
    if session.ending is Ending.COMPLETE and not session.is_complete:
        return "incomplete"
    if session.is_complete and session.ending is not Ending.COMPLETE:
        return "answered late" if any(element.late for element in session.elements) else "complete"
    row = _WORDS.get(session.ending)
    if row is None:
        return re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", session.ending).lower()
    words: _Words = getattr(row, session.protocol if session.protocol in _PROTOCOLS else "other")
    return words if isinstance(words, str) else words(session)


def _mllp_silence(session: Session) -> str:
    """Say what an MLLP exchange was still waiting for."""
    if not session.messages:
        return "nothing followed"
    if session.messages[0].reply_to is not None:
        return "its request was not seen"
    sender = session.messages[0].direction
    if any(element.direction is not sender and not element.missing for element in session.elements):
        return "an acknowledgement is missing"
    return "no answer seen"


def _lis01_silence(session: Session) -> str:
    """Say what an ENQ-to-EOT session was still waiting for: an answer, or the EOT that ends it."""
    said = [element for element in session.elements if element.type is not ElementType.OTHER]
    if not said:
        return "nothing followed"
    last = said[-1]
    if last.type is ElementType.START:
        return "no answer to ENQ seen"
    if last.type is ElementType.MESSAGE:
        return "no answer to the last frame seen"
    if last.type is ElementType.NAK:
        return "nothing followed the NAK"
    if last.type is ElementType.END:  # one that did not end the session: the receiver asked the sender to stop
        return "nothing followed the receiver's EOT"
    return "no EOT seen"


def _everywhere(words: str) -> _Row:
    return _Row(words, words, words, words)


_PROTOCOLS: Final = ("mllp", "lis01", "plain")
_WORDS: Final[Mapping[Ending, _Row]] = {
    Ending.COMPLETE: _everywhere("complete"),
    Ending.SILENT: _Row(_mllp_silence, _lis01_silence, _lis01_silence, "fell silent"),
    Ending.CLOSED: _everywhere("connection closed"),
    Ending.RESET: _everywhere("connection reset"),
    Ending.GAPPED: _everywhere("bytes missing from the capture"),
    Ending.CAPTURE_END: _everywhere("capture ended"),
    Ending.STOPPED: _everywhere("capture stopped"),
    Ending.EVICTED: _everywhere("given up: a limit was reached"),
}
