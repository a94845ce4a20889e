"""The fast path of the decoder, in C; each name is None where the extension is not installed.

``_native.pyx`` is compiled at installation if a C compiler is there (docs/performance.md).  ``HL7CORE_PURE=1`` in the
environment turns it off.
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
