"""The network interfaces: their names, addresses, state and link layer, without scapy and without privileges.

Law: the information is that of THIS network namespace (getifaddrs, ioctl), never from ``/sys``, which may show
another's.  On Windows, and wherever getifaddrs is missing, scapy is asked in a separate process.
"""

from __future__ import annotations

import ctypes
import json
import socket
import struct
import subprocess
import sys

from hl7core import Interface

__all__ = ["CHILD", "ETHERNET", "UNKNOWN_LINK", "interface_state", "link_type_of", "list_interfaces"]

CHILD = (sys.executable, "-P", "-m", "hl7core_plugins.scapy_source.child")
"""How the capture process is started; -P: never import from the working directory."""

ETHERNET = 1
UNKNOWN_LINK = -1
"""The link type of an interface whose link layer has no number in capture files."""

# ARPHRD_* of linux/if_arp.h -> LINKTYPE_*.  Loopback looks like Ethernet; tunnels and tun devices carry bare IP.
_LINUX_LINKS = {1: ETHERNET, 772: ETHERNET, 512: 9, 519: 101, 768: 101, 769: 101, 776: 101, 778: 101, 801: 105}
_LINUX_LINKS |= {803: 127, 65534: 101}
# IFT_* of net/if_types.h -> LINKTYPE_*, for BSD and macOS.
_BSD_LINKS = {6: ETHERNET, 24: 0, 71: ETHERNET, 209: ETHERNET}

_IFF_UP, _IFF_LOOPBACK = 0x1, 0x8
_AF_LINK_LINUX, _AF_LINK_BSD = 17, 18
_SIOCGIFFLAGS, _SIOCGIFHWADDR = 0x8913, 0x8927
_ASK_SECONDS = 20.0


class _Ifaddrs(ctypes.Structure):
    pass


_Ifaddrs._fields_ = [
    ("next", ctypes.POINTER(_Ifaddrs)),
    ("name", ctypes.c_char_p),
    ("flags", ctypes.c_uint),
    ("address", ctypes.c_void_p),
    ("netmask", ctypes.c_void_p),
    ("other", ctypes.c_void_p),
    ("data", ctypes.c_void_p),
]


def link_type_of(hardware: int) -> int:
    """Return the LINKTYPE of a Linux hardware type (ARPHRD), :data:`UNKNOWN_LINK` if there is none."""
    return _LINUX_LINKS.get(hardware, UNKNOWN_LINK)


def interface_state(name: str) -> tuple[bool, int]:
    """Return whether the interface is up, and its link type.  Linux only.  Raises OSError if there is none."""
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        request = struct.pack("16s24x", name.encode()[:15])
        flags = struct.unpack_from("=H", fcntl.ioctl(asking, _SIOCGIFFLAGS, request), 16)[0]
        hardware = struct.unpack_from("=H", fcntl.ioctl(asking, _SIOCGIFHWADDR, request), 16)[0]
    return bool(flags & _IFF_UP), link_type_of(hardware)


def list_interfaces() -> list[Interface]:
    """Return every interface of this machine, in the system's order, loopback among them.

    Needs no rights.  An interface whose link layer cannot be captured has the link type :data:`UNKNOWN_LINK`.
    Raises OSError if the system does not say.
    """
    if sys.platform == "win32":
        return _ask_scapy()
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "getifaddrs"):
        return _ask_scapy()
    first = ctypes.POINTER(_Ifaddrs)()
    if libc.getifaddrs(ctypes.byref(first)) != 0:
        raise OSError(ctypes.get_errno(), "getifaddrs failed")
    try:
        return _collect(first)
    finally:
        libc.freeifaddrs(first)


def _collect(entry: ctypes._Pointer[_Ifaddrs]) -> list[Interface]:
    linux = sys.platform == "linux"
    flags: dict[str, int] = {}
    links: dict[str, int] = {}
    addresses: dict[str, list[str]] = {}
    while entry:
        item = entry.contents
        name = item.name.decode(errors="replace")
        flags[name] = item.flags
        addresses.setdefault(name, [])
        if item.address:
            head = ctypes.string_at(item.address, 2)
            family = struct.unpack("=H", head)[0] if linux else head[1]
            if family == socket.AF_INET:
                addresses[name].append(socket.inet_ntop(socket.AF_INET, ctypes.string_at(item.address + 4, 4)))
            elif family == socket.AF_INET6:
                addresses[name].append(socket.inet_ntop(socket.AF_INET6, ctypes.string_at(item.address + 8, 16)))
            elif linux and family == _AF_LINK_LINUX:
                links[name] = link_type_of(struct.unpack("=H", ctypes.string_at(item.address + 8, 2))[0])
            elif not linux and family == _AF_LINK_BSD:
                links[name] = _BSD_LINKS.get(ctypes.string_at(item.address + 4, 1)[0], UNKNOWN_LINK)
        entry = item.next
    return [
        Interface(
            name=name,
            link_type=links.get(name, UNKNOWN_LINK),
            addresses=tuple(addresses[name]),
            is_up=bool(flags[name] & _IFF_UP),
            description=_describe(flags[name], links.get(name, UNKNOWN_LINK)),
        )
        for name in flags
    ]


def _describe(flags: int, link: int) -> str:
    if flags & _IFF_LOOPBACK:
        return "loopback: this machine talking to itself"
    return "its link layer cannot be captured" if link == UNKNOWN_LINK else ""


def _ask_scapy() -> list[Interface]:
    """Return the interfaces that scapy lists, in a separate process."""
    try:
        answer = subprocess.run(  # noqa: S603 - our own interpreter and module
            CHILD, input=b'{"list": true}\n', capture_output=True, timeout=_ASK_SECONDS, check=True
        )
    except subprocess.SubprocessError as error:
        raise OSError(f"the capture process did not list the interfaces ({type(error).__name__})") from error
    return [
        Interface(
            name=str(entry["name"]),
            link_type=int(entry["link_type"]),
            addresses=tuple(entry["addresses"]),
            is_up=bool(entry["is_up"]),
            description=str(entry["description"]),
        )
        for entry in json.loads(answer.stdout)
    ]
