"""Indices that txtai builds with FAISS from an accelerated model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers
from txtai import Embeddings

from distilrt import accelerate
from tests.libraries.conftest import ANSWER, COSINE, QUESTION, SENTENCES


def assert_answers(embeddings: Any) -> None:
    """The index finds the answer to the question."""
    [(number, cosine)] = embeddings.search(QUESTION, 1)
    assert SENTENCES[number] == ANSWER
    assert cosine == pytest.approx(COSINE, abs=1e-4)


@pytest.mark.parametrize("method", ["sentence-transformers", "transformers"])
def test_its_own_model(
    sentence_encoder: Path, vectors: Any, only_distilrt: Any, assert_near: Any, tmp_path: Path, method: str
) -> None:
    embeddings = Embeddings(path=str(sentence_encoder), method=method, gpu=False)
    inside = embeddings.model if method == "sentence-transformers" else embeddings.model.model
    inside.model = accelerate(inside.model)
    with only_distilrt():
        embeddings.index(SENTENCES)
        assert_near(embeddings.batchtransform(SENTENCES), vectors[0])
        assert_answers(embeddings)
    assert embeddings.config["backend"] == "faiss"
    embeddings.save(str(tmp_path / "index"))
    loaded = Embeddings()
    loaded.load(str(tmp_path / "index"))  # with the model of the folder
    assert_answers(loaded)


def test_a_model_that_is_given(sentence_encoder: Path, vectors: Any, only_distilrt: Any, assert_near: Any) -> None:
    model = accelerate(transformers.AutoModel.from_pretrained(str(sentence_encoder)))
    embeddings = Embeddings(path=model, tokenizer=str(sentence_encoder), method="meanpooling", gpu=False)
    with only_distilrt():
        embeddings.index(SENTENCES)
        assert_near(embeddings.batchtransform(SENTENCES), vectors[0])
        assert_answers(embeddings)


def test_a_function(fast: Any, only_distilrt: Any) -> None:
    embeddings = Embeddings(transform=lambda texts: fast.encode(texts))
    with only_distilrt():
        embeddings.index(SENTENCES)
        assert_answers(embeddings)
