"""A real sentence encoder, accelerated and as it was, and a server of it, for the libraries around one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from numpy.typing import ArrayLike
from sentence_transformers import SentenceTransformer
from transformers.models.bert.modeling_bert import BertLayer

from distilrt import accelerate
from tests.serving import serving

BOUND = 1e-5  # docs/dropin.md promises it for embeddings of length 1.

SENTENCES = [
    "The cat sat on the mat.",
    "Stock prices fell sharply today.",
    "Simmer the soup with garlic and onions.",
    "The spacecraft entered orbit around Mars.",
    "The striker scored in the last minute.",
]
QUESTION = "Which planet did the probe reach?"
ANSWER = SENTENCES[3]
COSINE = 0.5250  # of QUESTION and ANSWER


@pytest.fixture(scope="session")
def original(sentence_encoder: Path) -> Any:
    """The sentence encoder of sentence-transformers, which torch computes."""
    return SentenceTransformer(str(sentence_encoder), device="cpu")


@pytest.fixture(scope="session")
def fast(original: Any) -> Any:
    """The same, accelerated."""
    return accelerate(original)


@pytest.fixture
def only_distilrt(original: Any) -> Callable[[], AbstractContextManager[None]]:
    """A context in which torch can compute no layer of a BERT."""

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise AssertionError("torch has computed a layer")

    @contextmanager
    def start() -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(BertLayer, "forward", refuse)
            with pytest.raises(AssertionError, match="torch has computed a layer"):
                original.encode(QUESTION)
            yield

    return start


@pytest.fixture(scope="session")
def url(sentence_encoder: Path) -> Iterator[str]:
    """The base of OpenAI's API at a `distilrt serve` that has the encoder as "org/encoder"."""
    with serving({"org/encoder": sentence_encoder}, "--threads", "1") as (_, address):
        yield f"http://{address}/v1"


@pytest.fixture(scope="session")
def vectors(original: Any) -> tuple[Any, Any]:
    """The vectors that sentence-transformers makes of SENTENCES and of QUESTION."""
    return original.encode(SENTENCES), original.encode(QUESTION)


@pytest.fixture(scope="session")
def assert_near() -> Callable[[ArrayLike, ArrayLike], None]:
    """Compares embeddings."""

    def compare(ours: ArrayLike, theirs: ArrayLike) -> None:
        ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= BOUND

    return compare
