"""What a model and its tokenizer may come from; refusals are in test_pipelines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distilrt.loading import load
from distilrt.tokenizer import DistilBertTokenizer

CHOICES: dict[str, Any] = {"backend": "auto", "dtype": "auto", "num_threads": None}


@pytest.mark.parametrize("architecture", ["DistilBertForQuestionAnswering", "DistilBertModel"])
def test_a_checkpoint_is_loaded_as_what_its_config_says(folder_of: Callable[..., Path], architecture: str) -> None:
    folder = folder_of(architecture)
    model, tokenizer, sentence = load(folder, None, None, **CHOICES)
    assert model.architecture == architecture
    assert isinstance(tokenizer, DistilBertTokenizer)
    assert sentence is None


def test_without_a_word_in_the_config_it_is_the_bare_encoder(sentence_encoder: Path) -> None:
    assert load(sentence_encoder, None, None, **CHOICES)[0].architecture == "DistilBertModel"


def test_loaded_ones_stay_what_they_are(folder_of: Callable[..., Path]) -> None:
    model, tokenizer, _ = load(folder_of("DistilBertModel"), None, None, **CHOICES)
    assert load(model, tokenizer, None, **CHOICES) == (model, tokenizer, None)
