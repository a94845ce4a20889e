"""``hl7core capture``: live, with the source given by flags and a view of the sessions as they end."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

import click

from hl7core.cli import exits
from hl7core.cli.common import load_settings
from hl7core.errors import Hl7coreError

if TYPE_CHECKING:
    from hl7core.contract import State

__all__ = ["command"]

_EPILOG = """\b
Examples:
  hl7core capture -D                              list the interfaces
  hl7core capture -i eth0                         a line a session
  hl7core capture -i eth0 -i eth1 -f 'port 2575'  two interfaces, one port
  hl7core capture -i eth0 -w line.pcapng -b filesize:100000 -b files:10
  hl7core capture -i eth0 -a duration:60 -o jsonl > sessions.jsonl
"""


@click.command("capture", epilog=_EPILOG)
@click.option(
    "-i",
    "--interface",
    "interfaces",
    multiple=True,
    metavar="IFACE",
    help="Where to listen; several times for several.",
)
@click.option("-f", "--filter", "bpf", default="", metavar="BPF", help="Only packets that this filter takes.")
@click.option("-w", "--write", "write", metavar="FILE", help="Keep the raw packets too, as pcapng.")
@click.option(
    "-b",
    "--ring",
    "ring",
    multiple=True,
    metavar="KIND:N",
    help="Another file each filesize:KIB or duration:S; keep files:N.",
)
@click.option("-c", "--count", type=click.IntRange(min=1), help="Stop after so many packets.")
@click.option("-a", "--autostop", metavar="duration:S", help="Stop after so many seconds.")
@click.option("-D", "--list-interfaces", "listing", is_flag=True, help="List the interfaces and exit.")
@click.option(
    "-p", "--no-promiscuous", "quiet_card", is_flag=True, help="Do not put the interface into promiscuous mode."
)
@click.option("--no-store", is_flag=True, help="Save nothing.")
@click.option("-o", "--output", type=click.Choice(("text", "jsonl")), help="Default: text on a terminal, else jsonl.")
@click.pass_obj
def command(
    settings_path: str | None,
    interfaces: tuple[str, ...],
    bpf: str,
    write: str | None,
    ring: tuple[str, ...],
    count: int | None,
    autostop: str | None,
    listing: bool,
    quiet_card: bool,
    no_store: bool,
    output: str | None,
) -> int:
    """Capture live on one or several interfaces and show each session as it ends; sessions are saved.

    Without -i: as the settings say.  Capturing needs rights: see README, Capture rights.
    """
    from hl7core.cli.live import Limit, operate
    from hl7core.contract import SourceRequest
    from hl7core.engine.engine import Engine

    overrides: dict[str, Any] = {"core.enable_persistence": False} if no_store else {}
    from hl7core.settings import reading

    settings = reading.read(reading.find(settings_path), overrides)
    if listing:
        return _list(settings_path)
    from hl7core.engine.sources import default_bpf

    request = SourceRequest(
        interfaces=interfaces,
        bpf=bpf,
        default_bpf=default_bpf(settings.core),
        promiscuous=not quiet_card,
        configured=False,
    )
    engine = Engine(settings, request=request, overrides=overrides)
    shown = output or ("text" if sys.stdout.isatty() else "jsonl")
    if not no_store:
        click.echo(f"sessions go to {settings.output_folder / 'sessions'}", err=True)
    limit = Limit(packets=count or 0, seconds=_duration(autostop))
    if write is None:
        if ring:
            raise click.UsageError("-b needs -w")
        code = operate(engine, output=shown, limit=limit)
        click.echo(_summary(engine.state()), err=True)
        return code
    from hl7core.cli.output.packet_log import PacketLog

    with PacketLog(write, **_ring(ring), noted=None if no_store else settings.output_folder) as log:
        engine.sources.tap = log.put
        code = operate(engine, output=shown, limit=limit)
    click.echo(_summary(engine.state()), err=True)
    click.echo(log.summary(), err=True)
    return code if code != exits.OK or not log.failed else exits.PARTIAL


def _list(settings_path: str | None) -> int:
    from hl7core.plugin_host.registry import Registry

    registry = Registry(load_settings(settings_path))
    found: list[Any] = []
    for name in registry.names():
        if not registry.wanted(name):
            continue
        try:
            plugin = registry.load(name)
        except Hl7coreError as error:
            click.echo(f"hl7core: plugin {name}: {error}", err=True)
            continue
        if hasattr(plugin, "list_interfaces"):
            found += plugin.list_interfaces()
    for interface in found:
        state = "up" if interface.is_up else "down"
        click.echo(f"{interface.name:<16} {state:<5} {', '.join(interface.addresses)}")
    return exits.OK if found else exits.NOTHING


def _summary(state: State) -> str:
    """Say in one line what came, and what did not."""
    lost = state.dropped_kernel + state.dropped_intake
    detail = f" ({state.dropped_kernel} by the kernel, {state.dropped_intake} before decoding)" if lost else ""
    return f"{state.packets} packets decoded, {lost} lost{detail}; {state.sessions} sessions"


def _duration(text: str | None) -> float:
    if text is None:
        return 0.0
    found = re.fullmatch(r"duration:(\d+(?:\.\d+)?)", text)
    if found is None or not float(found[1]):
        raise click.UsageError("-a takes duration:SECONDS, as in -a duration:60")
    return float(found[1])


def _ring(options: tuple[str, ...]) -> dict[str, int]:
    out: dict[str, int] = {}
    for option in options:
        found = re.fullmatch(r"(filesize|duration|files):([1-9]\d*)", option)
        if found is None:
            raise click.UsageError("-b takes filesize:KIB, duration:SECONDS or files:N")
        out[found[1]] = int(found[2])
    if "files" in out and len(out) == 1:
        raise click.UsageError("-b files:N needs -b filesize:KIB or -b duration:SECONDS beside it")
    return out
