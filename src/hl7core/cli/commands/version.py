"""``hl7core version``: the version of hl7core, and of the libraries it runs on."""

from __future__ import annotations

import json
import platform

import click

from hl7core import __version__

__all__ = ["command", "is_compiled"]


def is_compiled() -> bool:
    """Return whether the decoder uses the C extension here (docs/performance.md)."""
    from hl7core.wire import native  # only here

    return native.SlowPathPackets is not None


@click.command("version", epilog="\b\nExamples:\n  hl7core version\n  hl7core version --json")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the versions of Python and the libraries too.")
def command(as_json: bool) -> None:
    """Print the version of hl7core."""
    if not as_json:
        click.echo(f"hl7core {__version__}{' (compiled)' if is_compiled() else ''}")
        return
    from importlib.metadata import version  # only here

    from hl7core import HOOK_API

    libraries = ("click", "dynaconf", "hl7apy", "httpx", "pluggy", "pydantic", "scapy", "watchfiles")
    click.echo(
        json.dumps(
            {
                "hl7core": __version__,
                "hookApi": HOOK_API,
                "python": platform.python_version(),
                "platform": platform.platform(),
                "compiled": is_compiled(),
                "libraries": {name: version(name) for name in libraries},
            }
        )
    )
