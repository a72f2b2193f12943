"""Every spelling of a checkpoint gives the same named arrays, and every mismatch an error that names the tensor."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers

from distilrt.checkpoint.source import Source
from distilrt.checkpoint.weights import Weights, load_weights, random_weights, save_checkpoint
from distilrt.errors import CheckpointError
from distilrt.model.architecture import architecture_of, expected_shapes
from distilrt.model.config import DistilBertConfig
from distilrt.model.heads import HEADS

BASE, MLM = "DistilBertModel", "DistilBertForMaskedLM"
SEQUENCE, TOKEN = "DistilBertForSequenceClassification", "DistilBertForTokenClassification"
SIZES: dict[str, Any] = {"vocab_size": 50, "max_position_embeddings": 16, "n_layers": 2, "n_heads": 2, "dim": 32,
                         "hidden_dim": 64}  # fmt: skip
BERT_SIZES: dict[str, Any] = {"vocab_size": 50, "max_position_embeddings": 16, "num_hidden_layers": 2, "num_labels": 3,
                              "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}  # fmt: skip
Change = Callable[[dict[str, torch.Tensor]], Any]
WORDS = "embeddings.word_embeddings.weight"
POSITIONS = "embeddings.position_embeddings.weight"


def config_for(architecture: str, **changes: Any) -> DistilBertConfig:
    return DistilBertConfig(**SIZES, num_labels=2 if "Question" in architecture else 3, **changes)


def reference(architecture: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    values = SIZES | {"num_labels": 2 if "Question" in architecture else 3} | changes
    return getattr(transformers, architecture)(transformers.DistilBertConfig(**values))


def bert(architecture: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    model = getattr(transformers, architecture)(transformers.BertConfig(**BERT_SIZES, **changes))
    for parameter in model.parameters():  # biases and norms too, so that nothing mixed up can look right
        torch.nn.init.normal_(parameter)
    return model


def saved(folder: Path, architecture: str = BASE, change: Change | None = None, **changes: Any) -> Path:
    """A folder as transformers saves it, with `change` made to the tensors of its file."""
    reference(architecture, **changes).save_pretrained(folder)
    return edited(folder, change)


def edited(folder: Path, change: Change | None) -> Path:
    path = folder / "model.safetensors"
    tensors = dict(safetensors.torch.load_file(path))
    if change is not None:
        change(tensors)
    safetensors.torch.save_file({name: tensor.clone() for name, tensor in tensors.items()}, path, {"format": "pt"})
    return folder


def opened(folder: Path, architecture: str) -> Weights:
    return load_weights(Source(folder), architecture, DistilBertConfig.from_pretrained(folder))


def reread(folder: Path, architecture: str) -> Any:
    """What the reference makes of a folder: its model, and its lists of missing, unexpected and misshapen tensors."""
    return getattr(transformers, architecture).from_pretrained(folder, output_loading_info=True)


def assert_equal(weights: Weights, state: dict[str, torch.Tensor]) -> None:
    expected = {name.removeprefix("distilbert."): tensor.numpy() for name, tensor in state.items()}
    assert set(weights) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(weights[name], array, err_msg=name)


@pytest.mark.parametrize("architecture", HEADS)
def test_shapes_are_the_references(architecture: str) -> None:
    state = reference(architecture).state_dict()
    shapes = {name.removeprefix("distilbert."): tuple(tensor.shape) for name, tensor in state.items()}
    assert expected_shapes(config_for(architecture), architecture) == shapes


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


def stored_names(folder: Path) -> set[str]:
    with safetensors.safe_open(folder / "model.safetensors", framework="np") as file:
        return set(file.keys())


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


def with_prefix(tensors: dict[str, torch.Tensor]) -> None:
    for name in list(tensors):
        tensors["distilbert." + name] = tensors.pop(name)


def without_prefix(tensors: dict[str, torch.Tensor]) -> None:
    for name in list(tensors):
        tensors[name.removeprefix("distilbert.")] = tensors.pop(name)


def old_norms(tensors: dict[str, torch.Tensor]) -> None:
    for name in list(tensors):
        new = re.sub(r"(Norm|_norm)\.weight", r"\1.gamma", re.sub(r"(Norm|_norm)\.bias", r"\1.beta", name))
        tensors[new] = tensors.pop(name)


def with_ignored(tensors: dict[str, torch.Tensor]) -> None:
    tensors["distilbert.embeddings.position_ids"] = torch.arange(16)
    tensors["pooler.dense.weight"] = torch.zeros(32, 32)


@pytest.mark.parametrize(
    ("architecture", "change"),
    [(BASE, with_prefix), (MLM, without_prefix), (BASE, old_norms), (MLM, old_norms), (SEQUENCE, with_ignored)],
)
def test_spellings(architecture: str, change: Change, tmp_path: Path) -> None:
    saved(tmp_path, architecture, change)
    assert_equal(opened(tmp_path, architecture), reference(architecture).state_dict())


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


def replaced(name: str, tensor: torch.Tensor) -> Change:
    return lambda tensors: tensors.update({name: tensor})


def moved(old: str, new: str) -> Change:
    return lambda tensors: tensors.update({new: tensors.pop(old)})


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
        (replaced(LAYER, torch.zeros(64, dtype=torch.int8)), {}, f"{LAYER} of .*expected dtype float32, .*found I8"),
        (replaced(LAYER, torch.zeros(64).to(torch.float8_e4m3fn)), {}, f"{LAYER} of .*expected dtype .*found F8_E4M3"),
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


def folded(model: Any) -> dict[str, torch.Tensor]:
    """The tensors of a BERT under DistilBERT's names, written out independently of the table."""
    encoder = getattr(model, "bert", model)
    embeddings = encoder.embeddings
    out = {WORDS: embeddings.word_embeddings.weight,
           POSITIONS: embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0]}  # fmt: skip
    parts = {"embeddings.LayerNorm": embeddings.LayerNorm}
    for i, layer in enumerate(encoder.encoder.layer):
        attention = layer.attention.self
        parts |= {
            f"transformer.layer.{i}.{name}": module
            for name, module in {
                "attention.q_lin": attention.query, "attention.k_lin": attention.key,
                "attention.v_lin": attention.value, "attention.out_lin": layer.attention.output.dense,
                "sa_layer_norm": layer.attention.output.LayerNorm, "ffn.lin1": layer.intermediate.dense,
                "ffn.lin2": layer.output.dense, "output_layer_norm": layer.output.LayerNorm,
            }.items()
        }  # fmt: skip
    if hasattr(model, "cls"):
        head = model.cls.predictions
        parts |= {"vocab_transform": head.transform.dense, "vocab_layer_norm": head.transform.LayerNorm,
                  "vocab_projector": head.decoder}  # fmt: skip
    if hasattr(model, "classifier"):
        parts["classifier"] = model.classifier
    out |= {f"{name}.{key}": getattr(module, key) for name, module in parts.items() for key in ("weight", "bias")}
    return {name: tensor.detach() for name, tensor in out.items()}


def test_real_bert_folder(sentence_encoder: Path) -> None:
    weights = opened(sentence_encoder, BASE)
    assert_equal(weights, folded(transformers.BertModel.from_pretrained(sentence_encoder, dtype=torch.float32)))
    assert weights.dtype == "float32"
    assert not weights[WORDS].flags.owndata


@pytest.mark.parametrize(
    ("theirs", "ours", "changes"),
    [("BertModel", BASE, {}), ("BertForMaskedLM", MLM, {}), ("BertForMaskedLM", MLM, {"tie_word_embeddings": False}),
     ("BertForPreTraining", MLM, {}), ("BertForTokenClassification", TOKEN, {})],
)  # fmt: skip
def test_bert_architectures(theirs: str, ours: str, changes: dict[str, Any], tmp_path: Path) -> None:
    model = bert(theirs, **changes)
    model.save_pretrained(tmp_path / "bert")
    weights = opened(tmp_path / "bert", ours)
    assert_equal(weights, folded(getattr(transformers, theirs).from_pretrained(tmp_path / "bert")))

    # Once saved it is a DistilBERT, for us and for the reference.
    save_checkpoint(tmp_path / "distil", DistilBertConfig.from_pretrained(tmp_path / "bert"), weights, ours)
    assert not DistilBertConfig.from_pretrained(tmp_path / "distil").folded_bert
    again, info = reread(tmp_path / "distil", ours)
    assert not any(info.values())
    assert_equal(weights, again.state_dict())


def test_bert_bias_of_the_projector(tmp_path: Path) -> None:
    """A file may have the bias under either name or both; what the reference adds is then the decoder's."""
    bert("BertForMaskedLM").save_pretrained(tmp_path)
    plain = opened(tmp_path, MLM)["vocab_projector.bias"].copy()
    edited(tmp_path, moved("cls.predictions.bias", "cls.predictions.decoder.bias"))
    np.testing.assert_array_equal(opened(tmp_path, MLM)["vocab_projector.bias"], plain)
    edited(tmp_path, replaced("cls.predictions.bias", torch.ones(50)))
    expected = transformers.BertForMaskedLM.from_pretrained(tmp_path)
    assert_equal(opened(tmp_path, MLM), folded(expected))


def test_headless_bert_from_any_head_and_half_precision(tmp_path: Path) -> None:
    model = bert("BertForSequenceClassification").to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    weights = opened(tmp_path, BASE)
    expected = {name: tensor for name, tensor in folded(model.float()).items() if not name.startswith("classifier")}
    assert_equal(weights, expected)
    assert weights.dtype == "bfloat16"
    save_checkpoint(tmp_path / "distil", DistilBertConfig.from_pretrained(tmp_path), weights, BASE)
    again = opened(tmp_path / "distil", BASE)
    assert all(np.array_equal(again[name], weights[name]) for name in weights)


@pytest.mark.parametrize(
    ("task", "reason"),
    [("SequenceClassification", "tanh"), ("MultipleChoice", "tanh"), ("QuestionAnswering", "segment 1")],
)
def test_bert_heads_that_a_distilbert_can_not_express(task: str, reason: str, tmp_path: Path) -> None:
    bert(f"BertFor{task}").save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=f"is a BERT and can't run as DistilBertFor{task}: .*{reason}"):
        opened(tmp_path, f"DistilBertFor{task}")


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("embeddings.token_type_embeddings.weight", None, r"token_type_embeddings.weight \[-1, 32\]"),
        ("embeddings.token_type_embeddings.weight", torch.zeros(2, 31), r"expected shape \[-1, 32\].*found \[2, 31\]"),
        ("embeddings.token_type_embeddings.weight", torch.zeros(0, 32), r"expected shape \[-1, 32\].*found \[0, 32\]"),
        ("embeddings.position_embeddings.weight", torch.zeros(15, 32), r"expected shape \[16, 32\].*found \[15, 32\]"),
    ],
)
def test_bert_mismatches(name: str, tensor: torch.Tensor | None, message: str, tmp_path: Path) -> None:
    bert("BertModel").save_pretrained(tmp_path)
    edited(tmp_path, (lambda tensors: tensors.pop(name)) if tensor is None else replaced(name, tensor))
    with pytest.raises(CheckpointError, match=message):
        opened(tmp_path, BASE)


def test_bin_and_hub_cache(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--org--tiny" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (tmp_path / "models--org--tiny" / "refs").mkdir()
    (tmp_path / "models--org--tiny" / "refs" / "main").write_text("0" * 40)
    model = reference(MLM)
    model.config.save_pretrained(snapshot)
    torch.save(model.state_dict(), snapshot / "pytorch_model.bin")
    config = DistilBertConfig.from_pretrained("org/tiny", cache_dir=tmp_path, local_files_only=True)
    weights = load_weights(Source("org/tiny", cache_dir=tmp_path, local_files_only=True), MLM, config)
    assert_equal(weights, model.state_dict())
    assert weights.source == str(snapshot / "pytorch_model.bin")
    with pytest.raises(OSError, match="not in the local cache"):
        load_weights(Source("org/tiny", cache_dir=tmp_path, local_files_only=True, revision="v2"), MLM, config)
    (snapshot / "pytorch_model.bin").unlink()
    with pytest.raises(OSError, match="has no weights"):
        load_weights(Source("org/tiny", cache_dir=tmp_path, local_files_only=True), MLM, config)


def test_sharded_by_the_reference(tmp_path: Path) -> None:
    model = reference(SEQUENCE)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert not (tmp_path / "model.safetensors").exists()
    weights = opened(tmp_path, SEQUENCE)
    assert_equal(weights, model.state_dict())
    assert weights.source.endswith("model.safetensors.index.json")


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


def test_architectures() -> None:
    assert architecture_of(config_for(BASE)) is None
    assert architecture_of(config_for(BASE, architectures=())) is None
    for name in HEADS:
        assert architecture_of(config_for(name, architectures=[name])) == name
    assert architecture_of(config_for(BASE, architectures=("MyDistilBert", MLM))) == MLM
    assert (
        architecture_of(DistilBertConfig.from_dict({"model_type": "bert", "architectures": ["BertForMaskedLM"]})) == MLM
    )
    with pytest.raises(CheckpointError, match=r"config.architectures is MyDistilBert; known are DistilBertModel, "):
        architecture_of(config_for(BASE, architectures=["MyDistilBert"]))
    with pytest.raises(ValueError, match=r"architecture must be one of DistilBertModel, .*found 'BertModel'"):
        load_weights(Source("."), "BertModel", config_for(BASE))
    with pytest.raises(ValueError, match="architecture must be one of"):
        random_weights(config_for(BASE), "BertModel")
