"""Dropping privileges permanently, and verifying that they are gone.

Law: after :func:`drop` neither the process nor anything it executes can regain a privilege.  If that cannot be achieved
it raises: packets are never read by a process that still has privileges.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import sys

__all__ = ["CAP_NET_RAW", "NOBODY", "capabilities", "die_with_parent", "drop"]

CAP_NET_RAW = 13
"""The Linux capability to open packet sockets (capabilities(7))."""
NOBODY = 65534
"""The user and group that root becomes."""

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_KEEPCAPS = 8
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_VERSION_3 = 0x20080522
_HEADER = struct.Struct("=Ii")
_SETS = struct.Struct("=6I")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _prctl(option: int, argument: int) -> None:
    zero = ctypes.c_ulong(0)
    _checked(_libc().prctl(option, ctypes.c_ulong(argument), zero, zero, zero), f"prctl({option})")


def capabilities() -> tuple[int, int, int]:
    """Return the effective, permitted and inheritable capabilities of this process, as bit masks.  Linux only."""
    header = ctypes.create_string_buffer(_HEADER.pack(_VERSION_3, 0), _HEADER.size)
    sets = ctypes.create_string_buffer(_SETS.size)
    _checked(_libc().capget(header, sets), "capget")
    low_e, low_p, low_i, high_e, high_p, high_i = _SETS.unpack(sets.raw)
    return low_e | high_e << 32, low_p | high_p << 32, low_i | high_i << 32


def _set_capabilities(mask: int) -> None:
    low, high = mask & 0xFFFFFFFF, mask >> 32
    header = ctypes.create_string_buffer(_HEADER.pack(_VERSION_3, 0), _HEADER.size)
    sets = ctypes.create_string_buffer(_SETS.pack(low, low, 0, high, high, 0), _SETS.size)
    _checked(_libc().capset(header, sets), "capset")


def _become_nobody() -> None:
    try:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    except PermissionError:
        # Root without CAP_SETUID (a container, a systemd unit) stays user 0, and as powerless as its empty sets say.
        if sys.platform != "linux":
            raise


def drop(*keep: int) -> None:
    """Drop all privileges except the capabilities ``keep``, irrevocably; root becomes ``nobody``.

    On Linux the capability sets, the ambient set and the way back through set-user-ID programs go, and no other
    process of the user may look into this one's memory.  Elsewhere only root becomes ``nobody``.  Raises OSError if
    the rights would not go.
    """
    if sys.platform == "win32":
        return
    if sys.platform != "linux":
        if os.geteuid() == 0:
            _become_nobody()
        return
    held = capabilities()[1]
    wanted = held & sum(1 << number for number in keep)
    _prctl(_PR_SET_KEEPCAPS, 1 if wanted else 0)
    if os.geteuid() == 0:
        _become_nobody()
    zero = ctypes.c_ulong(0)
    _checked(
        _libc().prctl(_PR_CAP_AMBIENT, ctypes.c_ulong(_PR_CAP_AMBIENT_CLEAR_ALL), zero, zero, zero), "prctl(ambient)"
    )
    _set_capabilities(wanted)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)
    if capabilities() != (wanted, wanted, 0):
        raise PermissionError("the capture process could not drop its capabilities")


def die_with_parent() -> None:
    """Have the kernel end this process when the thread that started it ends.  Does nothing except on Linux.

    To be called after :func:`drop`: a change of user clears it.
    """
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
