"""``hl7core plugins new``: makes a plugin project that works and has tests.

The files it writes are in ``templates/``; they import only ``hl7core`` itself.
"""

from __future__ import annotations

import keyword
import re
from importlib import resources
from pathlib import Path
from string import Template
from typing import Final, NamedTuple

import click

from hl7core.errors import PluginError
from hl7core.hookspecs import HOOK_API

__all__ = ["KINDS", "command"]

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,49}")


class _Kind(NamedTuple):
    what: str
    table: str
    more: str


KINDS: Final = {
    "observer": _Kind("it is called for each session that ends.", "every = 100\n", ""),
    "destination": _Kind("it sends sessions to another system.", 'url = "https://lab.example/sessions"\n', ""),
    "store": _Kind(
        "it stores sessions.",
        "",
        "\nNew sessions go to it when it is the store of record:\n\n"
        '```toml\n[core]\nstore = "$name"\n```\n\n'
        "    hl7core sessions import --from json_store     # earlier sessions too\n",
    ),
    "dialect": _Kind("it decodes another framing.", "", ""),
    "source": _Kind("it is a source of packets.", 'folder = "/var/captures"\n', ""),
}  # fmt: skip
_EPILOG: Final = """\b
Examples:
  hl7core plugins new ward_bell
  hl7core plugins new hub --kind destination
  hl7core plugins new vault --kind store --folder ~/src
"""


@click.command("new", short_help="Start a plugin project.", epilog=_EPILOG)
@click.argument("name")
@click.option("--kind", type=click.Choice(tuple(KINDS)), default="observer", help="Default: observer.")
@click.option("--folder", default=".", metavar="DIR", help="Where to make the project's folder; default: here.")
def command(name: str, kind: str, folder: str) -> None:
    """Make a plugin project with working code, tests, pyproject.toml and README.

    NAME is the plugin's name in `hl7core plugins list` and in the settings, as the table [plugins.NAME].
    """
    from importlib.metadata import entry_points  # a scan of all that is installed

    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise click.UsageError(f"{name!r} is not a valid plugin name: use a-z, 0-9 and _, starting with a letter")
    if name in entry_points(group="hl7core").names:
        raise PluginError(f"a plugin {name} is already installed; choose another name")
    project = Path(folder).expanduser() / f"hl7core-{name.replace('_', '-')}"
    try:
        _write(project, _files(name, kind))
    except OSError as error:
        raise PluginError(f"{project} cannot be written: {error.strerror}") from error
    click.echo(f"{project}: {_article(kind)} {kind} plugin with tests. Next:")
    for line in (f"cd {project}", "pip install -e '.[test]'", "pytest", f"hl7core plugins enable {name}"):
        click.echo(f"  {line}")


def _files(name: str, kind: str) -> dict[str, str]:
    """Return the files of a project, content by path."""
    package = f"hl7core_{name}"
    values = {
        "name": name,
        "Class": "".join(part.capitalize() for part in name.split("_")),
        "package": package,
        "distribution": f"hl7core-{name.replace('_', '-')}",
        "what": KINDS[kind].what,
        "table": KINDS[kind].table,
        "hook_api": f">={HOOK_API},<{int(HOOK_API.partition('.')[0]) + 1}",
    }
    values["more"] = Template(KINDS[kind].more).substitute(values)
    templates = {
        "pyproject.toml": "pyproject.txt",
        "README.md": "readme.txt",
        f"src/{package}/__init__.py": f"{kind}.txt",
        f"tests/test_{name}.py": f"{kind}_test.txt",
    }
    place = resources.files("hl7core.cli") / "templates"
    made = {
        path: Template((place / source).read_text("utf-8")).substitute(values) for path, source in templates.items()
    }
    return made | {f"src/{package}/py.typed": "", ".gitignore": "__pycache__/\n*.egg-info/\n.pytest_cache/\n"}


def _write(project: Path, files: dict[str, str]) -> None:
    """Write the files of a project.  Raises PluginError if its folder exists, and OSError."""
    try:
        project.mkdir(parents=True)
    except FileExistsError:
        raise PluginError(f"{project} already exists; remove it, or choose another --folder") from None
    for path, text in files.items():
        place = project / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"
