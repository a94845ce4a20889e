"""Plugins made on the fly, behind real entry points, and sessions to hand them."""

from __future__ import annotations

import importlib.metadata
import sys
import types
from types import MappingProxyType

from hl7core.model.packet import Endpoint
from hl7core.model.session import Ending, Session
from hl7core.plugin_host.registry import Registry
from hl7core.settings.model import CoreSettings
from hl7core.settings.reading import Settings


def entry_point(name, kind, *, bundled=False, group="hl7core"):
    """An entry point that names the class ``kind``, in a module of its own."""
    module = types.ModuleType(f"fake_{name}")
    module.Plugin = kind
    sys.modules[module.__name__] = module
    point = importlib.metadata.EntryPoint(name, f"{module.__name__}:Plugin", group)
    if bundled:
        vars(point).update(dist=_Bundled())
    return point


class _Bundled(importlib.metadata.Distribution):
    """The distribution of bundled plugins."""

    def read_text(self, filename):
        return "Name: hl7core\nVersion: 1.2.3\n" if filename == "METADATA" else None

    def locate_file(self, path):
        raise NotImplementedError


def settings(tables=None, **core):
    return Settings(
        core=CoreSettings(**{"store": "nowhere", **core}),
        plugins=MappingProxyType(dict(tables or {})),
    )


def registry(plugins, tables=None, **core):
    """A registry of the plugin classes ``plugins``, all of them enabled unless ``tables`` says otherwise."""
    wanted = {name: {"enabled": True} for name in plugins} | dict(tables or {})
    return Registry(settings(wanted, **core), entry_points=[entry_point(name, kind) for name, kind in plugins.items()])


def session(number=1, **changes):
    made = Session(
        id=f"{number:08d}-0000-7000-8000-000000000000",
        start_ns=number,
        end_ns=number + 1,
        device=Endpoint("10.0.0.1", 5000),
        lis=Endpoint("10.0.0.2", 2575),
        elements=(),
        messages=(),
        is_complete=True,
        protocol="mllp",
        ending=Ending.COMPLETE,
    )
    return made._replace(**changes)
