# cython: language_level=3, boundscheck=True, wraparound=False, cdivision=True
"""The short way of nearly all packets, as machine code: what Python would do with them, and no more.

``records`` and ``blocks`` read the packets of a capture file for :mod:`hl7core.wire.pcap.reader` and ``pcapng``.  An ``SlowPathPackets`` goes through a batch for
:class:`hl7core.wire.decoder.Decoder` and yields the packets that want it: it leaves bare acknowledgements, repeats and
other people's traffic, and takes the blocks of usual exchanges, the way the decoder and :mod:`hl7core.wire.mllp_sessions.fast_path` do.
A ``FastSession`` makes a session of a usual exchange, a ``FastJsonLine`` writes it as :mod:`hl7core.wire.jsonl` does.

The law is theirs, one of doubt: whatever is not beyond doubt usual is left to them, and nothing has changed.  All of it
is optional: without it they do everything, and answer the same (tests hold the two against each other).

Bytes are read by address only below a length that was checked just before, in the same function, and written only by
``_put``, which checks the room; attributes are read in place only of an object whose type was.
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
    """Have glibc keep up to 1 MiB that were freed, for the next batch, instead of giving them back after each.

    Else half of what the kernel does for ``read`` is to take pages and give them out again.  Elsewhere: nothing.
    """
    hl7core_keep_memory()


include "../model/_line.pxi"
include "_slots.pxi"
include "_packets.pxi"
include "_lines.pxi"
include "_sessions.pxi"
