"""What was encrypted: named and counted, so that nobody takes silence for an idle line."""

from __future__ import annotations

from typing import Final

from hl7core.model.packet import Endpoint

__all__ = ["UNREAD", "Encrypted"]

UNREAD: Final = "hl7core read FILE --keylog KEYS reads a capture of it if its keys were logged"
"""What is said where no keys were given."""

_NAMED: Final = 100
_SAID: Final = 3


class Encrypted:
    """The TLS connections that nobody could read, and why: ``named`` has one for each server, at most 100."""

    def __init__(self) -> None:
        self.named: dict[str, str] = {}
        self.count = 0
        self.reasons: dict[str, int] = {}

    def note(self, ends: tuple[Endpoint, Endpoint], reason: str) -> None:
        """Note a connection by its ends, the opener's first, and why it stays unread."""
        self.count += 1
        self.reasons[reason] = self.reasons.get(reason, 0) + 1
        if len(self.named) < _NAMED:
            self.named.setdefault(str(ends[1]), f"{ends[0]}-{ends[1]}")

    def sentence(self, total: int = 0) -> str:
        """Say it in one sentence, "" if there was none; ``total`` counts those that others noted too."""
        count = max(self.count, total)
        if not count:
            return ""
        shown = list(self.named.values())[:_SAID]
        if count == 1 and shown:
            what = f"connection {shown[0]} is encrypted (TLS)"
        else:
            what = f"{count} connection{'s are' if count > 1 else ' is'} encrypted (TLS)"
            what += f", as {' and '.join(shown)}" if shown else ""
        reasons = self.reasons or {UNREAD: count}
        why = "; ".join(reason if len(reasons) == 1 else f"{n}: {reason}" for reason, n in reasons.items())
        return f"{what}: {why}"
