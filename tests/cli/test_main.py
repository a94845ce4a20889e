"""The command line as a whole: the help of every command, and wrong use."""

import click
import pytest

from hl7core.cli.main import _COMMANDS, cli
from shell import hl7core


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


@pytest.mark.parametrize("name", _COMMANDS)
def test_every_help_ends_with_examples(name, tmp_path):
    run = hl7core(name, "--help", cwd=tmp_path)
    assert run.returncode == 0
    assert "Examples:\n  " in run.stdout
    assert run.stdout.rstrip().splitlines()[-1].strip().startswith(("hl7core", "sudo hl7core", "tcpdump"))


def test_a_wrong_option_is_exit_2(tmp_path):
    assert hl7core("read", "--no-such-option", cwd=tmp_path).returncode == 2
