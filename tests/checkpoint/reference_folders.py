"""Folders as transformers saves them, and changes to their tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import transformers

from distilrt.checkpoint.source import Source
from distilrt.checkpoint.tensor_files import (
    FLOAT_DTYPES,
)
from distilrt.checkpoint.weight_files import open_tensors
from distilrt.checkpoint.weights import Weights, load_weights
from distilrt.model.config import DistilBertConfig

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
    model = getattr(transformers, architecture)(transformers.BertConfig(**BERT_SIZES | changes))
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


def stored_names(folder: Path) -> set[str]:
    with safetensors.safe_open(folder / "model.safetensors", framework="np") as file:
        return set(file.keys())


def replaced(name: str, tensor: torch.Tensor) -> Change:
    return lambda tensors: tensors.update({name: tensor})


def moved(old: str, new: str) -> Change:
    return lambda tensors: tensors.update({new: tensors.pop(old)})


def opened_file(folder: Path) -> Weights:
    """The tensors of a folder's weights, whatever they are called."""
    stored, path = open_tensors(Source(folder))
    return Weights(stored, str(path))


def write_header(path: Path, header: bytes, data: bytes = b"") -> None:
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


DTYPES = {name: getattr(torch, name) for name in FLOAT_DTYPES}


def random_tensors(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    odd = torch.tensor([0.0, -0.0, 1e-40, 3e-8, 65504.0, float("inf"), float("-inf")], dtype=torch.float64)
    return {"a": values.to(dtype), "b": odd.to(dtype)}
