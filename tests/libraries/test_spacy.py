"""A spaCy pipeline with an accelerated transformers model in it.

The component here is a small one of our own around thinc's wrapper of torch modules, since spacy-transformers takes
transformers 4 alone, and spacy-curated-transformers has models of its own in place of transformers'.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spacy
import transformers
from spacy.language import Language
from spacy.tokens import Doc
from spacy.util import minibatch
from thinc.api import ArgsKwargs, PyTorchWrapper

from distilrt import accelerate

TEXTS = [
    "The cat sat on the mat.",
    "A feline rested on a rug.",
    "She sat down on the bank of the river to fish.",
    "He paid the cheque into his bank account.",
    "The bank lends money to companies.",
]
COSINE = 0.5530  # The first two texts have it.


class Encoder:
    """A component that gives a document the vectors of its words and a vector of the whole."""

    def __init__(self, folder: str, fast: bool) -> None:
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        module = transformers.AutoModel.from_pretrained(folder)
        self.model = PyTorchWrapper(
            accelerate(module) if fast else module,
            convert_inputs=lambda model, batch, is_train: (ArgsKwargs((), dict(batch)), list),
            convert_outputs=lambda model, both, is_train: (both[1].last_hidden_state.numpy(), list),
        )

    def __call__(self, doc: Doc) -> Doc:
        return next(self.pipe([doc]))

    def pipe(self, docs: Iterable[Doc], batch_size: int = 3) -> Iterator[Doc]:
        for some in minibatch(docs, batch_size):
            words = [[token.text for token in doc] for doc in some]
            batch = self.tokenizer(words, is_split_into_words=True, padding=True, return_tensors="pt")
            for row, (doc, states) in enumerate(zip(some, self.model.predict(batch), strict=True)):
                owners = np.array([-1 if word is None else word for word in batch.word_ids(row)])
                doc.tensor = np.stack([states[owners == word].mean(axis=0) for word in range(len(doc))])
                vector = states[batch["attention_mask"][row].bool().numpy()].mean(axis=0)
                doc.user_hooks["vector"] = partial(_kept, vector)
                yield doc


def _kept(vector: Any, _: Doc) -> Any:
    return vector


def make_encoder(nlp: Language, name: str, folder: str, fast: bool) -> Encoder:
    return Encoder(folder, fast)


Language.factory("encoder", default_config={"fast": True}, func=make_encoder)


def pipeline_of(folder: Path, **settings: Any) -> Language:
    nlp = spacy.blank("en")
    nlp.add_pipe("encoder", config={"folder": str(folder), **settings})
    return nlp


def test_vectors_of_documents_and_words(sentence_encoder: Path, only_distilrt: Any) -> None:
    expected = list(pipeline_of(sentence_encoder, fast=False).pipe(TEXTS))
    nlp = pipeline_of(sentence_encoder)
    with only_distilrt():
        found = list(nlp.pipe(TEXTS))
        alone = nlp(TEXTS[0])
    assert found[0].similarity(found[1]) == pytest.approx(COSINE, abs=1e-4)
    assert np.abs(alone.tensor - found[0].tensor).max() <= 1e-5 * np.abs(alone.tensor).max()
    for ours, theirs in zip(found, expected, strict=True):
        for mine, other in ((ours.tensor, theirs.tensor), (ours.vector, theirs.vector)):
            assert np.abs(mine - other).max() <= 1e-5 * np.abs(other).max()
    river, account, lender = (doc.tensor[[token.text for token in doc].index("bank")] for doc in found[2:])
    assert cosine(account, lender) > max(cosine(river, account), cosine(river, lender))


def cosine(one: Any, other: Any) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def test_two_processes(sentence_encoder: Path) -> None:
    nlp = pipeline_of(sentence_encoder)
    together = [doc.tensor for doc in nlp.pipe(TEXTS)]
    apart = [doc.tensor for doc in nlp.pipe(TEXTS, n_process=2, batch_size=2)]
    for mine, other in zip(apart, together, strict=True):
        assert np.abs(mine - other).max() <= 1e-5 * np.abs(other).max()
