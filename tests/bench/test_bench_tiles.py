"""The tuner: which tiles it times, and which it leaves out; the GPU hour's self-test runs it."""

from __future__ import annotations

import pytest
import torch

from distilrt.bench import tiles as tuning
from distilrt.bench.clock import Clock
from distilrt.kernels import tiles
from distilrt.kernels.op import Choice, Example, OpOutput
from distilrt.kernels.tiles import RowTile


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
    assert said == [f"left out, it computes something else: {wrong}", f"left out: {broken}: too many registers"]
    with pytest.raises(RuntimeError, match=r"the usual tile of .* does not run here"):
        tuning.times_us(Choice(key, 5, (broken, good)), make, clock, said.append)
