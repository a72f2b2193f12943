"""The NumPy model against transformers, and its operations against torch in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distilrt.backends.reference import ReferenceBackend
from distilrt.batch import PaddedInputs, pack, pack_padded
from distilrt.errors import BackendError
from distilrt.model import functional
from distilrt.model.config import ACTIVATIONS, DistilBertConfig

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


def assert_near(ours: Any, theirs: Any, tolerance: float) -> None:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max(initial=0) <= tolerance * np.abs(theirs).max(initial=1e-30)


def random_config(seed: int) -> DistilBertConfig:
    rng = np.random.default_rng(seed)
    heads, head_dim = int(rng.integers(1, 5)), int(rng.choice([16, 24, 32, 33, 64]))
    return DistilBertConfig(
        dim=heads * head_dim + (heads * head_dim < 32) * 16 * heads,
        n_heads=heads,
        n_layers=int(rng.integers(1, 5)),
        hidden_dim=int(rng.integers(17, 300)),
        vocab_size=int(rng.integers(50, 200)),
        max_position_embeddings=70,
        activation=ACTIVATIONS[seed % len(ACTIVATIONS)],
        sinusoidal_pos_embds=seed % 4 == 1,
    )


def test_erf_is_exact_to_the_last_digits() -> None:
    x = np.concatenate([np.linspace(-8, 8, 20001), np.logspace(-20, 0, 100), [0.0, -0.0, np.inf, -np.inf]])
    exact = np.array([math.erf(value) for value in x])
    assert np.abs(functional.erf(x) - exact).max() <= 2e-15
    assert functional.erf(np.array([7.0, -7.0])).tolist() == [1.0, -1.0]
    assert np.isnan(functional.erf(np.array([np.nan]))).all()
    narrow = x.astype(np.float32)
    exact = np.array([math.erf(value) for value in narrow])
    assert functional.erf(narrow).dtype == np.float32
    assert np.abs(functional.erf(narrow) - exact).max() <= 2**-24


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name: str) -> None:
    x = np.concatenate([np.linspace(-40, 40, 4001), [0.0, -1000.0, 1000.0]])
    wide = torch.from_numpy(x)
    theirs = {
        "gelu": torch.nn.functional.gelu(wide),
        "relu": torch.relu(wide),
        "gelu_new": torch.nn.functional.gelu(wide, approximate="tanh"),
        "gelu_pytorch_tanh": torch.nn.functional.gelu(wide, approximate="tanh"),
        "silu": torch.nn.functional.silu(wide),
    }[name]
    assert np.abs(functional.activation(name, x) - theirs.numpy()).max() <= 1e-14
    assert functional.activation(name, x.astype(np.float32)).dtype == np.float32


def test_unknown_activation() -> None:
    with pytest.raises(ValueError, match=r"gelu, relu.*found 'swish'"):
        functional.activation("swish", np.zeros(1))


def test_layer_norm_and_softmax(rng: np.random.Generator) -> None:
    x, weight, bias = rng.normal(3, 5, (7, 40)), rng.normal(size=40), rng.normal(size=40)
    theirs = torch.nn.functional.layer_norm(
        torch.from_numpy(x), (40,), torch.from_numpy(weight), torch.from_numpy(bias), eps=1e-12
    )
    assert_near(functional.layer_norm(x, weight, bias), theirs, 1e-14)
    assert_near(functional.softmax(x * 200), torch.from_numpy(x * 200).softmax(-1), 1e-13)
    constant = functional.layer_norm(np.full((1, 40), 3.0), weight, bias)
    assert_near(constant, bias[None], 1e-6)


@pytest.mark.parametrize("num_heads", [1, 3])
def test_attention_sees_keys_of_its_own_sequence_only(num_heads: int, rng: np.random.Generator) -> None:
    lengths, keys = [1, 5, 70, 2], [1, 3, 70, 1]
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    q, k, v = rng.normal(size=(3, ends[-1], 48))
    ours = functional.attention(q, k, v, ends, np.array(keys, np.int32), num_heads)
    for start, length, count in zip(ends, lengths, keys, strict=False):
        own, seen = slice(start, start + length), slice(start, start + count)
        query, key, value = (
            torch.from_numpy(x).view(len(x), num_heads, -1).transpose(0, 1) for x in (q[own], k[seen], v[seen])
        )
        theirs = torch.nn.functional.scaled_dot_product_attention(query, key, value).transpose(0, 1).flatten(1)
        assert_near(ours[own], theirs, 1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("seed", range(10))
def test_encoder_equals_transformers(reference_model: Any, dtype: str, attention: str, seed: int) -> None:
    config = random_config(seed)
    model, weights = reference_model(config, dtype=dtype, attention=attention, seed=seed)
    rng = np.random.default_rng(seed)
    lengths = [1, 2, 70, int(rng.integers(3, 70))]
    ids = rng.integers(0, config.vocab_size, (len(lengths), 70))
    mask = np.arange(70) < np.array(lengths)[:, None]
    batch, layout = pack_padded(config, PaddedInputs(ids, mask))
    ours = functional.encoder_forward(config, weights, batch, dtype)
    assert ours.dtype == dtype
    with torch.no_grad():
        out = model(torch.from_numpy(ids), torch.from_numpy(mask).long(), output_hidden_states=True,
                    output_attentions=True)  # fmt: skip
    assert len(out.hidden_states) == len(ours)
    for mine, theirs in zip(ours, out.hidden_states, strict=True):
        assert_near(mine, layout.gather(theirs.numpy()), TOLERANCE[dtype])
    for index, theirs in enumerate(out.attentions):  # sdpa gives none
        probs = functional.layer_attentions(config, weights, index, ours[index], batch)
        for seq, length in enumerate(lengths):
            assert_near(probs[seq], theirs[seq, :, :length, :length], TOLERANCE[dtype])


def test_rows_behind_the_keys_only_ask(tiny: Any, reference_model: Any) -> None:
    config = tiny()
    model, weights = reference_model(config, dtype="float64")
    ids, mask = np.array([[7, 8, 9, 10], [11, 12, 13, 14]]), np.array([[0, 1, 0, 1], [1, 1, 1, 0]])
    batch, layout = pack_padded(config, PaddedInputs(ids, mask), keep_masked=True)
    assert batch.total_tokens == 8
    ours = layout.unpack(functional.encoder_forward(config, weights, batch, np.float64)[-1], masked=True)
    with torch.no_grad():
        assert_near(ours, model(torch.from_numpy(ids), torch.from_numpy(mask)).last_hidden_state, 1e-12)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.sampled_from(["float32", "float64"]))
def test_sequences_do_not_depend_on_batch_mates(lengths: list[int], dtype: str) -> None:
    rng = np.random.default_rng(1)
    config = DistilBertConfig(dim=48, n_heads=3, n_layers=1, hidden_dim=80, vocab_size=30, max_position_embeddings=20)
    backend = ReferenceBackend(config, lively_weights(config), dtype=dtype)
    sequences = [rng.integers(0, 30, length) for length in lengths]
    together = backend.linear("head", backend.forward(pack(config, sequences)), "gelu")
    alone = [backend.linear("head", backend.forward(pack(config, [ids])), "gelu") for ids in sequences]
    assert np.array_equal(together, np.concatenate(alone))


def lively_weights(config: DistilBertConfig) -> dict[str, np.ndarray]:
    from distilrt.checkpoint.weights import random_weights

    rng = np.random.default_rng(2)
    shapes = {name: array.shape for name, array in random_weights(config, "DistilBertModel").items()}
    shapes |= {"head.weight": (37, config.hidden_size), "head.bias": (37,)}
    return {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


def test_backend_forward_and_all_layers_agree(tiny: Any) -> None:
    config = tiny()
    backend = ReferenceBackend(config, lively_weights(config))
    batch = pack(config, [[1, 2, 3], [4]])
    states = backend.forward(batch, all_layers=True)
    assert states.shape == (config.num_layers + 1, 4, config.hidden_size)
    assert states.dtype == np.float32
    last = backend.forward(batch)
    assert np.array_equal(last, states[-1])
    assert last.base is None
    rows = backend.layer_norm("embeddings.LayerNorm", last)
    assert np.array_equal(rows, np.concatenate([backend.layer_norm("embeddings.LayerNorm", last[i : i + 1])
                                                for i in range(4)]))  # fmt: skip


def test_backend_of_no_sequences(tiny: Any) -> None:
    config = tiny()
    backend = ReferenceBackend(config, lively_weights(config))
    assert backend.forward(pack(config, [])).shape == (0, config.hidden_size)
    assert backend.linear("head", np.zeros((0, config.hidden_size), np.float32)).shape == (0, 37)


def test_backend_dtypes(tiny: Any) -> None:
    config = tiny()
    weights = lively_weights(config)
    single, double = ReferenceBackend(config, weights), ReferenceBackend(config, weights, dtype="float64")
    assert (single.dtype, double.dtype) == ("float32", "float64")
    assert double.describe()["weight_bytes"] == 2 * single.describe()["weight_bytes"]
    assert all(np.shares_memory(single._weights[name], array) for name, array in weights.items())
    with pytest.raises(BackendError, match=r"float32 and float64.*'int8'"):
        ReferenceBackend(config, weights, dtype="int8")
