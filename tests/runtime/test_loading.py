"""What a model and its tokenizer may come from; refusals are in test_pipelines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from distilrt.checkpoint.source import Source
from distilrt.runtime.loading import find, load
from distilrt.text.tokenizer import DistilBertTokenizer

HEAD = "DistilBertForQuestionAnswering"
CHOICES: dict[str, Any] = {"backend": "auto", "dtype": "auto", "num_threads": None}


@pytest.mark.parametrize("architecture", [HEAD, "DistilBertModel"])
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


@pytest.mark.parametrize(("architecture", "needed"), [(HEAD, False), ("DistilBertModel", True)])
def test_without_the_network_only_vectors_need_to_know(
    folder_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, architecture: str, needed: bool
) -> None:
    """A cache that another library filled does not say whether there is a modules.json."""
    folder = folder_of(architecture)

    def cached(repo: str, filename: str, **options: Any) -> str:
        if (folder / filename).exists():
            return str(folder / filename)
        raise errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", cached)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    if needed:
        with pytest.raises(FileNotFoundError, match=r"modules\.json of 'org/tiny' .* the hub can't be reached"):
            find(Source("org/tiny"))
    else:
        assert find(Source("org/tiny")).sentence is None
