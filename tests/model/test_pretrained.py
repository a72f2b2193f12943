"""`from_pretrained` takes what people pass to transformers', with transformers' meaning, or says what to do instead."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from distilrt.errors import CheckpointError
from distilrt.model import models
from distilrt.model.config import DistilBertConfig
from tests.model.model_calls import IDS

NAME = "DistilBertForSequenceClassification"
OURS: Any = getattr(models, NAME)
THEIRS: Any = getattr(transformers, NAME)

LABELS = {0: "a", 1: "b", 2: "c"}
FOLLOWED: list[dict[str, Any]] = [
    {"num_labels": 3},
    {"id2label": LABELS, "label2id": {"a": 0, "b": 1, "c": 2}},
    {"problem_type": "multi_label_classification"},
    {"output_hidden_states": True},
    {"output_attentions": True, "attn_implementation": "eager"},
    {"return_dict": False},
    {"torch_dtype": torch.float32},
    {"dtype": torch.float32},
    {"dtype": "float32"},
    {"torch_dtype": "auto"},
    {"use_safetensors": True},
    {"use_safetensors": None, "low_cpu_mem_usage": True, "trust_remote_code": False, "attn_implementation": "sdpa"},
    {"ignore_mismatched_sizes": False, "force_download": False, "proxies": None, "state_dict": None},
    {"activation": "relu"},
    {"device_map": None},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier with three labels, as transformers saves it."""
    path = tmp_path_factory.mktemp(NAME)
    torch.manual_seed(0)
    shape: dict[str, Any] = {"dim": 48, "n_heads": 3, "n_layers": 1, "hidden_dim": 80, "vocab_size": 101,
                             "num_labels": 3, "initializer_range": 0.5}  # fmt: skip
    THEIRS(transformers.DistilBertConfig(**shape)).save_pretrained(path)
    return path


def same(ours: Any, theirs: Any) -> None:
    ids = torch.tensor(IDS)
    with torch.no_grad():
        mine, reference = ours(ids), theirs.eval()(ids)
    assert isinstance(mine, tuple) == isinstance(reference, tuple)
    flat = (mine, reference) if isinstance(mine, tuple) else (mine.to_tuple(), reference.to_tuple())
    torch.testing.assert_close(flat[0], flat[1], atol=1e-4, rtol=1e-4)
    for name in ("num_labels", "id2label", "label2id", "problem_type", "return_dict", "output_attentions"):
        assert getattr(ours.config, name) == getattr(theirs.config, name), name


@pytest.mark.parametrize("arguments", FOLLOWED, ids=str)
def test_followed_as_by_the_reference(folder: Path, arguments: dict[str, Any]) -> None:
    same(OURS.from_pretrained(folder, **arguments), THEIRS.from_pretrained(folder, **arguments))


@pytest.mark.parametrize("form", ["ours", "transformers", "dict", "path"])
def test_a_config_of_any_form(folder: Path, form: str, tmp_path: Path) -> None:
    theirs = transformers.DistilBertConfig.from_pretrained(folder, activation="relu", id2label=LABELS)
    theirs.save_pretrained(tmp_path)
    given = {"ours": DistilBertConfig.from_pretrained(tmp_path), "transformers": theirs, "dict": theirs.to_dict(),
             "path": tmp_path}[form]  # fmt: skip
    expected = THEIRS.from_pretrained(folder, config=theirs)
    same(OURS.from_pretrained(folder, config=given), expected)
    with pytest.raises(TypeError, match=r"config must be a DistilBertConfig, .* found int"):
        OURS.from_pretrained(folder, config=5)
    same(OURS(given, dict(OURS.from_pretrained(folder).weights)), expected)


def test_devices(folder: Path) -> None:
    for place in ("auto", "cpu", torch.device("cpu"), {"": "cpu"}, {"distilbert": "cpu", "classifier": "cpu"}):
        assert OURS.from_pretrained(folder, device_map=place).device.type == "cpu"
    assert OURS.from_pretrained(folder, device_map="cpu", backend="reference").backend.name == "reference"
    for place in ("disk", "cuda:3", {"a": "cpu", "b": "cuda"}):
        with pytest.raises(ValueError, match=r"device_map must name one device, .*CUDA_VISIBLE_DEVICES"):
            OURS.from_pretrained(folder, device_map=place)
    with pytest.raises(ValueError, match="are not the same device"):
        OURS.from_pretrained(folder, device_map="cuda", backend="cpu")


def test_formats(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "config.json", tmp_path)
    torch.save(THEIRS.from_pretrained(folder).state_dict(), tmp_path / "pytorch_model.bin")
    OURS.from_pretrained(tmp_path, use_safetensors=False)
    for path, only, missing in ((tmp_path, True, "model.safetensors"), (folder, False, "pytorch_model.bin")):
        with pytest.raises(OSError, match=f"has no weights: looked for {missing}"):
            OURS.from_pretrained(path, use_safetensors=only)


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ({"ignore_mismatched_sizes": True}, "no tensor is ever made up at random"),
        ({"state_dict": {"a": np.zeros(1)}}, "give the weights to the class itself"),
        ({"load_in_8bit": True}, "dtype='int8' quantizes"),
        ({"proxies": {"https": "x"}}, "set the environment variable HTTPS_PROXY"),
        ({"force_download": True}, "hf download --force-download"),
        ({"variant": "fp16"}, "rename the file"),
        ({"no_such": 1}, "has no argument 'no_such'"),
    ],
)
def test_what_can_not_be_followed_says_what_to_do(folder: Path, arguments: dict[str, Any], advice: str) -> None:
    with pytest.raises(TypeError, match=advice):
        OURS.from_pretrained(folder, **arguments)


def test_another_number_of_labels_is_never_made_up(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"classifier.weight .*expected shape \[5, 48\] by the config, found \[3"):
        OURS.from_pretrained(folder, num_labels=5)
    with pytest.raises(TypeError, match="needs a folder or a hub id"):
        OURS.from_pretrained()
    assert OURS.from_pretrained(pretrained_model_name_or_path=folder).config.num_labels == 3
