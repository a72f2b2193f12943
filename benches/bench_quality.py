"""What a narrow dtype does to a trained model's answers: sentence vectors against float64 on 500 real sentences.

The sentences are the standard library's own docstrings, so that nothing has to be downloaded; which 500 depends on the
Python version. `distilrt bench compare --model` shows the errors of other engines beside their speed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import distilrt
from distilrt import _C
from distilrt.bench import samples

Vectors = npt.NDArray[np.float64]  # [sentences, hidden_size], of length 1
BOUNDS = {"float32": 0.999999, "bfloat16": 0.9999, "int8": 0.995}  # smallest cosine over all sentences


def vectors(folder: Path, backend: str, dtype: str) -> Vectors:
    """The vectors of a fixed sample of sentences."""
    texts = samples.sentences()
    chosen = [texts[i] for i in np.random.default_rng(0).choice(len(texts), 500, replace=False)]
    encode = distilrt.pipeline("feature-extraction", folder, backend=backend, dtype=dtype, pooling="mean",
                               normalize=True)  # fmt: skip
    return np.array(encode(chosen), np.float64)


@pytest.fixture(scope="module")
def exact(sentence_encoder: Path) -> Vectors:
    """The reference's vectors."""
    return vectors(sentence_encoder, "reference", "float64")


def _neighbours(rows: Vectors) -> npt.NDArray[np.int64]:
    similarity = rows @ rows.T
    np.fill_diagonal(similarity, -1)
    nearest: npt.NDArray[np.int64] = similarity.argmax(axis=1)
    return nearest


@pytest.mark.parametrize("dtype", _C.dtypes())
def test_sentence_vectors(sentence_encoder: Path, exact: Vectors, add_row: Callable[..., None], dtype: str) -> None:
    actual: Any = vectors(sentence_encoder, "cpu", dtype)
    cosines = (exact * actual).sum(axis=1)
    add_row(
        model="all-MiniLM-L6-v2",
        dtype=dtype,
        mean_error=float(f"{np.abs(actual - exact).mean():.3g}"),
        smallest_cosine=round(float(cosines.min()), 5),
        mean_cosine=round(float(cosines.mean()), 5),
        same_neighbour=round(float((_neighbours(exact) == _neighbours(actual)).mean()), 3),
    )
    assert cosines.min() >= BOUNDS[dtype]
