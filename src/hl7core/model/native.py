"""The JSON of a session as machine code, where this installation has it; None where not.

It is built from ``_native.pyx`` where a C compiler is at hand (docs/performance.md), and left aside if the environment
says ``HL7CORE_PURE=1``.
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
