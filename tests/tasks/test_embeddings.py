"""Embeddings, sparse ones and raw outputs: dimensions, prompts, and inputs that are token ids."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from distilrt.errors import InvalidInput, TooLong
from distilrt.model import models
from distilrt.runtime.engine import Engine
from distilrt.tasks import find, run
from distilrt.text.tokenizer import DistilBertTokenizer

TEXTS = ["Ada Lovelace wrote programs in London.", "ok"]
LONG = "a b c " * 40
Folders = Callable[..., Path]


def answers(folder: Path, task: str, inputs: list[Any], **params: Any) -> list[Any]:
    model = getattr(models, find(task).architecture).from_pretrained(folder, num_threads=1)
    bound = find(task)(DistilBertTokenizer.from_pretrained(folder), model.config)
    return list(run(model, bound, inputs, params))


def test_sparse_embeddings_are_transformers_logits_squashed(folder_of: Folders) -> None:
    folder = folder_of("DistilBertForMaskedLM")
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for text, found in zip(TEXTS, answers(folder, "sparse-embedding", TEXTS), strict=True):
        with torch.no_grad():
            logits = model(tokenizer(text, return_tensors="pt")["input_ids"]).logits[0]
        wanted = torch.log1p(torch.relu(logits)).max(dim=0).values.numpy()
        dense = np.zeros_like(wanted)
        dense[[item["index"] for item in found]] = [item["value"] for item in found]
        np.testing.assert_allclose(dense, wanted, atol=1e-4)
        assert all(item["value"] > 0 for item in found)
        assert [item["index"] for item in found] == sorted(item["index"] for item in found)


@pytest.mark.parametrize("task", ["feature-extraction", "sparse-embedding"])
def test_ids_are_what_the_model_reads(folder_of: Folders, task: str) -> None:
    folder = folder_of(find(task).architecture)
    ids = DistilBertTokenizer.from_pretrained(folder)(TEXTS)["input_ids"]
    assert answers(folder, task, [TEXTS[0], ids[1]]) == answers(folder, task, [ids[0], TEXTS[1]])
    refused: list[tuple[list[Any], str]] = [
        ([], "at least one integer"),
        ([1, -1], "none below 0"),
        ([True], "at least one integer"),
        (["a"], "at least one integer"),
        ([30522], "token 30522, this model knows 0 to 30521"),
    ]
    for bad, message in refused:
        with pytest.raises(InvalidInput, match=f"input 1: .*{message}"):
            answers(folder, task, [TEXTS[0], bad])


def test_ids_are_cut_at_either_side(folder_of: Folders) -> None:
    folder = folder_of("DistilBertModel")
    ids = list(range(1000, 1100))
    with pytest.raises(TooLong, match="100 tokens, this model reads at most 64"):
        answers(folder, "feature-extraction", [ids])
    for side, kept in (("right", ids[:9]), ("left", ids[-9:])):
        found = answers(folder, "feature-extraction", [ids], max_length=9, truncation_side=side)
        assert found == answers(folder, "feature-extraction", [kept])
    assert answers(folder, "feature-extraction", [ids], truncation=True) == answers(
        folder, "feature-extraction", [ids[:64]]
    )


def test_texts_are_cut_at_either_side(folder_of: Folders) -> None:
    folder = folder_of("DistilBertModel")
    for side in ("left", "right"):
        theirs = transformers.AutoTokenizer.from_pretrained(folder, truncation_side=side)
        ids = theirs(LONG, truncation=True, max_length=20)["input_ids"]
        found = answers(folder, "feature-extraction", [LONG], max_length=20, truncation_side=side)
        assert found == answers(folder, "feature-extraction", [ids])
    tokenizer = DistilBertTokenizer.from_pretrained(folder)
    with pytest.raises(ValueError, match="truncation_side must be 'right' or 'left', found 'up'"):
        tokenizer("a", truncation_side="up")


def test_dimensions_and_prompts(folder_of: Folders) -> None:
    folder = folder_of("DistilBertModel")
    [whole] = answers(folder, "feature-extraction", [TEXTS[0]], pooling="mean")
    [short] = answers(folder, "feature-extraction", [TEXTS[0]], pooling="mean", dimensions=5)
    [unit] = answers(folder, "feature-extraction", [TEXTS[0]], pooling="mean", dimensions=5, normalize=True)
    assert short == whole[:5]
    np.testing.assert_allclose(unit, np.array(short) / np.linalg.norm(short), atol=1e-6)
    for bad, message in ((49, "at most 48, those of this model, found 49"), (0, "must be an integer of at least 1")):
        with pytest.raises(ValueError, match=message):
            answers(folder, "feature-extraction", ["a"], pooling="mean", dimensions=bad)
    assert answers(folder, "feature-extraction", ["cats"], prompt="query: ") == answers(
        folder, "feature-extraction", ["query: cats"]
    )
    with pytest.raises(ValueError, match="prompt must be a string, found 1"):
        answers(folder, "feature-extraction", ["cats"], prompt=1)


@pytest.mark.parametrize("loaded", [False, True])
def test_outputs_of_an_engine(folder_of: Folders, loaded: bool) -> None:
    folder = folder_of("DistilBertForTokenClassification")
    model = models.DistilBertForTokenClassification.from_pretrained(folder, num_threads=1)
    tokenizer = DistilBertTokenizer.from_pretrained(folder)
    source: Any = model if loaded else folder
    with Engine(source, tokenizer if loaded else None) as engine:
        pair = {"text": TEXTS[0], "text_pair": TEXTS[1]}
        found = engine("outputs", [pair, TEXTS[1], tokenizer(TEXTS[1])["input_ids"]])
        assert "outputs" not in engine.tasks
        [first] = engine("outputs", [TEXTS[1]], rows="first")
        with pytest.raises(InvalidInput, match="expected a string, token ids or an object"):
            engine("outputs", 1)
    wanted = model(tokenizer(*pair.values(), return_tensors="np")["input_ids"]).logits[0]
    np.testing.assert_allclose(found[0], wanted, atol=1e-4)
    np.testing.assert_allclose(found[1], found[2], atol=1e-5)
    np.testing.assert_allclose(first, found[1][:1], atol=1e-5)
