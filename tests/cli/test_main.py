"""The help of every command, in a terminal of 80 columns."""

import click
import pytest

from hl7core.cli.main import _COMMANDS, cli


def commands(command, context):
    yield context.command_path, command, context
    if isinstance(command, click.Group):
        names = _COMMANDS if command is cli else command.list_commands(context)
        for name in names:
            inner = command.get_command(context, name)
            yield from commands(inner, click.Context(inner, info_name=name, parent=context, terminal_width=80))


ALL = list(commands(cli, click.Context(cli, info_name="hl7core", terminal_width=80)))


@pytest.mark.parametrize(("command", "context"), [each[1:] for each in ALL], ids=[each[0] for each in ALL])
def test_it_fits_and_nothing_is_cut_short(command, context):
    lines = command.get_help(context).splitlines()
    assert [line for line in lines if len(line) > 80] == []
    assert [line for line in lines[1:] if line.endswith("...")] == []
    assert "Examples:" in "\n".join(lines)
