# Slots: an attribute of a class with __slots__ by its place, as the interpreter reads it once its code is warm.
# The law: of an object whose type is known to be the very class.

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
    """
    Py_ssize_t hl7core_slot(object member)
    object _get "hl7core_get"(object of, Py_ssize_t slot)
    void _set "hl7core_set"(object of, Py_ssize_t slot, object value)


cdef Py_ssize_t _slot(kind, str name) except 0:
    cdef Py_ssize_t found = hl7core_slot(getattr(kind, name))
    if not found:
        raise ImportError(f"{kind.__name__}.{name} is no slot")  # so all of it is left to Python
    return found
