"""Writes the pages that follow from the code: ``python docs/make_reference.py`` after a change to hooks or settings.

A test holds the pages against what this writes.
"""

from __future__ import annotations

import inspect
from pathlib import Path

from pydantic import SecretStr

from hl7core import hookspecs
from hl7core.cli.commands.settings import shipped
from hl7core.plugin_host.registry import Registry
from hl7core.settings.model import CoreSettings
from hl7core.settings.reading import Settings
from hl7core.wire.framing.lis01 import diagram

DOCS = Path(__file__).parent

GROUPS = {
    "The brief's six": [
        "on_packet", "on_session_complete", "persist_session", "load_sessions", "submit_session", "cleanup",
    ],
    "What else a destination answers": ["submit_sessions", "reach_destination"],
    "What else a store answers": [
        "persist_sessions", "delete_sessions", "restore_sessions", "empty_trash", "list_trash", "store_size",
    ],
    "Before a save": ["before_persist"],
    "Lifecycle": ["register_settings", "configure", "start", "stop"],
    "Seams": ["open_source", "list_interfaces", "register_framers", "diagnose", "on_event", "register_hookspecs"],
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
        "        yield Finding('empty', Severity.INFO, 'nothing was said')"
    ),
    "on_event": "def on_event(self, event):\n    if isinstance(event, PacketsDropped):\n        self.lost += event.count",
    "register_hookspecs": "def register_hookspecs(self):\n    return my_hookspecs  # a module of functions marked @hookspec",
}


def hooks_page() -> str:
    """Return ``plugin_hooks.md``."""
    lines = [
        "# Hooks",
        "",
        "Every hook that the core calls. Mark an implementation with `@hookimpl`; take only the arguments you want.",
        "All names in the examples come from `hl7core`. `def` and `async def` are as shown: only `submit_session`,",
        "`submit_sessions`, `reach_destination`, `start` and `stop` may be `async def`.",
        "",
        "| if it raises | then |",
        "|---|---|",
        "| `on_*`, `diagnose` | logged once a minute, counted, told as `PluginChanged`; the others are called all the same |",
        "| a store's hook | the session stays in memory and is tried again, ever less often |",
        "| `submit_session`, `submit_sessions` | one failed attempt; the kind of SubmitError says what becomes of the session |",
        "| `cleanup` | its report is missing, and says so |",
        "| lifecycle, `register_*`, `open_source` | that plugin is FAILED; all others run |",
        "",
        "A call that takes over 5 seconds marks the plugin hanging; at 30 seconds it is quarantined: taken out, named in",
        "`hl7core plugins list`, and brought back by enabling it again.",
        "",
        f"The version of this set of hooks is {hookspecs.HOOK_API}.",
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
        "`settings.toml` in the working folder, or `--settings FILE`, or `HL7CORE_SETTINGS`; then the user's and the",
        "system's config folder. What is stronger wins: command line, environment, `settings.local.toml`,",
        "`.secrets.toml` (mode 0600), `settings.toml`, defaults. In the environment a key is written",
        "`HL7CORE_CORE__STORE` or `HL7CORE_PLUGINS__JSON_STORE__ENABLED`. Several values in one key are one string:",
        '`interfaces = "eth0, eth1"`.',
        "",
        "A running engine follows a changed file within a second. A file or value that is wrong changes nothing, and you are",
        "told which value it is and what stays in force. `hl7core settings check` says the same beforehand.",
    ]
    registry = Registry(Settings(core=CoreSettings()))
    models = {"core": CoreSettings} | {
        f"plugins.{name}": registry.model(name) for name in sorted(registry.names()) if registry.info(name).bundled
    }
    for table, model in models.items():
        lines += ["", f"## [{table}]", "", "| key | default | |", "|---|---|---|"]
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
    """Return the block of ``wire.md`` that is drawn from the transition table."""
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
