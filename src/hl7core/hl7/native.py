"""The values by which a session is found as machine code, where this installation has it; None where not.

It is built from ``_native.pyx`` where a C compiler is at hand (docs/performance.md), and left aside if the environment
says ``HL7CORE_PURE=1``.
"""

from __future__ import annotations

import os

__all__ = ["usual_keys"]

if os.environ.get("HL7CORE_PURE", "") in ("", "0"):
    try:
        from hl7core.hl7._native import usual_keys
    except ImportError:
        usual_keys = None  # type: ignore[assignment]
else:
    usual_keys = None  # type: ignore[assignment]
