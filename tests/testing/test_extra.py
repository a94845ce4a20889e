"""``hl7core[testing]`` brings what the test kit imports, so that a plugin's tests need nothing else."""

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def names(requirements):
    return {re.split(r"[^\w-]", line)[0].lower() for line in requirements}


def imported(folder):
    """The names of packages that the modules in ``folder`` import, inside functions too."""
    found = set()
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"hl7core"}


def test_the_extra_names_every_package_that_the_test_kit_imports():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = imported(ROOT / "src/hl7core/testing")
    assert {"pytest", "hypothesis"} <= needed
    assert needed <= names(project["dependencies"]) | names(project["optional-dependencies"]["testing"])


def test_whoever_makes_a_plugin_is_told_to_install_that_extra():
    named = [ROOT / "src/hl7core/cli/templates/pyproject.txt"]
    named += [path for path in (ROOT / "docs/examples").glob("*/pyproject.toml") if (path.parent / "tests").exists()]
    assert len(named) >= 3
    for path in named:
        assert 'test = ["hl7core[testing]"]' in path.read_text(), path
    assert "hl7core[testing]" in (ROOT / "docs/writing_plugins.md").read_text()
