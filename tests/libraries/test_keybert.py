"""Keywords that KeyBERT finds with an accelerated encoder, and with an accelerated pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers
from keybert import KeyBERT

from distilrt import accelerate

TEXT = """Supervised learning is the machine learning task of learning a function that maps an input to an output based
on example input-output pairs. It infers a function from labeled training data consisting of training examples."""
OPTIONS = {
    "nearest": {},
    "diverse": {"keyphrase_ngram_range": (1, 2), "use_mmr": True, "diversity": 0.5},
    "far apart": {"keyphrase_ngram_range": (1, 2), "use_maxsum": True, "nr_candidates": 10, "top_n": 3},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_keywords(original: Any, fast: Any, only_distilrt: Any, options: Any) -> None:
    expected = KeyBERT(original).extract_keywords(TEXT, stop_words="english", **options)
    with only_distilrt():
        found = KeyBERT(fast).extract_keywords(TEXT, stop_words="english", **options)
    assert any("supervised" in phrase or "function labeled" in phrase for phrase, _ in found)
    assert [phrase for phrase, _ in found] == [phrase for phrase, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected], abs=1.01e-4)  # 4 decimals


def test_embeddings_made_once(original: Any, fast: Any, only_distilrt: Any, assert_near: Any) -> None:
    documents = [TEXT, "Garlic and onions are simmered for the soup."]
    expected = KeyBERT(original).extract_embeddings(documents, stop_words="english")
    with only_distilrt():
        model = KeyBERT(fast)
        found = model.extract_embeddings(documents, stop_words="english")
        keywords = model.extract_keywords(
            documents, stop_words="english", doc_embeddings=found[0], word_embeddings=found[1], top_n=1
        )
    for ours, theirs in zip(found, expected, strict=True):
        assert_near(ours, theirs)
    assert [rows[0][0] for rows in keywords] == ["supervised", "soup"]


def test_pipeline(sentence_encoder: Path, only_distilrt: Any) -> None:
    original = transformers.pipeline("feature-extraction", str(sentence_encoder), device="cpu")
    expected = KeyBERT(original).extract_keywords(TEXT, stop_words="english")
    with only_distilrt():
        found = KeyBERT(accelerate(original)).extract_keywords(TEXT, stop_words="english")
    assert found[0][0] == "supervised"
    assert [phrase for phrase, _ in found] == [phrase for phrase, _ in expected]
