"""encoder.py: few rows in one kernel, where `tiles.MEASURED` says so and nowhere else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from distilrt.backends.base import create
from distilrt.backends.cuda.encoder import DeviceEncoder
from distilrt.batch import PaddedInputs, pack
from distilrt.checkpoint.gpu_tensors import packed_for_gpu
from distilrt.kernels import tiles
from distilrt.kernels.tiles import H200
from tests.backends.cuda.cuda_models import config_of, fresh, weights_of
from tests.kernels.launches import recorded

# Rows beyond the real ones are not defined, and the interpreter computes with whatever they hold.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
CONFIG = config_of()


def turn_on(monkeypatch: pytest.MonkeyPatch, dtype: str, *tokens: int) -> None:
    key = ("encoder", 90, dtype, CONFIG.hidden_size, CONFIG.intermediate_size)
    monkeypatch.setitem(tiles.MEASURED, key, {each: tiles.encoder_tiles(each)[0] for each in tokens})


def test_only_where_it_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """By bucket and dtype; hidden states of all layers are copied between kernels, so there are several."""
    weights = weights_of(CONFIG, "DistilBertModel", fresh())
    with recorded(H200) as found:

        def names(dtype: str, tokens: int, **options: Any) -> list[str]:
            held = packed_for_gpu(CONFIG, weights, "DistilBertModel", dtype)
            encoder = DeviceEncoder(CONFIG, held, torch.device("meta"))
            (bucket,) = (bucket for bucket in encoder.buckets if bucket.tokens == tokens)
            found.clear()
            encoder.launch(bucket, **options)
            return [launched.name for launched in found]

        assert len(names("bfloat16", 16)) == 2 + 5 * CONFIG.num_layers
        turn_on(monkeypatch, "bfloat16", 16)
        for few in (False, True):
            assert names("bfloat16", 16, few=few) == ["_whole_encoder_kernel"]
        assert found[0].options["launch_cooperative_grid"]
        assert "launch_pdl" not in found[0].options, "it follows a copy"
        assert len(names("bfloat16", 16, visit=lambda *_: None)) > 10
        assert len(names("bfloat16", 32)) > 10
        assert len(names("float16", 16)) > 10
        turn_on(monkeypatch, "float32", 16)
        assert len(names("float32", 16)) > 10, "exact products of few rows have another form"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_answers(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As right as one by one, whatever lay in memory; batch mates change no bit, nor does another forward."""
    rng = fresh()
    weights = weights_of(CONFIG, "DistilBertModel", rng)
    first, *others = (rng.integers(0, 61, n) for n in (7, 3, 12, 16))
    batch = pack(CONFIG, [first, *others[:2]])
    exact: Any = create("reference", CONFIG, weights, dtype="float64").forward(batch)
    backend: Any = create("cuda", CONFIG, weights, dtype=dtype)

    def states(batch: Any, wanted: Any = None) -> Any:
        backend.encoder.workspace.fill(255)
        return backend.to_numpy(backend.forward(batch, wanted=wanted))

    plain = np.abs(states(batch) - exact).max()
    turn_on(monkeypatch, dtype, 16, 32)
    found = states(batch)
    eps = torch.finfo(getattr(torch, dtype)).eps
    assert np.abs(found - exact).max() <= 2 * plain + 8 * eps * np.abs(exact).max()
    np.testing.assert_array_equal(states(batch), found)
    # NumPy's product rounds a row by its place among the rows, so that is the same.
    np.testing.assert_array_equal(states(pack(CONFIG, [first, others[2], others[0]]))[:7], found[:7])
    firsts = batch.cu_seqlens[:-1].astype(np.int64)
    assert np.abs(states(batch, firsts) - found[firsts]).max() <= eps * np.abs(exact).max()
    assert backend.encoder._barrier.item() in (0, -(2**31))


def test_embeddings_in_place_of_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = fresh()
    weights = weights_of(CONFIG, "DistilBertModel", rng)
    backend: Any = create("cuda", CONFIG, weights, dtype="float16")
    embeds = rng.standard_normal((1, 6, CONFIG.hidden_size)).astype(np.float32)
    found: list[torch.Tensor] = []
    for tokens in ((), (16,)):
        turn_on(monkeypatch, "float16", *tokens)
        hidden, _ = backend.run_padded(PaddedInputs(inputs_embeds=torch.from_numpy(embeds)), with_head=False)
        found.append(hidden)
    assert torch.allclose(found[0], found[1], rtol=1e-2, atol=1e-2)
