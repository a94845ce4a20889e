"""How far one disturbed exchange travels through the code: the files it passes, and the changes of file.

    HL7CORE_PURE=1 python tests/house/journey.py [CAPTURE]

Reads a capture (``ack_late.pcap`` by default), then decodes it in plain Python, from the first packet that
``Decoder.feed`` is given to the last session of ``Decoder.end``, and watches that with ``sys.setprofile``.  What counts
are the calls of Python functions that are written in hl7core, in order: a change of file is a call of a function in
another file than the function that was called last; the first call is the first change.  A return is no step of the
journey, since it leads back to where the reader of the code is already.  A generator that goes on counts as called.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

from hl7core.files import CaptureFile
from hl7core.wire.decoder import Decoder

ACK_LATE = Path(__file__).parents[1] / "captures" / "ack_late.pcap"
_INSIDE = "/hl7core/"


def journey(work: Callable[[], object]) -> list[str]:
    """Do ``work``; return the file of each function of hl7core that it called, in order."""
    files: list[str] = []

    def watch(frame: FrameType, event: str, _: Any) -> None:
        name = frame.f_code.co_filename
        if event == "call" and _INSIDE in name:
            files.append(name.rpartition(_INSIDE)[2])

    sys.setprofile(watch)
    try:
        work()
    finally:
        sys.setprofile(None)
    return files


def changes(files: list[str]) -> int:
    """Return how often the file changes, the first included."""
    return bool(files) + sum(one != other for one, other in pairwise(files))


def decoding(capture: Path) -> list[str]:
    """Return the journey of the packets of a capture."""
    with CaptureFile(str(capture)) as file:
        batches = list(file)
    decoder = Decoder()

    def work() -> None:
        for batch in batches:
            decoder.feed(batch)
        decoder.end()

    return journey(work)


def main() -> None:
    """Print the journey of one capture: each file where it is first reached."""
    files = decoding(Path(sys.argv[1]) if len(sys.argv) > 1 else ACK_LATE)
    print(*dict.fromkeys(files), sep="\n")
    print(f"{len(set(files))} files, {changes(files)} changes of file")


if __name__ == "__main__":
    main()
