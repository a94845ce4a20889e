"""The shape of the tree: no circle of files, no overfull folder, and no module that the linter's layers leave out."""

import ast
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TREES = {"hl7core": ROOT / "src/hl7core", "hl7core_plugins": ROOT / "plugins/hl7core_plugins"}
MOST_MODULES = 22

Graph = Mapping[str, set[str]]


def modules(package: str, root: Path) -> dict[str, Path]:
    """Return the file of each module below ``root`` by dotted name; a package is named by its ``__init__``."""
    files = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        files[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return files


def imported(source: str, known: Mapping[str, Any], package: str) -> set[str]:
    """Return the modules of ``known`` that ``source``, a module of ``package``, imports anywhere in its text."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add(inner if inner in known else base)
    return found & set(known)


def file_graph(files: Mapping[str, Path]) -> Graph:
    """Return which modules each module imports: at its top, inside functions, and for its types alone."""
    graph = {}
    for name, path in files.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        graph[name] = imported(path.read_text(), files, package) - {name}
    return graph


def circles(graph: Graph) -> list[list[str]]:
    """Return a shortest circle through each group of modules that import each other."""
    found = []
    left = set(graph)
    while left:
        start = min(left)
        path = _way_back(graph, start)
        if path:
            found.append(path)
            left -= _reached(graph, start) & {name for name in left if start in _reached(graph, name)}
        left.discard(start)
    return found


def _reached(graph: Graph, start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        fresh = graph[waiting.pop()] - seen
        seen |= fresh
        waiting += fresh
    return seen


def _way_back(graph: Graph, start: str) -> list[str]:
    """Return a shortest way from ``start`` back to it, both ends included; empty if there is none."""
    paths = [[start]]
    seen: set[str] = set()
    for path in paths:
        for following in sorted(graph[path[-1]]):
            if following == start:
                return [*path, start]
            if following not in seen:
                seen.add(following)
                paths.append([*path, following])
    return []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import p.a", {"p.a"}),
        ("from p import a", {"p.a"}),
        ("from p.a import Name", {"p.a"}),
        ("from p import Name", {"p"}),
        ("from . import a", {"p.a"}),
        ("from .b.c import Name", {"p.b.c"}),
        ("def work():\n    from p.a import Name", {"p.a"}),
        ("if TYPE_CHECKING:\n    from p.a import Name", {"p.a"}),
        ("import os", set()),
    ],
)
def test_every_form_of_import_counts(source, expected):
    assert imported(source, dict.fromkeys(("p", "p.a", "p.b", "p.b.c")), "p") == expected


def test_circles_are_found_once_and_named_in_order():
    graph = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"e"}, "e": {"d"}, "f": {"a"}}
    assert circles(graph) == [["a", "b", "c", "a"], ["d", "e", "d"]]


@pytest.mark.parametrize("package", TREES)
def test_no_circle_of_files(package):
    files = modules(package, TREES[package])
    assert len(files) > len(TREES)
    named = "\n".join("  " + "\n    imports ".join(circle) for circle in circles(file_graph(files)))
    assert not named, f"these files import each other (a type-only import counts):\n{named}"


@pytest.mark.parametrize("package", TREES)
def test_no_folder_has_too_many_modules(package):
    counts = Counter(path.parent for path in TREES[package].rglob("*.py") if path.name != "__init__.py")
    full = {str(folder.relative_to(ROOT)): count for folder, count in counts.items() if count > MOST_MODULES}
    assert not full, f"a folder holds at most {MOST_MODULES} modules: divide {full}"


# The layers that import-linter checks.

LAYERED = ("hl7core", "hl7core.cli", "hl7core.engine", "hl7core.wire")


def layers() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each package whose inside is layered, with its contract."""
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    for contract in linter["contracts"]:
        if contract["type"] == "layers":
            for container in contract["containers"]:
                yield container, contract


@pytest.mark.parametrize("container", LAYERED)
def test_every_module_stands_in_one_layer(container):
    contracts = [contract for name, contract in layers() if name == container]
    assert contracts, f"no contract in pyproject.toml layers the inside of {container}"
    (contract,) = contracts
    named = [name.strip() for layer in contract["layers"] for name in layer.replace(":", "|").split("|")]
    folder = TREES["hl7core"].joinpath(*container.split(".")[1:])
    here = {path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert sorted(named) == sorted(here - {"__init__"})
    assert contract.get("exhaustive") is True, f"the layers of {container} must be exhaustive"
