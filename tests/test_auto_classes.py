"""The classes named as transformers' Auto classes give what those give for the same folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import distilrt
from distilrt.errors import CheckpointError
from distilrt.model.heads import HEADS

Folders = Callable[..., Path]
TEXTS = ["Ada Lovelace wrote programs.", "ok"]
CASES = [
    *(("folder_of", name) for name in HEADS),
    *(("bert_of", head.bert) for head in HEADS.values()),
    ("bert_of", "BertForNextSentencePrediction"),
]


@pytest.mark.parametrize(("kind", "architecture"), CASES)
def test_a_folder_loads_and_computes(kind: str, architecture: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)(architecture)
    auto = f"AutoModel{architecture.partition('Bert')[2].removeprefix('Model')}"
    tokenizer = distilrt.AutoTokenizer.from_pretrained(folder)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert dict(tokenizer(TEXTS)) == dict(theirs(TEXTS))
    inputs = theirs(TEXTS, padding=True, return_tensors="pt")
    if "Choice" in auto:
        inputs = {name: tensor[None] for name, tensor in inputs.items()}
    for each in dict.fromkeys((auto, "AutoModel")):
        ours = getattr(distilrt, each).from_pretrained(folder)
        reference = getattr(transformers, each).from_pretrained(folder).eval()
        flat = {name: tensor[0] if "Choice" in auto and each == "AutoModel" else tensor
                for name, tensor in inputs.items()}  # fmt: skip
        with torch.no_grad():
            wanted = reference(**flat)[0]
        found = ours(**flat)[0]
        kept = flat["attention_mask"].bool() if wanted.shape[:2] == flat["attention_mask"].shape else ...
        torch.testing.assert_close(found[kept], wanted[kept], atol=1e-4, rtol=1e-4)


def test_a_folder_with_another_head_is_refused_as_by_the_class_itself(folder_of: Folders) -> None:
    folder = folder_of("DistilBertForMaskedLM")
    said = []
    for cls in (distilrt.AutoModelForSequenceClassification, distilrt.DistilBertForSequenceClassification):
        with pytest.raises(CheckpointError, match="classifier") as error:
            cls.from_pretrained(folder)
        said.append(str(error.value))
    assert said[0] == said[1]


@pytest.mark.parametrize("name", [name for name in distilrt.__all__ if name.startswith("AutoModel")])
def test_another_kind_of_model_is_refused_by_its_name(name: str, tmp_path: Path) -> None:
    values = {"model_type": "roberta", "architectures": ["RobertaModel"]}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"model_type 'roberta' \(.*\); distilrt runs 'distilbert' and 'bert'"):
        getattr(distilrt, name).from_pretrained(tmp_path)


@pytest.mark.parametrize(("kind", "architecture"), [("folder_of", "DistilBertModel"), ("bert_of", "BertModel")])
def test_configs(kind: str, architecture: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)(architecture)
    ours = distilrt.AutoConfig.from_pretrained(folder, num_labels=5)
    theirs = transformers.AutoConfig.from_pretrained(folder, num_labels=5)
    for field in ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "num_labels",
                  "id2label"):  # fmt: skip
        assert getattr(ours, field) == getattr(theirs, field), field


def test_tokenizers_take_a_place_and_options(bert_of: Folders, tmp_path: Path) -> None:
    shutil.copytree(bert_of("BertModel"), tmp_path / "inner")
    places: dict[str, Any] = {"subfolder": "inner", "local_files_only": True, "use_fast": True, "model_max_length": 7}
    ours = distilrt.AutoTokenizer.from_pretrained(tmp_path, **places)
    assert ours.model_max_length == 7
    assert np.shape(ours(" ".join(TEXTS * 9), truncation=True)["token_type_ids"]) == (7,)
    with pytest.raises(OSError, match=r"neither tokenizer\.json nor vocab\.txt"):
        distilrt.AutoTokenizer.from_pretrained(tmp_path)
