"""``hl7core sessions export``: writes stored sessions for other programs, one at a time, so that memory stays flat."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import click

from hl7core import __version__
from hl7core.cli import exit_codes
from hl7core.cli.filters import with_filters
from hl7core.cli.id_prefix import MANY, find_by_prefix
from hl7core.cli.load_settings import load_settings
from hl7core.cli.output.formats import FORMATS, format_of_file, output_option
from hl7core.cli.output.outfile import open_output
from hl7core.cli.output.progress import progress_over_time
from hl7core.cli.output.text import counted
from hl7core.cli.session_access import SessionAccess, all_sessions, open_sessions
from hl7core.model.packet import Interface
from hl7core.model.session import Session, SessionQuery
from hl7core.wire.pcap.reader import PcapngWriter

if TYPE_CHECKING:
    from hl7core.cli.original_packets import OriginalPackets

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
    "Rebuilt by hl7core from stored sessions whose original packets are not available. As captured: addresses, ports,"
    " times, every byte of data. Made up: handshakes, sequence numbers (so a decoder gives these sessions different"
    " ids), bare acknowledgements, MAC addresses."
)
_ORIGINAL: Final = "Original packets of stored sessions, as hl7core captured them."


@click.command("export", short_help="Write sessions as hl7, json, jsonl, csv or pcapng.", epilog=_EPILOG)
@click.argument("ids", nargs=-1, metavar="[ID]...")
@with_filters
@click.option("-n", "--limit", type=click.IntRange(min=1), help="Only the newest N sessions.", metavar="N")
@output_option("export", text="Default: as the file's name ends, else jsonl.")
@click.option("-w", "--output-file", "file", metavar="FILE", help="Write to FILE, mode 0600; default: standard output.")
@click.option(
    "--packets",
    multiple=True,
    metavar="CAPTURE",
    help="For pcapng: a capture file that holds original packets. Repeat for several files. Default: the files that"
    " `capture -w` wrote with this data folder.",
)
@click.option("--rebuild", is_flag=True, help="For pcapng: do not search for original packets.")
@click.option("--no-progress", is_flag=True, help="Show no progress bar.")
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
    """Write stored sessions as hl7, json, jsonl, csv or pcapng.

    Choose sessions by ID (the first letters are enough), by filters, or both; a session must match all of them.  pcapng
    contains the original packets of a session where they are available, else packets rebuilt from it, and says which.
    """
    chosen = output or format_of_file(Path(file or "").suffix)
    if chosen == "pcapng" and (file is None or file == "-") and sys.stdout.isatty():
        raise click.UsageError("pcapng cannot be shown on a terminal: name a file with -w, or pipe the output")
    if chosen != "pcapng" and (packets or rebuild):
        raise click.UsageError("--packets and --rebuild are for -o pcapng")
    with open_sessions(settings_path) as access:
        found, missing = _named(access, ids)
        if ids and not found:
            return _nothing(missing)
        asked = query._replace(ids=tuple(found))
        source = _Source(access, asked, limit, progress=not no_progress and file not in (None, "-"))
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
        click.echo(f"{counted(source.count, 'session')} written to {file}", err=True)
    for one in missing:
        click.echo(f"no session {one}", err=True)
    return exit_codes.PARTIAL if missing else exit_codes.OK


class _Source:
    """The chosen sessions; each call reads them from the store again, so that none has to stay in memory."""

    def __init__(self, access: SessionAccess, query: SessionQuery, limit: int | None, *, progress: bool) -> None:
        self._access = access
        self._query = query
        self._limit = limit
        self._progress = progress
        self.count = 0
        self.first = self.last = 0.0

    def any(self) -> bool:
        """Return whether there are any, and note when the first and the last begin."""
        ends = [
            list(self._access.sessions(self._query._replace(limit=1, newest_first=newest))) for newest in (False, True)
        ]
        if not ends[0] or not ends[1]:
            return False
        self.first, self.last = ends[0][0].started_at.timestamp(), ends[1][0].started_at.timestamp()
        return True

    def __call__(self, doing: str = "writing") -> Iterator[Session]:
        self.count = 0
        with progress_over_time(doing, shown=self._progress) as step:
            for session in all_sessions(self._access, self._query, self._limit):
                self.count += 1
                if self.count % 50 == 1:
                    step(self.count, self.first, session.start_ns / 1e9, self.last)
                yield session


def _named(access: SessionAccess, ids: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Return the full ids, and the arguments that match none.  Raises click.UsageError if one matches several."""
    found: dict[str, None] = {}
    missing: list[str] = []
    for one in ids:
        matches = [session.id for session in find_by_prefix(access, one)]
        if len(matches) > 1:
            many = len(matches) if len(matches) <= MANY else f"more than {MANY}"
            raise click.UsageError(f"{many} sessions begin with {one}; give more letters of the id")
        if matches:
            found[matches[0]] = None
        else:
            missing.append(one)
    return list(found), missing


def _nothing(missing: list[str]) -> int:
    click.echo(f"no session {', '.join(missing)}" if missing else "no matching sessions", err=True)
    return exit_codes.NOTHING


def _pcapng(
    settings_path: str | None, source: _Source, out: BinaryIO, packets: tuple[str, ...], *, rebuild: bool
) -> None:
    """Write a section of original packets for the sessions that have them, then rebuilt packets for the others."""
    originals = None if rebuild else _originals(settings_path, source, packets)
    writer = PcapngWriter()
    if originals is not None and originals.ids:
        places = originals.interfaces
        out.write(writer.header(f"hl7core {__version__}", places, _ORIGINAL))
        out.writelines(writer.batch(batch, places.index(batch.interface)) for batch in originals.batches())
    rebuilt = _rebuild(source, out.write, writer, originals.ids if originals is not None else frozenset())
    for problem in originals.problems if originals is not None else ():
        click.echo(f"hl7core: {problem}", err=True)
    if source.count > rebuilt:
        click.echo(f"{counted(source.count - rebuilt, 'session')} as original packets", err=True)
    if rebuilt:
        why = "" if rebuild else " because their original packets are not all available"
        click.echo(
            f"{counted(rebuilt, 'session')} rebuilt{why}: bytes and times as captured, sequence numbers are made up, so"
            " a decoder gives these sessions different ids",
            err=True,
        )


def _originals(settings_path: str | None, source: _Source, packets: tuple[str, ...]) -> OriginalPackets | None:
    from hl7core.cli.captures import captures_between
    from hl7core.cli.original_packets import OriginalPackets

    settings = load_settings(settings_path)
    files = list(packets) or captures_between(settings.output_folder, source.first, source.last)
    if not files:
        return None
    originals = OriginalPackets(files, settings.core.decoder_options())
    for session in source("looking for packets"):
        originals.add(session)
    originals.search()
    return originals


def _rebuild(
    source: _Source, write: Callable[[bytes], object], writer: PcapngWriter, without: set[str] | frozenset[str]
) -> int:
    """Write rebuilt packets of the sessions that are not in ``without``; return how many sessions those are."""
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
