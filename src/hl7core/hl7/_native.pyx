# cython: language_level=3, boundscheck=True, wraparound=False, cdivision=True
"""The search keys of a session, extracted in C: what :mod:`hl7core.hl7.keys` finds.

Optional: without it, keys.py does all the work.  A session is left to keys.py unless all its messages are HL7 v2, or all
are LIS02, and each begins with a header that declares the usual separators.  Tests compare the two.

Bytes are read by address only between the start and end of a line, which lie within one message.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.tuple cimport PyTuple_GET_ITEM
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.string cimport memchr, memcmp

from hl7core.model.session import Message

__all__ = ["SOURCE", "usual_keys"]

cdef extern from *:
    """
    #ifndef HL7CORE_SOURCE
    #define HL7CORE_SOURCE ""
    #endif
    """
    const char* HL7CORE_SOURCE  # the hash of these files, as the build tells it
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

SOURCE = (<bytes>HL7CORE_SOURCE).decode()

ctypedef const unsigned char* Bytes

cdef enum:
    _NO_KIND
    _HL7
    _LIS02
    _LONGEST = 200
    _MOST = 10000

_MESSAGE = "text direction protocol time_ns control_id message_type charset complete ack_code reply_to"
if Message._fields != tuple(_MESSAGE.split()):
    raise ImportError("Message has other fields")  # then keys.py does all the work


def usual_keys(messages):
    """Return specimens, patients, control ids, message types and codes; None if keys.py should find them."""
    cdef dict specimens = {}, patients = {}, codes = {}, control_ids = {}, message_types = {}
    cdef int kind = _NO_KIND
    cdef Py_ssize_t size
    cdef Bytes at
    cdef bytes data
    if type(messages) is not tuple:
        return None
    for message in <tuple>messages:
        if type(message) is not Message or type(<object>PyTuple_GET_ITEM(message, 0)) is not bytes:
            return None
        control_ids[<object>PyTuple_GET_ITEM(message, 4)] = None
        message_types[<object>PyTuple_GET_ITEM(message, 5)] = None
        data = <object>PyTuple_GET_ITEM(message, 0)
        if data.isascii() and <object>PyTuple_GET_ITEM(message, 6) == "":
            at, size = <Bytes>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)
        else:
            text, _ = message.decoded()
            at = <Bytes>PyUnicode_AsUTF8AndSize(text, &size)
        if not _glance(at, at + size, &kind, specimens, patients, codes):
            return None
    control_ids.pop("", None)
    message_types.pop("", None)
    dividing = "\\^" if kind == _LIS02 else "~^&"
    specimens, patients, codes = _keys(specimens, dividing), _keys(patients, dividing), _keys(codes, dividing)
    if max(len(specimens), len(patients), len(codes)) > _MOST:
        return None
    return tuple(specimens), tuple(patients), tuple(control_ids), tuple(message_types), tuple(codes)


cdef bint _glance(Bytes at, Bytes end, int* kind, dict specimens, dict patients, dict codes) except -1:
    """Add the fields of one message; return whether it has a usual header of the same kind as the messages before."""
    cdef bint begun = False
    cdef Bytes line
    cdef Bytes line_end
    cdef int own
    while at < end:
        line, line_end = at, _line_end(at, end)
        at = line_end + 1
        if line == line_end:
            continue
        if line[0] <= 0x20 or line[0] >= 0x80:
            return False  # a blank before the line, perhaps
        if not begun:
            if line_end - line >= 9 and not memcmp(line, b"MSH|^~\\&|", 9):
                own = _HL7
            elif line_end - line >= 6 and not memcmp(line, b"H|\\^&|", 6):
                own = _LIS02
            else:
                return False
            if kind[0] not in (_NO_KIND, own):
                return False
            kind[0] = own
            begun = True
        elif own == _LIS02:
            if line[0] == c"H":
                return False
            if line_end - line < 3 or line[1] != c"|":
                continue
            if line[0] == c"P":
                _add(line, line_end, 2, patients)
                _add(line, line_end, 3, patients)
            elif line[0] == c"O":
                _add(line, line_end, 2, specimens)
                _add(line, line_end, 4, codes)
            elif line[0] == c"R":
                _add(line, line_end, 2, codes)
        elif line_end - line >= 4:
            if line[1] == c"S" and line[2] == c"H" or line[1] == c"H" and line[2] == c"S":
                return False  # another header, perhaps
            if line[3] != c"|":
                continue
            if not memcmp(line, b"OBX", 3):
                _add(line, line_end, 3, codes)
            elif not memcmp(line, b"OBR", 3):
                _add(line, line_end, 2, specimens)
                _add(line, line_end, 3, specimens)
                _add(line, line_end, 4, codes)
            elif not memcmp(line, b"PID", 3):
                _add(line, line_end, 3, patients)
            elif not memcmp(line, b"SPM", 3):
                _add(line, line_end, 2, specimens)
    return begun


cdef inline Bytes _line_end(Bytes at, Bytes end) noexcept:
    while at < end and at[0] != 0x0D and at[0] != 0x0A:
        at += 1
    return at


cdef int _add(Bytes line, Bytes end, int number, dict fields) except -1:
    """Add field ``number`` (from zero) of a line, unless it is missing or empty."""
    cdef Bytes last
    while number:
        line = <Bytes>memchr(line, c"|", end - line)
        if line == NULL:
            return 0
        line += 1
        number -= 1
    last = <Bytes>memchr(line, c"|", end - line)
    if last == NULL:
        last = end
    if last > line:
        fields[PyUnicode_DecodeUTF8(<char*>line, last - line, NULL)] = None
    return 0


cdef dict _keys(dict fields, str dividing):
    """Return the fields and all their parts, split at the outer separators first."""
    cdef dict keys = {}
    cdef list pieces = list(fields), parts
    cdef bint divided
    for piece in pieces:
        _keep(piece, keys)
    for separator in dividing:
        parts, divided = [], False
        for piece in pieces:
            if separator in <str>piece:
                parts += (<str>piece).split(separator)
                divided = True
            else:
                parts.append(piece)
        if divided:
            pieces = parts
            for piece in pieces:
                _keep(piece, keys)
    return keys


cdef int _keep(piece, dict keys) except -1:
    key = (<str>piece).strip()
    if key and len(<str>key) <= _LONGEST:
        keys[key] = None
    return 0
