"""The tuner as far as it goes without a GPU: what it would time, the table it prints, and how it refuses."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from distilrt.bench import tiles as tuning
from distilrt.config import DistilBertConfig
from distilrt.kernels import tiles
from distilrt.kernels.tiles import H200, LinearTile


def test_shapes() -> None:
    assert tuning.shapes(DistilBertConfig()) == [(2304, 768), (768, 768), (3072, 768), (768, 3072)]
    square = DistilBertConfig(dim=64, n_heads=2, hidden_dim=64)
    assert tuning.shapes(square) == [(192, 64), (64, 64)]


def test_the_table_can_be_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    tile, usual = LinearTile(64, 32, 128, 4, 4), LinearTile(128, 256, 64, 8, 3)
    found = [tuning.Found(256, 768, 3072, tile, 4e-6, usual, 5e-6)]
    text = tuning.table(found, "bfloat16", H200)
    assert text.endswith("# 4.0 us, 1.25x")
    entries = eval(f"{{\n{text}\n}}", {"LinearTile": LinearTile})
    monkeypatch.setattr(tiles, "MEASURED", entries)
    assert tiles.linear_tile(200, 768, 3072, "bfloat16", H200) == tile


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu() -> None:
    with pytest.raises(RuntimeError, match="no CUDA device"):
        list(tuning.tune(DistilBertConfig(), [64], "bfloat16", print))
    command = [sys.executable, "-m", "distilrt.bench", "tiles"]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.strip().endswith("no CUDA device: tiles can only be timed on one")
