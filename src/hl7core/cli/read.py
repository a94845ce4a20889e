"""``hl7core read``: decode capture files, without an engine."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from hl7core.cli import exits
from hl7core.cli.output import FORMATS, Writer, writer_for
from hl7core.errors import CaptureFileError
from hl7core.files import CaptureFile
from hl7core.model.packet import PacketBatch
from hl7core.model.session import Ending
from hl7core.wire.decoder import Decoder, DecoderOptions

if TYPE_CHECKING:
    from hl7core.cli.store import Saver

__all__ = ["command"]

_EPILOG = """\b
Examples:
  hl7core read day.pcap                          a line a session
  hl7core read day.pcapng.gz -o jsonl            a JSON object a session
  hl7core read day.pcap -f 'tcp port 2575'       only these packets
  tcpdump -w - port 2575 | hl7core read - -o messages
  hl7core read part1.pcap part2.pcap --store     save them, once
"""


@click.command("read", epilog=_EPILOG)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("-f", "--filter", "bpf", metavar="BPF", default="", help="Decode only packets that this filter takes.")
@click.option("-o", "--output", type=click.Choice(FORMATS), help="Default: text on a terminal, else jsonl.")
@click.option(
    "--store",
    "save",
    is_flag=True,
    help="Save the sessions through the enabled store; stored ones are left as they are.",
)
@click.option("--no-progress", is_flag=True, help="No progress bar.")
@click.pass_obj
def command(
    settings_path: str | None, files: tuple[str, ...], bpf: str, output: str | None, save: bool, no_progress: bool
) -> int:
    """Decode capture files (pcap, pcapng, gzip, a pipe); "-" is standard input.

    Several files are read as one capture, in the order given: a conversation may go on from one to the next.
    """
    # Sessions come and go by the hundred thousand and refer to nothing that refers back: the collector of cycles would
    # look through them all the time and find nothing.
    gc.freeze()
    gc.set_threshold(200_000, 20, 100)
    options = _options(settings_path)
    name = output or ("text" if sys.stdout.isatty() else "jsonl")
    decoder = Decoder(options._replace(watch_messages=name == "messages"))
    writer = writer_for(name, sys.stdout.buffer)
    with _saver(settings_path, save) as saver:
        damage = _read(files, bpf, decoder, writer, saver, progress=sys.stderr.isatty() and not no_progress)
    writer.close()
    for problem in damage:
        click.echo(f"hl7core: {problem}", err=True)
    counters = decoder.counters
    if saver is not None:
        click.echo(saver.summary(), err=True)
        if saver.failed:
            return exits.PARTIAL
    if damage:
        return exits.PARTIAL if counters["packets"] else exits.ERROR
    if not counters["sessions"]:
        click.echo(
            f"hl7core: no HL7 or LIS01 conversation in {counters['packets']} packets"
            f" ({counters['connections']} connections with data)",
            err=True,
        )
        return exits.NOTHING
    return exits.OK


def _read(
    files: tuple[str, ...], bpf: str, decoder: Decoder, writer: Writer, saver: Saver | None, *, progress: bool
) -> list[CaptureFileError]:
    damage = []
    for number, name in enumerate(files):
        try:
            with CaptureFile(name) as capture, _progress(capture, name, shown=progress) as step:
                for batch in _filtered(capture, bpf):
                    sessions = decoder.feed(batch)
                    if sessions:
                        writer.sessions(sessions)
                        if saver is not None:
                            saver.save(sessions)
                    if decoder.messages:
                        writer.messages(decoder.messages)
                        decoder.messages.clear()
                    step()
            if capture.damage is not None:
                damage.append(CaptureFileError(f"{name}: {capture.damage}", packet=capture.damage.packet))
        except CaptureFileError as error:
            if len(files) == 1 or number == 0 == decoder.counters["packets"]:
                raise
            damage.append(error)
    sessions = decoder.end(Ending.CAPTURE_END)
    writer.sessions(sessions)
    if saver is not None:
        saver.save(sessions)
    writer.messages(decoder.messages)
    decoder.messages.clear()
    return damage


def _filtered(capture: CaptureFile, bpf: str) -> Iterator[PacketBatch]:
    if not bpf:
        yield from capture
        return
    from hl7core.bpf import PacketFilter  # loads libpcap, which only a filter needs

    filters: dict[int, PacketFilter] = {}
    for batch in capture:
        link_type = batch.interface.link_type
        if link_type not in filters:
            filters[link_type] = PacketFilter(bpf, link_type)
        kept = filters[link_type].apply(batch)
        if kept is not None:
            yield kept


def _options(settings_path: str | None) -> DecoderOptions:
    """Return what the settings say of decoding; without any, nothing that reads settings is imported."""
    from hl7core.cli.common import has_settings

    if not has_settings(settings_path):
        return DecoderOptions()
    from hl7core.cli.common import load_settings

    return load_settings(settings_path).core.decoder_options()


@contextmanager
def _saver(settings_path: str | None, wanted: bool) -> Iterator[Saver | None]:
    if not wanted:
        yield None
        return
    from hl7core.cli.store import open_saver  # loads the plugins

    with open_saver(settings_path) as saver:
        yield saver


@contextmanager
def _progress(capture: CaptureFile, name: str, *, shown: bool) -> Iterator[Callable[[], None]]:
    if not shown:
        yield lambda: None
        return
    from rich.console import Console  # only on a terminal
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=capture.size or None)
        yield lambda: bar.update(task, completed=capture.position)
