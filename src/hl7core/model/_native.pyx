# cython: language_level=3, boundscheck=True, wraparound=False, cdivision=True
"""The JSON of a session, written in C: byte for byte what :mod:`hl7core.model.schema` writes, three times as fast.

Optional: without it, schema.py writes every session itself.  A session with any value of an unexpected type or size is
left to schema.py (``_Unsure``).  Tests compare the two.

Bytes are written only by ``_put``, which checks the room.  Fields of a tuple are read by index only after its type, and
so its length, was checked; the order of the fields is checked when this module is imported.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.datetime cimport (
    datetime_day,
    datetime_hour,
    datetime_microsecond,
    datetime_minute,
    datetime_month,
    datetime_second,
    datetime_tzinfo,
    datetime_year,
    import_datetime,
)
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE

from datetime import UTC as _UTC, datetime as _datetime
from hashlib import sha256 as _sha256

from orjson import dumps as _dumps

from hl7core.model.delivery import Delivery, DeliveryStatus
from hl7core.model.frame import Fault
from hl7core.model.packet import Endpoint
from hl7core.model.session import Direction, Element, ElementType, Ending, Message, Session
from hl7core.model.text import decode as _decode

__all__ = ["SOURCE", "SessionLine"]

cdef extern from *:
    """
    #ifndef HL7CORE_SOURCE
    #define HL7CORE_SOURCE ""
    #endif
    """
    const char* HL7CORE_SOURCE  # the hash of these files, as the build tells it

SOURCE = (<bytes>HL7CORE_SOURCE).decode()

include "_line.pxi"

cdef enum:
    _AROUND = 2048      # room for the fields of a session itself
    _PER_PART = 1024    # room for the fields of an element or message, besides its bytes
    _PER_FAULT = 128
    _PER_DELIVERY = 512
    _SMALL = 16384      # a line that needs at most so much room is written on the stack

cdef object _FAILED = DeliveryStatus.FAILED
cdef object _PENDING = DeliveryStatus.PENDING
cdef object _SUBMITTED = DeliveryStatus.SUBMITTED
cdef bytes _MLLP_BEFORE = b"\x0b"
cdef bytes _MLLP_AFTER = b"\x1c\r"
cdef bytes _PLAIN_BEFORE = b"\x02"
cdef bytes _PLAIN_AFTER = b"\r\n"

for _kind, _places in (
    (Endpoint, "address port"),
    (Fault, "code offset"),
    (Delivery, "name status attempts next_at submitted_at error"),
    (Element, "time_ns direction type offset before content after message span faults late missing"),
    (Message, "text direction protocol time_ns control_id message_type charset complete ack_code reply_to"),
    (
        Session,
        "id start_ns end_ns device lis elements messages is_complete protocol ending connection sensor findings"
        " deliveries ignored first_saved_at saved_at persisted_until retention_days revision",
    ),
):
    if _kind._fields != tuple(_places.split()):
        raise ImportError(f"{_kind.__name__} has other fields")  # then schema.py writes every session


import_datetime()


class _Unsure(Exception):
    """Python should write this session."""


cdef inline object _of(object value, int place):
    return <object>PyTuple_GET_ITEM(value, place)


cdef inline int _is(object value, object kind) except -1:
    if type(value) is not kind:
        raise _Unsure
    return 0


cdef inline long long _number(object value) except -1:
    """An int that is not negative."""
    cdef long long number
    if type(value) is not int:
        raise _Unsure
    number = value
    if number < 0:
        raise _Unsure
    return number


cdef inline long long _time(object value) except -1:
    """A time in unix nanoseconds that JSON's milliseconds give back exactly."""
    cdef long long time_ns = _number(value)
    if time_ns >= _EXACT:
        raise _Unsure
    return time_ns


cdef inline void _say(_Line* line, bytes text) noexcept:
    _put(line, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))


cdef int _put_quoted(_Line* line, object text) except -1:
    cdef Py_ssize_t size, at
    cdef unsigned char wrong = 0
    cdef Bytes utf8
    if type(text) is not str:
        raise _Unsure
    utf8 = <Bytes>PyUnicode_AsUTF8AndSize(text, &size)
    for at in range(size):
        wrong |= (utf8[at] < 0x20) | (utf8[at] == 0x22) | (utf8[at] == 0x5C)
    if wrong:
        _say(line, _dumps(text))
        return 0
    _say(line, b'"')
    _put(line, <const char*>utf8, size)
    _say(line, b'"')
    return 0


cdef inline int _put_key(_Line* line, bytes key, object text) except -1:
    _say(line, key)
    return _put_quoted(line, text)


cdef void _put_hex(_Line* line, bytes key, bytes data) noexcept:
    cdef const char* hexits = b"0123456789abcdef"
    cdef Bytes at = <Bytes>PyBytes_AS_STRING(data)
    cdef Py_ssize_t place
    cdef char two[2]
    _say(line, key)
    for place in range(PyBytes_GET_SIZE(data)):
        two[0] = hexits[at[place] >> 4]
        two[1] = hexits[at[place] & 15]
        _put(line, two, 2)
    _say(line, b'"')


cdef inline unsigned int _sum(bytes data, Py_ssize_t start, Py_ssize_t end) noexcept:
    cdef Bytes at = <Bytes>PyBytes_AS_STRING(data)
    cdef unsigned int total = 0
    cdef Py_ssize_t place
    for place in range(start, end):
        total += at[place]
    return total


cdef bint _is_usual_lis01(bytes before, bytes text, Py_ssize_t start, Py_ssize_t end, bytes after) noexcept:
    """Return whether a frame ends in ETX, the checksum of everything between STX and checksum, CR LF."""
    cdef const char* hexits = b"0123456789ABCDEF"
    cdef Bytes at = <Bytes>PyBytes_AS_STRING(after)
    cdef unsigned int total = _sum(before, 1, PyBytes_GET_SIZE(before)) + _sum(text, start, end) + 3
    return (
        PyBytes_GET_SIZE(after) == 5
        and at[0] == 3
        and at[1] == hexits[total >> 4 & 15]
        and at[2] == hexits[total & 15]
        and at[3] == 0x0D
        and at[4] == 0x0A
    )


cdef class SessionLine:
    """Writes a session as one line of JSON; returns None if schema.py should.

    ``content`` and ``finding`` are schema.py's: they return the JSON fields of an element's own bytes and of a finding.
    ``version`` is the schema's.
    """

    cdef object _content, _finding
    cdef str _version

    def __init__(self, content, finding, str version):
        self._content = content
        self._finding = finding
        self._version = version

    def __call__(self, session, bint saved):
        if type(session) is not Session:
            return None
        try:
            return self._line(session, saved)
        except (_Unsure, OverflowError, TypeError, UnicodeEncodeError):  # TypeError: orjson's, too
            return None

    cdef _line(self, session, bint saved):
        cdef _Line line
        cdef char small[_SMALL]
        cdef char* room = small
        cdef bytes findings = b"", made = None
        cdef object elements = _of(session, 5), messages = _of(session, 6), device = _of(session, 3), lis = _of(session, 4)
        cdef object protocol = _of(session, 8), revision = _of(session, 19)
        cdef Py_ssize_t place, size
        _is(elements, tuple)
        _is(messages, tuple)
        _is(device, Endpoint)
        _is(lis, Endpoint)
        _is(protocol, str)
        _is(_of(session, 7), bool)
        _is(_of(session, 9), Ending)
        if _of(session, 12):
            findings = _dumps([self._finding(finding) for finding in _of(session, 12)])
        _is(_of(session, 13), tuple)
        size = _AROUND + PyBytes_GET_SIZE(findings) + _PER_DELIVERY * PyTuple_GET_SIZE(_of(session, 13))
        size += _room(elements, messages)
        if size > _SMALL:
            made = PyBytes_FromStringAndSize(NULL, size)
            room = PyBytes_AS_STRING(made)
        line.at = room
        line.end = room + size
        line.full = False
        _put_key(&line, b'{"sessionId":', _of(session, 0))
        _say(&line, b',"startTime":')
        _put_number(&line, _number(_of(session, 1)) // 1000000)
        _say(&line, b',"endTime":')
        _put_number(&line, _number(_of(session, 2)) // 1000000)
        _put_key(&line, b',"deviceIP":', _of(device, 0))
        _put_key(&line, b',"lisIP":', _of(lis, 0))
        _say(&line, b',"devicePort":')
        _put_number(&line, _number(_of(device, 1)))
        _say(&line, b',"lisPort":')
        _put_number(&line, _number(_of(lis, 1)))
        _put_key(&line, b',"protocol":', protocol)
        _put_key(&line, b',"connection":', _of(session, 10))
        if _of(session, 11):
            _put_key(&line, b',"sensor":', _of(session, 11))
        _say(&line, b',"ending":"')
        _put_text(&line, _of(session, 9))
        _say(&line, b'","isComplete":')
        _say(&line, b"true" if _of(session, 7) else b"false")
        if _number(revision):
            _say(&line, b',"revision":')
            _put_number(&line, _number(revision))
        _say(&line, b',"elements":[')
        for place in range(PyTuple_GET_SIZE(elements)):
            if place:
                _say(&line, b",")
            self._element(&line, place, _of(elements, place), protocol, messages)
        _say(&line, b'],"messages":[')
        encodings = []
        for place in range(PyTuple_GET_SIZE(messages)):
            if place:
                _say(&line, b",")
            encodings.append(_put_message(&line, _of(messages, place)))
        _say(&line, b'],"messageInfo":[')
        for place in range(PyTuple_GET_SIZE(messages)):
            if place:
                _say(&line, b",")
            _put_info(&line, _of(messages, place), encodings[place])
        _say(&line, b"]")
        if findings:
            _say(&line, b',"findings":')
            _say(&line, findings)
        if saved:
            self._saved(&line, session)
        _say(&line, b"}")
        if line.full:
            return None
        return PyBytes_FromStringAndSize(room, line.at - room)

    cdef int _element(self, _Line* line, Py_ssize_t number, element, str protocol, messages) except -1:
        cdef object message = _of(element, 7), span = _of(element, 8), faults = _of(element, 9)
        cdef bytes before = _of(element, 4), content = _of(element, 5), after = _of(element, 6), text
        cdef long long start, end, missing = _number(_of(element, 11))
        cdef bint usual_before = not before, usual_after = not after
        cdef Py_ssize_t at
        _say(line, b'{"id":"')
        _put_number(line, number)
        _say(line, b'","timestamp":')
        _put_time(line, _time(_of(element, 0)))
        _say(line, b',"direction":"')
        _put_text(line, _of(element, 1))
        _say(line, b'","type":"')
        _put_text(line, _of(element, 2))
        _say(line, b'","offset":')
        _put_number(line, _number(_of(element, 3)))
        if message is not None:
            at = _number(message)
            if at >= PyTuple_GET_SIZE(messages):
                raise _Unsure
            text = _of(_of(messages, at), 0)
            _is(span, tuple)
            if PyTuple_GET_SIZE(span) != 2:
                raise _Unsure
            start, end = _number(_of(span, 0)), _number(_of(span, 1))
            if start > end or end > PyBytes_GET_SIZE(text):
                raise _Unsure
            _say(line, b',"message":')
            _put_number(line, at)
            if start or end != PyBytes_GET_SIZE(text):
                _say(line, b',"span":[')
                _put_number(line, start)
                _say(line, b",")
                _put_number(line, end)
                _say(line, b"]")
            if protocol == "mllp":
                usual_before, usual_after = before == _MLLP_BEFORE, after == _MLLP_AFTER
            elif protocol == "lis01":
                usual_after = _is_usual_lis01(before, text, start, end, after)
            elif protocol == "plain":
                usual_before, usual_after = before == _PLAIN_BEFORE, after == _PLAIN_AFTER
        elif PyBytes_GET_SIZE(content) == 1:
            _put_hex(line, b',"hexData":"', content)
        elif content:
            _say(line, b",")
            _say(line, _dumps(self._content(content))[1:-1])
        if not usual_before:
            _put_hex(line, b',"before":"', before)
        if not usual_after:
            _put_hex(line, b',"after":"', after)
        for at in range(PyTuple_GET_SIZE(faults)):
            fault = _of(faults, at)
            _is(fault, Fault)
            if at:
                _put_key(line, b',{"code":', _of(fault, 0))
            else:
                _put_key(line, b',"faults":[{"code":', _of(fault, 0))
            _say(line, b',"offset":')
            _put_number(line, _number(_of(fault, 1)))
            _say(line, b"}")
        if PyTuple_GET_SIZE(faults):
            _say(line, b"]")
        if _of(element, 10):
            _say(line, b',"late":true')
        if missing:
            _say(line, b',"length":')
            _put_number(line, missing)
        _say(line, b"}")
        return 0


    cdef int _saved(self, _Line* line, session) except -1:
        """The fields that only a save or a submission adds."""
        cdef object deliveries = _of(session, 13), retention = _of(session, 18), error = "", status
        cdef long long attempts = 0, sent = -1
        cdef bint failed = False, pending = False, submitted = False
        cdef Py_ssize_t place
        for place in range(PyTuple_GET_SIZE(deliveries)):
            delivery = _of(deliveries, place)
            _is(delivery, Delivery)
            status = _of(delivery, 1)
            _is(status, DeliveryStatus)
            failed |= status is _FAILED
            pending |= status is _PENDING
            submitted |= status is _SUBMITTED
            attempts = max(attempts, _number(_of(delivery, 2)))
            if _of(delivery, 4) is not None:
                sent = max(sent, _millis(_of(delivery, 4)))
            if _of(delivery, 5) and not error:
                error = _of(delivery, 5)
        _is(_of(session, 14), bool)
        _put_moment(line, b',"persistedUntil":', _of(session, 17))
        _put_moment(line, b',"firstSavedAt":', _of(session, 15))
        _say(line, b',"submissionStatus":"')
        if _of(session, 14):
            _say(line, b"ignored")
        elif failed:
            _say(line, b"failed")
        else:
            _say(line, b"submitted" if submitted and not pending else b"pending")
        _say(line, b'","submissionAttempts":')
        _put_number(line, attempts)
        if sent >= 0:
            _say(line, b',"submittedAt":')
            _put_number(line, sent)
        if error:
            _put_key(line, b',"submissionError":', error)
        if PyTuple_GET_SIZE(deliveries) > 1 and len({_of(one, 0) for one in deliveries}) != PyTuple_GET_SIZE(deliveries):
            raise _Unsure  # JSON holds one delivery of a name
        for place in range(PyTuple_GET_SIZE(deliveries)):
            delivery = _of(deliveries, place)
            _put_key(line, b"," if place else b',"deliveries":{', _of(delivery, 0))
            _say(line, b':{"status":"')
            _put_text(line, _of(delivery, 1))
            _say(line, b'","attempts":')
            _put_number(line, _number(_of(delivery, 2)))
            _put_moment(line, b',"nextAt":', _of(delivery, 3))
            _put_moment(line, b',"submittedAt":', _of(delivery, 4))
            if _of(delivery, 5):
                _put_key(line, b',"error":', _of(delivery, 5))
            _say(line, b"}")
        if PyTuple_GET_SIZE(deliveries):
            _say(line, b"}")
        _put_key(line, b',"_metadata":{"version":', self._version)
        _put_moment(line, b',"savedAt":', _of(session, 16))
        if retention is not None:
            _say(line, b',"retentionDays":')
            _put_number(line, _number(retention))
        _say(line, b"}")
        return 0


cdef long long _millis(at) except -1:
    """An aware UTC datetime from 1970 on, as whole unix milliseconds; days by the proleptic Gregorian calendar."""
    cdef long long year, month, days
    if type(at) is not _datetime or datetime_tzinfo(at) is not _UTC or datetime_year(at) < 1970:
        raise _Unsure
    year, month = datetime_year(at), datetime_month(at)
    if month < 3:  # count years from March, so that a leap day is the last of its year
        year -= 1
        month += 12
    days = year * 365 + year // 4 - year // 100 + year // 400 + (153 * month - 457) // 5 + datetime_day(at) - 719469
    return (
        ((days * 24 + datetime_hour(at)) * 60 + datetime_minute(at)) * 60 + datetime_second(at)
    ) * 1000 + datetime_microsecond(at) // 1000


cdef int _put_moment(_Line* line, bytes key, at) except -1:
    if at is not None:
        _say(line, key)
        _put_number(line, _millis(at))
    return 0


cdef Py_ssize_t _room(elements, messages) except -1:
    """Return how many bytes the elements and messages may need, having checked the types of their fields."""
    cdef Py_ssize_t place, room = 0
    for place in range(PyTuple_GET_SIZE(messages)):
        message = _of(messages, place)
        _is(message, Message)
        _is(_of(message, 0), bytes)
        _is(_of(message, 1), Direction)
        _is(_of(message, 6), str)
        _is(_of(message, 7), bool)
        room += _PER_PART + 2 * PyBytes_GET_SIZE(_of(message, 0))
    for place in range(PyTuple_GET_SIZE(elements)):
        element = _of(elements, place)
        _is(element, Element)
        _is(_of(element, 1), Direction)
        _is(_of(element, 2), ElementType)
        before, content, after, faults = _of(element, 4), _of(element, 5), _of(element, 6), _of(element, 9)
        _is(before, bytes)
        _is(content, bytes)
        _is(after, bytes)
        _is(faults, tuple)
        _is(_of(element, 10), bool)
        room += _PER_PART + _PER_FAULT * PyTuple_GET_SIZE(faults)
        room += 2 * (PyBytes_GET_SIZE(before) + PyBytes_GET_SIZE(content) + PyBytes_GET_SIZE(after))
    return room


cdef object _put_message(_Line* line, message):
    """Write a message's string; return the codec that gives its exact bytes back."""
    cdef bytes data = _of(message, 0)
    cdef object charset = _of(message, 6), text = None
    encoding = "utf-8"
    if charset or not data.isascii():
        text, encoding = _decode(data, charset)
    if encoding != "utf-8":
        _say(line, _dumps(text))
    elif _is_clean(data):
        _say(line, b'"')
        _put_escaped(line, <Bytes>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        _say(line, b'"')
    else:
        _say(line, _dumps(data.decode() if text is None else text))
    return encoding


cdef int _put_info(_Line* line, message, encoding) except -1:
    """Write a message's entry in ``messageInfo``."""
    cdef bytes data = _of(message, 0)
    cdef object charset = _of(message, 6), reply_to = _of(message, 9), ack_code = _of(message, 8)
    _say(line, b'{"encoding":"')
    _put_text(line, encoding)
    _say(line, b'","direction":"')
    _put_text(line, _of(message, 1))
    _put_key(line, b'","protocol":', _of(message, 2))
    _put_key(line, b',"controlId":', _of(message, 4))
    _put_key(line, b',"messageType":', _of(message, 5))
    _say(line, b',"sha256":"')
    _put_text(line, _sha256(data).hexdigest())
    _say(line, b'","length":')
    _put_number(line, PyBytes_GET_SIZE(data))
    _say(line, b',"complete":')
    _say(line, b"true" if _of(message, 7) else b"false")
    _say(line, b',"timestamp":')
    _put_time(line, _time(_of(message, 3)))
    if charset:
        _put_key(line, b',"charset":', charset)
    if reply_to is not None:
        _put_key(line, b',"replyTo":', reply_to)
    if ack_code:
        _put_key(line, b',"ackCode":', ack_code)
    _say(line, b"}")
    return 0
