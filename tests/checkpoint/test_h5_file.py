"""TensorFlow checkpoints: those of transformers' own classes, and ones made up in the same layout."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
import transformers
from safetensors.numpy import save_file

import distilrt
from distilrt.checkpoint.h5_file import torch_name
from distilrt.checkpoint.source import Source
from distilrt.checkpoint.weights import load_weights, random_weights, save_checkpoint
from distilrt.errors import CheckpointError
from distilrt.model.architecture import expected_shapes
from distilrt.model.config import DistilBertConfig
from distilrt.model.heads import HEADS

Array = npt.NDArray[Any]
GOLDEN = Path(__file__).parents[1] / "golden" / "tensorflow"
TRAINED = sorted(path.name for path in GOLDEN.iterdir())
BASE, MLM = "DistilBertModel", "DistilBertForMaskedLM"
SIZES: dict[str, Any] = {"vocab_size": 31, "max_position_embeddings": 9, "n_layers": 2, "n_heads": 2, "dim": 32,
                         "hidden_dim": 40}  # fmt: skip
WORDS = "embeddings.word_embeddings.weight"


def variables(weights: Any) -> dict[str, Array]:
    """Canonical weights as TensorFlow's variables, by their names below the model's own."""
    found = {}
    for name, array in weights.items():
        path = re.sub(r"/layer/(\d+)/", r"/layer_._\1/", name.replace(".", "/"))
        scope, part = path.rsplit("/", 1)
        if scope.endswith("position_embeddings"):
            part = "embeddings"
        elif scope.lower().endswith("norm"):
            part = {"weight": "gamma", "bias": "beta"}[part]
        elif part == "weight" and not scope.endswith("word_embeddings"):
            part, array = "kernel", array.T
        prefix = "distilbert/" if name.startswith(("embeddings.", "transformer.")) else ""
        found[f"{prefix}{scope}/{part}:0"] = np.ascontiguousarray(array)
    return found


def write_h5(path: Path, named: dict[str, Array], scope: str, shared: dict[str, list[str]] | None = None) -> None:
    """Write variables as `save_pretrained` of transformers' TensorFlow classes does.

    Args:
        scope: the model's own name, first part of every variable's.
        shared: layer to variables of other layers that it holds too.
    """
    layers: dict[str, list[str]] = {}
    for name in named:
        layers.setdefault(name.split("/")[0], []).append(name)
    for layer, names in (shared or {}).items():
        layers[layer] += names
    with h5py.File(path, "w") as file:
        file.attrs.update({"layer_names": [name.encode() for name in layers], "backend": b"tensorflow",
                           "keras_version": b"2.21.0"})  # fmt: skip
        for layer, names in (layers | {"top_level_model_weights": []}).items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [f"{scope}/{name}".encode() for name in names]
            for name in names:
                group.create_dataset(f"{scope}/{name}", data=named[name])


def folder(path: Path, architecture: str, seed: int) -> tuple[DistilBertConfig, Any]:
    """A checkpoint with random weights in `tf_model.h5`, and these weights."""
    config = DistilBertConfig(**SIZES, num_labels=2 if "Question" in architecture else 3)
    weights = random_weights(config, architecture, seed=seed)
    named = variables({name: array for name, array in weights.items() if name != "vocab_projector.weight"})
    shared = {"vocab_projector": [n for n in named if "/embeddings/" in n]} if architecture == MLM else None
    write_h5(path / "tf_model.h5", named, "tf_distil_bert", shared)
    config.replace(architectures=(architecture,)).save_pretrained(path)
    return config, weights


@pytest.mark.parametrize("name", TRAINED)
def test_answers_of_tensorflow(name: str) -> None:
    """The real files give what TensorFlow computed from them, in float64 to TensorFlow's own rounding."""
    answers = np.load(GOLDEN / name / "answers.npz")
    model = getattr(distilrt, name.removeprefix("TF")).from_pretrained(
        GOLDEN / name, backend="reference", dtype="float64"
    )
    output = model(answers["input_ids"], answers["attention_mask"])
    mask = answers["attention_mask"].astype(bool)
    assert output
    for key, array in output.items():
        keep = mask if array.shape[:2] == mask.shape else np.ones(array.shape, bool)
        np.testing.assert_allclose(array[keep], answers[key][keep], atol=1e-5, rtol=0)


def layout(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.setdefault(name, getattr(item, "shape", sorted(item.attrs))))
        return found | {"attributes": sorted(file.attrs)}


@pytest.mark.parametrize("name", TRAINED)
def test_the_made_up_layout_is_the_real_one(name: str, tmp_path: Path) -> None:
    real = GOLDEN / name
    config = DistilBertConfig.from_pretrained(real)
    architecture = name.removeprefix("TF")
    weights = load_weights(Source(real), architecture, config)
    named = variables({key: weights[key] for key in weights if key != "vocab_projector.weight"})
    scope = re.sub(r"(?<!^)(?=[A-Z][a-z])", "_", name).lower()
    shared = {"vocab_projector": [n for n in named if "/embeddings/" in n]} if architecture == MLM else None
    write_h5(tmp_path / "tf_model.h5", named, scope, shared)
    expected = {key: value for key, value in layout(real / "tf_model.h5").items() if "dropout" not in key}
    assert layout(tmp_path / "tf_model.h5") == expected


@pytest.mark.parametrize("architecture", HEADS)
def test_every_class_reads_it(architecture: str, tmp_path: Path) -> None:
    config, expected = folder(tmp_path, architecture, seed=1)
    weights = load_weights(Source(tmp_path), architecture, config)
    assert list(weights) == list(expected_shapes(config, architecture))
    assert weights.dtype == "float32"
    assert weights.source == str(tmp_path / "tf_model.h5")
    for name, array in expected.items():
        np.testing.assert_array_equal(weights[name], array, err_msg=name)
        assert weights[name].flags.c_contiguous
        assert not weights[name].flags.writeable or weights[name].flags.owndata
    weights.release()
    save_checkpoint(tmp_path / "again", config, weights, architecture)
    model, info = getattr(transformers, architecture).from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not any(info.values())
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(expected[name.removeprefix("distilbert.")], tensor.numpy(), err_msg=name)


def test_half_precision(tmp_path: Path) -> None:
    config, expected = folder(tmp_path, BASE, seed=2)
    narrow = {name: array.astype(np.float16) for name, array in variables(expected).items()}
    write_h5(tmp_path / "tf_model.h5", narrow, "tf_distil_bert_model_1")
    weights = load_weights(Source(tmp_path), BASE, config)
    assert weights.dtype == "float16"
    assert weights[WORDS].dtype == np.float32
    name = "transformer.layer.1.ffn.lin1.weight"
    np.testing.assert_array_equal(weights[name], expected[name].astype(np.float16).astype(np.float32))
    assert weights.raw(name)[1].dtype == np.float16


def test_safetensors_written_by_tensorflow(tmp_path: Path) -> None:
    config, expected = folder(tmp_path, MLM, seed=3)
    named = variables({name: array for name, array in expected.items() if name != "vocab_projector.weight"})
    save_file(named, tmp_path / "model.safetensors", {"format": "tf"})
    weights = load_weights(Source(tmp_path), MLM, config)
    assert weights.source.endswith("model.safetensors")
    for name, array in expected.items():
        np.testing.assert_array_equal(weights[name], array, err_msg=name)


def test_a_bert_folds(tmp_path: Path) -> None:
    """Names as in transformers' TFBertForPreTraining, whose heads have scopes of their own."""
    random = np.random.default_rng(4)
    bert = transformers.BertForPreTraining(
        transformers.BertConfig(vocab_size=31, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                                intermediate_size=40, max_position_embeddings=9)
    )  # fmt: skip
    tensors = {
        name: random.standard_normal(tensor.shape).astype(np.float32)
        for name, tensor in bert.state_dict().items()
        if not name.endswith(("position_ids", "decoder.weight", "decoder.bias"))
    }
    bert.config.save_pretrained(tmp_path)
    config = DistilBertConfig.from_pretrained(tmp_path)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    expected = {name: array.copy() for name, array in load_weights(Source(tmp_path), MLM, config).items()}
    (tmp_path / "model.safetensors").unlink()

    named = {}
    for name, array in tensors.items():
        scope, part = re.sub(r"/layer/(\d+)/", r"/layer_._\1/", name.replace(".", "/")).rsplit("/", 1)
        scope = scope.replace("cls/seq", "nsp___cls/seq").replace("cls/predictions", "mlm___cls/predictions")
        if "Norm" in scope:
            part = {"weight": "gamma", "bias": "beta"}[part]
        elif part == "weight" and "embeddings" in scope:
            part = "weight" if "word" in scope else "embeddings"
        elif part == "weight":
            part, array = "kernel", array.T
        named[f"{scope}/{part}:0"] = np.ascontiguousarray(array)
    write_h5(tmp_path / "tf_model.h5", named, "tf_bert_for_pre_training")
    weights = load_weights(Source(tmp_path), MLM, config)
    for name, array in expected.items():
        np.testing.assert_array_equal(weights[name], array, err_msg=name)


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("distilbert/transformer/layer_._11/attention/q_lin/kernel:0",
         "distilbert.transformer.layer.11.attention.q_lin.weight"),
        ("distilbert/embeddings/word_embeddings/weight:0", "distilbert.embeddings.word_embeddings.weight"),
        ("bert/embeddings/position_embeddings/embeddings:0", "bert.embeddings.position_embeddings.weight"),
        ("distilbert/embeddings/LayerNorm/gamma:0", "distilbert.embeddings.LayerNorm.weight"),
        ("vocab_projector/bias:0", "vocab_projector.bias"),
        ("mlm___cls/predictions/bias:0", "cls.predictions.bias"),
        ("a/b___c/kernel", "a.c.weight"),
    ],
)  # fmt: skip
def test_names(variable: str, name: str) -> None:
    assert torch_name(variable) == name


def test_other_formats_win_and_the_h5_is_the_last_resort(tmp_path: Path) -> None:
    config, _ = folder(tmp_path, BASE, seed=5)
    save_checkpoint(tmp_path, config, random_weights(config, BASE, seed=6), BASE)
    assert load_weights(Source(tmp_path), BASE, config).source.endswith("model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    assert load_weights(Source(tmp_path), BASE, config).source.endswith("tf_model.h5")


def test_mismatches_are_named_as_in_the_file(tmp_path: Path) -> None:
    config, _ = folder(tmp_path, BASE, seed=7)
    variable = "distilbert/embeddings/word_embeddings/weight:0"
    with pytest.raises(CheckpointError, match=rf"{WORDS} \(in the file: {variable}\) of .*tf_model.h5: expect"):
        load_weights(Source(tmp_path), BASE, config.replace(vocab_size=30))
    with pytest.raises(CheckpointError, match=r"tf_model.h5 lacks tensors .*classifier.weight .*never made up"):
        load_weights(Source(tmp_path), "DistilBertForTokenClassification", config)
    with pytest.raises(CheckpointError, match=r"ffn.lin1.weight .*expected shape \[41, 32\] .*found \[40, 32\]"):
        load_weights(Source(tmp_path), BASE, config.replace(hidden_dim=41))


def test_files_that_are_none(tmp_path: Path) -> None:
    config, _ = folder(tmp_path, BASE, seed=8)
    path = tmp_path / "tf_model.h5"
    whole = path.read_bytes()
    for content, message in (
        (whole[: len(whole) // 2], "not a whole HDF5 file: .*truncated or damaged; fetch it again"),
        (b"just words", "not a whole HDF5 file"),
        (b"", "not a whole HDF5 file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"<!doctype html>", "web page"),
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            load_weights(Source(tmp_path), BASE, config)
    with h5py.File(path, "w") as file:
        file.create_group("model_weights").create_group("distilbert")
    with pytest.raises(CheckpointError, match="holds no Keras weights: expected groups with weight_names"):
        load_weights(Source(tmp_path), BASE, config)


def test_numbers_of_other_files_are_not_read(tmp_path: Path) -> None:
    config, weights = folder(tmp_path, BASE, seed=9)
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(4 * 31 * 32))
    path, name = tmp_path / "tf_model.h5", "distilbert/tf_distil_bert/distilbert/embeddings/word_embeddings/weight:0"
    with h5py.File(path, "a") as file:
        del file[name]
        file.create_dataset(name, (31, 32), "f4", external=[(str(secret), 0, 4 * 31 * 32)])
    with pytest.raises(CheckpointError, match=r"was refused: .*word_embeddings/weight:0 takes its numbers from"):
        load_weights(Source(tmp_path), BASE, config)
    with h5py.File(path, "a") as file:
        del file[name]
        source = h5py.VirtualSource(tmp_path / "other.h5", "secret", (31, 32))
        virtual = h5py.VirtualLayout((31, 32), "f4")
        virtual[:] = source
        file.create_virtual_dataset(name, virtual)
    with pytest.raises(CheckpointError, match="was refused"):
        load_weights(Source(tmp_path), BASE, config)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["secret"] = weights[WORDS]
    with h5py.File(path, "a") as file:
        del file[name]
        file[name] = h5py.ExternalLink("other.h5", "secret")
    with pytest.raises(CheckpointError, match=f"lacks tensors .*{WORDS}"):
        load_weights(Source(tmp_path), BASE, config)


def test_without_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, _ = folder(tmp_path, BASE, seed=10)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"tf_model.h5 needs h5py: pip install 'distilrt\[h5\]'"):
        load_weights(Source(tmp_path), BASE, config)
