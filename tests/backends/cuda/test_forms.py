"""encoder.py: which form of product a bucket has on which GPU, and that shared blocks are right in a whole layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from distilrt.backends.base import create
from distilrt.backends.cuda.encoder import DeviceEncoder
from distilrt.batch import pack
from distilrt.checkpoint.gpu_tensors import packed_for_gpu
from distilrt.kernels import launch, tiles
from distilrt.kernels.tiles import A100, B200, H200, L40S, Chip
from tests.backends.cuda.cuda_models import config_of, fresh, weights_of
from tests.kernels.launches import recorded

CONFIG = config_of(dim=768, n_heads=12, n_layers=1, hidden_dim=3072, max_position_embeddings=512)


@pytest.mark.parametrize("chip", [A100, L40S, H200, B200], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_bucket_has_its_form(chip: Chip, dtype: str) -> None:
    """From sm_90 on in half precision, and from 256 rows on; the last layer of few rows has fewer."""
    weights = weights_of(CONFIG, "DistilBertModel", fresh())
    with recorded(chip) as found:
        held = packed_for_gpu(CONFIG, weights, "DistilBertModel", dtype)
        encoder = DeviceEncoder(CONFIG, held, torch.device("meta"))
        for bucket in encoder.buckets:
            found.clear()
            stage = encoder.launch(bucket)
            products = {launched.name for launched in found if launched.name.endswith("linear_kernel")}
            alone = [launched for launched in found if launched.name == "_persistent_linear_kernel"]
            if chip.capability >= 90 and dtype == "bfloat16" and bucket.tokens >= 256:
                assert products == {"_persistent_linear_kernel"}
                assert len(alone) == 4
            else:
                assert not alone
            if dtype == "float32":
                blocks = [each.arguments["PRECISION"] for each in found if each.name == "_linear_kernel"]
                assert set(blocks) == {"ieee" if chip == L40S else "tf32x3"}
            shared = [launched for launched in alone if launched.arguments["begun_ptr"] is not None]
            encoder.launch(bucket, few=True)
            for launched in found:
                if launched.arguments.get("begun_ptr") is not None:
                    block = launched.arguments["BLOCK_M"] * launched.arguments["BLOCK_N"]
                    assert len(stage.relay.sums) >= chip.num_sms * block
            if chip == H200 and dtype == "bfloat16" and 256 <= bucket.tokens <= 2048:
                assert shared, "blocks that make no whole waves are shared"
            if chip == H200 and bucket.tokens == 5632:
                assert not shared, "whole waves"


def test_shared_blocks_in_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five multiprocessors, a bucket of 64 rows: as near as float16 is, and batch mates change no bit."""
    monkeypatch.setattr(launch, "stand_in", Chip(90, 5))
    monkeypatch.setattr(tiles, "EVEN_ROWS", 33)
    rng = fresh()
    config = config_of(dim=128, n_layers=1, hidden_dim=256, max_position_embeddings=70)
    weights = weights_of(config, "DistilBertModel", rng)
    first = rng.integers(0, 61, 20)
    batch = pack(config, [first, *(rng.integers(0, 61, n) for n in (1, 30))])
    # NumPy's product rounds a row by its place in a block, so that is the same.
    others = pack(config, [first, *(rng.integers(0, 61, n) for n in (32, 3))])
    exact = create("reference", config, weights, dtype="float64").forward(batch)
    backend: Any = create("cuda", config, weights, dtype="float16")
    relays = [buffers.all.relay for bucket, buffers in backend.encoder.buffers.items() if bucket.tokens == 64]
    assert len(relays[0].sums), "blocks are shared"
    found = []
    for given in (batch, others):
        backend.encoder.workspace.fill(255)
        found.append(backend.to_numpy(backend.forward(given)))
        assert not relays[0].begun.any()
    assert np.abs(found[0] - exact).max() <= 2**-8 * np.abs(exact).max()
    np.testing.assert_array_equal(found[1][:20], found[0][:20])
