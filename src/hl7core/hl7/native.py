"""The C extension that finds a session's search keys, or None if this installation has none.

It is built from ``_native.pyx`` if a C compiler is present (docs/performance.md), and not used if the environment has
``HL7CORE_PURE=1``.
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
