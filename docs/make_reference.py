"""Generates the reference pages from the code.  Run ``python docs/make_reference.py`` after changing hooks or settings.

``tests/test_docs.py`` fails if the pages differ from what this writes.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import NamedTuple

from pydantic import SecretStr

from hl7core import hookspecs
from hl7core.cli.commands.settings import shipped
from hl7core.plugin_host.registry import Registry
from hl7core.settings.model import CoreSettings
from hl7core.settings.reading import Settings
from hl7core.wire.framing.lis01 import diagram

DOCS = Path(__file__).parent

GROUPS = {
    "The life of a session": [
        "on_packet", "on_session_complete", "persist_session", "load_sessions", "submit_session", "cleanup",
    ],
    "More hooks of a destination": ["submit_sessions", "reach_destination"],
    "More hooks of a store": [
        "persist_sessions", "delete_sessions", "restore_sessions", "empty_trash", "list_trash", "store_size",
    ],
    "Before a save": ["before_persist"],
    "Lifecycle": ["register_settings", "configure", "start", "stop"],
    "Extension points": ["open_source", "list_interfaces", "register_framers", "diagnose", "on_event", "register_hookspecs"],
}  # fmt: skip

EXAMPLES = {
    "on_packet": "def on_packet(self, packet):\n    self.bytes += packet.wire_length",
    "on_session_complete": "def on_session_complete(self, session):\n    print(session.device, session.ending)",
    "persist_session": (
        "def persist_session(self, session, replace):\n"
        "    if session.id in self.held and not replace:\n        return self.held[session.id]\n"
        "    self.held[session.id] = self.write(session_to_json(session))  # returns once it is durable\n"
        "    return self.held[session.id]"
    ),
    "load_sessions": "def load_sessions(self, query):\n    return self.find(query)[: query.limit]",
    "submit_session": (
        "async def submit_session(self, session):\n"
        "    await self.client.post(self.url, content=session_to_json(session, saved=False))\n    return Receipt()"
    ),
    "reach_destination": (
        "async def reach_destination(self, seconds):\n"
        "    version = await self.client.ask_version(timeout=seconds)\n"
        '    return f"{self.settings.host} answers (version {version})"'
    ),
    "submit_sessions": (
        "async def submit_sessions(self, sessions):\n"
        "    answers = await self.client.send([session_to_json(one, saved=False) for one in sessions])\n"
        "    return [Receipt(one.number) if one.taken else SessionRejected(one.reason) for one in answers]"
    ),
    "cleanup": (
        "def cleanup(self, now, dry_run):\n    old = self.older_than(now - timedelta(days=7))\n"
        "    return CleanupReport(deleted=len(old), dry_run=dry_run)"
    ),
    "persist_sessions": (
        "def persist_sessions(self, sessions, replace):\n"
        "    with self.transaction():\n        return [self.write(session, replace) for session in sessions]"
    ),
    "delete_sessions": (
        "def delete_sessions(self, ids, to_trash, deleted_at):\n"
        "    return [i for i in ids if self.remove(i, self.trash / f'{deleted_at:%Y%m%dT%H%M%SZ}' if to_trash else None)]"
    ),
    "restore_sessions": "def restore_sessions(self, ids):\n    return [i for i in ids if self.bring_back(i)]",
    "empty_trash": "def empty_trash(self, before):\n    return CleanupReport(deleted=self.purge(before))",
    "list_trash": "def list_trash(self):\n    return sorted(self.trashed.items(), key=lambda entry: entry[1])",
    "store_size": (
        "def store_size(self):\n    return sum(path.stat().st_size for path in self.folder.rglob('*') if path.is_file())"
    ),
    "before_persist": (
        "def before_persist(self, session):\n"
        "    return session._replace(findings=())  # a session is a tuple: a change is a new one"
    ),
    "register_settings": "def register_settings(self):\n    return MySettings  # a subclass of PluginSettings",
    "configure": (
        "def configure(self, settings):\n    if not settings.url.startswith('https://'):\n"
        "        raise SettingsError('plugins.mine.url: must begin with https://')\n    self.settings = settings"
    ),
    "start": "def start(self, runtime):\n    self.folder = runtime.core().output_folder",
    "stop": "def stop(self):\n    self.file.close()",
    "open_source": "def open_source(self, request):\n    return None if request.files else MySource(request.interfaces)",
    "list_interfaces": 'def list_interfaces(self):\n    return [Interface("tap0", is_up=True)]',
    "register_framers": "def register_framers(self):\n    return [Dialect('fixed', score, FixedFramer, turns=False)]",
    "diagnose": (
        "def diagnose(self, session):\n    if not session.messages:\n"
        "        yield Finding('empty', Severity.INFO, 'the session holds no message')"
    ),
    "on_event": "def on_event(self, event):\n    if isinstance(event, PacketsDropped):\n        self.lost += event.count",
    "register_hookspecs": "def register_hookspecs(self):\n    return my_hookspecs  # a module of functions marked @hookspec",
}


class Failure(NamedTuple):
    """What becomes of a plugin whose ``hook`` fails; each cell begins with the state that `plugins list` shows."""

    hook: str
    raises: str
    hangs: str
    wrong: str


FAILURES = (
    Failure("`on_packet`", "failed (10)", "quarantined", "enabled: nothing is returned"),
    Failure("`on_session_complete`", "failed (10)", "quarantined", "enabled: nothing is returned"),
    Failure("`on_event`", "failed (10)", "quarantined", "enabled: nothing is returned"),
    Failure("`diagnose`", "failed (10)", "quarantined", "failed (10)"),
    Failure("`register_framers`", "failed", "quarantined", "failed"),
    Failure(
        "a framer", "failed (10): its bytes are kept as strays", "quarantined: as strays", "failed (10): as strays"
    ),
    Failure("a dialect's `score`", "failed (10)", "quarantined", "enabled: counts as 0"),
    Failure(
        "`before_persist`, required",
        "enabled: nothing is saved",
        "suspended: nothing is saved",
        "enabled: nothing is saved",
    ),
    Failure(
        "`before_persist`, not required", "failed (10 in a row)", "suspended: saved without it", "failed (10 in a row)"
    ),
    Failure(
        "`persist_session`, `persist_sessions`",
        "enabled: saved later",
        "suspended: saved later",
        "enabled: saved later",
    ),
    Failure("other hooks of a store", "enabled: an error is returned", "suspended", "enabled: an error is returned"),
    Failure(
        "`submit_session`, `submit_sessions`",
        "enabled: one failed attempt",
        "enabled: one failed attempt",
        "enabled: one failed attempt",
    ),
    Failure("`cleanup`", "enabled: its report is missing", "suspended", "enabled: its report is missing"),
    Failure("`open_source`", "failed", "quarantined", "failed"),
    Failure(
        "`list_interfaces`", "enabled: its interfaces are missing", "suspended", "enabled: its interfaces are missing"
    ),
    Failure("`configure`, `start`", "failed", "failed after 30 s", "enabled: what they return is ignored"),
    Failure(
        "`stop`",
        "disabled, and that is logged",
        "disabled after 10 s, and that is logged",
        "disabled: nothing is returned",
    ),
)
FAILURE_WORDS = (
    "*It raises*: an `Exception`, `SystemExit`, or any other `BaseException`. It is logged at most once a minute by its",
    "type, never by its text, and published as `PluginChanged`. *(10)*: that many within a minute make the plugin FAILED.",
    "A `SourceError` from `open_source` says that there is nothing to capture from, so it is no failure; nor is a",
    "`SubmitError` from `submit_session`.",
    "",
    "*It hangs*: it shows no progress. Within 5 seconds the plugin is named as hanging (log, `plugins list`, `doctor`,",
    "event). Within 30 seconds it is out of service: *quarantined* until it is enabled again, or *suspended* until its call",
    "returns; no other call of it starts meanwhile, and what the call returns late is dropped. While a store is suspended,",
    "sessions wait in memory. `runtime.give_way()` counts as progress, and so does waiting for `runtime.call(...)`. Calls",
    "that decoding waits for must also be quick together: if those that took over 0.1 seconds add up to 30 seconds within",
    "a minute, the plugin FAILS. A destination counts as hanging only 5 seconds after its own `timeout`.",
    "",
    "*Required*: a plugin that implements `before_persist` may be what keeps patient data out of the store, so nothing is",
    "saved while it is enabled but fails, hangs, cannot be loaded or is left out by `--safe-mode`. Sessions wait in memory",
    "meanwhile, and a notice and `doctor` say why. A person lifts that: `required = false` in its table, `plugins disable`,",
    "or `plugins enable` once it is mended. `required = true` makes any other plugin required too.",
    "",
    "What a hook is given is immutable or a copy of its own, so a plugin cannot change it for others.",
)


def hooks_page() -> str:
    """Return ``plugin_hooks.md``."""
    lines = [
        "# Hooks",
        "",
        "Every hook that the core calls. Mark an implementation with `@hookimpl` and take only the arguments you need. All",
        "names in the examples come from `hl7core`. Use `def` or `async def` as shown: only `submit_session`,",
        "`submit_sessions`, `reach_destination`, `start` and `stop` may be `async def`. Hook wrappers are not allowed.",
        "",
        "## The version of the hooks",
        "",
        f"This page describes hook API {hookspecs.HOOK_API}, which is also `hl7core.HOOK_API`. A new hook, or a new argument of a",
        "hook, raises the second number; what would break an existing plugin raises the first. A plugin states what it needs as",
        "an attribute of its class, as Python packages state versions:",
        "",
        "```python",
        "class WardBell:",
        '    hook_api = ">=1.0,<2"',
        "```",
        "",
        "If the hook API lies outside, the plugin is refused before it is constructed, with a sentence that names both versions",
        "and the way out. `hl7core plugins info NAME` shows both. A plugin that states nothing is loaded as before.",
        "",
        "## See which hooks are called",
        "",
        "With `HL7CORE_TRACE_HOOKS=1` in the environment, each call of a hook is logged when it returns: the hook, the plugin and",
        "how long it took, never what it was called with or what it returned.",
        "",
        "    $ HL7CORE_TRACE_HOOKS=1 hl7core run",
        "    2026-12-01 09:59:52,828 INFO hl7core.hooks: open_source file_source 0.0 ms",
        "    2026-12-01 09:59:53,827 INFO hl7core.hooks: load_sessions json_store 0.1 ms",
        "    2026-12-01 09:59:53,828 INFO hl7core.hooks: cleanup retention 1.4 ms",
        "",
        "`on_packet` and framers are left out, because they are called for every packet, and so are the hooks of the lifecycle.",
        "",
        "## When a plugin fails",
        "",
        "Whatever a plugin does in a hook, the capture goes on, no session is lost, and no other plugin is affected. What",
        "happens to the plugin itself depends on the hook:",
        "",
        "| hook | it raises | it hangs | it returns the wrong type |",
        "|---|---|---|---|",
        *(f"| {row.hook} | {row.raises} | {row.hangs} | {row.wrong} |" for row in FAILURES),
        "",
        *FAILURE_WORDS,
    ]
    for title, names in GROUPS.items():
        lines += ["", f"## {title}"]
        for name in names:
            function = getattr(hookspecs, name)
            lines += ["", f"### {name}{_signature(function)}", "", inspect.getdoc(function) or ""]
            lines += ["", "```python", "@hookimpl", EXAMPLES[name], "```"]
    return "\n".join(lines) + "\n"


def _signature(function: object) -> str:
    signature = inspect.signature(function)  # type: ignore[arg-type]
    arguments = ", ".join(f"{p.name}: {p.annotation}" for p in signature.parameters.values())
    return f"({arguments}) -> {signature.return_annotation}"


def settings_page() -> str:
    """Return ``settings.md``."""
    lines = [
        "# Settings",
        "",
        "hl7core reads the file named by `--settings FILE` or `HL7CORE_SETTINGS`. Otherwise it reads `settings.toml` in the",
        "working folder, or else in the user's or the system's config folder. Earlier entries in this list override later ones:",
        "",
        "1. the command line",
        "2. environment variables: `HL7CORE_CORE__STORE`, `HL7CORE_PLUGINS__JSON_STORE__ENABLED`",
        "3. `settings.local.toml`",
        "4. `.secrets.toml` (mode 0600)",
        "5. `settings.toml`",
        "6. the defaults below",
        "",
        'Several values in one key are written as one string: `interfaces = "eth0, eth1"`.',
        "",
        "A running engine applies a changed file within a second. If the file or a value is wrong, nothing changes, and you are",
        "told which value is wrong and what stays in force. Check beforehand with `hl7core settings check`.",
        "",
        "Every plugin's table also knows `required` (`true` or `false`): whether nothing may be saved while the plugin is",
        "enabled but does not run. Without it, plugins that change what is saved are required, and no others",
        "([when a plugin fails](plugin_hooks.md#when-a-plugin-fails)).",
        "",
        "## Environment variables",
        "",
        "| variable | meaning |",
        "|---|---|",
        "| `HL7CORE_SETTINGS` | The settings file to use, unless `--settings` names one. |",
        "| `HL7CORE_CORE__KEY` | The value of `key` in `[core]`. |",
        "| `HL7CORE_PLUGINS__NAME__KEY` | The value of `key` in `[plugins.name]`. |",
        "| `HL7CORE_TRACE_HOOKS` | `1` logs each call of a plugin's hook and how long it took ([example](plugin_hooks.md#see-which-hooks-are-called)). |",
        "| `HL7CORE_COMPILE` | While installing: `0` leaves out the C extension, `1` fails if it cannot be built. |",
        "| `HL7CORE_PURE` | `1` does without the C extension, even if it is there. |",
        "| `NO_COLOR` | Print without colour. |",
    ]
    registry = Registry(Settings(core=CoreSettings()))
    models = {"core": CoreSettings} | {
        f"plugins.{name}": registry.model(name) for name in sorted(registry.names()) if registry.info(name).bundled
    }
    for table, model in models.items():
        lines += ["", f"## [{table}]", "", "| key | default | meaning |", "|---|---|---|"]
        for key, field in model.model_fields.items():
            default = field.get_default(call_default_factory=True)
            text = " ".join((field.description or "").split())
            lines.append(f"| `{key}` | `{_toml(default)}` | {text} |")
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    if isinstance(value, SecretStr):
        return '""'
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def wire_diagram() -> str:
    """Return the block of ``wire.md`` that is generated from the transition table."""
    return f"```mermaid\n{diagram().strip()}\n```"


def main() -> None:
    """Write the pages."""
    (DOCS / "plugin_hooks.md").write_text(hooks_page(), encoding="utf-8")
    (DOCS / "settings.md").write_text(settings_page(), encoding="utf-8")
    (DOCS.parent / "settings.toml").write_text(shipped(), encoding="utf-8")
    page = DOCS / "wire.md"
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition("<!-- drawn from the table -->\n")
    _, _, after = rest.partition("<!-- end -->")
    page.write_text(f"{before}<!-- drawn from the table -->\n{wire_diagram()}\n<!-- end -->{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
