"""Sentence-transformers files that are malformed, cut or ask for what is not supported are refused at load, by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import distilrt
from distilrt.checkpoint.sentence_files import read
from distilrt.checkpoint.source import Source
from distilrt.checkpoint.tensor_files import write_safetensors
from distilrt.errors import CheckpointError
from distilrt.model.sentence_vectors import SentenceVectors
from distilrt.runtime.engine import Engine

ST = "sentence_transformers.models."
KINDS = {"": "Transformer", "1_Pooling": "Pooling", "2_Dense": "Dense", "3_Normalize": "Normalize"}
MODULES = [{"idx": i, "name": str(i), "path": path, "type": ST + kind} for i, (path, kind) in enumerate(KINDS.items())]
DENSE = {"in_features": 48, "out_features": 4, "bias": True, "activation_function": "torch.nn.modules.activation.Tanh"}
FILES: Mapping[str, Any] = {
    "modules.json": MODULES,
    "config_sentence_transformers.json": {"prompts": {"query": "q: ", "none": None, "": "x"}},
    "sentence_bert_config.json": {"max_seq_length": 32, "do_lower_case": False},
    "1_Pooling/config.json": {"pooling_mode_mean_tokens": True, "word_embedding_dimension": 48},
    "2_Dense/config.json": DENSE,
}


def written(folder: Path, changes: Mapping[str, Any]) -> Path:
    """The files above with others in place of some; None: without one, and a string is the text itself."""
    for name, value in {**FILES, **changes}.items():
        if value is not None:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))
    weight, bias = np.zeros((4, 48), np.float32), np.zeros(4, np.float32)
    write_safetensors(
        folder / "2_Dense/model.safetensors", {"linear.weight": ("float32", weight), "linear.bias": ("float32", bias)}
    )
    return folder


def found(folder: Path, **changes: Any) -> SentenceVectors:
    encoder = read(Source(written(folder, changes)))
    assert encoder is not None
    return encoder


def test_a_folder_without_modules_says_nothing(tmp_path: Path) -> None:
    assert read(Source(tmp_path)) is None


def test_what_is_read(tmp_path: Path) -> None:
    encoder = found(tmp_path)
    assert (encoder.max_length, encoder.pooling, encoder.width(48)) == (32, ("mean",), 4)
    assert encoder.prompts == {"query": "q: ", "none": "", "": ""}
    assert [layer.name for layer in encoder.layers] == ["2_Dense of type Dense", "3_Normalize of type Normalize"]


@pytest.mark.parametrize(
    ("config", "modes"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, ("cls",)),
        ({"pooling_mode_lasttoken": True, "pooling_mode_cls_token": True}, ("cls", "lasttoken")),
        ({"pooling_mode": ["max", "cls"], "pooling_mode_mean_tokens": True}, ("max", "cls")),
        ({"pooling_mode_mean_tokens": False}, ("mean",)),
        ({"embedding_dimension": 48}, ("mean",)),
    ],
)
def test_modes(tmp_path: Path, config: dict[str, Any], modes: tuple[str, ...]) -> None:
    assert found(tmp_path, **{"1_Pooling/config.json": config}).pooling == modes


def replaced(index: int, **changes: Any) -> dict[str, Any]:
    modules = [dict(module) for module in MODULES]
    modules[index] |= changes
    return {"modules.json": modules}


def of(name: str, values: Any, **changes: Any) -> dict[str, Any]:
    return {name: {**values, **changes}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modules.json": json.dumps(MODULES)[:-30]}, r"modules\.json is not valid JSON"),
        ({"modules.json": "[" * 100_000}, r"modules\.json is not valid JSON"),
        ({"modules.json": []}, "a list of at least one module, found"),
        ({"modules.json": {}}, "a list of at least one module, found"),
        ({"modules.json": [1]}, "module 0 must be an object with the strings type and path, found 1"),
        ({"modules.json": MODULES[:1]}, "after the Transformer there must be a Pooling, found nothing"),
        ({"modules.json": MODULES[1:]}, "the first module must be a Transformer, found 1_Pooling of type Pooling"),
        (replaced(1, type=ST + "WordWeights"), r"module 1 is of type 'sentence_transformers\.models\.WordWeights'"),
        (replaced(0, type=ST + "Router"), "models.Router', which is not supported"),
        (replaced(2, type="mine.Dense"), "module 2 is of type 'mine.Dense', which is not supported"),
        (replaced(2, type=ST + "SpladePooling"), "2_Dense of type SpladePooling is not supported after a Pooling"),
        (replaced(2, path="../2_Dense"), "path of module 2 must lie within the folder"),
        (replaced(2, path="/2_Dense"), "path of module 2 must lie within the folder"),
        (replaced(2, path="nowhere"), "names the module nowhere of type Dense, and nowhere/config.json is not there"),
        (replaced(0, type="sentence_transformers.sparse_encoder.models.MLMTransformer"), "must be one SpladePooling"),
        ({"1_Pooling/config.json": None}, "1_Pooling/config.json is not there"),
        ({"1_Pooling/config.json": "[]"}, "1_Pooling/config.json must hold a JSON object, found list"),
        ({"1_Pooling/config.json": {"pooling_mode": "median"}}, "pooling_mode must be one or several of mean, cls"),
        ({"1_Pooling/config.json": {"pooling_mode": [["mean"]]}}, "pooling_mode must be one or several of"),
        ({"1_Pooling/config.json": {"pooling_mode": []}}, "pooling_mode must be one or several of"),
        ({"1_Pooling/config.json": {"pooling_mode_median": True}}, "pooling_mode_median is not supported"),
        ({"1_Pooling/config.json": {"include_prompt": "no"}}, "include_prompt must be true or false, found 'no'"),
        (of("2_Dense/config.json", DENSE, activation_function="mine.Act"), "activation_function must be torch.nn's"),
        (of("2_Dense/config.json", DENSE, activation_function="torch.nn.Softmax"), "activation_function must be"),
        (of("2_Dense/config.json", DENSE, module_input_name="token_embeddings"), "module_input_name must be one of"),
        (of("2_Dense/config.json", DENSE, in_features=9), r"linear.weight of .*2_Dense/.*shape \[4, 9\] by the config"),
        (of("2_Dense/config.json", DENSE, in_features="9"), "in_features must be null or an integer of at least 1"),
        (
            of("2_Dense/config.json", DENSE, bias=False),
            r"must have the tensors linear\.weight, found linear\.weight, ",
        ),
        (of("2_Dense/config.json", DENSE, use_residual=True), r"must have the tensors .*residual\.weight"),
        ({"sentence_bert_config.json": {"max_seq_length": "9"}}, "max_seq_length must be null or an integer"),
        ({"sentence_bert_config.json": {"max_seq_length": 0}}, "max_seq_length must be null or an integer"),
        ({"sentence_bert_config.json": {"do_lower_case": 1}}, "do_lower_case must be true or false, found 1"),
        ({"sentence_bert_config.json": {"transformer_task": "retrieval"}}, "transformer_task must be one of"),
        ({"sentence_bert_config.json": {"query_length": 9}}, "query_length must be one of None, found 9"),
        ({"sentence_bert_config.json": {"config_kwargs": {"n_layers": 1}}}, "config_kwargs: n_layers is not supported"),
        ({"sentence_bert_config.json": {"modality_config": {"text": {"method": "x"}}}}, "text: method must be one of"),
        ({"config_sentence_transformers.json": {"prompts": []}}, "prompts must be an object, found"),
        ({"config_sentence_transformers.json": {"prompts": {"a": 1}}}, "prompts must be strings"),
        ({"config_sentence_transformers.json": {"default_prompt_name": "a"}}, "default_prompt_name must be one of"),
        ({"config_sentence_transformers.json": {"truncate_dim": -1}}, "truncate_dim must be null or an integer"),
        ({"config_sentence_transformers.json": {"similarity_fn_name": "maxsim"}}, "similarity_fn_name must be one of"),
        ({"config_sentence_transformers.json": {"model_type": "MultiVectorEncoder"}}, "model_type must be one of"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refusals(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        found(tmp_path, **changes)


def test_weights_that_are_missing_or_not_finite(tmp_path: Path) -> None:
    weights = written(tmp_path, {}) / "2_Dense/model.safetensors"
    weight = np.full((4, 48), np.nan, np.float32)
    write_safetensors(weights, {"linear.weight": ("float32", weight), "linear.bias": ("float32", weight[:, 0])})
    with pytest.raises(CheckpointError, match=r"linear\.weight of .*2_Dense/model\.safetensors holds NaN"):
        read(Source(tmp_path))
    weights.unlink()
    with pytest.raises(CheckpointError, match="module 2_Dense of type Dense has no weights"):
        read(Source(tmp_path))


def test_they_are_refused_by_everything_that_loads(folder_of: Callable[..., Path], tmp_path: Path) -> None:
    for file in folder_of("DistilBertModel").iterdir():
        (tmp_path / file.name).symlink_to(file)
    written(tmp_path, replaced(1, type=ST + "LSTM"))
    for load in (Engine, partial(distilrt.pipeline, "feature-extraction")):
        with pytest.raises(CheckpointError, match=r"models\.LSTM"):
            load(tmp_path)
    written(tmp_path, {"1_Pooling/config.json": {"pooling_mode": ["mean", "max"]}})
    with pytest.raises(CheckpointError, match=r"module 2_Dense of type Dense takes vectors of 48 .* have 96"):
        Engine(tmp_path)
