"""What ``[core]`` may say: the settings of the engine itself, with their bounds and defaults."""

from __future__ import annotations

import ipaddress
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from hl7core.wire.connection import SECOND, DecoderOptions
from hl7core.wire.pins import parse_pins

__all__ = ["CoreSettings", "comma_separated"]


class CoreSettings(BaseModel):
    """The table ``[core]``: the settings of the engine itself."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        validate_default=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    output_folder: str = Field("docs", min_length=1)
    """The data folder; a relative path starts at the folder of settings.toml. Sessions go to sessions/ in it."""
    store: str = Field("json_store", pattern=r"^[a-z][a-z0-9_]*$")
    """The plugin that stores new sessions. Naming a store here enables it; its own table cannot disable it."""
    enable_persistence: bool = True
    """Whether to save sessions. If false, nothing is saved, submitted or cleaned up."""
    retention_days: int = Field(30, ge=1, le=365)
    """How many days to keep a session, counted from its first save."""
    memory_sessions: int = Field(1000, ge=1, le=10_000_000)
    """How many stored sessions to keep in memory for fast display."""
    memory_bytes: int = Field(268_435_456, ge=1_048_576)
    """How many bytes of sessions to keep in memory."""
    unsaved_sessions: int = Field(10_000, ge=1, le=10_000_000)
    """How many unsaved sessions may wait in memory while the store is down. Beyond that the oldest are dropped; their
    number is reported."""
    device_address: str = ""
    """The analyzers: IP addresses or networks (10.1.0.0/24), separated by commas. Auto-detected when empty."""
    lis_address: str = ""
    """The LIS: IP addresses or networks, separated by commas. Auto-detected when empty."""
    lis_port: int = Field(0, ge=0, le=65535)
    """The TCP port of the LIS. 0 means any port."""
    protocols: str = ""
    """Known protocols as PLACE=PROTOCOL pairs, for example "10.1.2.3:4000=lis01, :2575=mllp". A place is an IP address
    or network, a :port, or both. A protocol is mllp, lis01, plain, or the dialect of an enabled plugin. Everywhere else
    the protocol is detected from the first bytes."""
    start_marker: int = Field(0x05, ge=0, le=255)
    """The byte that starts a conversation in the plain variant (ENQ)."""
    ack_marker: int = Field(0x06, ge=0, le=255)
    """The byte that acknowledges a message in the plain variant (ACK)."""
    end_marker: int = Field(0x04, ge=0, le=255)
    """The byte that ends a conversation in the plain variant (EOT)."""
    ack_timeout: float = Field(60.0, gt=0, le=86_400)
    """How many seconds an MLLP message waits for its acknowledgement, in packet time."""
    silence: float = Field(30.0, gt=0, le=86_400)
    """After how many seconds without a byte a LIS01 or plain session ends, in packet time."""
    max_message: int = Field(16_777_216, ge=1024, le=1_073_741_824)
    """The largest message in bytes. Longer ones are truncated and marked."""
    max_connections: int = Field(50_000, ge=1, le=10_000_000)
    """How many connections to follow at once. Beyond that the least recently used one is dropped."""
    reassembly_bytes: int = Field(268_435_456, ge=1_048_576)
    """How many bytes may wait, over all connections, in each of four ways: for a packet that is out of order, for the
    protocol to be recognised, for the rest of a message, for an answer. Beyond that, the connections holding most are
    cut back; this is marked and counted. The sessions of one connection may hold a quarter of it, and always one
    message."""
    idle_timeout: float = Field(86_400.0, gt=0, le=31_536_000)
    """After how many seconds without data a connection is dropped, in packet time. If it continues, its protocol is
    detected again."""

    @field_validator("device_address", "lis_address")
    @classmethod
    def _addresses(cls, value: str) -> str:
        for part in value.split(","):
            if part.strip():
                try:
                    ipaddress.ip_network(part.strip(), strict=False)
                except ValueError:
                    raise ValueError(
                        "must be empty, or IP addresses or networks separated by commas, as in 10.1.0.7, 10.2.0.0/24"
                    ) from None
        return value

    @field_validator("protocols")
    @classmethod
    def _protocols(cls, value: str) -> str:
        parse_pins(value)
        return value

    @model_validator(mode="after")
    def _distinct_markers(self) -> Self:
        if len({self.start_marker, self.ack_marker, self.end_marker}) < 3:
            raise ValueError("start_marker, ack_marker and end_marker must differ from each other")
        return self

    def decoder_options(self, sensor: str = "") -> DecoderOptions:
        """Return the options for the decoder.  ``sensor`` names the machine that captures."""
        return DecoderOptions(
            device_addresses=comma_separated(self.device_address),
            lis_addresses=comma_separated(self.lis_address),
            lis_port=self.lis_port,
            start_marker=self.start_marker,
            ack_marker=self.ack_marker,
            end_marker=self.end_marker,
            ack_timeout_ns=int(self.ack_timeout * SECOND),
            silence_ns=int(self.silence * SECOND),
            max_message=self.max_message,
            max_connections=self.max_connections,
            reassembly_bytes=self.reassembly_bytes,
            sensor=sensor,
            protocols=parse_pins(self.protocols),
            idle_ns=int(self.idle_timeout * SECOND),
        )


def comma_separated(text: str) -> tuple[str, ...]:
    """Return the values in ``text``, a setting such as "eth0, eth1"."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
