# Packets: the records of a pcap file, the blocks of a pcapng file, and the packets that take the fast path.

from cpython.list cimport PyList_Append

from hl7core.wire.connection import DECIDED, IGNORED, Connection, Half
from hl7core.wire.peek import NO_REPLY
from hl7core.wire.memory_budget import UNREPORTED
from hl7core.wire.mllp_sessions.fast_path import MAX_ANSWERED, TERMS, FastExchange, FastPath, Reply, Request, Terms, terms_of

cdef object _DECIDED = DECIDED
cdef object _IGNORED = IGNORED
cdef frozenset _NO_REPLY = NO_REPLY
cdef dict _terms = TERMS
cdef object _LAST = (1 << 63) - 1
cdef Py_ssize_t _UNREPORTED = UNREPORTED
cdef Py_ssize_t _MAX_ANSWERED = MAX_ANSWERED

cdef enum:
    _TO_FLAGS = 54      # from an Ethernet header to the end of a TCP header without options
    _CONTROL = 0x07     # FIN, SYN, RST
    _WINDOW = 1 << 26   # as hl7core.wire.connection has it
    _LONGEST = 200      # a longer header or MSA segment takes the slow path

cdef object _Connection = Connection
cdef object _Half = Half
cdef object _FastPath = FastPath
cdef object _FastExchange = FastExchange
cdef object _Request = Request
cdef object _Reply = Reply
cdef object _Terms = Terms
cdef Py_ssize_t _STATE = _slot(Connection, "state")
cdef Py_ssize_t _CONNECTION_LAST_NS = _slot(Connection, "last_ns")
cdef Py_ssize_t _FAST_PATH = _slot(Connection, "fast_path")
cdef Py_ssize_t _TIMER_NS = _slot(Connection, "timer_ns")
cdef Py_ssize_t _CONNECTION = _slot(Half, "connection")
cdef Py_ssize_t _PEER = _slot(Half, "peer")
cdef Py_ssize_t _NEXT_SEQ = _slot(Half, "next_seq")
cdef Py_ssize_t _HELD = _slot(Half, "held")
cdef Py_ssize_t _LOOSE = _slot(Half, "loose")
cdef Py_ssize_t _PENDING = _slot(Half, "pending")
cdef Py_ssize_t _FRAMER = _slot(Half, "framer")
cdef Py_ssize_t _OFFSET = _slot(Half, "offset")
cdef Py_ssize_t _LAST_NS = _slot(Half, "last_ns")
cdef Py_ssize_t _READY = _slot(FastPath, "ready")
cdef Py_ssize_t _REQUEST = _slot(FastPath, "request")
cdef Py_ssize_t _LONGEST_BLOCK = _slot(FastPath, "longest")
cdef Py_ssize_t _TERMS = _slot(FastPath, "terms")
cdef Py_ssize_t _WEIGHT = _slot(FastPath, "_weight")
cdef Py_ssize_t _ANSWERED = _slot(FastPath, "_answered")
cdef Py_ssize_t _LAST_EXCHANGE = _slot(FastPath, "_last_exchange")
cdef Py_ssize_t _LAST_SESSION = _slot(FastPath, "_last")
cdef Py_ssize_t _HOLDS_LAST = _slot(FastPath, "holds_last")
cdef Py_ssize_t _MAKE = _slot(FastPath, "_make")


# Records of a pcap file.

cdef enum:
    _MAX_CAPTURED = 16 * 1024 * 1024  # as hl7core.wire.pcap.pcapng has it


def records(
    bytes buffer, Py_ssize_t at, bint big, Py_ssize_t header, long long unit, list starts, list ends, list times,
    list wires,
):
    """Add where the packets of a classic pcap file lie in ``buffer``, from ``at`` on; return where the reading stopped.

    It stops at a record that is cut or may be damaged.  ``big``: in big-endian order; ``header`` is the length of a
    record's header (bytes), ``unit`` the nanoseconds in one unit of the fraction of a second.
    """
    cdef Bytes data = <Bytes>PyBytes_AS_STRING(buffer)
    cdef Py_ssize_t end = PyBytes_GET_SIZE(buffer)
    cdef unsigned long long captured
    cdef long long second
    cdef unsigned int fraction, wire
    if at < 0 or header < 16:
        raise ValueError("records begin in the buffer, and have a header of 16 bytes at least")
    while end - at >= header:
        if big:
            second, fraction, captured, wire = _u32(data + at), _u32(data + at + 4), _u32(data + at + 8), _u32(data + at + 12)
        else:
            second, fraction, captured, wire = _l32(data + at), _l32(data + at + 4), _l32(data + at + 8), _l32(data + at + 12)
        if not captured or captured > _MAX_CAPTURED or <Py_ssize_t>captured > end - at - header:
            break
        at += header
        PyList_Append(starts, at)
        at += <Py_ssize_t>captured
        PyList_Append(ends, at)
        PyList_Append(times, second * 1000000000 + fraction * unit)
        PyList_Append(wires, wire)
    return at


def blocks(
    bytes buffer, Py_ssize_t at, bint big, long long current, list starts, list ends, list ticks, list wires,
):
    """Add where the packets of a pcapng file lie in ``buffer``, from ``at`` on; return where the reading stopped.

    It reads Enhanced Packet Blocks of the interface ``current``, and stops at any other block and at one that is cut or
    may be damaged.  ``big``: in big-endian order.
    """
    cdef Bytes data = <Bytes>PyBytes_AS_STRING(buffer)
    cdef Py_ssize_t end = PyBytes_GET_SIZE(buffer)
    cdef Bytes block
    cdef unsigned long long length, captured
    if at < 0:
        raise ValueError("blocks begin in the buffer")
    while end - at >= 32:
        block = data + at
        length, captured = _word(block + 4, big), _word(block + 20, big)
        if (
            _word(block, big) != 6 or _word(block + 8, big) != current or length > <unsigned long long>(end - at)
            or captured + 32 > length or length > _MAX_CAPTURED + 65536 or length & 3
            or _word(block + length - 4, big) != length
        ):
            break
        PyList_Append(starts, at + 28)
        PyList_Append(ends, at + 28 + <Py_ssize_t>captured)
        PyList_Append(ticks, <unsigned long long>_word(block + 12, big) << 32 | _word(block + 16, big))
        PyList_Append(wires, _word(block + 24, big))
        at += <Py_ssize_t>length
    return at


# Packets.

cdef inline unsigned int _word(Bytes at, bint big) noexcept:
    return _u32(at) if big else _l32(at)


cdef inline unsigned int _l32(Bytes at) noexcept:
    return (<unsigned int>at[3] << 24) | (<unsigned int>at[2] << 16) | (<unsigned int>at[1] << 8) | at[0]


cdef inline unsigned int _u32(Bytes at) noexcept:
    return (<unsigned int>at[0] << 24) | (<unsigned int>at[1] << 16) | (<unsigned int>at[2] << 8) | at[3]


cdef inline bint _is_sound(Bytes block, Py_ssize_t size) noexcept:
    """Return whether a block of ``size`` bytes (at least 14) is one whole message without control characters but CR."""
    cdef Py_ssize_t at
    cdef unsigned char wrong = 0
    cdef Bytes cr
    if memcmp(block, b"\x0bMSH|^~\\&|", 10) or block[size - 2] != 0x1C or block[size - 1] != 0x0D:
        return False
    for at in range(10, size - 2):
        wrong |= (block[at] < 0x20) & (block[at] != 0x0D)
    if wrong:
        return False
    at = 10
    while True:  # a second header makes it a batch
        cr = <Bytes>memchr(block + at, 0x0D, size - 2 - at)
        if cr == NULL:
            return True
        at = cr - block + 1
        if size - at >= 3 and not memcmp(block + at, b"MSH", 3):
            return False


cdef inline bint _begins(Bytes text, Py_ssize_t size) noexcept:
    """Return whether ``size`` bytes certainly begin a block and do not end it."""
    return (
        size >= 2 and text[0] == 0x0B and text[1] == 0x4D and memchr(text + 2, 0x1C, size - 2) == NULL
        and memchr(text + 2, 0x0B, size - 2) == NULL and memchr(text + 2, 0x0C, size - 2) == NULL
    )


cdef inline bint _is_plain(Bytes text, Py_ssize_t size) noexcept:
    """Return whether ``size`` bytes hold no repetition and no escape, of HL7 or of JSON."""
    cdef Py_ssize_t at
    cdef unsigned char wrong = 0
    for at in range(size):
        wrong |= (text[at] == 0x7E) | (text[at] == 0x22) | (text[at] == 0x5C)
    return not wrong


cdef unsigned int _crcs[256]  # what CRC-32 makes of each byte (RFC 1952, section 8)

cdef unsigned int _crc
for _byte in range(256):
    _crc = _byte
    for _ in range(8):
        _crc = _crc >> 1 ^ (0xEDB88320 if _crc & 1 else 0)
    _crcs[_byte] = _crc


cdef class SlowPathPackets:
    """Iterates over the packets of a batch that take the slow path: ``(start, end, time)`` of each.

    What the others complete is added to ``out``.  Unless ``places`` is None, ``base`` plus the start of the packet that
    completed it is added to that.
    """

    cdef bytes _buffer
    cdef object _decoder, _starts, _ends, _times, _again, _arm, _deliver, _start_block, _ended
    cdef dict _halves, _holes
    cdef set _bypassed
    cdef list _out, _places
    cdef long long _base
    cdef Py_ssize_t _at, _count
    cdef bint _sharded
    cdef unsigned int _shard, _shard_end

    def __init__(
        self, decoder, streams, batch, dict halves, set bypassed, list out, list places, long long base, shard
    ):
        self._sharded = shard is not None
        if self._sharded:
            self._shard, self._shard_end = shard.start, shard.stop
        self._decoder, self._deliver, self._start_block = decoder, decoder.deliver, decoder.start_block
        self._arm, self._ended = streams.arm, streams.finish_block
        self._buffer = batch.buffer
        self._starts, self._ends, self._times = batch.starts, batch.ends, batch.times
        self._count = len(self._starts)
        if len(self._ends) != self._count or len(self._times) != self._count:
            raise ValueError("a batch has a start, an end and a time for each packet")
        self._halves, self._bypassed, self._holes, self._again = halves, bypassed, streams.holes, streams.again
        self._out, self._places, self._base = out, places, base

    def __iter__(self):
        return self

    def __next__(self):
        cdef Py_ssize_t start, end, at
        cdef long long now, next_sweep = min(self._decoder.next_sweep, _LAST)
        cdef Py_ssize_t length = PyBytes_GET_SIZE(self._buffer)
        while self._at < self._count:
            at = self._at
            self._at = at + 1
            try:
                start = self._starts[at]
                end = self._ends[at]
                now = self._times[at]
            except OverflowError:
                return self._starts[at], self._ends[at], self._times[at]
            if (
                now >= next_sweep or start < 0 or end > length or end - start < _TO_FLAGS
                or not self._take(start, end, now)
            ):
                return start, end, now
        raise StopIteration

    cdef bint _take(self, Py_ssize_t start, Py_ssize_t end, long long now) except -1:
        """Take or skip a packet of at least ``_TO_FLAGS`` bytes.

        Returns False, and nothing has changed, if the decoder has to look at it.
        """
        cdef Bytes packet = <Bytes>PyBytes_AS_STRING(self._buffer) + start
        cdef Bytes data
        cdef Py_ssize_t total, size
        cdef unsigned int seq, behind
        cdef long long next_seq
        cdef object half, connection
        cdef bytes key
        if packet[14] != 0x45 or packet[12] != 0x08 or packet[13] != 0x00:
            return False
        if packet[23] != 6:
            return True
        total = packet[16] << 8 | packet[17]
        if packet[20] & 0x3F or packet[21] or not total or packet[46] < 0x50 or packet[47] & _CONTROL:
            return False
        size = total - 20 - (packet[46] >> 4 << 2)
        if size <= 0:
            return not self._holes or self._waits_for_nothing(packet)
        if 14 + total > end - start:
            return False
        key = PyBytes_FromStringAndSize(<char*>packet + 26, 12)
        half = self._halves.get(key)
        if half is None:
            return self._sharded and self._is_others(packet) or key in self._bypassed
        if type(half) is not _Half:
            return False
        data = packet + 14 + total - size
        connection = _get(half, _CONNECTION)
        if type(connection) is not _Connection:
            return False
        state = _get(connection, _STATE)
        if state is not _DECIDED:
            return (
                state is _IGNORED and not connection.protocol
                and not self._buffer.startswith(self._again, data - <Bytes>PyBytes_AS_STRING(self._buffer))
            )
        seq = _u32(packet + 38)
        peer = _get(half, _PEER)
        if type(peer) is not _Half or _get(half, _HELD) or _get(peer, _HELD):
            return False
        next_seq = _get(half, _NEXT_SEQ)
        if next_seq != seq:
            behind = <unsigned int>(next_seq - seq)
            if next_seq < 0 or behind > _WINDOW or behind < size or _get(half, _LOOSE):
                return False
            _set(connection, _CONNECTION_LAST_NS, now)
            return True  # a repeat
        if <long long>_get(peer, _NEXT_SEQ) != _u32(packet + 42):
            return False
        _set(connection, _CONNECTION_LAST_NS, now)
        _set(half, _NEXT_SEQ, seq + <unsigned int>size)
        if not self._fast_path(connection, half, peer, PyBytes_FromStringAndSize(<char*>data, size), now):
            self._deliver(half, PyBytes_FromStringAndSize(<char*>data, size), now, self._out)
        if self._places is not None:
            for _ in range(len(self._out) - len(self._places)):
                self._places.append(self._base + start)
        return True

    cdef bint _is_others(self, Bytes packet) noexcept:
        """As ``Decoder._is_others``."""
        cdef Bytes ends = packet + 26
        cdef unsigned char key[12]
        cdef unsigned int crc = 0xFFFFFFFF
        cdef int at
        memcpy(key, ends + 4, 4)
        memcpy(key + 4, ends, 4)
        memcpy(key + 8, ends + 10, 2)
        memcpy(key + 10, ends + 8, 2)
        if memcmp(ends, key, 12) < 0:
            memcpy(key, ends, 12)
        for at in range(12):
            crc = crc >> 8 ^ _crcs[(crc ^ key[at]) & 0xFF]
        crc = ~crc & 0xFFFF
        return crc < self._shard or crc >= self._shard_end

    cdef bint _waits_for_nothing(self, Bytes packet) except -1:
        """Return whether no bytes wait on the connection of a packet, so that what it acknowledges matters to none."""
        half = self._halves.get(PyBytes_FromStringAndSize(<char*>packet + 26, 12))
        return half is None or not (half.held or half.peer.held)

    cdef bint _fast_path(self, connection, half, peer, bytes raw, long long now) except -1:
        """Take the next bytes of a stream if they are, begin or complete a block that the fast path takes."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(raw)
        cdef Py_ssize_t held = 0
        cdef long long offset, start_ns = now
        cdef bytes begun
        fast_path = _get(connection, _FAST_PATH)
        if type(fast_path) is not _FastPath or _get(fast_path, _READY) is not True or _get(peer, _PENDING) is not False:
            return False
        if not _get(half, _PENDING) and size <= _UNREPORTED and _begins(<Bytes>PyBytes_AS_STRING(raw), size):
            if connection.unproven is not None or size > <Py_ssize_t>_get(fast_path, _LONGEST_BLOCK) - 3:
                return False
            self._start_block(half, raw, now, self._out)
            return True
        if size < 2 or (<Bytes>PyBytes_AS_STRING(raw))[size - 1] != 0x0D:
            return False
        framer = _get(half, _FRAMER)
        offset = framer.offset
        if _get(half, _PENDING):
            if connection.unproven is not None:
                return False
            begun = framer.open_block()
            held = PyBytes_GET_SIZE(begun)
            if not held or held >= _UNREPORTED:
                return False
            raw = begun + raw
            try:
                start_ns = half.marks[0][1]
            except OverflowError:
                return False
        if not self._add_block(connection, fast_path, half, raw, offset, start_ns, now):
            return False
        _set(half, _OFFSET, <long long>_get(half, _OFFSET) + size)
        _set(half, _LAST_NS, _get(connection, _CONNECTION_LAST_NS))  # which is now
        if held:
            self._ended(half, held + size)
        else:
            framer.offset = offset + size
        if not _get(connection, _TIMER_NS):
            self._arm(connection)
        return True

    cdef bint _add_block(
        self, connection, fast_path, half, bytes raw, long long offset, long long start_ns, long long end_ns
    ) except -1:
        """As ``FastPath.add_block``."""
        cdef Bytes block = <Bytes>PyBytes_AS_STRING(raw)
        cdef Bytes stop
        cdef Py_ssize_t size = PyBytes_GET_SIZE(raw)
        cdef Py_ssize_t fields[9]
        cdef Py_ssize_t at, begin, line
        cdef int field
        if size < 14 or size > <Py_ssize_t>_get(fast_path, _LONGEST_BLOCK) or not _is_sound(block, size):
            return False
        stop = <Bytes>memchr(block + 10, 0x0D, min(size, _LONGEST) - 10)
        if stop == NULL:
            return False
        begin = stop - block + 1  # of the second segment
        at = 10
        for field in range(1, 9):
            stop = <Bytes>memchr(block + at, 0x7C, begin - 1 - at)
            if stop == NULL:
                return False
            fields[field] = at = stop - block + 1
        if not _is_plain(block + 10, begin - 11):
            return False
        rest = PyUnicode_DecodeLatin1(<char*>block + fields[8], begin - 1 - fields[8], NULL)
        terms = _terms.get(rest)
        if terms is None:
            terms = terms_of(rest)
        wants_none, _, charset = _fields(terms, _Terms)
        request = _get(fast_path, _REQUEST)
        if request is None:
            if (
                wants_none or size > _UNREPORTED or size - begin < 3
                or PyBytes_FromStringAndSize(<char*>block + begin, 3) not in _NO_REPLY
                or <long long>_get(connection, _DEVICE_SIDE) < 0
            ):
                return False
            _set(fast_path, _TERMS, terms)
            _set(fast_path, _REQUEST, _named(_Request, (
                half, raw, offset, start_ns, end_ns,
                PyUnicode_DecodeLatin1(<char*>block + fields[7], fields[8] - 1 - fields[7], NULL),
                PyUnicode_DecodeLatin1(<char*>block + fields[6], fields[7] - 1 - fields[6], NULL),
                charset, True,
            )))
            return True
        asking, _, _, _, _, control_id, _, _, _ = _fields(request, _Request)
        if asking is half or size - begin < 4 or memcmp(block + begin, b"MSA|", 4):
            return False
        begin += 4
        stop = <Bytes>memchr(block + begin, 0x0D, min(size - begin, _LONGEST - 5))
        if stop == NULL:
            return False
        line = stop - block
        if not _is_plain(block + begin, line - begin):
            return False
        stop = <Bytes>memchr(block + begin, 0x7C, line - begin)
        if stop == NULL:
            return False
        code = PyUnicode_DecodeLatin1(<char*>block + begin, stop - block - begin, NULL)
        begin = stop - block + 1
        stop = <Bytes>memchr(block + begin, 0x7C, line - begin)
        if stop != NULL:
            line = stop - block
        if PyUnicode_DecodeLatin1(<char*>block + begin, line - begin, NULL) != control_id:
            return False
        _, completing, _ = _fields(_get(fast_path, _TERMS), _Terms)
        if (<dict>completing).get(code) is not True:
            return False  # more is to come, or the code is unknown
        own_id = PyUnicode_DecodeLatin1(<char*>block + fields[7], fields[8] - 1 - fields[7], NULL)
        exchange = _named(_FastExchange, (connection, request, _named(_Reply, (
            half, raw, offset, start_ns, end_ns, own_id,
            PyUnicode_DecodeLatin1(<char*>block + fields[6], fields[7] - 1 - fields[6], NULL),
            charset, True, code,
        ))))
        self._emit(fast_path, exchange, control_id, own_id)
        return True

    cdef int _emit(self, fast_path, exchange, str control_id, str own_id) except -1:
        """As ``FastPath.emit``, for a request that weighs nothing on a connection that keeps its last session."""
        cdef str answered
        if _get(fast_path, _WEIGHT) or not _get(fast_path, _HOLDS_LAST):
            fast_path.emit(exchange, control_id, own_id, self._out)
            return 0
        _set(fast_path, _REQUEST, None)
        _set(fast_path, _LAST_EXCHANGE, exchange)
        _set(fast_path, _LAST_SESSION, None)
        answered = f"{<str>_get(fast_path, _ANSWERED)}{control_id}\r{own_id}\r"
        if len(answered) > _MAX_ANSWERED:
            fast_path.note_answer(control_id, own_id)
        else:
            _set(fast_path, _ANSWERED, answered)
        self._out.append(_get(fast_path, _MAKE)(exchange))
        return 0
