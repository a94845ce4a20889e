"""The search keys of a session, extracted in C; None where the extension is not installed.

``_native.pyx`` is compiled at installation if a C compiler is there (docs/performance.md).  ``HL7CORE_PURE=1`` in the
environment turns it off.
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
