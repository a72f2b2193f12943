"""Teachers and corpora for tests: a tiny BERT over the real vocabulary, and texts of this project's documentation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from distilrt.distill.settings import Settings
from distilrt.text.tokenizer import DistilBertTokenizer

reference: Any = transformers  # Its classes have types that its configs do not fit.

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def make_bert(tmp_path_factory: pytest.TempPathFactory, sentence_encoder: Path) -> Callable[..., Path]:
    """Makes a BERT of four layers over the first words of a real vocabulary; keywords change its config."""
    words = (sentence_encoder / "vocab.txt").read_text(encoding="utf-8").splitlines()[:4000]

    def make(kind: str, **changes: Any) -> Path:
        torch.manual_seed(0)
        shape = {"hidden_size": 48, "num_attention_heads": 3, "num_hidden_layers": 4, "intermediate_size": 80}
        shape |= {"max_position_embeddings": 64, "vocab_size": len(words)}
        folder = tmp_path_factory.mktemp(kind)
        getattr(transformers, kind)(reference.BertConfig(**shape | changes)).save_pretrained(folder)
        DistilBertTokenizer({word: i for i, word in enumerate(words)}, model_max_length=64).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def teacher(make_bert: Callable[..., Path]) -> Path:
    """Folder of a BERT with a language model's head."""
    return make_bert("BertForMaskedLM", initializer_range=0.2)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text file of some thousand tokens."""
    file = tmp_path_factory.mktemp("corpus") / "numerics.txt"
    file.write_text((ROOT / "docs" / "numerics.md").read_text(encoding="utf-8")[:9000], encoding="utf-8")
    return file


@pytest.fixture
def settings(teacher: Path, corpus: Path, tmp_path: Path) -> Callable[..., Settings]:
    """Makes settings of a run that takes a second; keywords change them."""

    def make(**changes: Any) -> Settings:
        base: dict[str, Any] = {
            "teacher": str(teacher), "corpus": [str(corpus)], "out": str(tmp_path / "student"), "length": 32,
            "batch_size": 4, "accumulation": 2, "epochs": 1.0, "save_every": 3,
        }  # fmt: skip
        return Settings(**base | changes)

    return make
