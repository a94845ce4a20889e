"""The destination in the destination contract: its receiving end is a folder that may be gone."""

import json
import tempfile
from pathlib import Path

from hl7core_file_drop import FileDrop, FileDropSettings

from hl7core.testing import DestinationContract, ReceivingEnd


class Folder(ReceivingEnd):
    """A folder; while it is closed, it is away, as an unmounted share is."""

    def __init__(self):
        self.path = Path(tempfile.mkdtemp()) / "drop"
        self.away = self.path.with_name("away")
        self.away.mkdir()

    def open(self):
        self.away.rename(self.path)

    def close(self):
        self.path.rename(self.away)

    def taken(self):
        place = self.path if self.path.exists() else self.away
        files = sorted(place.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        return [json.loads(path.read_bytes())["sessionId"] for path in files]


class TestFileDrop(DestinationContract):
    """Everything but a receiver that refuses or hangs, which a folder cannot."""

    def make_destination(self):
        return FileDrop()

    def make_receiver(self):
        return Folder()

    def settings_for(self, receiver, timeout):
        return FileDropSettings(folder=str(receiver.path), timeout=timeout)
