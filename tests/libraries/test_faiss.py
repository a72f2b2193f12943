"""FAISS indices built from an accelerated encoder's arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import pytest

from tests.libraries.conftest import COSINE, QUESTION, SENTENCES


@pytest.mark.parametrize("kind", ["Flat", "HNSW16"])
def test_index(fast: Any, vectors: Any, only_distilrt: Any, assert_near: Any, tmp_path: Path, kind: str) -> None:
    with only_distilrt():
        rows, query = fast.encode(SENTENCES), fast.encode([QUESTION])
    index = faiss.index_factory(rows.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
    index.add(rows)
    faiss.write_index(index, str(tmp_path / "index"))
    index = faiss.read_index(str(tmp_path / "index"))
    cosines, numbers = index.search(query, 2)
    assert numbers[0, 0] == 3
    assert cosines[0, 0] == pytest.approx(COSINE, abs=1e-4)
    assert_near(cosines[0], (vectors[0] @ vectors[1])[numbers[0]])
