"""The tuner: which tiles it times, and which it leaves out; the GPU hour's self-test runs it."""

from __future__ import annotations

import pytest
import torch

from distilrt.bench import tiles as tuning
from distilrt.bench.clock import Clock
from distilrt.kernels import tiles
from distilrt.kernels.op import Choice, Example, OpOutput
from distilrt.kernels.tiles import H200, RowTile


def test_a_tile_that_is_wrong_or_does_not_run_is_left_out() -> None:
    good, wrong, broken = RowTile(1, 1), RowTile(1, 2), RowTile(1, 4)
    key, clock = ("rows", 90, 3), Clock(torch.device("cpu"), 0.01)
    said: list[str] = []
    out = torch.empty(3)

    def make() -> Example:
        def launch() -> None:
            tile = tiles.MEASURED[key][5]
            if tile is broken:
                raise RuntimeError("too many registers\nmore")
            out.fill_(2.0 if tile is wrong else 1.0)

        return Example("", launch, {"out": OpOutput(out, lambda: out.numpy())}, 12)

    found = tuning.times_us(Choice(key, 5, (good, wrong, broken)), make, clock, said.append)
    assert list(found) == [good]
    wrongs = ["left out, it computes something else: RowTile(1, 2)", "left out: RowTile(1, 4): too many registers"]
    assert said == wrongs
    with pytest.raises(RuntimeError, match=r"the usual tile of .* does not run here: RowTile\(1, 4\)"):
        tuning.times_us(Choice(key, 5, (broken, good)), make, clock, said.append)


def test_candidates_fit_and_begin_with_the_usual_tile() -> None:
    for dtype in tiles.ITEM_SIZE:
        found = tiles.linear_tiles(4096, 768, 3072, dtype, H200)
        assert found[0] == tiles.linear_tile(4096, 768, 3072, dtype, H200)
        assert set(found) >= set(tiles.linear_candidates(dtype, H200))
        assert all(tile.shared_memory(dtype) <= tiles.SHARED_MEMORY[90] for tile in found)
