"""``hl7core capture``: capture live, from interfaces given as options, and show each session as it ends."""

from __future__ import annotations

import re
from contextlib import ExitStack
from typing import Any

import click

from hl7core.cli import exit_codes
from hl7core.cli.load_settings import load_settings, safe_mode_option
from hl7core.cli.output.formats import chosen_format, output_option
from hl7core.errors import EngineError, Hl7coreError

__all__ = ["command"]

_EPILOG = """\b
Examples:
  hl7core capture -D                              list the interfaces
  hl7core capture -i eth0                         one line per session
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
    help="Interface to capture on. Repeat for several.",
)
@click.option(
    "-f",
    "--filter",
    "bpf",
    default="",
    metavar="BPF",
    help="Capture only matching packets (as in tcpdump).",
)
@click.option("-w", "--write", "write", metavar="FILE", help="Write the raw packets to FILE too, as pcapng.")
@click.option(
    "-b",
    "--ring",
    "ring",
    multiple=True,
    metavar="KIND:N",
    help="With -w: start a new file every filesize:KIB or duration:S; keep the last files:N. Repeatable.",
)
@click.option("-c", "--count", type=click.IntRange(min=1), help="Stop after N packets.", metavar="N")
@click.option("-a", "--autostop", metavar="duration:S", help="Stop after S seconds.")
@click.option("-D", "--list-interfaces", "listing", is_flag=True, help="List the interfaces and exit.")
@click.option(
    "-p", "--no-promiscuous", "quiet_card", is_flag=True, help="Do not put the interface into promiscuous mode."
)
@click.option("--no-store", is_flag=True, help="Save no sessions.")
@safe_mode_option
@output_option("capture")
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
    safe_mode: bool,
    output: str | None,
) -> int:
    """Capture live on one or several interfaces, show each session as it ends, and save it.

    Without -i, the settings name the interfaces.  Capturing needs privileges: see "Capture rights" in the README.
    """
    from hl7core.cli.output.capture_summary import capture_summary
    from hl7core.cli.run_engine import Limit, announce_safe_mode, run_engine
    from hl7core.contract import SourceRequest
    from hl7core.engine.engine import Engine

    overrides: dict[str, Any] = {"core.enable_persistence": False} if no_store else {}
    from hl7core.settings import reading

    settings = reading.read(reading.find(settings_path), overrides)
    if listing:
        return _list(settings_path, safe_mode=safe_mode)
    from hl7core.engine.capture.sources import default_bpf

    request = SourceRequest(
        interfaces=interfaces,
        bpf=bpf,
        default_bpf=default_bpf(settings.core),
        promiscuous=not quiet_card,
        configured=False,
    )
    engine = Engine(settings, request=request, overrides=overrides, safe_mode=safe_mode)
    announce_safe_mode(engine)
    if not no_store:
        click.echo(f"sessions are saved by {settings.core.store} in {settings.output_folder}", err=True)
    limit = Limit(packets=count or 0, seconds=_duration(autostop))
    form = chosen_format(output)
    if write is None:
        if ring:
            raise click.UsageError("-b needs -w: it divides the file that -w writes")
        code = run_engine(engine, output=form, limit=limit)
        click.echo(capture_summary(engine.state()), err=True)
        return code
    from hl7core.cli.output.packet_log import PacketLog

    with ExitStack() as stack:
        try:
            log = stack.enter_context(
                PacketLog(write, **_ring(ring), noted=None if no_store else settings.output_folder)
            )
        except OSError as error:
            raise EngineError(f"{write} cannot be written: {error.strerror}") from error
        engine.sources.tap = log.put
        code = run_engine(engine, output=form, limit=limit)
    click.echo(capture_summary(engine.state()), err=True)
    click.echo(log.summary(), err=True)
    return code if code != exit_codes.OK or not log.failed else exit_codes.PARTIAL


def _list(settings_path: str | None, *, safe_mode: bool) -> int:
    from hl7core.plugin_host.registry import Registry

    registry = Registry(load_settings(settings_path), safe_mode=safe_mode)
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
    return exit_codes.OK if found else exit_codes.NOTHING


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
        raise click.UsageError("-b files:N also needs -b filesize:KIB or -b duration:SECONDS")
    return out
