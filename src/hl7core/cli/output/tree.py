"""A message as a tree: each segment, its fields with name and value, and their repetitions and components.

No character of a message reaches the terminal raw: one that is not printable is shown as a visible sign.  Empty fields
are left out.  On a terminal, long values are folded at its width and cut after some lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import click

from hl7core.hl7.names import MessageNames
from hl7core.hl7.tree import Form, MessageLine, MessagePart, MessageTree

__all__ = ["draw", "draw_raw"]

_NAMES: Final = 20
"""The column in which the names begin."""
_VALUES: Final = 54
"""The column in which the values begin."""
_ROOM: Final = 16
"""With fewer columns than this for the values, the terminal does the folding."""
_MOST_LINES: Final = 8


class _Row(NamedTuple):
    depth: int
    label: str
    name: str
    value: str | None


def draw(tree: MessageTree, names: MessageNames, *, width: int = 0) -> Iterator[str]:
    """Yield the lines of a message, with ANSI colours; ``width`` is the terminal's, 0 if there is none."""
    for line in tree:
        if line.form is Form.NEITHER:
            if line.text:
                yield from _folded("    ", line.text, width, 4)
            continue
        title = names.line(line)
        yield f"  {click.style(line.name, fg='cyan', bold=True)}" + (f"  {title}" if title else "")
        for row in _rows(line, names):
            yield from _drawn(row, width)
    if names.note:
        yield click.style(f"  ({names.note})", dim=True)


def draw_raw(tree: MessageTree) -> Iterator[str]:
    """Yield the lines of a message as they are, neither taken apart nor folded."""
    for line in tree:
        if line.text:
            yield "  " + _shown(line.text)


def _rows(line: MessageLine, names: MessageNames) -> Iterator[_Row]:
    kind = ""
    for field in line.fields():
        if not field.text or (line.form is Form.LIS02 and field.number == 1):  # the heading shows the record's letter
            continue
        label = f"{line.name}-{field.number}"
        name = names.field(line, field.number)
        if line.name == "OBX" and field.number == 2:
            kind = field.text
        if not field.divided:
            yield _Row(0, label, name, field.value)
            continue
        yield _Row(0, label, name, None)
        varying = kind if line.name == "OBX" and field.number == 5 else ""
        repetitions = list(field.parts())
        for repetition in repetitions:
            depth, within = 1, label
            if len(repetitions) > 1:
                if not repetition.text:
                    continue
                within = f"{label}[{repetition.number}]"
                if not repetition.divided:
                    yield _Row(1, within, f"repetition {repetition.number}", repetition.value)
                    continue
                yield _Row(1, within, f"repetition {repetition.number}", None)
                depth = 2
            yield from _components(line, field.number, repetition, (depth, within, varying), names)


def _components(
    line: MessageLine, field: int, repetition: MessagePart, at: tuple[int, str, str], names: MessageNames
) -> Iterator[_Row]:
    depth, within, kind = at
    for component in repetition.parts():
        if not component.text:
            continue
        label = f"{within}.{component.number}"
        name = names.component(line, field, component.number, kind)
        if not component.divided:
            yield _Row(depth, label, name, component.value)
            continue
        yield _Row(depth, label, name, None)
        for part in component.parts():
            if part.text:
                called = names.subcomponent(line, field, component.number, part.number, kind)
                yield _Row(depth + 1, f"{label}.{part.number}", called, part.value)


def _drawn(row: _Row, width: int) -> Iterator[str]:
    label = f"    {row.label}".ljust(_NAMES - 2)
    head = f"{label}  {'  ' * row.depth}{row.name}"
    if row.value is None:
        yield click.style(head, dim=True)
        return
    head = head.ljust(_VALUES - 2) + "  "
    yield from _folded(click.style(head, dim=True), row.value, width, len(head))


def _folded(head: str, value: str, width: int, column: int) -> Iterator[str]:
    """Yield ``value`` after ``head``, which ends at ``column``, folded at ``width``."""
    room = width - column
    if not width or room < _ROOM:
        yield head + _shown(value)
        return
    from rich.cells import chop_cells

    shown = _shown(value[: room * _MOST_LINES])
    lines = chop_cells(shown, room) if len(shown) > room or not shown.isascii() else [shown]
    more = len(value) - room * _MOST_LINES
    for number, line in enumerate(lines[:_MOST_LINES]):
        yield (head if number == 0 else " " * column) + line
    if more > 0 or len(lines) > _MOST_LINES:
        yield " " * column + click.style(f"… {len(value)} characters in all (--raw shows them)", dim=True)


def _shown(text: str) -> str:
    """Return ``text`` with a visible sign for each unprintable character (control characters, marks of direction)."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _sign(char) for char in text)


def _sign(char: str) -> str:
    code = ord(char)
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"<U+{code:04X}>"
