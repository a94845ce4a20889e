"""A batch in one block, taken apart: a message for each MSH, an element for each message and for what stands around."""

from __future__ import annotations

from bisect import bisect_right

from hl7core.model.frame import Fault, Frame
from hl7core.model.session import Element, Message
from hl7core.wire.peek import batch_counts, glance

__all__ = ["batch_parts"]


def batch_parts(
    frame: Frame, text: bytes, spans: list[tuple[int, int]], element: Element, message: Message, number: int
) -> tuple[list[Element], list[Message]]:
    """Return the elements and messages of a batch, whose messages stand at ``spans`` of ``text``.

    ``element`` and ``message`` have what those of ``frame`` have in common; its first message is the session's
    ``number``-th.
    """
    raw, offset, head, tail = frame.raw, frame.offset, frame.head, frame.tail
    faults = [*element.faults, *batch_counts(text, offset + head)]
    if len(spans) > 1 and not text[: spans[0][0]].strip():
        faults.append(Fault("batch-without-header", offset + head + spans[1][0]))
    pieces: list[tuple[int, int, bool]] = []
    at = 0
    for start, end in spans:
        if start > at:
            pieces.append((at, start, False))
        pieces.append((start, end, True))
        at = end
    if at < len(text):
        pieces.append((at, len(text), False))
    begins = [offset] + [offset + head + start for start, _, _ in pieces[1:]]
    standing: list[list[Fault]] = [[] for _ in pieces]
    for fault in faults:  # with the piece that it stands in
        standing[bisect_right(begins, max(fault.offset, offset)) - 1].append(fault)

    elements: list[Element] = []
    messages: list[Message] = []
    last = len(pieces) - 1
    for place, (start, end, is_message) in enumerate(pieces):
        part = text[start:end]
        made = element._replace(
            offset=begins[place],
            before=b"" if place else raw[:head],
            content=b"" if is_message else part,
            after=raw[len(raw) - tail :] if tail and place == last else b"",
            message=None,
            span=(0, 0),
            faults=tuple(standing[place]),
        )
        if is_message:
            seen = glance(part)
            made = made._replace(message=number + len(messages), span=(0, len(part)))
            messages.append(
                message._replace(
                    text=part, control_id=seen.control_id, message_type=seen.message_type, charset=seen.charset,
                    ack_code=seen.ack_code, reply_to=seen.reply_to,
                )
            )  # fmt: skip
        elements.append(made)
    return elements, messages
