# Lines: JSON as hl7core.wire.jsonl writes it.

from hashlib import sha256 as _sha256

from hl7core.wire.mllp_sessions.acknowledgement import POSITIVE

cdef frozenset _POSITIVE = frozenset(POSITIVE)

cdef enum:
    _AROUND = 4096      # room for what stands around the texts of a line; a longer line is written slowly
    _SMALL = 16384      # a line of so much room is written on the stack


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


cdef class FastJsonLine:
    """Writes the line of a usual exchange; ``slow`` writes what is not beyond doubt simple, and a connection's first."""

    cdef object _slow

    def __init__(self, slow):
        self._slow = slow

    def __call__(self, told):
        try:
            return self._line(told)
        except OverflowError:  # a time that no machine word holds
            return self._slow(told)

    cdef _line(self, told):
        cdef _Line line
        cdef char small[_SMALL]
        cdef char* room = small
        cdef Py_ssize_t size
        cdef bytes raw, asked_raw, question, reply, made = None
        cdef tuple constant
        cdef long long asked_ns, asked_end_ns, start_ns, end_ns, asked_offset, offset
        connection, request, answer = _fields(told, _FastExchange)
        asking, asked_raw, asked_offset, asked_ns, asked_end_ns, control_id, asked_type, asked_charset, clean = _fields(request, _Request)
        _, raw, offset, start_ns, end_ns, own_id, own_type, charset, own_clean, code = _fields(answer, _Reply)
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
