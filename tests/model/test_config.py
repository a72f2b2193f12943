"""The config agrees with the reference's on every field, and refuses what the engine can't compute."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.activations import ACT2FN

from distilrt.errors import CheckpointError
from distilrt.model.config import _SAME_ACTIVATION, ACTIVATIONS, DistilBertConfig

# Fields of ours that the reference's constructor takes as well.
BERT_ONLY = ("type_vocab_size", "add_pooling_layer")
SHARED = [field.name for field in dataclasses.fields(DistilBertConfig) if field.name not in ("extra", *BERT_ONLY)]


def test_defaults_are_the_references() -> None:
    ours, theirs = DistilBertConfig(), transformers.DistilBertConfig()
    for name in SHARED:
        assert getattr(ours, name) == getattr(theirs, name), name
    for alias in ("hidden_size", "num_attention_heads", "num_hidden_layers"):
        assert getattr(ours, alias) == getattr(theirs, alias)
    assert (ours.hidden_size, ours.num_heads, ours.head_dim) == (768, 12, 64)
    assert (ours.num_layers, ours.intermediate_size) == (6, 3072)


FILES: list[dict[str, Any]] = [
    {},
    {"dim": 64, "n_heads": 4, "n_layers": 3, "hidden_dim": 100, "vocab_size": 99, "max_position_embeddings": 7},
    {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 3},
    {"dim": 96, "hidden_size": 64, "n_heads": 2, "num_attention_heads": 4, "n_layers": 1, "num_hidden_layers": 2},
    {"dropout": 0, "attention_dropout": 0.3, "qa_dropout": 0.4, "seq_classif_dropout": 0.5, "initializer_range": 0.1},
    {"activation": "relu", "sinusoidal_pos_embds": True, "tie_word_embeddings": False, "pad_token_id": None},
    {"pad_token_id": -1},
    {"num_labels": 3},
    {"num_labels": 1, "problem_type": "regression"},
    {"id2label": {"0": "no", "1": "yes", "2": "perhaps"}, "label2id": {"no": 0, "yes": 1, "perhaps": 2}},
    {"id2label": {"0": "no", "1": "yes"}, "label2id": {"NO": 0, "YES": 1}},
    {"id2label": {"0": "no", "1": "yes"}, "label2id": {"no": 0, "yes": 1}, "num_labels": 4},
    {"label2id": {"a": 0, "b": 1, "c": 2}},
    {"problem_type": "multi_label_classification", "architectures": ["DistilBertForSequenceClassification"]},
    {"torch_dtype": "float16"},
    {"dtype": "bfloat16", "torch_dtype": "float16"},
    {"dtype": None, "torch_dtype": "float16"},
    {"output_hidden_states": True, "output_attentions": True, "return_dict": False},
]


@pytest.mark.parametrize("values", FILES, ids=str)
def test_files_are_read_as_by_the_reference(values: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "distilbert"} | values))
    ours = DistilBertConfig.from_pretrained(tmp_path)
    theirs = transformers.DistilBertConfig.from_pretrained(tmp_path)
    for name in SHARED:
        mine, reference = getattr(ours, name), getattr(theirs, name)
        if name == "architectures" and mine is not None:
            mine = list(mine)
        if name == "dtype" and reference is not None:
            reference = str(reference).removeprefix("torch.")
        assert mine == reference, name

    ours.save_pretrained(tmp_path / "again")
    assert DistilBertConfig.from_pretrained(tmp_path / "again") == ours
    reread = transformers.DistilBertConfig.from_pretrained(tmp_path / "again")
    assert all(getattr(reread, name) == getattr(theirs, name) for name in SHARED)
    assert [file.name for file in (tmp_path / "again").iterdir()] == ["config.json"]


def test_written_by_the_reference(tmp_path: Path) -> None:
    values: dict[str, Any] = {"num_labels": 3, "dim": 64, "n_heads": 2, "dtype": torch.float16}
    theirs = transformers.DistilBertConfig(**values)
    theirs.save_pretrained(tmp_path)
    ours = DistilBertConfig.from_pretrained(tmp_path)
    assert (ours.num_labels, ours.dim, ours.dtype) == (3, 64, "float16")
    assert ours.label_names() == ["LABEL_0", "LABEL_1", "LABEL_2"]


def test_unused_keys_are_kept() -> None:
    config = DistilBertConfig.from_dict({"eos_token_id": 5, "my_key": [1], "transformers_version": "4.0"})
    assert config.extra == {"eos_token_id": 5, "my_key": [1], "transformers_version": "4.0"}
    written = config.to_dict()
    assert written["my_key"] == [1]
    assert written["model_type"] == "distilbert"
    assert "num_labels" not in written
    assert json.loads(json.dumps(written)) == written
    with pytest.raises(TypeError, match="my_key"):
        DistilBertConfig(my_key=[1])  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vocab_size": 0}, "config.vocab_size must be an integer of at least 1, found 0"),
        ({"n_layers": True}, "config.n_layers must be an integer of at least 1, found True"),
        ({"dim": 64.0}, "config.dim must be an integer of at least 1, found 64.0"),
        ({"hidden_dim": "64"}, "config.hidden_dim must be an integer"),
        ({"max_position_embeddings": -1}, "config.max_position_embeddings must be"),
        ({"dim": 65, "n_heads": 2}, r"config.dim \(65\) must be divisible by config.n_heads \(2\)"),
        ({"dim": 258, "n_heads": 2}, "must be 1 to 128, found 258 / 2 = 129"),
        ({"dim": 512, "n_heads": 2}, "found 512 / 2 = 256"),
        ({"activation": "mish"}, "config.activation must be one of gelu, .*, found 'mish'"),
        ({"problem_type": "x"}, "config.problem_type must be one of regression, .*found 'x'"),
        ({"problem_type": "single_label_classification", "num_labels": 1}, "needs at least 2 labels, found 1"),
        ({"pad_token_id": 30522}, "config.pad_token_id must be None or an integer of -30522 to 30521, found 30522"),
        ({"pad_token_id": -30523}, "config.pad_token_id"),
        ({"pad_token_id": 0.5}, "config.pad_token_id .*found 0.5"),
        ({"num_labels": 0}, "config.num_labels must be an integer of 1 to 1000000, found 0"),
        (
            {"num_labels": 10**8},
            "config.num_labels must be an integer of 1 to 1000000, found 100000000; more labels",
        ),
        ({"id2label": {0: "a", "00": "b"}}, "config.id2label names one label twice"),
        ({"id2label": {0: "a"}, "label2id": {"a": []}}, "config.label2id must map names to label numbers"),
        ({"label2id": [1], "id2label": {0: "a"}}, "config.label2id must map names to label numbers"),
        ({"tie_word_embeddings": "no"}, "config.tie_word_embeddings must be true or false, found 'no'"),
        ({"dropout": float("nan")}, "config.dropout must be a finite number of at least 0, found nan"),
        ({"initializer_range": {}}, "config.initializer_range must be a finite number"),
        ({"activation": {}}, "config.activation must be one of gelu, .*, found {}"),
        ({"architectures": "DistilBertModel"}, "config.architectures must be None or a list of class names"),
        ({"architectures": [None]}, r"config.architectures must be None or a list of class names, found \[None\]"),
        ({"dtype": []}, r"config.dtype must be None or the name of a dtype, found '\[\]'"),
        ({"num_labels": 3, "id2label": {0: "a"}}, "config.num_labels is 3 but config.id2label names 1"),
        ({"id2label": ["a", "b"]}, r"config.id2label must map label numbers to names, found \['a', 'b'\]"),
        ({"id2label": {"a": 0}}, "config.id2label must map label numbers to names"),
    ],
)
def test_invalid_fields(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DistilBertConfig(**fields)


def test_other_names_of_activations_compute_the_same() -> None:
    x = torch.linspace(-6, 6, 1001, dtype=torch.float64)
    for name, same in _SAME_ACTIVATION.items():
        config = DistilBertConfig(activation=name)
        assert config.activation == same
        assert same in ACTIVATIONS
        torch.testing.assert_close(ACT2FN[name](x), ACT2FN[same](x), atol=1e-9, rtol=0)
    assert all(name in ACT2FN for name in ACTIVATIONS)


def test_replace() -> None:
    config = DistilBertConfig(id2label={0: "no", 1: "yes"})
    assert config.replace(n_layers=2).label_names() == ["no", "yes"]
    assert config.replace(num_labels=3).label_names() == ["LABEL_0", "LABEL_1", "LABEL_2"]
    renamed = config.replace(id2label={0: "a", 1: "b", 2: "c"})
    assert (renamed.num_labels, renamed.label2id) == (3, {"a": 0, "b": 1, "c": 2})
    assert config.replace(num_labels=2) == config
    assert config.replace(num_hidden_layers=3).n_layers == 3
    with pytest.raises(ValueError, match="must number 2 labels 0 to 1, found 1, 2"):
        config.replace(id2label={1: "a", 2: "b"}).label_names()
    assert config.replace(architectures=["DistilBertModel"]).architectures == ("DistilBertModel",)
    assert config.replace(dtype=torch.float16).dtype == "float16"
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.dim = 3  # type: ignore[misc]


def test_changes_while_reading(tmp_path: Path) -> None:
    DistilBertConfig(id2label={0: "no", 1: "yes"}).save_pretrained(tmp_path)
    changes: dict[str, Any] = {"num_labels": 3, "output_attentions": True, "num_hidden_layers": 2}
    ours = DistilBertConfig.from_pretrained(tmp_path, **changes)
    theirs = transformers.DistilBertConfig.from_pretrained(tmp_path, **changes)
    assert all(getattr(ours, name) == getattr(theirs, name) for name in (*changes, "id2label", "label2id", "n_layers"))
    with pytest.raises(TypeError, match="my_key"):
        DistilBertConfig.from_pretrained(tmp_path, my_key=1)


def test_empty_label_map_counts_as_none() -> None:
    assert DistilBertConfig(id2label={}, label2id={}).label_names() == ["LABEL_0", "LABEL_1"]


BERT = {"model_type": "bert", "hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 3,
        "intermediate_size": 80, "hidden_act": "relu", "hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.3,
        "vocab_size": 99, "layer_norm_eps": 1e-12, "type_vocab_size": 2, "position_embedding_type": "absolute",
        "use_cache": True, "pad_token_id": 1, "max_position_embeddings": 40,
        "architectures": ["BertForMaskedLM"]}  # fmt: skip


def test_bert(tmp_path: Path) -> None:
    values: dict[str, Any] = {key: value for key, value in BERT.items() if key != "model_type"}
    transformers.BertConfig(**values).save_pretrained(tmp_path)
    for config in (DistilBertConfig.from_dict(BERT), DistilBertConfig.from_pretrained(tmp_path)):
        assert config.is_bert
        assert config.type_vocab_size == 2
        assert config.num_position_rows == 80
        assert config.architectures == ("DistilBertForMaskedLM",)
        assert (config.dim, config.n_heads, config.n_layers, config.hidden_dim) == (64, 2, 3, 80)
        assert (config.activation, config.dropout, config.attention_dropout) == ("relu", 0.2, 0.3)
        assert (config.vocab_size, config.pad_token_id, config.max_position_embeddings) == (99, 1, 40)
        assert config.replace(n_layers=2).is_bert
        written = config.to_dict()
        assert DistilBertConfig.from_dict(written) == config
        theirs = transformers.BertConfig.from_dict(written)
        assert {name: getattr(theirs, name) for name in values if name != "use_cache"} == {
            name: value for name, value in values.items() if name != "use_cache"
        }
        assert not {"dim", "sinusoidal_pos_embds", "qa_dropout"} & set(written)


def test_bert_defaults() -> None:
    ours, theirs = DistilBertConfig.from_dict({"model_type": "bert"}), transformers.BertConfig()
    for name in ("vocab_size", "pad_token_id", "max_position_embeddings", "tie_word_embeddings", "initializer_range"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for name, theirs_name in {
        "dim": "hidden_size", "n_heads": "num_attention_heads", "n_layers": "num_hidden_layers",
        "hidden_dim": "intermediate_size", "activation": "hidden_act", "dropout": "hidden_dropout_prob",
        "attention_dropout": "attention_probs_dropout_prob",
    }.items():  # fmt: skip
        assert getattr(ours, name) == getattr(theirs, theirs_name), name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (BERT | {"layer_norm_eps": 1e-5}, "layer_norm_eps 1e-05; a DistilBERT's is always 1e-12"),
        (
            BERT | {"position_embedding_type": "relative_key"},
            "position_embedding_type 'relative_key'; distilrt runs .* absolute pos",
        ),
        (BERT | {"is_decoder": True}, "is a decoder; only encoders"),
        (BERT | {"add_cross_attention": True}, "is a decoder; only encoders"),
        (BERT | {"type_vocab_size": 0}, "type_vocab_size 0; it must be an integer of at least 1"),
        (BERT | {"type_vocab_size": "2"}, "type_vocab_size '2'; it must be"),
        (
            {"model_type": "gpt2"},
            "model_type 'gpt2'; distilrt runs 'distilbert' and 'bert': learned absolute positions",
        ),
        (
            {"model_type": "roberta"},
            r"model_type 'roberta' \(its positions start behind .*\); distilrt runs 'distilbert' and",
        ),
        ({"model_type": "modernbert"}, r"model_type 'modernbert' \(.*RoPE\)"),
        ({"model_type": "mpnet"}, r"model_type 'mpnet' \(its attention has relative positions\)"),
        ({"model_type": "megatron-bert"}, r"model_type 'megatron-bert' \(.*pre-norm\)"),
    ],
)
def test_other_models_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        DistilBertConfig.from_dict(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_size": "48"}, r"config\.hidden_size must be .*, found '48'"),
        ({"intermediate_size": 0}, r"config\.intermediate_size must be"),
        ({"hidden_size": 50, "num_attention_heads": 3}, r"config\.hidden_size \(50\) .* config\.num_attention_heads"),
        ({"vocab_size": 0}, r"config\.vocab_size must be"),
    ],
)
def test_errors_have_the_names_of_the_file(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DistilBertConfig.from_dict(BERT | values)


def test_the_file_of_a_distilbert_can_not_claim_token_types() -> None:
    config = DistilBertConfig.from_dict({"type_vocab_size": 2, "add_pooling_layer": True})
    assert not config.is_bert
    assert config.extra == {"type_vocab_size": 2, "add_pooling_layer": True}


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"has no config.json: a checkpoint is a folder"):
        DistilBertConfig.from_pretrained(tmp_path)
    with pytest.raises(OSError, match="does not exist"):
        DistilBertConfig.from_pretrained(tmp_path / "nix" / "nix")
    for content, message in (
        (b"{", "is not valid JSON"),
        (b"\xff\xfe", "is not valid JSON"),
        (b"[]", "must hold a JSON object"),
        (b"[" * 100_000, "is not valid JSON: maximum recursion depth"),
        (b'{"my_key": "\\ud800"}', "is not valid JSON: .*surrogates not allowed"),
        (b'{"dim": 65}', "config.dim .65. must be divisible"),
    ):
        (tmp_path / "config.json").write_bytes(content)
        with pytest.raises(CheckpointError, match=message) as caught:
            DistilBertConfig.from_pretrained(tmp_path)
        assert str(tmp_path / "config.json") in str(caught.value)
