"""``python -m hl7core`` and the command ``hl7core``."""

from __future__ import annotations

from hl7core.cli.main import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
