"""Values that the rooms hand each other: immutable, without I/O or clock.

Most are ``NamedTuple``, not frozen dataclasses: they are as safe to share between threads and plugins, and five times
as fast to make, which matters for captures of hundreds of thousands of sessions.
"""
