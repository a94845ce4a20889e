"""``hl7core read``: decode capture files, without an engine."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import click

from hl7core.cli import exit_codes
from hl7core.cli.output.formats import Writer, chosen_format, output_option, writer_for, writes_messages
from hl7core.cli.output.progress import progress_of_capture
from hl7core.cli.output.text import counted
from hl7core.cli.tune_gc import tune_gc
from hl7core.errors import CaptureFileError, SettingsError
from hl7core.files import CaptureFile
from hl7core.model.packet import PacketBatch
from hl7core.model.session import Session
from hl7core.wire.decoder import Decoder, DecoderOptions
from hl7core.wire.encrypted import Encrypted
from hl7core.wire.framing.framer import Dialect
from hl7core.wire.tcp.dissect import LINK_TYPES
from hl7core.wire.tls.keylog import KeyLog

if TYPE_CHECKING:
    from hl7core.cli.read_store import Saver

__all__ = ["command"]

_PCAPNG = b"\n\r\r\n"
_EPILOG = """\b
Examples:
  hl7core read day.pcap                          one line per session
  hl7core read day.pcapng.gz -o jsonl            one JSON object per session
  hl7core read day.pcap -f 'tcp port 2575'       only the packets of a port
  tcpdump -w - port 2575 | hl7core read - -o messages
  hl7core read part1.pcap part2.pcap --store     save the sessions
  hl7core read day.pcap --keylog keys.log        decrypt TLS as well
"""


@click.command("read", epilog=_EPILOG)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "-f",
    "--filter",
    "bpf",
    metavar="BPF",
    default="",
    help="Decode only matching packets (as in tcpdump).",
)
@output_option("read")
@click.option(
    "--store",
    "save",
    is_flag=True,
    help="Save the sessions to the store; those already stored stay unchanged.",
)
@click.option(
    "-j",
    "--jobs",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Decode with N processes (only for -o jsonl); default: one per processor for large files.",
)
@click.option(
    "--keylog",
    "keylog",
    metavar="KEYS",
    help="Decrypt TLS with this key log (SSLKEYLOGFILE), or with the one in a pcapng file. Needs hl7core[tls].",
)
@click.option("--no-progress", is_flag=True, help="Show no progress bar.")
@click.pass_obj
def command(
    settings_path: str | None,
    /,
    files: tuple[str, ...],
    bpf: str,
    output: str | None,
    save: bool,
    jobs: int | None,
    keylog: str | None,
    no_progress: bool,
) -> int:
    """Decode capture files: pcap or pcapng, gzipped or not, or a pipe.  "-" is standard input.

    Several files are read as one capture, in the order given, so a conversation may continue in the next file.
    """
    tune_gc()
    options, dialects = _options(settings_path)
    keys = _keys(keylog)
    name = chosen_format(output)
    decoding = _Decoding(options, dialects, keys)
    with _saver(settings_path, save) as saver, _open_output(name, decoding, files, bpf, saver, jobs) as out:
        damage = _read(files, bpf, out.decode, keys, progress=not no_progress)
        out.finish()
    for problem in damage:
        click.echo(f"hl7core: {problem}", err=True)
    counters = out.counters
    secret = out.encrypted.sentence(0 if keys is not None else counters["tls"])
    if secret:
        click.echo(f"hl7core: {secret}", err=True)
    if saver is not None:
        click.echo(saver.summary(), err=True)
        if saver.failed:
            return exit_codes.PARTIAL
    if damage:
        return exit_codes.PARTIAL if counters["packets"] else exit_codes.ERROR
    if not counters["sessions"]:
        click.echo(
            f"hl7core: no HL7 or LIS01 conversation in {counted(counters['packets'], 'packet')}"
            f" ({counted(counters['connections'], 'connection')} with data)",
            err=True,
        )
        return exit_codes.NOTHING
    return exit_codes.OK


class _Decoding(NamedTuple):
    """How to decode.  With dialects or keys, one process decodes everything."""

    options: DecoderOptions
    dialects: tuple[Dialect, ...] = ()
    keys: KeyLog | None = None


class _Output(Protocol):
    """Decodes packets and writes what they give."""

    @property
    def encrypted(self) -> Encrypted:
        """The encrypted connections."""

    @property
    def counters(self) -> dict[str, int]:
        """What was seen, and what was given up."""

    def decode(self, batch: PacketBatch) -> None:
        """Decode ``batch`` and write the sessions that end in it."""

    def finish(self) -> None:
        """End and write the open sessions, and end the output."""


class _Sessions:
    """Decodes to sessions, and gives them to a writer and, if there is one, a store."""

    def __init__(self, decoder: Decoder, writer: Writer, saver: Saver | None) -> None:
        self._decoder = decoder
        self._writer = writer
        self._saver = saver

    @property
    def counters(self) -> dict[str, int]:
        return self._decoder.counters

    @property
    def encrypted(self) -> Encrypted:
        return self._decoder.encrypted

    def decode(self, batch: PacketBatch) -> None:
        self._write(self._decoder.feed(batch))

    def finish(self) -> None:
        for sessions in self._decoder.ending():
            self._write(sessions)
        self._writer.close()

    def _write(self, sessions: list[Session]) -> None:
        messages = self._decoder.messages
        if sessions:
            self._writer.sessions(sessions)
            if self._saver is not None:
                self._saver.save(sessions)
        if messages:
            self._writer.messages(messages)
            messages.clear()


@contextmanager
def _open_output(
    name: str, decoding: _Decoding, files: tuple[str, ...], bpf: str, saver: Saver | None, jobs: int | None
) -> Iterator[_Output]:
    """Yield what decodes and writes, with several processes where they make it faster."""
    out = sys.stdout.buffer
    options, dialects, keys = decoding
    if name != "jsonl" or saver is not None or dialects or keys is not None:
        decoder = Decoder(options._replace(watch_messages=writes_messages(name)), dialects, keys=keys)
        yield _Sessions(decoder, writer_for(name, out), saver)
        return
    from hl7core.cli.parallel import MultiProcess, SingleProcess, process_count

    count = process_count(files, jobs)
    if count == 1:
        yield SingleProcess(options, out)
        return
    processes = MultiProcess(options, out, count, lambda decode: _read(files, bpf, decode, None, progress=False))
    try:
        yield processes
    finally:
        processes.close()


def _read(
    files: tuple[str, ...], bpf: str, decode: Callable[[PacketBatch], None], keys: KeyLog | None, *, progress: bool
) -> list[CaptureFileError]:
    """Read ``files`` and call ``decode`` with each batch; return what is wrong with the files."""
    damage = []
    packets = 0
    for number, name in enumerate(files):
        unknown: Counter[int] = Counter()
        try:
            with CaptureFile(name) as capture, progress_of_capture(capture, name, shown=progress) as step:
                for batch in _filtered(capture, bpf):
                    if keys is not None:
                        keys.add(capture.take_secrets())
                    packets += len(batch.starts)
                    if batch.interface.link_type not in LINK_TYPES:
                        unknown[batch.interface.link_type] += len(batch.starts)
                    decode(batch)
                    step()
            if capture.damage is not None:
                damage.append(capture.damage)
        except CaptureFileError as error:
            if len(files) == 1 or number == 0 == packets:
                raise
            damage.append(error)
        for link_type, count in sorted(unknown.items()):
            what = f"{name}: {counted(count, 'packet')} of link type {link_type}, which cannot be read"
            damage.append(CaptureFileError(f"{what}: capture on an interface that has Ethernet or IP packets"))
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


def _options(settings_path: str | None) -> tuple[DecoderOptions, tuple[Dialect, ...]]:
    """Return the settings for decoding and the plugins' dialects.  If nothing is set, no settings code is imported."""
    from hl7core.cli.load_settings import has_settings

    if not has_settings(settings_path):
        return DecoderOptions(), ()
    from hl7core.cli.dialects import enabled_dialects, pin_problems
    from hl7core.cli.load_settings import load_settings

    settings = load_settings(settings_path)
    dialects = enabled_dialects(settings, lambda text: click.echo(f"hl7core: {text}", err=True))
    problems = pin_problems(settings, dialects)
    if problems:
        raise SettingsError(*problems)
    return settings.core.decoder_options(), dialects


def _keys(path: str | None) -> KeyLog | None:
    """Return the key log in the file ``path``.  Raises click.UsageError, before any capture is read."""
    if path is None:
        return None
    try:
        import cryptography  # noqa: F401 - only to see whether it is installed
    except ImportError:
        raise click.UsageError("--keylog needs the package cryptography: pip install 'hl7core[tls]'") from None
    try:
        with Path(path).open("rb") as file:
            text = file.read(4)
            if text == _PCAPNG:  # its keys are in the capture itself, and are added as it is read
                return KeyLog()
            keys = KeyLog(text + file.read())
    except OSError as error:
        raise click.UsageError(f"the key log {path} cannot be read: {error.strerror or error}") from None
    if not keys:
        raise click.UsageError(f"{path} is not a key log: it has no line of LABEL CLIENT_RANDOM SECRET (SSLKEYLOGFILE)")
    return keys


@contextmanager
def _saver(settings_path: str | None, wanted: bool) -> Iterator[Saver | None]:
    if not wanted:
        yield None
        return
    from hl7core.cli.read_store import open_saver  # loads the plugins

    with open_saver(settings_path) as saver:
        yield saver
