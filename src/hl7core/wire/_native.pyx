# cython: language_level=3, boundscheck=True, wraparound=False, cdivision=True
"""The short way of nearly all packets, as machine code: what Python would do with them, and no more.

``records`` reads the records of a pcap file for :mod:`hl7core.wire.pcap`.  An ``Unusual`` goes through a batch for
:class:`hl7core.wire.decoder.Decoder` and yields the packets that want it: it leaves bare acknowledgements and other
people's traffic, and takes the blocks of usual exchanges, the way the decoder and :mod:`hl7core.wire.usual` do.
A ``UsualLine`` writes a usual exchange as :mod:`hl7core.wire.lines` does.

The law is theirs, one of doubt: whatever is not beyond doubt usual is left to them, and nothing has changed.  All of it
is optional: without it they do everything, and answer the same (tests hold the two against each other).

Bytes are read by address only below a length that was checked just before, in the same function, and written only by
``_put``, which checks the room.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_Append
from cpython.unicode cimport PyUnicode_DecodeLatin1
from libc.string cimport memchr, memcmp, memcpy

from hashlib import sha256 as _sha256

from hl7core.wire.connection import DECIDED, IGNORED
from hl7core.wire.peek import NO_REPLY
from hl7core.wire.scales import LIGHT
from hl7core.wire.exchange import POSITIVE
from hl7core.wire.usual import TERMS, terms_of

__all__ = ["SOURCE", "Unusual", "UsualLine", "records"]

cdef extern from *:
    """
    #ifndef HL7CORE_SOURCE
    #define HL7CORE_SOURCE ""
    #endif
    """
    const char* HL7CORE_SOURCE  # the hash of this file, as the build tells it
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

SOURCE = (<bytes>HL7CORE_SOURCE).decode()

ctypedef const unsigned char* Bytes

cdef object _DECIDED = DECIDED
cdef object _IGNORED = IGNORED
cdef frozenset _NO_REPLY = NO_REPLY
cdef frozenset _POSITIVE = frozenset(POSITIVE)
cdef dict _terms = TERMS
cdef object _LAST = (1 << 63) - 1
cdef Py_ssize_t _LIGHT = LIGHT

cdef enum:
    _TO_FLAGS = 54      # from an Ethernet header to the end of a TCP header without options
    _CONTROL = 0x07     # FIN, SYN, RST
    _LONGEST = 200      # a header or an MSA segment that is longer is not usual


# Records of a pcap file.

cdef enum:
    _MAX_CAPTURED = 16 * 1024 * 1024  # as hl7core.wire.pcapng has it


def records(
    bytes buffer, Py_ssize_t at, bint big, Py_ssize_t header, long long unit, list starts, list ends, list times,
    list wires,
):
    """Note where the packets of a classic pcap file lie in ``buffer``, from ``at`` on, and return where that ends.

    It ends at what is cut, and at what may be damaged.  ``big``: in big-endian order; ``header`` is the length of a
    record's header, ``unit`` how many nanoseconds the fraction of a second counts.
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


# Packets.

cdef inline unsigned int _l32(Bytes at) noexcept:
    return (<unsigned int>at[3] << 24) | (<unsigned int>at[2] << 16) | (<unsigned int>at[1] << 8) | at[0]


cdef inline unsigned int _u32(Bytes at) noexcept:
    return (<unsigned int>at[0] << 24) | (<unsigned int>at[1] << 16) | (<unsigned int>at[2] << 8) | at[3]


cdef inline bint _is_sound(Bytes block, Py_ssize_t size) noexcept:
    """Say whether a block of ``size`` bytes (14 at least) is one whole message without control characters but CR."""
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


cdef inline bint _is_plain(Bytes text, Py_ssize_t size) noexcept:
    """Say whether ``size`` bytes have nothing that repeats or is escaped, or that JSON would escape."""
    cdef Py_ssize_t at
    cdef unsigned char wrong = 0
    for at in range(size):
        wrong |= (text[at] == 0x7E) | (text[at] == 0x22) | (text[at] == 0x5C)
    return not wrong


cdef class Unusual:
    """Iterates over the packets of a batch that the decoder must look at: ``(start, end, time)`` of each.

    What the others complete is in ``out``; where each came from, ``base`` and where its packet starts, in ``places``
    unless that is None.
    """

    cdef bytes _buffer
    cdef object _decoder, _starts, _ends, _times, _again, _arm, _deliver, _ended
    cdef dict _halves, _holes
    cdef set _passed
    cdef list _out, _places
    cdef long long _base
    cdef Py_ssize_t _at, _count

    def __init__(
        self, decoder, streams, batch, dict halves, set passed, list out, list places, long long base
    ):
        self._decoder, self._deliver, self._arm, self._ended = decoder, decoder.deliver, streams.arm, streams.ended
        self._buffer = batch.buffer
        self._starts, self._ends, self._times = batch.starts, batch.ends, batch.times
        self._count = len(self._starts)
        if len(self._ends) != self._count or len(self._times) != self._count:
            raise ValueError("a batch has a start, an end and a time for each packet")
        self._halves, self._passed, self._holes, self._again = halves, passed, streams.holes, streams.again
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
            start = self._starts[at]
            end = self._ends[at]
            now = self._times[at]
            if (
                now >= next_sweep or start < 0 or end > length or end - start < _TO_FLAGS
                or not self._take(start, end, now)
            ):
                return start, end, now
        raise StopIteration

    cdef bint _take(self, Py_ssize_t start, Py_ssize_t end, long long now) except -1:
        """Take a packet, ``_TO_FLAGS`` bytes at least, or leave it; False, nothing having changed, if it is unusual."""
        cdef Bytes packet = <Bytes>PyBytes_AS_STRING(self._buffer) + start
        cdef Bytes data
        cdef Py_ssize_t total, size
        cdef unsigned int seq
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
            return key in self._passed
        data = packet + 14 + total - size
        connection = half.connection
        if connection.state is not _DECIDED:
            return (
                connection.state is _IGNORED and not connection.protocol
                and not self._buffer.startswith(self._again, data - <Bytes>PyBytes_AS_STRING(self._buffer))
            )
        seq = _u32(packet + 38)
        peer = half.peer
        if (
            <long long>half.next_seq != seq or <long long>peer.next_seq != _u32(packet + 42)
            or half.held or peer.held
        ):
            return False
        connection.last_ns = now
        half.next_seq = seq + <unsigned int>size
        if not self._usual(connection, half, peer, PyBytes_FromStringAndSize(<char*>data, size), now):
            self._deliver(half, PyBytes_FromStringAndSize(<char*>data, size), now, self._out)
        if self._places is not None:
            for _ in range(len(self._out) - len(self._places)):
                self._places.append(self._base + start)
        return True

    cdef bint _waits_for_nothing(self, Bytes packet) except -1:
        """Say whether nothing waits on the connection of a packet, so that it matters to none what it acknowledges."""
        half = self._halves.get(PyBytes_FromStringAndSize(<char*>packet + 26, 12))
        return half is None or not (half.held or half.peer.held)

    cdef bint _usual(self, connection, half, peer, bytes raw, long long now) except -1:
        """Take the next bytes of a stream if they are, or complete, a sound block of a usual exchange."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(raw)
        cdef Py_ssize_t held = 0
        cdef long long offset, start_ns = now
        cdef bytes begun
        usual = connection.usual
        if usual is None or size < 2 or (<Bytes>PyBytes_AS_STRING(raw))[size - 1] != 0x0D:
            return False
        if usual.ready is not True or peer.pending is not False:
            return False
        framer = half.framer
        offset = framer.offset
        if half.pending:
            if connection.unproven is not None:
                return False
            begun = framer.begun()
            held = PyBytes_GET_SIZE(begun)
            if not held or held >= _LIGHT:
                return False
            raw = begun + raw
            start_ns = half.marks[0][1]
        if not self._block(usual, half, raw, offset, start_ns, now):
            return False
        half.offset += size
        half.last_ns = now
        if held:
            self._ended(half, held + size)
        else:
            framer.offset = offset + size
        if not connection.timer_ns:
            self._arm(connection)
        return True

    cdef bint _block(
        self, usual, half, bytes raw, long long offset, long long start_ns, long long end_ns
    ) except -1:
        """As ``Usual.block``."""
        cdef Bytes block = <Bytes>PyBytes_AS_STRING(raw)
        cdef Bytes stop
        cdef Py_ssize_t size = PyBytes_GET_SIZE(raw)
        cdef Py_ssize_t fields[9]
        cdef Py_ssize_t at, begin, line
        cdef int field
        if size < 14 or size > <Py_ssize_t>usual.longest or not _is_sound(block, size):
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
        asked = usual.asked
        if asked is None:
            if (
                terms[0] or size > _LIGHT or size - begin < 3
                or PyBytes_FromStringAndSize(<char*>block + begin, 3) not in _NO_REPLY
                or half.connection.device_side < 0
            ):
                return False
            usual.terms = terms
            usual.asked = (
                half, raw, offset, start_ns, end_ns,
                PyUnicode_DecodeLatin1(<char*>block + fields[7], fields[8] - 1 - fields[7], NULL),
                PyUnicode_DecodeLatin1(<char*>block + fields[6], fields[7] - 1 - fields[6], NULL),
                terms[3], True,
            )
            return True
        if asked[0] is half or size - begin < 4 or memcmp(block + begin, b"MSA|", 4):
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
        if PyUnicode_DecodeLatin1(<char*>block + begin, line - begin, NULL) != asked[5]:
            return False
        _, accept, application, _ = usual.terms
        if application and (code == "CA" or (accept and not code.startswith("C"))):
            return False  # more is to come
        usual.tell((half.connection, asked, (
            half, raw, offset, start_ns, end_ns,
            PyUnicode_DecodeLatin1(<char*>block + fields[7], fields[8] - 1 - fields[7], NULL),
            PyUnicode_DecodeLatin1(<char*>block + fields[6], fields[7] - 1 - fields[6], NULL),
            terms[3], True, code,
        )), self._out)
        return True


# Lines.

cdef enum:
    _AROUND = 4096      # room for what stands around the texts of a line; a longer line is written slowly
    _SMALL = 16384      # a line of so much room is written on the stack


cdef struct _Line:
    char* at
    char* end
    bint full


cdef inline void _put(_Line* line, const char* text, Py_ssize_t size) noexcept:
    if size > line.end - line.at:
        line.full = True
        return
    memcpy(line.at, text, size)
    line.at += size


cdef inline int _put_text(_Line* line, object text) except -1:
    cdef Py_ssize_t size
    cdef const char* utf8 = PyUnicode_AsUTF8AndSize(text, &size)
    _put(line, utf8, size)
    return 0


cdef inline void _put_number(_Line* line, unsigned long long number) noexcept:
    cdef char digits[20]
    cdef int at = 20
    while True:
        at -= 1
        digits[at] = <char>(48 + number % 10)
        number //= 10
        if not number:
            break
    _put(line, digits + at, 20 - at)


cdef inline void _put_time(_Line* line, unsigned long long time_ns) noexcept:
    """Milliseconds with up to three decimals, as the schema has them."""
    cdef unsigned long long micros = time_ns // 1000
    cdef int rest = <int>(micros % 1000)
    cdef char digits[4]
    cdef int size = 4
    _put_number(line, micros // 1000)
    if rest:
        digits[0] = c"."
        digits[1] = <char>(48 + rest // 100)
        digits[2] = <char>(48 + rest // 10 % 10)
        digits[3] = <char>(48 + rest % 10)
        while digits[size - 1] == c"0":
            size -= 1
        _put(line, digits, size)


cdef inline Bytes _next(Bytes at, Bytes end, unsigned char byte) noexcept:
    cdef Bytes found = <Bytes>memchr(at, byte, end - at)
    return end if found == NULL else found


cdef inline void _put_escaped(_Line* line, Bytes text, Py_ssize_t size) noexcept:
    """ASCII text without control characters but CR, as it stands in a JSON string."""
    cdef Bytes end = text + size
    cdef Bytes at
    cdef Bytes cr = _next(text, end, 0x0D)
    cdef Bytes quote = _next(text, end, 0x22)
    cdef Bytes backslash = _next(text, end, 0x5C)
    while True:
        at = min(cr, min(quote, backslash))
        _put(line, <char*>text, at - text)
        if at == end:
            return
        text = at + 1
        if at == cr:
            _put(line, b"\\r", 2)
            cr = _next(text, end, 0x0D)
        elif at == quote:
            _put(line, b'\\"', 2)
            quote = _next(text, end, 0x22)
        else:
            _put(line, b"\\\\", 2)
            backslash = _next(text, end, 0x5C)


cdef int _put_name(_Line* line, connection, half, long long offset, bytes first, long long time_ns) except -1:
    """The id of a session, as ``Connection.session_id`` makes it."""
    cdef char hashed[69]
    cdef char name[36]
    cdef const char* hexits = b"0123456789abcdef"
    cdef const char* digest
    cdef Py_ssize_t size = min(PyBytes_GET_SIZE(first), 64), length
    cdef unsigned long long millis = <unsigned long long>(time_ns // 1000000)
    cdef unsigned int seq
    cdef int at
    state = connection._hash
    if state is None:
        return _put_text(line, connection.session_id(half, offset, first, time_ns))
    seq = <unsigned int>((<long long>half.origin + offset) & 0xFFFFFFFF)
    hashed[0] = <char><int>connection._places[half.side]
    for at in range(4):
        hashed[1 + at] = <char>(seq >> (24 - 8 * at) & 0xFF)
    memcpy(hashed + 5, PyBytes_AS_STRING(first), size)
    state = state.copy()
    state.update(PyBytes_FromStringAndSize(hashed, 5 + size))
    text = state.hexdigest()
    digest = PyUnicode_AsUTF8AndSize(text, &length)
    if length != 20:
        raise ValueError("a session is named by a hash of 10 bytes")
    for at in range(8):
        name[at] = hexits[millis >> (44 - 4 * at) & 15]
    name[8] = c"-"
    for at in range(4):
        name[9 + at] = hexits[millis >> (12 - 4 * at) & 15]
    name[13] = c"-"
    name[14] = c"7"
    memcpy(name + 15, digest, 3)
    name[18] = c"-"
    at = digest[19] - (48 if digest[19] <= c"9" else 87)
    name[19] = b"89ab"[at & 3]
    memcpy(name + 20, digest + 3, 3)
    name[23] = c"-"
    memcpy(name + 24, digest + 6, 12)
    _put(line, name, 36)
    return 0


cdef bint _is_clean(bytes text) noexcept:
    """Say whether text has no control characters but CR."""
    cdef Bytes data = <Bytes>PyBytes_AS_STRING(text)
    cdef Py_ssize_t at
    cdef unsigned char wrong = 0
    for at in range(PyBytes_GET_SIZE(text)):
        wrong |= (data[at] < 0x20) & (data[at] != 0x0D)
    return not wrong


cdef class UsualLine:
    """Writes the line of a usual exchange; ``slow`` writes what is not beyond doubt simple, and a connection's first."""

    cdef object _slow

    def __init__(self, slow):
        self._slow = slow

    def __call__(self, tuple told):
        cdef _Line line
        cdef char small[_SMALL]
        cdef char* room = small
        cdef Py_ssize_t size
        cdef bytes raw, asked_raw, question, reply, made = None
        cdef tuple constant, asked, answer
        cdef long long asked_ns, asked_end_ns, start_ns, end_ns, asked_offset, offset
        connection, asked, answer = told
        asking, asked_raw, asked_offset, asked_ns, asked_end_ns, control_id, asked_type, asked_charset, clean = asked
        _, raw, offset, start_ns, end_ns, own_id, own_type, charset, own_clean, code = answer
        constant = connection.constant[asking.side]
        if asked_charset or charset or not constant or asked_ns < 0 or start_ns < 0 or asked_end_ns < 0 or end_ns < 0:
            return self._slow(told)
        question, reply = asked_raw[1:len(asked_raw) - 2], raw[1:len(raw) - 2]
        if not (question.isascii() and reply.isascii() and (clean or _is_clean(question)) and (own_clean or _is_clean(reply))):
            return self._slow(told)
        head, there, back, info, own_info = constant
        size = 2 * (PyBytes_GET_SIZE(question) + PyBytes_GET_SIZE(reply)) + _AROUND
        if size > _SMALL:
            made = PyBytes_FromStringAndSize(NULL, size)
            room = PyBytes_AS_STRING(made)
        line.at = room
        line.end = room + size
        line.full = False
        _put(&line, b'{"sessionId":"', 14)
        _put_name(&line, connection, asking, asked_offset, asked_raw, asked_ns)
        _put(&line, b'","startTime":', 14)
        _put_number(&line, asked_ns // 1000000)
        _put(&line, b',"endTime":', 11)
        _put_number(&line, max(end_ns, asked_end_ns) // 1000000)
        _put_text(&line, head)
        _put_time(&line, asked_ns)
        _put_text(&line, there)
        _put_number(&line, asked_offset)
        _put(&line, b',"message":0},{"id":"1","timestamp":', 36)
        _put_time(&line, start_ns)
        _put_text(&line, back)
        _put(&line, b'ack","offset":' if code in _POSITIVE else b'nak","offset":', 14)
        _put_number(&line, offset)
        _put(&line, b',"message":1}],"messages":["', 28)
        _put_escaped(&line, <Bytes>PyBytes_AS_STRING(question), PyBytes_GET_SIZE(question))
        _put(&line, b'","', 3)
        _put_escaped(&line, <Bytes>PyBytes_AS_STRING(reply), PyBytes_GET_SIZE(reply))
        _put_text(&line, info)
        _put_message(&line, control_id, asked_type, question, asked_end_ns)
        _put_text(&line, own_info)
        _put_message(&line, own_id, own_type, reply, end_ns)
        _put(&line, b',"replyTo":"', 12)
        _put_text(&line, control_id)
        if code:
            _put(&line, b'","ackCode":"', 13)
            _put_text(&line, code)
        _put(&line, b'"}]}', 4)
        if line.full:
            return self._slow(told)
        return PyBytes_FromStringAndSize(room, line.at - room)


cdef int _put_message(_Line* line, control_id, kind, bytes text, long long end_ns) except -1:
    """What ``messageInfo`` says of a message, from the value of its control id on."""
    _put(line, b'"', 1)
    _put_text(line, control_id)
    _put(line, b'","messageType":"', 17)
    _put_text(line, kind)
    _put(line, b'","sha256":"', 12)
    _put_text(line, _sha256(text).hexdigest())
    _put(line, b'","length":', 11)
    _put_number(line, PyBytes_GET_SIZE(text))
    _put(line, b',"complete":true,"timestamp":', 29)
    _put_time(line, end_ns)
    return 0
