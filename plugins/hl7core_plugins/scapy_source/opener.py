"""Opens packet sockets with scapy and passes them on.  Runs in a separate process; the only module to import scapy.

Law: it opens only the interfaces in its configuration (a request is an index into that list), reads no packets, and
keeps only the privilege CAP_NET_RAW, to reopen an interface that was deleted and has come back.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import logging
import os
import socket
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

from hl7core_plugins.scapy_source import privileges

__all__ = ["Configuration", "Refusal", "ask", "load_scapy", "open_listener", "serve", "spawn"]

_ANSWER_BYTES = 4096
_LIBPCAP = "scapy.libs.winpcapy"  # whatever its name says, libpcap on every system
_MISSING = {errno.ENODEV, errno.ENXIO, errno.ENOENT}


class Configuration(NamedTuple):
    """What to capture.  ``snaplen`` in bytes; ``buffer_mib`` MiB for all interfaces together.

    ``patient``: an interface that is not there is waited for.  ``portable``: read one by one through scapy.
    """

    interfaces: tuple[str, ...]
    bpf: str = ""
    promiscuous: bool = True
    snaplen: int = 262_144
    buffer_mib: int = 64
    patient: bool = False
    portable: bool = False


class Refusal(Exception):  # noqa: N818 - what the opener answers when it cannot open
    """A socket could not be opened.

    ``kind``: permission, missing (no such interface), down, filter, libpcap, ring, scapy or other.
    """

    def __init__(self, kind: str, text: str, interface: str = "") -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text
        self.interface = interface


def load_scapy() -> Any:
    """Import the parts of scapy that open sockets; return its ``conf``.  Raises Refusal if that fails."""
    logging.getLogger("scapy").setLevel(logging.ERROR)
    try:
        import scapy.layers.inet  # here alone, in the capture process
        import scapy.layers.l2  # noqa: F401 - registers the link types
        from scapy.config import conf
    except ImportError as error:
        raise Refusal("scapy", f"scapy cannot be imported ({error}); pip install scapy") from error
    # libpcap is loaded while files can still be read; it is not needed without a filter.
    with contextlib.suppress(OSError, ImportError):
        importlib.import_module(_LIBPCAP)
    return conf


def open_listener(conf: Any, interface: str, configuration: Configuration) -> Any:
    """Open a listening socket with scapy.  Raises Refusal."""
    if configuration.bpf and _LIBPCAP not in sys.modules:
        raise Refusal("libpcap", f"the filter {configuration.bpf!r} needs libpcap, which cannot be loaded", interface)
    conf.ifaces.reload()  # an interface that came back has another index
    try:
        return conf.L2listen(
            iface=interface, filter=configuration.bpf or None, promisc=configuration.promiscuous
        )  # fmt: skip
    except PermissionError as error:
        raise Refusal("permission", "a packet socket may not be opened", interface) from error
    except OSError as error:
        kind = "down" if error.errno == errno.ENETDOWN else "missing" if error.errno in _MISSING else "other"
        raise Refusal(kind, f"{interface} cannot be opened: {error.strerror or error}", interface) from error
    except ValueError as error:
        raise Refusal("missing", f"scapy does not know {interface}", interface) from error
    except Exception as error:
        raise _refusal_of(str(error), interface, configuration.bpf) from error


def _refusal_of(text: str, interface: str, bpf: str) -> Refusal:
    """Return the kind of a Scapy_Exception from its text: scapy has only one class of error."""
    if "filter" in text:
        reason = text.rpartition(" (")[2].rstrip(")") if " (" in text else text
        return Refusal("filter", f"the filter {bpf!r} is refused: {reason}", interface)
    return Refusal("other", f"{interface} cannot be opened: {text}", interface)


def serve(channel: socket.socket, configuration: Configuration) -> None:
    """Answer each index received on ``channel`` with a socket or the reason why there is none, until it closes."""
    try:
        conf = load_scapy()
        privileges.drop(privileges.CAP_NET_RAW)
        privileges.die_with_parent()
    except Refusal as refusal:
        if channel.recv(16):
            _answer(channel, refusal)
        return
    while request := channel.recv(16):
        try:
            listener = open_listener(conf, configuration.interfaces[int(request)], configuration)
        except Refusal as refusal:
            _answer(channel, refusal)
            continue
        # The descriptor alone goes on: scapy's own close would end promiscuous mode for the reader as well.
        descriptor = listener.ins.detach()
        listener.closed = True
        socket.send_fds(channel, [b"{}"], [descriptor])
        os.close(descriptor)


def _answer(channel: socket.socket, refusal: Refusal) -> None:
    answer = {"kind": refusal.kind, "text": refusal.text[: _ANSWER_BYTES // 8], "interface": refusal.interface}
    channel.send(json.dumps(answer).encode())


def spawn(configuration: Configuration) -> socket.socket:
    """Fork an opener; return the channel on which :func:`ask` asks it.

    To be called while this process has one thread, before it gives up its rights.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        _live(theirs, configuration)
    theirs.close()
    return ours


def _live(channel: socket.socket, configuration: Configuration) -> NoReturn:
    status = 1
    try:
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.dup2(nothing, 1)  # the pipe is the reader's alone: its end is the end of the capture
        serve(channel, configuration)
        status = 0
    except BaseException as error:  # noqa: BLE001 - nothing may return into the reader's code
        os.write(2, f"the opener ended: {type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(status)


def ask(channel: socket.socket, interfaces: Sequence[str], index: int) -> socket.socket:
    """Return an open packet socket for the interface ``index``.  Raises Refusal."""
    name = interfaces[index]
    try:
        channel.send(str(index).encode())
        answer, descriptors, _, _ = socket.recv_fds(channel, _ANSWER_BYTES, 1)
    except OSError as error:
        raise Refusal("other", f"the process that opens sockets has ended ({error.strerror})", name) from error
    if descriptors:
        return socket.socket(fileno=descriptors[0])
    if not answer:
        raise Refusal("other", "the process that opens sockets has ended", name)
    told = json.loads(answer)
    raise Refusal(str(told["kind"]), str(told["text"]), str(told["interface"]) or name)
