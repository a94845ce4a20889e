"""``hl7core sessions export``: stored sessions for other programs, one after the other, so that memory stays flat."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import click

from hl7core import __version__
from hl7core.cli import exits
from hl7core.cli.common import load_settings
from hl7core.cli.filters import filtered
from hl7core.cli.output.formats import FORMATS, format_of_file, output_option
from hl7core.cli.output.outfile import open_output
from hl7core.cli.output.progress import over_time
from hl7core.cli.prefix import MANY, begins_with
from hl7core.cli.session_access import Desk, all_sessions, open_desk
from hl7core.model.packet import Interface
from hl7core.model.session import Session, SessionQuery
from hl7core.wire.pcap.reader import PcapngWriter

if TYPE_CHECKING:
    from hl7core.cli.original_packets import Kept

__all__ = ["command"]

_EPILOG: Final = """\b
Examples:
  hl7core sessions export --since 2026-11-20 -w day.jsonl
  hl7core sessions export --specimen 4711 -o hl7
  hl7core sessions export --status failed -w failed.csv
  hl7core sessions export 01978a3c-5b1e -w one.pcapng
  hl7core sessions export --packets line_00001.pcapng -w line.pcapng
"""
_REBUILT: Final = (
    "Rebuilt by hl7core from stored sessions, their packets not being kept. As captured: addresses, ports, times, every"
    " byte said. Made up: handshakes, sequence numbers (so a decoder gives these sessions other ids), bare"
    " acknowledgements, MAC addresses."
)
_ORIGINAL: Final = "Original packets of stored sessions, as hl7core captured them."


@click.command("export", short_help="Write sessions as hl7, json, jsonl, csv or pcapng.", epilog=_EPILOG)
@click.argument("ids", nargs=-1, metavar="[ID]...")
@filtered
@click.option("-n", "--limit", type=click.IntRange(min=1), help="At most so many, the newest.")
@output_option("export", text="Default: as the file's name ends, else jsonl.")
@click.option("-w", "--output-file", "file", metavar="FILE", help="Where to write, mode 0600; default standard output.")
@click.option(
    "--packets",
    multiple=True,
    metavar="CAPTURE",
    help="For pcapng: a kept capture that holds the original packets; several times for several. Default: what"
    " `capture -w` has written on this data folder.",
)
@click.option("--rebuild", is_flag=True, help="For pcapng: do not look for original packets.")
@click.option("--no-progress", is_flag=True, help="No progress bar.")
@click.pass_obj
def command(
    settings_path: str | None,
    /,
    ids: tuple[str, ...],
    query: SessionQuery,
    limit: int | None,
    output: str | None,
    file: str | None,
    packets: tuple[str, ...],
    rebuild: bool,
    no_progress: bool,
) -> int:
    """Write stored sessions as hl7, json, jsonl, csv or pcapng; all filters that are given must fit.

    The first letters of an ID are enough.  pcapng has the original packets where they were kept, else packets rebuilt
    from the session; it says which.
    """
    chosen = output or format_of_file(Path(file or "").suffix)
    if chosen == "pcapng" and (file is None or file == "-") and sys.stdout.isatty():
        raise click.UsageError("pcapng is nothing to read on a terminal: name a file with -w, or pipe it on")
    if chosen != "pcapng" and (packets or rebuild):
        raise click.UsageError("--packets and --rebuild are for -o pcapng")
    with open_desk(settings_path) as desk:
        found, missing = _named(desk, ids)
        if ids and not found:
            return _nothing(missing)
        asked = query._replace(ids=tuple(found))
        source = _Source(desk, asked, limit, progress=not no_progress and file not in (None, "-"))
        if not source.any():
            return _nothing(missing)
        with open_output(file) as out:
            make = FORMATS[chosen].make
            if make is None:
                _pcapng(settings_path, source, out, packets, rebuild=rebuild)
            else:
                form = make(saved=True)
                out.write(form.start())
                for session in source():
                    out.write(form.of(session))
                out.write(form.end())
    if file not in (None, "-"):
        click.echo(f"{source.count:,} sessions written to {file}", err=True)
    for one in missing:
        click.echo(f"no session {one}", err=True)
    return exits.PARTIAL if missing else exits.OK


class _Source:
    """The sessions asked for; each call asks anew, so that none has to be kept."""

    def __init__(self, desk: Desk, query: SessionQuery, limit: int | None, *, progress: bool) -> None:
        self._desk = desk
        self._query = query
        self._limit = limit
        self._progress = progress
        self.count = 0
        self.first = self.last = 0.0

    def any(self) -> bool:
        """Look for the first and the last; say whether there are any."""
        ends = [
            list(self._desk.sessions(self._query._replace(limit=1, newest_first=newest))) for newest in (False, True)
        ]
        if not ends[0] or not ends[1]:
            return False
        self.first, self.last = ends[0][0].started_at.timestamp(), ends[1][0].started_at.timestamp()
        return True

    def __call__(self, doing: str = "writing") -> Iterator[Session]:
        self.count = 0
        with over_time(doing, shown=self._progress) as step:
            for session in all_sessions(self._desk, self._query, self._limit):
                self.count += 1
                if self.count % 50 == 1:
                    step(self.count, self.first, session.start_ns / 1e9, self.last)
                yield session


def _named(desk: Desk, ids: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Return the full ids that were meant, and what names none.  Raises click.UsageError if one is ambiguous."""
    found: dict[str, None] = {}
    missing: list[str] = []
    for one in ids:
        matches = [session.id for session in begins_with(desk, one)]
        if len(matches) > 1:
            many = len(matches) if len(matches) <= MANY else f"more than {MANY}"
            raise click.UsageError(f"{many} sessions begin with {one}; give more of the id")
        if matches:
            found[matches[0]] = None
        else:
            missing.append(one)
    return list(found), missing


def _nothing(missing: list[str]) -> int:
    click.echo(f"no session {', '.join(missing)}" if missing else "no session fits", err=True)
    return exits.NOTHING


def _pcapng(
    settings_path: str | None, source: _Source, out: BinaryIO, packets: tuple[str, ...], *, rebuild: bool
) -> None:
    """Write original packets of the sessions that were kept as a section of their own, then the others, rebuilt."""
    kept = None if rebuild else _kept(settings_path, source, packets)
    writer = PcapngWriter()
    if kept is not None and kept.ids:
        out.write(writer.header(f"hl7core {__version__}", kept.interfaces, _ORIGINAL))
        out.writelines(writer.batch(batch, kept.interfaces.index(batch.interface)) for batch in kept.batches())
    rebuilt = _rebuilt(source, out.write, writer, kept.ids if kept is not None else frozenset())
    originals = source.count - rebuilt
    for problem in kept.problems if kept is not None else ():
        click.echo(f"hl7core: {problem}", err=True)
    if originals:
        click.echo(f"{originals:,} sessions as original packets", err=True)
    if rebuilt:
        why = "" if rebuild else ", their packets not being kept whole"
        click.echo(
            f"{rebuilt:,} sessions rebuilt{why}: same bytes and times, but made-up sequence numbers, so that a decoder"
            " gives them other ids",
            err=True,
        )


def _kept(settings_path: str | None, source: _Source, packets: tuple[str, ...]) -> Kept | None:
    from hl7core.cli.captures import captures_between
    from hl7core.cli.original_packets import Kept

    settings = load_settings(settings_path)
    files = list(packets) or captures_between(settings.output_folder, source.first, source.last)
    if not files:
        return None
    kept = Kept(files, settings.core.decoder_options())
    for session in source("looking for packets"):
        kept.add(session)
    kept.look()
    return kept


def _rebuilt(
    source: _Source, write: Callable[[bytes], object], writer: PcapngWriter, without: set[str] | frozenset[str]
) -> int:
    """Write the sessions that are not in ``without``; return how many those were."""
    from hl7core.wire.pcap.rebuild import Rebuilder

    rebuilder, count = Rebuilder(), 0
    for session in source():
        if session.id in without:
            continue
        if not count:
            write(writer.header(f"hl7core {__version__}", [Interface("rebuilt")], _REBUILT))
        count += 1
        for packet in rebuilder.feed(session):
            write(writer.packet(0, packet.time_ns, packet.data, len(packet.data), packet.comment))
    for packet in rebuilder.finish():
        write(writer.packet(0, packet.time_ns, packet.data, len(packet.data), packet.comment))
    return count
