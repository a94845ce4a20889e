"""What the tests of the engine share: exchanges on the wire, and a store with switches."""

from __future__ import annotations

import itertools
import threading
import time
from datetime import datetime
from pathlib import Path

from hl7core.contract import PluginSettings
from hl7core.errors import SessionRefused, StoreError
from hl7core.hookspecs import hookimpl
from hl7core.model.cleanup import CleanupReport
from hl7core.model.packet import Endpoint, Interface, Packet, PacketBatch
from hl7core.model.session import Direction, Element, ElementType, Ending, Message, Session
from hl7core.wire.pcap.synthetic_tcp import START_NS, TcpTalk

_ports = itertools.count(20_000)


def block(text: bytes) -> bytes:
    return b"\x0b" + text + b"\x1c\r"


def oru(control_id: str) -> bytes:
    return b"MSH|^~\\&|AN|LAB|LIS|LAB|20260101||ORU^R01|" + control_id.encode() + b"|P|2.5\rPID|1||X1\r"


def ack(control_id: str) -> bytes:
    return (
        b"MSH|^~\\&|LIS|LAB|AN|LAB|20260101||ACK|A"
        + control_id.encode()
        + b"|P|2.5\rMSA|AA|"
        + control_id.encode()
        + b"\r"
    )


def exchange(control_id: str, *, answered: bool = True, interface: str = "fake0", seconds: float = 0.0) -> PacketBatch:
    """An HL7 message on a connection of its own, and its acknowledgement."""
    talk = TcpTalk(("10.0.0.5", next(_ports)), interface=Interface(interface), time_ns=START_NS + int(seconds * 1e9))
    talk.open()
    talk.opener(block(oru(control_id)))
    if answered:
        talk.acceptor(block(ack(control_id)))
    return talk.batch()


def noise(count: int, *, size: int = 100, interface: str = "fake0", time_ns: int = START_NS) -> PacketBatch:
    """Packets that nobody decodes."""
    return PacketBatch.of([Packet(b"\0" * size, time_ns, size, Interface(interface))] * count)


def session(number: int = 1, *, revision: int = 0, text: bytes = b"MSH|^~\\&|A\r", start: int | None = None) -> Session:
    start_ns = START_NS + number * 1_000_000_000 if start is None else start
    message = Message(text, Direction.FROM_DEVICE, "mllp", start_ns, control_id=f"C{number}")
    element = Element(
        start_ns, Direction.FROM_DEVICE, ElementType.MESSAGE, 0, b"\x0b", b"", b"\x1c\r", 0, (0, len(text))
    )
    return Session(
        id=f"{number:08x}-0000-7000-8000-000000000000",
        start_ns=start_ns,
        end_ns=start_ns + 1000,
        device=Endpoint("10.0.0.5", 40000),
        lis=Endpoint("10.0.0.9", 2575),
        elements=(element,),
        messages=(message,),
        is_complete=True,
        protocol="mllp",
        ending=Ending.COMPLETE,
        revision=revision,
    )


class Store:
    """A store in memory.  ``down`` makes every save fail, ``slow`` makes it take so long, ``poison`` refuses ids."""

    def __init__(self) -> None:
        self.held: dict[str, Session] = {}
        self.trash: dict[str, Session] = {}
        self.trashed_at: dict[str, datetime] = {}
        self.down = False
        self.unreadable = False
        self.slow = 0.0
        self.poison: set[str] = set()
        self.refused: set[str] = set()
        self.groups: list[int] = []
        self.attempts = 0
        self.threads: set[str] = set()
        self.replaced: list[str] = []

    @hookimpl
    def register_settings(self):
        return PluginSettings

    @hookimpl
    def persist_session(self, session, replace):
        self.attempts += 1
        self.threads.add(threading.current_thread().name)
        if self.slow:
            time.sleep(self.slow)
        if self.down:
            raise StoreError("the disk is full")
        if session.id in self.poison:
            raise StoreError("this one cannot be written")
        if session.id in self.refused:
            raise SessionRefused("this one is no session")
        if replace:
            self.replaced.append(session.id)
            self.held[session.id] = session
        else:
            self.held.setdefault(session.id, session)
        return f"memory/{session.id}"

    @hookimpl
    def persist_sessions(self, sessions, replace):
        self.groups.append(len(sessions))
        made = []
        for one in sessions:
            try:
                made.append(self.persist_session(one, replace))
            except StoreError as error:
                made.append(error)
        return made

    @hookimpl
    def load_sessions(self, query):
        from hl7core.hl7.query import matches, sort_key

        if self.unreadable:
            raise StoreError("the disk is gone")
        found = sorted((s for s in self.held.values() if matches(s, query)), key=sort_key, reverse=query.newest_first)
        return found[: query.limit]

    @hookimpl
    def delete_sessions(self, ids, to_trash, deleted_at):
        removed = [i for i in ids if i in self.held]
        for i in removed:
            self.trash[i] = self.held.pop(i)
            self.trashed_at[i] = deleted_at
        return removed

    @hookimpl
    def restore_sessions(self, ids):
        back = [i for i in ids if i in self.trash]
        for i in back:
            self.held[i] = self.trash.pop(i)
        return back

    @hookimpl
    def empty_trash(self, before):
        count = len(self.trash)
        self.trash.clear()
        return CleanupReport(deleted=count)

    @hookimpl
    def list_trash(self):
        return [(i, self.trashed_at[i]) for i in self.trash]

    @hookimpl
    def store_size(self):
        return 1000 * (len(self.held) + len(self.trash))


class Listener:
    """Hears all news."""

    def __init__(self) -> None:
        self.sessions: list[Session] = []
        self.times: list[float] = []
        self.events: list[object] = []

    @hookimpl
    def on_session_complete(self, session):
        self.sessions.append(session)
        self.times.append(time.monotonic())

    @hookimpl
    def on_event(self, event):
        self.events.append(event)

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]

    def notices(self, key):
        return [event for event in self.events if getattr(event, "key", None) == key]


def poll(done, timeout: float = 10.0) -> None:
    until = time.monotonic() + timeout
    while not done():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.005)


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
