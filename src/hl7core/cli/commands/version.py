"""``hl7core version``."""

from __future__ import annotations

import json
import platform

import click

from hl7core import __version__

__all__ = ["command", "is_compiled"]


def is_compiled() -> bool:
    """Say whether the decoder's short way is machine code here (docs/performance.md)."""
    from hl7core.wire import native  # only here

    return native.SlowPathPackets is not None


@click.command("version", epilog="\b\nExamples:\n  hl7core version\n  hl7core version --json")
@click.option("--json", "as_json", is_flag=True, help="As JSON, with the versions of what it runs on.")
def command(as_json: bool) -> None:
    """Print the version."""
    if not as_json:
        click.echo(f"hl7core {__version__}{' (compiled)' if is_compiled() else ''}")
        return
    from importlib.metadata import version  # only here

    libraries = ("click", "dynaconf", "hl7apy", "httpx", "pluggy", "pydantic", "scapy", "watchfiles")
    click.echo(
        json.dumps(
            {
                "hl7core": __version__,
                "python": platform.python_version(),
                "platform": platform.platform(),
                "compiled": is_compiled(),
                "libraries": {name: version(name) for name in libraries},
            }
        )
    )
