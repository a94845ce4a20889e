"""The C extension, where this installation has it; otherwise each name is None.

It is built from ``_native.pyx`` where a C compiler is available (docs/performance.md).  ``HL7CORE_PURE=1`` in the
environment disables it.
"""

from __future__ import annotations

import os

__all__ = ["FastJsonLine", "FastSession", "SlowPathPackets", "blocks", "keep_memory", "records"]

if os.environ.get("HL7CORE_PURE", "") in ("", "0"):
    try:
        from hl7core.wire._native import FastJsonLine, FastSession, SlowPathPackets, blocks, keep_memory, records
    except ImportError:
        SlowPathPackets = FastJsonLine = FastSession = blocks = keep_memory = records = None  # type: ignore[assignment,misc]
else:
    SlowPathPackets = FastJsonLine = FastSession = blocks = keep_memory = records = None  # type: ignore[assignment,misc]
