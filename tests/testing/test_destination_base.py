"""Receiving ends that are not HTTP: an MLLP port that acknowledges, refuses, hangs up and hangs."""

import contextlib
import socket
import threading

from hl7core import (
    DestinationBroken,
    DestinationBusy,
    DestinationSettings,
    DestinationUnauthorized,
    DestinationUnreachable,
    Receipt,
    SessionRejected,
)
from hl7core.testing import DestinationContract, Mode, ReceivingEnd

CODES = {
    Mode.ACCEPT: b"AA", Mode.REJECT: b"AR", Mode.REFUSE: b"AR|credentials", Mode.BUSY: b"AE|busy", Mode.BREAK: b"AE",
}  # fmt: skip
ERRORS = {b"AR": SessionRejected, b"AR|credentials": DestinationUnauthorized, b"AE|busy": DestinationBusy}


class MllpPort(ReceivingEnd):
    """Listens on a port of its own; the session's id is the control id of the message."""

    def __init__(self):
        self.mode, self.port = Mode.ACCEPT, 0
        self.arrived, self.accepted = [], []
        self.gone = threading.Event()

    def open(self):
        self.gone.clear()
        self.listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.listen, args=(self.listener,), daemon=True).start()

    def close(self):
        self.gone.set()
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def behave(self, mode):
        self.mode = mode
        return True

    def attempts(self):
        return list(self.arrived)

    def taken(self):
        return list(self.accepted)

    def listen(self, listener):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        with connection, contextlib.suppress(OSError):
            data = b""
            while not data.endswith(b"\x1c\r"):
                if not (more := connection.recv(65_536)):
                    return
                data += more
            session_id, mode = data.split(b"|", 10)[9].decode(), self.mode
            if mode in (Mode.ACCEPT, Mode.LOSE):
                self.accepted.append(session_id)
            self.arrived.append(session_id)
            if mode is Mode.HANG:
                self.gone.wait(60)
            elif mode is not Mode.LOSE:
                connection.sendall(b"\x0bMSA|" + CODES[mode] + b"\x1c\r")


class PortSettings(DestinationSettings):
    port: int = 0


class Mllp:
    """A destination that sends a message and waits for its acknowledgement."""

    def configure(self, settings):
        self.settings = settings

    def submit_session(self, session):
        message = b"\x0bMSH|^~\\&|||||||ORU^R01|" + session.id.encode() + b"|P|2.5\r\x1c\r"
        try:
            with socket.create_connection(("127.0.0.1", self.settings.port), self.settings.timeout) as connection:
                connection.sendall(message)
                answer = connection.recv(65_536)
        except OSError as error:
            raise DestinationUnreachable(f"no answer ({type(error).__name__})") from None
        code = answer[5:-2]
        if not code:
            raise DestinationUnreachable("the connection ended before the acknowledgement")
        if code != b"AA":
            raise ERRORS.get(code, DestinationBroken)(f"acknowledged with {code.decode()}")
        return Receipt()


class TestMllp(DestinationContract):
    """Every kind of answer, without a line of HTTP."""

    def make_destination(self):
        return Mllp()

    def make_receiver(self):
        return MllpPort()

    def settings_for(self, receiver, timeout):
        return PortSettings(port=receiver.port, timeout=timeout)


class Queue(ReceivingEnd):
    """The least that a receiving end defines."""

    def __init__(self):
        self.items = None
        self.kept = []

    def open(self):
        self.items = self.kept

    def close(self):
        self.items = None

    def taken(self):
        return [session.id for session in self.kept]


class QueueSettings(DestinationSettings):
    queue: object = None


class Enqueue:
    """A destination that puts sessions into a queue of this process."""

    def configure(self, settings):
        self.settings = settings

    def submit_session(self, session):
        if self.settings.queue.items is None:
            raise DestinationUnreachable("there is no queue")
        self.settings.queue.items.append(session)
        return Receipt()


class TestQueue(DestinationContract):
    """Three methods are enough; what the queue cannot do is skipped."""

    def make_destination(self):
        return Enqueue()

    def make_receiver(self):
        return Queue()

    def settings_for(self, receiver, timeout):
        return QueueSettings(queue=receiver, timeout=timeout)
