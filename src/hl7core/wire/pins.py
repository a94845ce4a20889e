"""Pins: the user's word on which protocol an address or a port speaks.

Where a pin fits, nothing is detected.  The first pin that fits either end of a connection decides.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from typing import Final, NamedTuple

from hl7core.model.packet import Endpoint

__all__ = ["RULE", "Pin", "parse_pins", "pinned"]

RULE: Final = (
    "must be empty, or PLACE=PROTOCOL pairs separated by commas, as in 10.1.2.3:4000=lis01, :2575=mllp,"
    " 10.2.0.0/24=plain, [fd00::7]:4000=lis01; a place is an IP address or network, a :port, or both"
)

_PAIR: Final = re.compile(
    r"(?:\[(?P<bracketed>[^\]=]+)\]|(?P<address>[^\[\]=:]*|[^\[\]=.]*:[^\[\]=.]*:[^\[\]=]*))"
    r"(?::(?P<port>[0-9]{1,5}))?\s*=\s*(?P<protocol>[a-z][a-z0-9_.-]*)"
)


class Pin(NamedTuple):
    """Pins ``address`` (an IP address or network; "": any) and ``port`` (0: any) to ``protocol``."""

    address: str
    port: int
    protocol: str

    def fits(self, end: Endpoint) -> bool:
        """Return whether the pin applies to ``end``."""
        if self.port and end.port != self.port:
            return False
        if not self.address or end.address == self.address:
            return True
        return "/" in self.address and ip_address(end.address) in ip_network(self.address)


def parse_pins(text: str) -> tuple[Pin, ...]:
    """Return the pins that ``text`` lists, in order; raise ValueError with ``RULE`` if it is malformed."""
    pins = []
    for part in (part.strip() for part in text.split(",")):
        if not part:
            continue
        found = _PAIR.fullmatch(part)
        if found is None:
            raise ValueError(RULE)
        place = (found["bracketed"] or found["address"] or "").strip()
        port = int(found["port"] or 0)
        if not (place or port) or (found["port"] and not 0 < port < 65536):
            raise ValueError(RULE)
        try:
            if "/" in place:
                place = str(ip_network(place, strict=False))
            elif place:
                place = str(ip_address(place))
        except ValueError:
            raise ValueError(RULE) from None
        pins.append(Pin(place, port, found["protocol"]))
    return tuple(pins)


def pinned(pins: Sequence[Pin], ends: Sequence[Endpoint]) -> str:
    """Return the protocol of the first pin that fits a connection between ``ends``, "" if none does."""
    for pin in pins:
        if any(pin.fits(end) for end in ends):
            return pin.protocol
    return ""
