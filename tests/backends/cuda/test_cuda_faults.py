"""What goes wrong around the GPU backend, and that the model and the process are as before: values, memory, a head."""

from __future__ import annotations

import weakref
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from distilrt.backends.base import create
from distilrt.backends.cuda import backend as cuda
from distilrt.backends.cuda import encoder as device_encoder
from distilrt.backends.cuda import inputs as padded
from distilrt.batch import PaddedInputs
from distilrt.checkpoint.weights import random_weights
from distilrt.errors import BackendError, InvalidInput, TooLong
from distilrt.model import models
from distilrt.model.heads import ENCODER, HEADS, Projection
from tests.backends.cuda.cuda_models import config_of, fresh

# Rows beyond the real ones are not defined, and the interpreter computes with whatever they hold.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": {(1, 2): 61}}, "input_ids holds an id that is not in the vocabulary"),
        ({"ids": {(0, 4): -1}}, "input_ids holds an id"),
        ({"positions": {(0, 4): 40}}, "position that this model does not have"),
        ({"positions": {(0, 4): -1}}, "position that this model does not have"),
        ({"mask": {(1, 0): 2}}, "something other than 0 and 1"),
        ({"types": {(1, 1): 2}}, "token_type_ids holds a type that this model does not have"),
        ({"types": {(1, 1): -1}}, "token_type_ids holds a type"),
        ({"types": {(0, 0): 1}, "positions": {(0, 4): 40}}, "position that this model does not have"),
    ],
)
def test_wrong_values_on_the_device(changes: dict[str, dict[Any, int]], message: str) -> None:
    """They give NaN and no fault, the next call says what was wrong, and the one after it is as if nothing happened."""
    config = config_of(n_layers=1, type_vocab_size=2)
    model: Any = models.DistilBertModel(config, backend="cuda")
    good = {
        "ids": torch.arange(10).reshape(2, 5), "mask": torch.ones(2, 5, dtype=torch.long),
        "positions": torch.arange(10).reshape(2, 5), "types": torch.tensor([[0] * 5, [0, 0, 1, 1, 1]]),
    }  # fmt: skip

    def call(grids: dict[str, torch.Tensor]) -> torch.Tensor:
        out = model(grids["ids"], grids["mask"], None, grids["positions"], token_type_ids=grids["types"])
        tensor: torch.Tensor = out.last_hidden_state
        return tensor

    expected = call(good)
    assert expected.isfinite().all()
    wrong = {name: grid.clone() for name, grid in good.items()}
    for name, cells in changes.items():
        for cell, value in cells.items():
            wrong[name][cell] = value
    assert call(wrong).isnan().all()
    with pytest.raises(InvalidInput, match=f"an earlier batch.*outputs are NaN.*{message}"):
        call(good)
    assert torch.equal(call(good), expected)
    assert call(wrong).isnan().all()
    with pytest.raises(InvalidInput, match=message):
        model.backend.synchronize()
    model.backend.synchronize()


def test_an_error_inside_a_forward_leaves_the_model_usable() -> None:
    config = config_of(n_layers=1)
    model: Any = models.DistilBertModel(config, backend="cuda")
    ids = torch.arange(10).reshape(2, 5)
    expected = model(ids).last_hidden_state
    model.backend.head = replace(ENCODER, layers=(Projection("missing", 2),))
    with pytest.raises(KeyError, match="missing"):
        model.backend.run_padded(PaddedInputs(ids))
    model.backend.head = ENCODER
    assert torch.equal(model(ids).last_hidden_state, expected)


def test_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(max_position_embeddings=512, dim=96, hidden_dim=400)
    weights = random_weights(config, "DistilBertForMaskedLM")
    head = HEADS["DistilBertForMaskedLM"]
    described: Any = create("cuda", config, weights, head=head).describe()
    assert described["bucket_tokens"][-1] == 132 * 128
    numbers = sum(array.size for name, array in weights.items() if name != "vocab_projector.weight")
    assert described["weight_bytes"] == 4 * numbers  # the projection's matrix is the embeddings'
    monkeypatch.setenv("DISTILRT_GPU_MEMORY", "4")
    less: Any = create("cuda", config, weights).describe()
    assert less["workspace_bytes"] <= 4 << 20 < described["workspace_bytes"]
    assert 512 <= less["bucket_tokens"][-1] < described["bucket_tokens"][-1]
    monkeypatch.setenv("DISTILRT_GPU_MEMORY", "1")
    with pytest.raises(BackendError, match=r"DISTILRT_GPU_MEMORY allows 1 MiB.*one sequence of 512 tokens takes"):
        create("cuda", config, weights)
    monkeypatch.setenv("DISTILRT_GPU_MEMORY", "lots")
    with pytest.raises(ValueError, match="DISTILRT_GPU_MEMORY must be an integer of at least 1, found 'lots'"):
        create("cuda", config, weights)
    monkeypatch.delenv("DISTILRT_GPU_MEMORY")

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("tried to allocate 1 TiB")

    monkeypatch.setattr(device_encoder, "Workspace", full)
    with pytest.raises(BackendError, match=r"too little free memory.*1 TiB.*DISTILRT_GPU_MEMORY"):
        create("cuda", config, weights)


def test_a_wrong_value_in_one_part_poisons_the_whole_call() -> None:
    config = config_of(n_layers=1, max_position_embeddings=20)
    model: Any = models.DistilBertModel(config, backend="cuda")
    model.backend.encoder.buckets = model.backend.encoder.buckets[:2]  # 32 tokens: two sequences a part
    ids = torch.arange(33).reshape(3, 11)
    ids[2, 1] = 61
    out = model(ids, output_hidden_states=True)
    assert all(tensor.isnan().all() for tensor in (out.last_hidden_state, *out.hidden_states))
    with pytest.raises(InvalidInput, match="an id that is not in the vocabulary"):
        model.backend.synchronize()
    assert model(ids - 1).last_hidden_state[0].isnan().all(), "-1 is no id either"
    with pytest.raises(InvalidInput, match="an id that is not in the vocabulary"):
        model(ids)


def test_a_head_that_fails_after_wrong_values_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its word comes round again with another call, which must not be poisoned."""
    monkeypatch.setattr(padded, "_WORDS", 3)
    model: Any = models.DistilBertModel(config_of(n_layers=1), backend="cuda")
    ids = torch.arange(4)[None]
    expected = model(ids).last_hidden_state
    model.backend.head = replace(ENCODER, layers=(Projection("missing", 2),))
    with pytest.raises(KeyError, match="missing"):
        model.backend.run_padded(PaddedInputs(ids + 61))
    model.backend.head = ENCODER
    with pytest.raises(InvalidInput, match="an id that is not in the vocabulary"):
        model(ids)
    for _ in range(4):
        assert torch.equal(model(ids).last_hidden_state, expected)


def test_more_tokens_than_positions() -> None:
    """With position_ids a sequence may be longer than the model has positions; attention must see all of it."""
    config = config_of(n_layers=1, max_position_embeddings=8)
    rng = fresh()
    ids = rng.integers(0, 61, (2, 9))
    positions = np.arange(9) % 8
    weights = random_weights(config, "DistilBertModel")
    model: Any = models.DistilBertModel(config, weights, backend="cuda")
    exact: Any = models.DistilBertModel(config, weights, backend="reference", dtype="float64")
    wanted = exact(ids, position_ids=positions).last_hidden_state
    for found in (
        model(ids, position_ids=positions).last_hidden_state,
        model(torch.from_numpy(ids), position_ids=torch.from_numpy(positions)).last_hidden_state.numpy(),
    ):
        assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()
    model.backend.encoder.buckets = model.backend.encoder.buckets[:2]
    long = np.zeros((1, 33), np.int64)
    with pytest.raises(TooLong, match=r"a sequence has 33 tokens, and the workspace .* on cpu holds 32; split"):
        model(long, position_ids=long)
    assert np.isfinite(model(ids[:, :8])[0]).all()


@pytest.mark.parametrize("message", ["Triton Error [CUDA]: out of memory", "CUDA error: out of memory", None])
def test_no_memory_at_load_gives_everything_back(message: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever says so; weights and workspace are gone while the error is being handled."""
    error = torch.OutOfMemoryError("tried to allocate 1 TiB") if message is None else RuntimeError(message)
    encoders: list[weakref.ref[Any]] = []
    weights = random_weights(config_of(), "DistilBertModel")

    class Full:
        def __init__(self, *_: Any) -> None:
            raise error

    def keep(*args: Any) -> Any:
        encoder = device_encoder.DeviceEncoder(*args)
        encoders.append(weakref.ref(encoder._words))
        return encoder

    with monkeypatch.context() as patch:
        patch.setattr(cuda, "DeviceEncoder", keep)
        patch.setattr(cuda, "Errors", Full)
        with pytest.raises(BackendError, match="cpu has too little free memory to load this model") as caught:
            create("cuda", config_of(), weights)
        assert encoders[0]() is None
        assert caught.value.__cause__ is None
    assert create("cuda", config_of(), weights).name == "cuda"


def test_other_errors_at_load_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("a compiler's own")

    monkeypatch.setattr(cuda, "Errors", broken)
    with pytest.raises(RuntimeError, match="a compiler's own"):
        create("cuda", config_of(), random_weights(config_of(), "DistilBertModel"))


def test_a_stream_in_capture_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = models.DistilBertModel(config_of(n_layers=1), backend="cuda")
    backend = model.backend
    with monkeypatch.context() as patch:
        patch.setattr(backend._turns, "on_gpu", True)
        patch.setattr(backend._turns, "current", nullcontext)
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        with pytest.raises(BackendError, match="replays CUDA graphs of its own and can't be captured into another"):
            model(torch.arange(4)[None])
    assert torch.isfinite(model(torch.arange(4)[None])[0]).all()


def test_torchs_default_device_does_not_matter() -> None:
    config = config_of(n_layers=1)
    weights = random_weights(config, "DistilBertModel")
    ids = torch.arange(5)[None]
    expected = models.DistilBertModel(config, weights, backend="cuda")(ids)[0]
    embeds = np.ones((1, 3, 36), np.float32)
    with torch.device("meta"):
        model: Any = models.DistilBertModel(config, weights, backend="cuda")
        assert torch.equal(model(ids)[0], expected)
        np.testing.assert_array_equal(model(ids.numpy())[0], expected)
        assert np.isfinite(model(inputs_embeds=embeds)[0]).all()
