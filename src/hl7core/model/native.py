"""The JSON of a session, written in C; None where the extension is not installed.

``_native.pyx`` is compiled at installation if a C compiler is there (docs/performance.md).  ``HL7CORE_PURE=1`` in the
environment turns it off.
"""

from __future__ import annotations

import os

__all__ = ["SessionLine"]

if os.environ.get("HL7CORE_PURE", "") in ("", "0"):
    try:
        from hl7core.model._native import SessionLine
    except ImportError:
        SessionLine = None  # type: ignore[assignment,misc]
else:
    SessionLine = None  # type: ignore[assignment,misc]
