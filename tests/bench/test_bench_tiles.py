"""The tuner: what it times and prints, in Triton's interpreter at a tiny scale, and how it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from distilrt.backends.cuda.devices import why_not_cuda
from distilrt.bench import tiles as tuning
from distilrt.bench.clock import Clock
from distilrt.kernels import tiles
from distilrt.kernels.op import Choice, Example, OpOutput
from distilrt.kernels.tiles import H200, AttentionTile, LinearTile, NarrowTile, RowTile, Split
from distilrt.model.config import DistilBertConfig

CONFIG = DistilBertConfig(dim=32, n_heads=2, n_layers=1, hidden_dim=64, max_position_embeddings=16)


def _run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | variables
    command = [sys.executable, "-m", "distilrt", "bench", "tiles", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.whole
def test_it_tests_itself_and_the_table_can_be_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every op of a layer for few rows and for more, in a process of its own as a user starts it."""
    done = _run("--self-test", "--tokens", "5,40", "--dtypes", "bfloat16")
    assert done.returncode == 0, done.stderr
    entries: dict[Any, Any] = eval(f"{{\n{done.stdout}\n}}", vars(tiles))
    assert "left out" not in done.stderr
    assert {key[0]: set(sizes) for key, sizes in entries.items()} == {
        "narrow": {5}, "linear": {40}, "split": {40}, "attention": {5, 40}, "rows": {5, 40},
    }  # fmt: skip
    assert {key[2:] for key in entries if key[0] == "narrow"} == {
        (96, 32, True), (64, 32, True), (96, 32, False), (32, 32, False), (64, 32, False), (32, 64, False),
    }  # fmt: skip
    monkeypatch.setattr(tiles, "MEASURED", entries)
    assert tiles.linear_tile(40, 96, 32, "bfloat16", H200) == entries["linear", 90, "bfloat16", 96, 32][40]
    assert tiles.split_k(40, 32, 64, "bfloat16", H200) == entries["split", 90, "bfloat16", 32, 64][40].segments


def test_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    linear = LinearTile(64, 32, 128, 4, 4)
    found = [
        tuning.Found(("linear", 90, "bfloat16", 768, 3072), 256, linear, 4, 5),
        tuning.Found(("split", 90, "bfloat16", 768, 3072), 256, Split(4, linear), 4, 4),
        tuning.Found(("linear", 90, "bfloat16", 768, 3072), 128, linear, 2, 5),
        tuning.Found(("narrow", 90, 768, 3072, True), 16, NarrowTile(16, 8, 32, 8, 8, 3), 4, 5),
        tuning.Found(("attention", 90, "bfloat16", 64), 512, AttentionTile(128, 64, 8, 3, 264), 4, 5),
        tuning.Found(("rows", 90, 768), 512, RowTile(264, 2), 4, 5),
    ]
    text = tuning.table(found)
    assert "256: LinearTile(64, 32, 128, 4, 4),  # 4.0 us, 1.25x" in text
    entries = eval(f"{{\n{text}\n}}", vars(tiles))
    assert entries == {
        found[0].key: {128: linear, 256: linear}, **{row.key: {row.size: row.tile} for row in (found[1], *found[3:])}
    }  # fmt: skip


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

    found = tuning.best(Choice(key, 5, (good, wrong, broken)), make, clock, lambda words, seconds: said.append(words))
    assert found.tile is good
    assert said == [
        "left out, it computes something else: RowTile(1, 2)",
        "left out: RowTile(1, 4): too many registers",
    ]
    with pytest.raises(RuntimeError, match=r"the usual tile of .* does not run here: RowTile\(1, 4\)"):
        tuning.best(Choice(key, 5, (broken, good)), make, clock, lambda words, seconds: said.append(words))


def test_candidates_fit_and_begin_with_the_usual_tile() -> None:
    config = DistilBertConfig()
    assert tuning.buckets(config, torch.device("cpu"))[-1] == 5632
    for dtype in tiles.ITEM_SIZE:
        found = tiles.linear_tiles(4096, 768, 3072, dtype, H200)
        assert found[0] == tiles.linear_tile(4096, 768, 3072, dtype, H200)
        assert set(found) >= set(tiles.linear_candidates(dtype, H200))
        assert all(tile.shared_memory(dtype) <= tiles.SHARED_MEMORY[90] for tile in found)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="the dtype must be one of float32, tf32, float16, bfloat16, found 'int8'"):
        next(tuning.tune(CONFIG, [5], "int8", lambda words, seconds: None))


@pytest.mark.skipif(why_not_cuda() is None, reason="there is a GPU")
def test_without_a_gpu() -> None:
    done = _run()
    assert done.returncode == 2
    assert "backend 'cuda' is not available: " in done.stderr
    assert "no CUDA device" in done.stderr or "without CUDA" in done.stderr
