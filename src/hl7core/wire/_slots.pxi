# Slots: an attribute of a class with __slots__, read by its place.  Only of an object whose type was checked before.
# Named tuples: made without the search that tuple.__new__ begins with.

cdef extern from *:
    """
    #if PY_VERSION_HEX < 0x030c0000
    #include <structmember.h>
    #define Py_T_OBJECT_EX T_OBJECT_EX
    #endif

    static Py_ssize_t hl7core_slot(PyObject *member) {
        PyMemberDef *found;
        if (!PyObject_TypeCheck(member, &PyMemberDescr_Type)) return 0;
        found = ((PyMemberDescrObject *)member)->d_member;
        return found->type == Py_T_OBJECT_EX ? found->offset : 0;
    }

    static inline PyObject *hl7core_get(PyObject *of, Py_ssize_t slot) {
        PyObject *value = *(PyObject **)((char *)of + slot);
        if (value == NULL) {
            PyErr_SetString(PyExc_AttributeError, "a slot that was never filled");
            return NULL;
        }
        Py_INCREF(value);
        return value;
    }

    static inline void hl7core_set(PyObject *of, Py_ssize_t slot, PyObject *value) {
        PyObject **place = (PyObject **)((char *)of + slot);
        PyObject *old = *place;
        Py_INCREF(value);
        *place = value;
        Py_XDECREF(old);
    }

    /* What tuple.__new__(kind, values) gives, kind being a named tuple's class. */
    static inline PyObject *hl7core_named(PyObject *kind, PyObject *values) {
        Py_ssize_t at, size = PyTuple_GET_SIZE(values);
        PyObject *made = ((PyTypeObject *)kind)->tp_alloc((PyTypeObject *)kind, size);
        if (made == NULL) return NULL;
        for (at = 0; at < size; at++) {
            PyObject *value = PyTuple_GET_ITEM(values, at);
            Py_INCREF(value);
            PyTuple_SET_ITEM(made, at, value);
        }
        return made;
    }
    """
    Py_ssize_t hl7core_slot(object member)
    object _get "hl7core_get"(object of, Py_ssize_t slot)
    void _set "hl7core_set"(object of, Py_ssize_t slot, object value)
    object _named "hl7core_named"(object kind, tuple values)


cdef Py_ssize_t _slot(kind, str name) except 0:
    cdef Py_ssize_t found = hl7core_slot(getattr(kind, name, None))
    if not found:
        raise ImportError(f"{kind.__name__}.{name} is no slot")  # so all of it is left to Python
    return found


cdef inline tuple _fields(value, kind):
    """Return a named tuple of exactly this class as a tuple to be unpacked, which Cython does in place."""
    if type(value) is not kind:
        raise TypeError(f"{kind.__name__} is wanted")
    return <tuple>value
