"""Imports point one way: a module imports only from rows above its own, and only by absolute names."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Lower rows may import higher ones, and modules of one row each other; never the other way.
ROWS = [
    "errors env cpu_count uncompiled",
    "checkpoint model batch text",
    "kernels _C",
    "backends",
    "tasks runtime",
    "verification pipelines narrower",
    "cli __main__ server dropin scale bench",
]
RANK = {name.rstrip("*"): row for row, names in enumerate(ROWS) for name in names.split()}
FILES = sorted(path for folder in ("engine", "kernels") for path in (ROOT / folder).rglob("*.py"))


def _part(module: str) -> str:
    """The row entry of `distilrt.<part>.…`."""
    name = module.split(".")[1]
    return "tokenizer" if name.startswith("tokenizer") else name


def _module(path: Path) -> str:
    relative = path.relative_to(ROOT).with_suffix("").parts
    package = ("distilrt",) if relative[0] == "engine" else ("distilrt", "kernels")
    return ".".join(package + relative[1:])


def _imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            # `from distilrt import batch` imports a module, `from distilrt.batch import Batch` a name.
            found += [f"distilrt.{alias.name}" for alias in node.names] if module == "distilrt" else [module]
    return [name for name in found if name.startswith("distilrt.")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    module = _module(path)
    if module == "distilrt.__init__":
        return  # the lazy table of public names
    own = _part(module)
    assert own in RANK, f"put {own} into a row of this test"
    for imported in _imports(path):
        part = _part(imported)
        if part in ("__version__",):
            continue
        assert RANK[part] <= RANK[own], f"{module} imports {imported}, which lies above it"


def test_kernels_is_no_package() -> None:
    """transformers probes for a package called `kernels` and breaks on finding ours."""
    assert not (ROOT / "kernels" / "__init__.py").exists()
