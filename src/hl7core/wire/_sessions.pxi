# Sessions: exchanges of the fast path, as hl7core.wire.mllp_sessions.fast_path makes them.

from hl7core.model.session import Element, ElementType, Ending, Message, Session

cdef object _Session = Session
cdef object _Element = Element
cdef object _Message = Message
cdef object _MESSAGE = ElementType.MESSAGE
cdef object _ACK = ElementType.ACK
cdef object _NAK = ElementType.NAK
cdef object _COMPLETE = Ending.COMPLETE
cdef bytes _VT = b"\x0b"
cdef bytes _FS_CR = b"\x1c\r"
cdef Py_ssize_t _ENDS = _slot(Connection, "_ends")
cdef Py_ssize_t _DEVICE_SIDE = _slot(Connection, "device_side")
cdef Py_ssize_t _DIRECTIONS = _slot(Connection, "directions")
cdef Py_ssize_t _PROTOCOL = _slot(Connection, "protocol")
cdef Py_ssize_t _TEXT = _slot(Connection, "_text")
cdef Py_ssize_t _OPTIONS = _slot(Connection, "options")
cdef Py_ssize_t _SIDE = _slot(Half, "side")


cdef class FastSession:
    """Makes a session of an exchange of the fast path; ``slow`` makes those whose times no machine word holds."""

    cdef object _slow

    def __init__(self, slow):
        self._slow = slow

    def __call__(self, exchange):
        connection, request, reply = _fields(exchange, _FastExchange)
        try:
            return self._session(exchange, connection, _fields(request, _Request), _fields(reply, _Reply))
        except OverflowError:
            return self._slow(exchange)

    cdef _session(self, exchange, connection, tuple request, tuple reply):
        cdef _Line line
        cdef char name[36]
        cdef bytes asked, raw, question, answer
        cdef tuple directions, ends
        cdef Py_ssize_t side
        asking, asked, asked_offset, asked_ns, asked_end_ns, control_id, asked_type, asked_charset, _ = request
        half, raw, offset, start_ns, end_ns, own_id, own_type, charset, _, code = reply
        if type(connection) is not _Connection or type(asking) is not _Half or type(half) is not _Half or asked_ns < 0:
            return self._slow(exchange)
        directions, ends = _get(connection, _DIRECTIONS), _get(connection, _ENDS) or connection.ends
        side = _get(connection, _DEVICE_SIDE)
        line.at = name
        line.end = name + 36
        line.full = False
        _put_name(&line, connection, asking, asked_offset, asked, asked_ns)
        if line.full or line.at != line.end:
            raise ValueError("a session's id has 36 characters")
        there, back = directions[<Py_ssize_t>_get(asking, _SIDE)], directions[<Py_ssize_t>_get(half, _SIDE)]
        protocol = _get(connection, _PROTOCOL)
        question, answer = asked[1:len(asked) - 2], raw[1:len(raw) - 2]
        elements = (
            _named(_Element, (
                asked_ns, there, _MESSAGE, asked_offset, _VT, b"", _FS_CR, 0, (0, len(question)), (), False, 0,
            )),
            _named(_Element, (
                start_ns, back, _ACK if code in _POSITIVE else _NAK, offset, _VT, b"", _FS_CR, 1, (0, len(answer)), (),
                False, 0,
            )),
        )
        messages = (
            _named(_Message, (
                question, there, protocol, asked_end_ns, control_id, asked_type, asked_charset, True, "", None,
            )),
            _named(_Message, (
                answer, back, protocol, end_ns, own_id, own_type, charset, True, code, control_id,
            )),
        )
        return _named(_Session, (
            PyUnicode_DecodeLatin1(name, 36, NULL), asked_ns, end_ns if end_ns > asked_end_ns else asked_end_ns,
            ends[side] if side >= 0 else ends[0], ends[1 - side] if side >= 0 else ends[1], elements, messages, True,
            protocol, _COMPLETE, _get(connection, _TEXT) or connection.text, _get(connection, _OPTIONS).sensor, (), (),
            False, None, None, None, None, 0,
        ))
