"""Lines of source by room, beside their budgets; `make loc` prints the table."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KINDS = {".py", ".pyi", ".cpp", ".h", ".c", ".js", ".css", ".html"}

# Folder: the budget, and the number that the test holds the folder to where the budget is not met yet. Lower the second
# number whenever a folder shrinks; never raise it without saying why in docs/design.md.
BUDGETS: dict[str, tuple[int, int | None]] = {
    "engine/*": (1500, 2508),
    "engine/model": (1500, 2487),
    "engine/checkpoint": (1600, 2836),
    "engine/text": (1050, 1579),
    "engine/runtime": (1000, 1614),
    "engine/backends": (1700, 2123),
    "engine/tasks": (1450, 1760),
    "engine/distill": (900, 1050),
    "engine/dropin": (1750, 2089),
    "engine/scale": (520, 562),
    "engine/server": (3200, 4639),
    "kernels": (1900, 3880),
    "csrc": (2900, 4703),
    "engine/bench": (3000, 4256),
    "benches": (1000, 1525),
    "tests/bench": (1400, 2168),
}


def lines_of(folder: str) -> int:
    """The number of lines of all source files in a folder; of `folder/*`, without its sub-folders."""
    path = ROOT / folder.removesuffix("/*")
    files = path.glob("*") if folder.endswith("/*") else path.rglob("*")
    return sum(len(file.read_text().splitlines()) for file in files if file.suffix in KINDS and file.is_file())


@pytest.mark.parametrize("folder", BUDGETS)
def test_budget(folder: str) -> None:
    budget, held = BUDGETS[folder]
    assert lines_of(folder) <= (held or budget), f"{folder} has grown; find the simpler design"


if __name__ == "__main__":
    for folder, (budget, held) in BUDGETS.items():
        above = f", held to {held}" if held else ""
        print(f"{folder:20} {lines_of(folder):6} lines (budget {budget}{above})")
    product = {folder: budget for folder, (budget, _) in BUDGETS.items() if folder != "tests/bench"}
    print(f"{'product':20} {sum(map(lines_of, product)):6} lines (budget {sum(product.values())})")
    print(f"{'tests':20} {lines_of('tests'):6} lines")
