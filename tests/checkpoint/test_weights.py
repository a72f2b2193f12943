"""Weights by name: read, checked, pickled, made up at random and saved; a mismatch names the tensor."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from safetensors.numpy import save_file

from distilrt.checkpoint.source import Source
from distilrt.checkpoint.tensor_files import (
    FLOAT_DTYPES,
)
from distilrt.checkpoint.weights import Weights, load_weights, random_weights, save_checkpoint
from distilrt.errors import CheckpointError
from distilrt.model.architecture import expected_shapes
from distilrt.model.config import DistilBertConfig
from distilrt.model.heads import HEADS
from tests.checkpoint.reference_folders import (
    BASE,
    DTYPES,
    MLM,
    POSITIONS,
    SEQUENCE,
    WORDS,
    Change,
    assert_equal,
    bert,
    config_for,
    edited,
    moved,
    opened,
    opened_file,
    random_tensors,
    reference,
    replaced,
    reread,
    saved,
    stored_names,
)


def test_dtype_is_that_of_most_numbers(tmp_path: Path) -> None:
    save_file({"a": np.zeros(5, np.float16), "b": np.zeros(4, np.float32)}, tmp_path / "model.safetensors")
    weights = opened_file(tmp_path)
    assert weights.dtype == "float16"
    assert weights.source == str(tmp_path / "model.safetensors")


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_none_are_refused(tmp_path: Path, dtype: str, number: float) -> None:
    tensors = {"whole": torch.full((3, 3), 6e4), "broken": torch.zeros(2, 70)}
    tensors["broken"][1, 66] = number
    safetensors.torch.save_file({n: t.to(DTYPES[dtype]) for n, t in tensors.items()}, tmp_path / "model.safetensors")
    weights = opened_file(tmp_path)
    assert weights["whole"].shape == (3, 3)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"tensor broken of .*model.safetensors holds NaN or infinity"):
            weights["broken"]


def test_finite_numbers_whose_sum_is_none_are_taken() -> None:
    assert Weights({"a": np.full(70, 3e38, np.float32)})["a"].size == 70


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_pickling_takes_the_numbers_along(tmp_path: Path, dtype: str) -> None:
    tensor = random_tensors(DTYPES[dtype])["a"]
    safetensors.torch.save_file({"a": tensor}, tmp_path / "model.safetensors")
    (stored,) = opened_file(tmp_path)._entries.values()
    again: Weights = pickle.loads(pickle.dumps(Weights({"a": stored, "tied": stored}, "somewhere")))
    (tmp_path / "model.safetensors").unlink()
    assert (again.dtype, again.source, again.raw("a")[0]) == (dtype, "somewhere", dtype)
    assert again["a"].tobytes() == tensor.float().numpy().tobytes()
    assert again.raw("tied")[1] is again.raw("a")[1]


def test_arrays_from_memory() -> None:
    array = np.ones(3, np.float32)
    weights = Weights({"a": array, "b": array})
    assert weights["a"] is array
    assert weights["b"] is array
    assert (weights.dtype, weights.source) == ("float32", "memory")
    weights.release()
    with pytest.raises(TypeError, match="must be float32, found float64 for a"):
        Weights({"a": np.ones(3)})  # type: ignore[dict-item]


@pytest.mark.parametrize("architecture", HEADS)
def test_reference_to_us(architecture: str, tmp_path: Path) -> None:
    model = reference(architecture)
    model.save_pretrained(tmp_path)
    weights = opened(tmp_path, architecture)
    assert_equal(weights, model.state_dict())
    assert list(weights) == list(expected_shapes(config_for(architecture), architecture))
    assert weights.dtype == "float32"
    assert weights.source == str(tmp_path / "model.safetensors")


@pytest.mark.parametrize("architecture", HEADS)
def test_us_to_reference(architecture: str, tmp_path: Path) -> None:
    config = config_for(architecture)
    weights = random_weights(config, architecture, seed=1)
    save_checkpoint(tmp_path / "new", config, weights, architecture)
    model, info = reread(tmp_path / "new", architecture)
    assert not any(info.values())
    assert_equal(weights, model.state_dict())
    assert model.config.architectures == [architecture]
    assert model.config.dtype == torch.float32
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["config.json", "model.safetensors"]
    again = opened(tmp_path / "new", architecture)
    assert all(np.array_equal(again[name], weights[name]) for name in weights)
    reference(architecture).save_pretrained(tmp_path / "theirs")
    assert stored_names(tmp_path / "new") == stored_names(tmp_path / "theirs")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_dtypes_are_saved_as_they_are_stored(dtype: str, tmp_path: Path) -> None:
    model = reference(SEQUENCE).to(getattr(torch, dtype))
    model.save_pretrained(tmp_path / "a")
    weights = opened(tmp_path / "a", SEQUENCE)
    assert weights.dtype == dtype
    assert_equal(weights, model.float().state_dict())
    save_checkpoint(tmp_path / "b", DistilBertConfig.from_pretrained(tmp_path / "a"), weights, SEQUENCE)
    assert json.loads((tmp_path / "b" / "config.json").read_text())["dtype"] == dtype
    first, second = (safetensors.torch.load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert all(torch.equal(first[name], second[name]) and second[name].dtype == first[name].dtype for name in first)
    assert set(first) == set(second)


def test_plain_arrays_can_be_saved_and_over_their_own_source(tmp_path: Path) -> None:
    config, arrays = config_for(BASE), dict(random_weights(config_for(BASE), BASE))
    save_checkpoint(tmp_path, config, arrays, BASE)
    weights = opened(tmp_path, BASE)
    save_checkpoint(tmp_path, config, weights, BASE)
    assert all(np.array_equal(opened(tmp_path, BASE)[name], array) for name, array in arrays.items())


def test_save_refuses_incomplete_weights(tmp_path: Path) -> None:
    weights = random_weights(config_for(BASE), BASE)
    with pytest.raises(CheckpointError, match=r"tensor pre_classifier.weight \[32, 32\] is missing"):
        save_checkpoint(tmp_path, config_for(SEQUENCE), weights, SEQUENCE)
    wider = config_for(BASE).replace(vocab_size=51)
    with pytest.raises(CheckpointError, match=r"word_embeddings.weight: expected shape \[51, 32\] .* found \[50, 32\]"):
        save_checkpoint(tmp_path, wider, weights, BASE)
    assert not any(tmp_path.iterdir())


def test_heads_of_others_are_left_out(tmp_path: Path) -> None:
    for architecture in HEADS:
        saved(tmp_path, architecture)
        expected = {
            k: v for k, v in reference(architecture).state_dict().items() if k.startswith(("distilbert", "emb", "tr"))
        }
        assert_equal(opened(tmp_path, BASE), expected)


@pytest.mark.parametrize("architecture", [name for name in HEADS if name != BASE])
def test_missing_head_is_an_error(architecture: str, tmp_path: Path) -> None:
    saved(tmp_path)
    first = next(iter(HEADS[architecture].tensors))
    with pytest.raises(
        CheckpointError, match=f"lacks tensors that {architecture} needs: {first} .*never made up at random"
    ):
        opened(tmp_path, architecture)


def test_tied_and_untied_projector(tmp_path: Path) -> None:
    name = "vocab_projector.weight"
    saved(tmp_path, MLM)
    assert name not in stored_names(tmp_path)
    weights = opened(tmp_path, MLM)
    assert np.shares_memory(weights[name], weights[WORDS])

    def add(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name] = torch.full((50, 32), 3.0)

    edited(tmp_path, add)  # in the file: used as it is, whatever the config says
    weights = opened(tmp_path, MLM)
    assert (weights[name] == 3).all()
    assert not (weights[WORDS] == 3).any()
    save_checkpoint(tmp_path / "again", DistilBertConfig.from_pretrained(tmp_path), weights, MLM)
    model, info = reread(tmp_path / "again", MLM)
    assert not any(info.values())
    assert not model.config.tie_word_embeddings
    assert_equal(weights, model.state_dict())

    saved(tmp_path, MLM, lambda tensors: tensors.pop(name), tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match=rf"needs: {name} \[50, 32\]; they are never made up"):
        opened(tmp_path, MLM)


def test_projector_alone_gives_the_word_embeddings_too(tmp_path: Path) -> None:
    def swap(tensors: dict[str, torch.Tensor]) -> None:
        tensors["vocab_projector.weight"] = tensors.pop("distilbert." + WORDS)

    saved(tmp_path, MLM, swap)
    assert_equal(opened(tmp_path, MLM), transformers.DistilBertForMaskedLM.from_pretrained(tmp_path).state_dict())


def test_sinusoidal_positions(tmp_path: Path) -> None:
    name = POSITIONS
    saved(tmp_path, BASE, lambda tensors: tensors.pop(name), sinusoidal_pos_embds=True)
    expected = reference(BASE, sinusoidal_pos_embds=True).state_dict()
    assert_equal(opened(tmp_path, BASE), expected)
    np.testing.assert_array_equal(
        random_weights(config_for(BASE, sinusoidal_pos_embds=True), BASE)[name], expected[name]
    )
    edited(tmp_path, lambda tensors: tensors.update({name: torch.ones(16, 32)}))
    assert (opened(tmp_path, BASE)[name] == 1).all()


LAYER = "transformer.layer.1.ffn.lin1.bias"


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        (lambda tensors: tensors.pop(LAYER), {}, rf"lacks .* {BASE} needs: {LAYER} \[64\]; .* don't belong together"),
        (None, {"n_layers": 3}, r"lacks .*layer.2.attention.q_lin.weight \[32, 32\], .* and 13 more"),
        (None, {"n_layers": 10**9}, r"config.n_layers is 1000000000, but .* has only \d+ tensors"),
        (None, {"sinusoidal_pos_embds": True, "max_position_embeddings": 10**9}, r"expected shape \[1000000000, 32\]"),
        (lambda tensors: tensors.pop(POSITIONS), {"sinusoidal_pos_embds": True, "max_position_embeddings": 10**9},
         r"has no embeddings.position_embeddings.weight, and one of shape \[1000000000, 32\] .* too large"),
        (None, {"vocab_size": 51}, rf"tensor {WORDS} of .*expected shape \[51, 32\] by the config, found \[50, 32\]"),
        (replaced(LAYER, torch.zeros(64, 1)), {}, rf"{LAYER} of .*expected shape \[64\] .*found \[64, 1\]"),
        (replaced(LAYER, torch.zeros(64, dtype=torch.int8)), {}, f"{LAYER} of .*expected dtype float32, .*found int8"),
        (replaced(LAYER, torch.zeros(64).to(torch.float8_e4m3fn)), {}, f"{LAYER} of .*expected dtype .*found float8"),
        (replaced("distilbert." + LAYER, torch.zeros(64)), {}, f"holds both (distilbert.)?{LAYER} and .*{LAYER}"),
        (moved("embeddings.LayerNorm.weight", "norm"), {}, r"lacks .*LayerNorm.weight \[32\], but holds norm; "),
        (lambda tensors: tensors.clear(), {}, "has only 0 tensors"),
    ],
)  # fmt: skip
def test_mismatches(change: Change | None, config: dict[str, Any], message: str, tmp_path: Path) -> None:
    saved(tmp_path, BASE, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_weights(Source(tmp_path), BASE, DistilBertConfig.from_pretrained(tmp_path).replace(**config))
    assert str(tmp_path / "model.safetensors") in str(caught.value)


@pytest.mark.parametrize(
    ("change", "config", "named"),
    [
        (None, {"n_layers": 1}, r"layer.1.attention.\w+.(weight|bias) .* 13 more"),
        (replaced("adapter.weight", torch.zeros(2)), {}, r"adapter.weight \[2\]"),
        (replaced("loss.weight", torch.zeros(2, dtype=torch.int8)), {}, r"loss.weight \[2\]"),
    ],
)
def test_extra_tensors_warn_or_are_refused(
    change: Change | None, config: dict[str, Any], named: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved(tmp_path, BASE, change)
    changed = DistilBertConfig.from_pretrained(tmp_path).replace(**config)
    assert load_weights(Source(tmp_path), BASE, changed)[WORDS].shape == (50, 32)
    assert re.search(rf"model.safetensors has extra tensors, which {BASE} does not use: .*{named}", caplog.text)
    with pytest.raises(CheckpointError, match=rf"has extra tensors .*{named}"):
        load_weights(Source(tmp_path), BASE, changed, strict=True)


def test_misshapen_head_and_renamed_tensor_are_named_as_in_the_file(tmp_path: Path) -> None:
    saved(tmp_path, SEQUENCE)
    config = DistilBertConfig.from_pretrained(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"tensor classifier.weight of .*expected shape \[4, 32\].*found \[3, 32\]"
    ):
        load_weights(Source(tmp_path), SEQUENCE, config.replace(num_labels=4))
    with pytest.raises(CheckpointError, match=rf"{WORDS} \(in the file: distilbert.{WORDS}\)"):
        load_weights(Source(tmp_path), SEQUENCE, config.replace(vocab_size=49))


def test_a_bert_with_too_many_token_types(tmp_path: Path) -> None:
    bert("BertModel", type_vocab_size=2**17 + 1).save_pretrained(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"131073 token types and 16 positions of 32 numbers; .* 67108864 numbers"
    ):
        opened(tmp_path, BASE)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("embeddings.token_type_embeddings.weight", None, r"token_type_embeddings.weight \[2, 32\]"),
        ("embeddings.token_type_embeddings.weight", torch.zeros(2, 31), r"expected shape \[2, 32\].*found \[2, 31\]"),
        ("embeddings.token_type_embeddings.weight", torch.zeros(0, 32), r"expected shape \[2, 32\].*found \[0, 32\]"),
        ("embeddings.position_embeddings.weight", torch.zeros(15, 32), r"expected shape \[16, 32\].*found \[15, 32\]"),
    ],
)
def test_bert_mismatches(name: str, tensor: torch.Tensor | None, message: str, tmp_path: Path) -> None:
    bert("BertModel").save_pretrained(tmp_path)
    edited(tmp_path, (lambda tensors: tensors.pop(name)) if tensor is None else replaced(name, tensor))
    with pytest.raises(CheckpointError, match=message):
        opened(tmp_path, BASE)


@pytest.mark.parametrize("architecture", HEADS)
def test_random_weights(architecture: str) -> None:
    config = config_for(architecture, initializer_range=0.5, pad_token_id=7)
    weights = random_weights(config, architecture, seed=3)
    again, other = random_weights(config, architecture, seed=3), random_weights(config, architecture, seed=4)
    expected = reference(architecture, initializer_range=0.5, pad_token_id=7).state_dict()
    assert set(weights) == {name.removeprefix("distilbert.") for name in expected}
    for full_name, tensor in expected.items():
        name = full_name.removeprefix("distilbert.")
        array, theirs = weights[name], tensor.numpy()
        assert array.shape == theirs.shape
        assert array.dtype == np.float32
        assert np.array_equal(array, again[name])
        assert np.isclose(array.std(), theirs.std(), rtol=0.3)
        assert abs(array.mean() - theirs.mean()) < 0.2
        assert array.ndim == 1 or not np.array_equal(array, other[name])
    assert not weights[WORDS][7].any()
    assert not expected[next(n for n in expected if n.endswith(WORDS))][7].any()


def test_random_projector() -> None:
    tied, untied = (random_weights(config_for(MLM, tie_word_embeddings=tie), MLM) for tie in (True, False))
    assert tied["vocab_projector.weight"] is tied[WORDS]
    assert not np.array_equal(untied["vocab_projector.weight"], untied[WORDS])
    assert random_weights(config_for(MLM, pad_token_id=None), MLM)[WORDS][0].any()
