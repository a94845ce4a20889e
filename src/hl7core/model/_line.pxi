# A line of JSON under construction, for the C extensions of model/ and wire/.
# Only ``_put`` writes bytes.  It checks the room: a line that did not fit is ``full``, and the caller throws it away.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.string cimport memchr, memcpy

cdef extern from *:
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

ctypedef const unsigned char* Bytes

cdef long long _EXACT = 1000000 << 42  # 2109: an earlier time in milliseconds is exact to three decimals as a double


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
    """Write unix nanoseconds as milliseconds with up to three decimals, without trailing zeros."""
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
    """Write ASCII text whose only control character is CR, escaped for a JSON string."""
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


cdef bint _is_clean(bytes text) noexcept:
    """Return whether CR is the only control character in text."""
    cdef Bytes data = <Bytes>PyBytes_AS_STRING(text)
    cdef Py_ssize_t at
    cdef unsigned char wrong = 0
    for at in range(PyBytes_GET_SIZE(text)):
        wrong |= (data[at] < 0x20) & (data[at] != 0x0D)
    return not wrong
