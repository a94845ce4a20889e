"""``hl7core doctor``: checks whether hl7core can capture, filter, store and submit here, with a remedy for each no."""

from __future__ import annotations

import ctypes.util
import os
import platform
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import click

from hl7core import __version__
from hl7core.cli import exit_codes
from hl7core.cli.commands.version import is_compiled
from hl7core.cli.load_settings import load_settings
from hl7core.cli.output.text import colourful, counted, size
from hl7core.cli.session_access import engine_client
from hl7core.engine.control.client import ControlClient
from hl7core.errors import Hl7coreError, SettingsError
from hl7core.guard import describe
from hl7core.plugin_host.redactors import MissingRedactor, Redactors
from hl7core.plugin_host.registry import Registry
from hl7core.settings.reading import Settings

__all__ = ["command"]

_CAP_NET_RAW: Final = 13
_LOW_SPACE: Final = 200 << 20


_KEEP_FROM_SAVING: Final = ("required", "silent", "store")
"""The notices of an engine that does not save."""


class _Check(NamedTuple):
    """``state`` is ok, note or bad; ``code`` is the exit code if it is bad."""

    state: str
    what: str
    found: str
    remedy: str = ""
    code: int = exit_codes.ERROR


@click.command("doctor", epilog="\b\nExamples:\n  hl7core doctor\n  sudo hl7core doctor")
@click.pass_obj
def command(settings_path: str | None) -> int:
    """Check whether hl7core can capture, filter, store and submit here, and say what to do if it cannot.

    Each destination is asked whether it can be reached; no session is submitted.

    Exit code 0 if nothing is wrong (notes do not count), else the code of the first thing that is.
    """
    checks = list(_checks(settings_path))
    marks = {
        "ok": click.style("✔", fg="green"),
        "note": click.style("-", fg="yellow"),
        "bad": click.style("✘", fg="red"),
    }
    for check in checks:
        click.echo(f"{marks[check.state]} {check.what:<12} {check.found}", color=colourful(sys.stdout))
        if check.remedy:
            click.echo(f"  {'':<12} → {check.remedy}")
    return next((check.code for check in checks if check.state == "bad"), exit_codes.OK)


def _checks(settings_path: str | None) -> Iterator[_Check]:
    kind = " (compiled)" if is_compiled() else ""
    found = f"hl7core {__version__}{kind}, Python {platform.python_version()}, {platform.system()}"
    yield _Check("ok", "versions", found)
    try:
        settings = load_settings(settings_path)
        registry = Registry(settings)
        problems = registry.problems()
    except SettingsError as error:
        for problem in error.problems:
            yield _Check("bad", "settings", problem, "correct it, then: hl7core settings check", exit_codes.SETTINGS)
        return
    for problem in problems:
        yield _Check("bad", "settings", problem, "hl7core settings check", exit_codes.SETTINGS)
    if not problems:
        yield _Check("ok", "settings", str(settings.path) if settings.path else "none; the defaults are in force")
    for notice in settings.notices:
        yield _Check("note", "settings", notice)
    yield _privileges()
    yield _libpcap()
    yield from _interfaces(registry)
    yield from _folder(settings)
    yield from _plugins(registry, settings.output_folder)
    yield from _destinations(settings, registry)
    yield from _engine(settings, registry)


def _privileges() -> _Check:
    remedy = "run as root, or grant CAP_NET_RAW (README, Capture rights). Reading files needs no privileges"
    status = Path("/proc/self/status")
    if not status.exists():  # not Linux: only opening a socket would show it
        return _Check("note", "privileges", "not known until a capture starts")
    effective = next(int(line.split()[1], 16) for line in status.read_text().splitlines() if line.startswith("CapEff"))
    if effective >> _CAP_NET_RAW & 1:
        return _Check("ok", "privileges", "may capture (CAP_NET_RAW)")
    return _Check("bad", "privileges", "may not capture: CAP_NET_RAW is missing", remedy, exit_codes.PERMISSION)


def _libpcap() -> _Check:
    name = ctypes.util.find_library("pcap")
    if name:
        return _Check("ok", "libpcap", f"{name}: filters work")
    return _Check(
        "note",
        "libpcap",
        "not found: filters do not work (-f, or addresses in the settings)",
        "install libpcap0.8 (Debian) or libpcap",
    )


def _interfaces(registry: Registry) -> Iterator[_Check]:
    found = []
    for name in registry.names():
        if not registry.wanted(name):
            continue
        try:
            plugin = registry.load(name)
        except Hl7coreError:
            continue  # reported with the plugins
        listing = getattr(plugin, "list_interfaces", None)
        if listing is None:
            continue
        try:
            found += listing()
        except Exception as error:  # noqa: BLE001 - a plugin's failure affects no other plugin
            yield _Check("bad", "interfaces", f"{name} cannot list them: {describe(error)}", code=exit_codes.INTERFACE)
    up = [f"{i.name} ({', '.join(i.addresses) or 'no address'})" for i in found if i.is_up]
    if up:
        yield _Check("ok", "interfaces", ", ".join(up))
    else:
        yield _Check("bad", "interfaces", "none is up", "ip link set NAME up", exit_codes.INTERFACE)


def _folder(settings: Settings) -> Iterator[_Check]:
    folder = settings.output_folder
    if not settings.core.enable_persistence:
        yield _Check("note", "store", "core.enable_persistence is false, so nothing is saved")
    base = folder
    while not base.exists():
        base = base.parent
    if not os.access(base, os.W_OK | os.X_OK):
        yield _Check(
            "bad",
            "folder",
            f"{base} is not writable",
            f"change its owner, or set core.output_folder (now {folder})",
            exit_codes.PERMISSION,
        )
        return
    free = shutil.disk_usage(base).free
    if free < _LOW_SPACE:
        yield _Check(
            "note",
            "disk",
            f"only {size(free)} free for {folder}",
            "free some space: a full disk keeps sessions in memory",
        )
    else:
        yield _Check("ok", "folder", f"{folder}, {size(free)} free")
    for name in ("sessions", "trash"):
        path = folder / name
        if path.is_dir() and stat.S_IMODE(path.stat().st_mode) & 0o077:
            yield _Check("note", "folder", f"{path} can be read by others", f"chmod 700 {path}")


def _plugins(registry: Registry, folder: Path) -> Iterator[_Check]:
    redactors = Redactors(registry, folder)
    good = []
    for name in registry.names():
        if not registry.wanted(name):
            continue
        try:
            registry.load(name)
            good.append(name)
        except Hl7coreError as error:
            yield _Check("bad", "plugin", f"{name}: {error}", f"correct it, or: hl7core plugins disable {name}")
            if redactors.is_required(name):
                yield _Check("bad", "required", str(MissingRedactor(name, "cannot be loaded")))
    if good:
        yield _Check("ok", "plugins", ", ".join(good))


def _destinations(settings: Settings, registry: Registry) -> Iterator[_Check]:
    names = [
        name
        for name in registry.names()
        if registry.wanted(name) and (info := registry.info(name)).state != "failed" and "submit_session" in info.hooks
    ]
    if not names:
        yield _Check("note", "destination", "none is enabled, so sessions are stored and not submitted")
        return
    from hl7core.cli.commands.doctor_destinations import ask_destinations  # imports the whole engine

    for state, found, remedy in ask_destinations(settings, names):
        yield _Check(state, "destination", found, remedy)


def _engine(settings: Settings, registry: Registry) -> Iterator[_Check]:
    try:
        client = engine_client(settings)
    except Hl7coreError as error:
        yield _Check("note", "engine", str(error))
        return
    if client is None:
        yield _Check("note", "engine", "none is running on this data folder")
        from hl7core.engine.apply_settings import hidden_sessions  # imports much of the engine

        for store, text in hidden_sessions(settings.output_folder).items():
            if store not in registry.names() or not registry.wanted(store):
                yield _Check("note", "store", text)
        return
    with client:
        state, plugins = client.call("state"), client.call("plugins")
        yield _stored(client)
    yield _Check(
        "ok",
        "engine",
        f"running: {counted(state.get('packets', 0), 'packet')}, {counted(state.get('sessions', 0), 'session')}",
    )
    drops = state.get("dropped_kernel", 0) + state.get("dropped_intake", 0)
    if drops:
        yield _Check(
            "note",
            "drops",
            f"{counted(drops, 'packet')} lost",
            "use a narrower filter, or raise net.core.rmem_max and buffer_mib",
        )
    encrypted = state.get("counters", {}).get("tls", 0)
    if encrypted:
        yield _Check(
            "note",
            "encrypted",
            f"TLS on {counted(encrypted, 'connection')}, which cannot be decoded live",
            "keep the packets with capture -w; hl7core read FILE --keylog KEYS decodes them with a peer's keys",
        )
    if state.get("unsaved"):
        yield _Check(
            "bad", "unsaved", f"{counted(state['unsaved'], 'session')} not saved yet", "check the folder above"
        )
    for key, text in state.get("notices", {}).items():
        yield _Check("bad" if key in _KEEP_FROM_SAVING else "note", "notice", text)
    for row in plugins:
        if row["state"] not in ("enabled", "disabled"):
            found = f"{row['name']} is {row['state']} in the running engine: {row['error']}"
            yield _Check("bad", "plugin", found, f"correct it, then: hl7core plugins enable {row['name']}")


def _stored(client: ControlClient) -> _Check:
    try:
        return _Check(
            "ok", "stored", f"{size(client.store_size())}, {counted(len(client.trash()), 'session')} in the trash"
        )
    except Hl7coreError as error:
        return _Check("note", "stored", str(error))
