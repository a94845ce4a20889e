"""The plugins in docs/examples: each is a distribution of its own, whose tests pass and whose code is as clean as ours."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from shell import ENV

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(path.parent for path in (ROOT / "docs/examples").glob("*/pyproject.toml"))
TESTED = [path for path in EXAMPLES if (path / "tests").exists()]


def run(*command, cwd, **env):
    return subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        capture_output=True, text=True, check=False, cwd=cwd, env=ENV | env, timeout=110,
    )  # fmt: skip


def test_there_is_one_of_each_kind_that_the_documentation_walks_through():
    assert {path.name for path in EXAMPLES} >= {"hl7core-journal", "hl7core-fixed-frames", "hl7core-file-drop"}


@pytest.mark.parametrize("example", TESTED, ids=lambda path: path.name)
def test_its_own_tests_pass(example):
    options = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir", example, "-c", "/dev/null")
    done = run("pytest", *options, example / "tests", cwd=ROOT, PYTHONPATH=str(example / "src"))
    assert done.returncode == 0, done.stdout[-2000:]
    assert " passed" in done.stdout


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_it_is_typed_and_states_the_hooks_that_it_was_written_for(example, tmp_path):
    pytest.importorskip("mypy")
    done = run("mypy", "--strict", "--cache-dir", tmp_path, "--config-file", "/dev/null", "src", cwd=example)
    assert done.returncode == 0, done.stdout
    (name,) = tomllib.loads((example / "pyproject.toml").read_text())["project"]["entry-points"]["hl7core"]
    text = (example / f"src/hl7core_{name}/__init__.py").read_text()
    assert '    hook_api = ">=1.0,<2"' in text
