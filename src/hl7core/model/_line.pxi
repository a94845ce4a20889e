# A line of JSON in the making: what is put to its end, as far as the room goes.
# The law: bytes are written by ``_put`` alone, which checks the room; once it was too little, the line is ``full`` and is
# thrown away.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.string cimport memchr, memcpy

cdef extern from *:
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

ctypedef const unsigned char* Bytes


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


cdef bint _is_clean(bytes text) noexcept:
    """Say whether text has no control characters but CR."""
    cdef Bytes data = <Bytes>PyBytes_AS_STRING(text)
    cdef Py_ssize_t at
    cdef unsigned char wrong = 0
    for at in range(PyBytes_GET_SIZE(text)):
        wrong |= (data[at] < 0x20) & (data[at] != 0x0D)
    return not wrong
