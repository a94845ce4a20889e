"""The plugin: its settings, and the interfaces that a request means.

Law: interfaces named in the request override those in the settings.  If none are named, every interface that is up and
can be captured is meant, loopback included, as with ``tcpdump -i any``; each packet names the one it came from.  One
that a person names must exist; one that the settings name is waited for.
"""

from __future__ import annotations

from pydantic import Field, field_validator

from hl7core import (
    Interface,
    InterfaceMissing,
    PacketSource,
    PluginSettings,
    SourceError,
    SourceRequest,
    check_filter,
    hookimpl,
)
from hl7core_plugins.scapy_source.interfaces import UNKNOWN_LINK, list_interfaces
from hl7core_plugins.scapy_source.source import LiveSource

__all__ = ["ScapySource", "ScapySourceSettings"]


class ScapySourceSettings(PluginSettings):
    """The table ``[plugins.scapy_source]``."""

    enabled: bool = Field(default=True, description="Capture live from network interfaces.")
    interfaces: str = Field(
        default="",
        description='Interfaces to capture on, separated by commas ("eth0, eth1"). Empty: every interface that is up.',
    )
    bpf: str = Field(
        default="",
        description="A capture filter in tcpdump's syntax (needs libpcap). Empty: from addresses and port in [core].",
    )
    promiscuous: bool = Field(default=True, description="Also capture packets addressed to other machines.")
    snaplen: int = Field(default=262_144, ge=64, le=262_144, description="Bytes to keep of each packet.")
    buffer_mib: int = Field(
        default=64,
        ge=1,
        le=4096,
        description="Kernel memory, in MiB, for packets waiting to be read, shared by all interfaces.",
    )

    @field_validator("bpf")
    @classmethod
    def _compiles(cls, value: str) -> str:
        if value:
            try:
                check_filter(value)
            except SourceError as error:
                raise ValueError(str(error)) from None
        return value


class ScapySource:
    """Live capture in a separate process, which has dropped all privileges before it reads a packet."""

    def __init__(self) -> None:
        self._settings = ScapySourceSettings()

    @hookimpl
    def register_settings(self) -> type[PluginSettings]:
        """Return the model of ``[plugins.scapy_source]``."""
        return ScapySourceSettings

    @hookimpl
    def configure(self, settings: PluginSettings) -> None:
        """Apply ``settings`` to the next capture; a running one keeps those it was opened with."""
        if isinstance(settings, ScapySourceSettings):
            self._settings = settings

    @hookimpl
    def open_source(self, request: SourceRequest) -> PacketSource | None:
        """Return a live source; None if files are asked for.

        Raises InterfaceMissing for a name in the request that is no interface, SourceError if none is up or if the
        filter is not valid.
        """
        if request.files:
            return None
        settings = self._settings
        if request.bpf:
            check_filter(request.bpf)
        return LiveSource(
            self._interfaces(request),
            bpf=request.bpf or settings.bpf or request.default_bpf,
            promiscuous=request.promiscuous and settings.promiscuous,
            snaplen=settings.snaplen,
            buffer_mib=settings.buffer_mib,
            patient=not request.interfaces,
        )

    @hookimpl
    def list_interfaces(self) -> list[Interface]:
        """Return every interface of this machine; needs no privileges and opens none."""
        return list_interfaces()

    def _interfaces(self, request: SourceRequest) -> tuple[str, ...]:
        existing = list_interfaces()
        asked = request.interfaces or tuple(name.strip() for name in self._settings.interfaces.split(","))
        names = tuple(dict.fromkeys(name for name in asked if name))
        if not names or names == ("any",):
            names = tuple(entry.name for entry in existing if entry.is_up and entry.link_type != UNKNOWN_LINK)
            if not names:
                raise SourceError("no interface is up, so there is nothing to capture on")
        for name in request.interfaces and names:
            if name not in {entry.name for entry in existing}:
                raise InterfaceMissing(name, existing=tuple(entry.name for entry in existing))
        return names
