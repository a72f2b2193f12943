"""Imports point one way: a module imports only from rows above its own, and only by absolute names."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# An entry is a module or a package; the longest that fits a module counts. A module imports from its own row and above.
ROWS = [
    "errors env cpu_count placement eager _C",
    "checkpoint text batch model.architecture model.array_kinds model.bert_config model.config model.heads "
    "model.losses model.outputs model.functional model.sentence_vectors",
    "kernels",
    "backends",
    "model",
    "tasks runtime",
    "pipelines sentence_encoder verification info faster_dtypes isas",
    "cli __main__ server dropin scale bench distill",
]
# What the packages of the last row offer to one another; all else in them is their own.
DOORS = {"server": "app call serve_command settings statuses", "bench": "command", "distill": "command"}
RANK = {name: row for row, names in enumerate(ROWS) for name in names.split()}
FILES = sorted(path for folder in ("engine", "kernels") for path in (ROOT / folder).rglob("*.py"))


def _rank(module: str) -> int:
    """The row of `distilrt.<module>`."""
    parts = module.split(".")[1:]
    entries = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    entry = next((entry for entry in entries if entry in RANK), None)
    assert entry is not None, f"put {module} into a row of this test"
    return RANK[entry]


def _module(path: Path) -> str:
    relative = path.relative_to(ROOT).with_suffix("").parts
    package = ("distilrt",) if relative[0] == "engine" else ("distilrt", "kernels")
    return ".".join(package + relative[1:]).removesuffix(".__init__")


def _imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            # The names may be modules, as in `from distilrt import batch`, or what a module has.
            found += [f"{module}.{alias.name}" for alias in node.names]
    return [name for name in found if name.startswith("distilrt.")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    module = _module(path)
    if module == "distilrt":
        return  # the lazy table of public names
    for imported in _imports(path):
        if imported != "distilrt.__version__":
            assert _rank(imported) <= _rank(module), f"{module} imports {imported}, which lies above it"
            package, _, name = imported.removeprefix("distilrt.").partition(".")
            others = package in ROWS[-1].split() and package != module.split(".")[1]
            offered = name.partition(".")[0] in DOORS.get(package, "").split()
            assert not others or not name or offered, f"{module} imports {imported}, which {package} does not offer"


def test_kernels_is_no_package() -> None:
    """transformers probes for a package called `kernels` and breaks on finding ours."""
    assert not (ROOT / "kernels" / "__init__.py").exists()
