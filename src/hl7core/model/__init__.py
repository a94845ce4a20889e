"""Values: immutable, no I/O, no clock.

They are ``NamedTuple``, not frozen dataclasses: as safe to share between threads and plugins, and made five times as
fast, which counts where a capture yields hundreds of thousands.
"""
