"""Finds the fastest tile of every product of a model on the GPU that is here, and prints it as a table for `tiles.py`.

Each candidate is timed by replaying a captured graph, the candidates in turns, over weights that do not fit into L2
together, as in a model. A tile that computes something else than the first candidate is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch

from distilrt.config import DistilBertConfig
from distilrt.kernels import tiles
from distilrt.kernels.launch import chip_of
from distilrt.kernels.linear import linear

WEIGHT_BYTES = 256 << 20  # of all copies of a weight that one graph reads in turn: more than any L2
ROUNDS = 15


@dataclass(frozen=True, slots=True)
class Found:
    """The fastest tile of one product, beside the tile that `linear_tile` takes by itself."""

    tokens: int
    n: int
    k: int
    tile: tiles.LinearTile
    seconds: float
    usual: tiles.LinearTile
    usual_seconds: float


def shapes(config: DistilBertConfig) -> list[tuple[int, int]]:
    """`(n, k)` of the products of a layer."""
    width, inner = config.hidden_size, config.intermediate_size
    return list(dict.fromkeys([(3 * width, width), (width, width), (inner, width), (width, inner)]))


def tune(config: DistilBertConfig, tokens: list[int], dtype: str, say: Callable[[str], None]) -> Iterator[Found]:
    """Time every candidate for every product of `config` and every count of `tokens` on torch's current GPU.

    Raises:
        RuntimeError: there is no CUDA device.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("no CUDA device: tiles can only be timed on one")
    for count in tokens:
        if tiles.is_narrow(count, dtype):
            say(f"{count} tokens: `narrow_linear` has one tile and nothing to choose")
            continue
        for n, k in shapes(config):
            found = _best(count, n, k, dtype)
            say(f"{count} tokens, {n} x {k}: {found.seconds * 1e6:.1f} us, usual {found.usual_seconds * 1e6:.1f} us")
            yield found


def table(found: list[Found], dtype: str, chip: tiles.Chip) -> str:
    """Entries for `tiles.MEASURED`, with the time of the usual tile beside."""
    lines = []
    for row in found:
        tile = ", ".join(str(getattr(row.tile, name)) for name in tiles.LinearTile.__slots__)
        gain = row.usual_seconds / row.seconds
        lines.append(
            f'    ({chip.capability}, "{dtype}", {row.tokens}, {row.n}, {row.k}): LinearTile({tile}),'
            f"  # {row.seconds * 1e6:.1f} us, {gain:.2f}x"
        )
    return "\n".join(lines)


def _best(tokens: int, n: int, k: int, dtype: str) -> Found:
    kind = getattr(torch, dtype)
    x = torch.randn(tokens, k, device="cuda", dtype=kind)
    copies = max(1, WEIGHT_BYTES // (n * k * x.element_size()))
    weights = torch.randn(copies, n, k, device="cuda", dtype=kind) * k**-0.5
    out = torch.empty(tokens, n, device="cuda", dtype=kind)
    chip = chip_of(x)
    usual = tiles.linear_tile(tokens, n, k, dtype, chip)
    graphs: dict[tiles.LinearTile, torch.cuda.CUDAGraph] = {}
    expected: torch.Tensor | None = None
    for tile in tiles.linear_candidates(dtype, chip):
        with _forced(tile, (chip.capability, dtype, tokens, n, k)):
            linear(out, x, weights[0])
            torch.cuda.synchronize()
            if expected is None:
                expected = out.clone()
            elif not torch.allclose(out.float(), expected.float(), rtol=2e-2, atol=2e-2):
                continue
            graphs[tile] = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graphs[tile]):
                for weight in weights:
                    linear(out, x, weight)
    times: dict[tiles.LinearTile, list[float]] = {tile: [] for tile in graphs}
    for _ in range(ROUNDS):
        for tile, graph in graphs.items():
            times[tile].append(_seconds(graph) / copies)
    middle = {tile: median(values) for tile, values in times.items()}
    best = min(middle, key=lambda tile: middle[tile])
    return Found(tokens, n, k, best, middle[best], usual, middle[usual])


@contextmanager
def _forced(tile: tiles.LinearTile, key: tuple[int, str, int, int, int]) -> Iterator[None]:
    before = dict(tiles.MEASURED)
    tiles.MEASURED.clear()
    tiles.MEASURED[key] = tile
    try:
        yield
    finally:
        tiles.MEASURED.clear()
        tiles.MEASURED.update(before)


def _seconds(graph: torch.cuda.CUDAGraph) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    graph.replay()
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3
