# cython: language_level=3, boundscheck=True, wraparound=False, cdivision=True
"""The C extension: what Python does with nearly all packets, compiled.

``records`` and ``blocks`` find the packets of a capture file for :mod:`hl7core.wire.pcap.reader` and ``pcapng``.
``SlowPathPackets`` goes through a batch for :class:`hl7core.wire.decoder.Decoder` and yields the packets that take the
slow path: bare acknowledgements, repeats and other traffic it skips, and the blocks of
:mod:`hl7core.wire.mllp_sessions.fast_path` it takes itself.  ``FastSession`` makes sessions of what comes of those,
``FastJsonLine`` lines of JSON as :mod:`hl7core.wire.jsonl` does.

All of it is optional.  Whatever is not certainly simple is left untouched to the Python code, and without the extension
that does everything, with equal results: tests hold the two against each other.

Memory is read by address only below a length that was checked just before, in the same function, and written only by
``_put``, which checks the room.  Attributes are read in place only of an object whose type was checked.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeLatin1
from libc.string cimport memchr, memcmp, memcpy

__all__ = ["SOURCE", "SlowPathPackets", "FastJsonLine", "FastSession", "blocks", "keep_memory", "records"]

cdef extern from *:
    """
    #ifndef HL7CORE_SOURCE
    #define HL7CORE_SOURCE ""
    #endif

    #ifdef __GLIBC__
    #include <malloc.h>
    static void hl7core_keep_memory(void) {
        mallopt(M_TRIM_THRESHOLD, 1 << 20);
        mallopt(M_MMAP_THRESHOLD, 1 << 20);
    }
    #else
    static void hl7core_keep_memory(void) {}
    #endif
    """
    void hl7core_keep_memory()
    const char* HL7CORE_SOURCE  # the hash of these files, as the build tells it

SOURCE = (<bytes>HL7CORE_SOURCE).decode()


def keep_memory():
    """Have glibc keep up to 1 MiB of freed memory for the next batch instead of returning it to the kernel each time.

    Otherwise the kernel spends half of its work for ``read`` on taking pages back and giving them out again.  Without
    glibc this does nothing.
    """
    hl7core_keep_memory()


include "../model/_line.pxi"
include "_slots.pxi"
include "_packets.pxi"
include "_lines.pxi"
include "_sessions.pxi"
