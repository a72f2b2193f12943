"""The inputs of embeddings: one or several, texts or token ids, and the prompt that goes before them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

from distilrt.runtime.engine import Engine
from distilrt.server.embedding_inputs import items, prompt
from distilrt.server.statuses import Empty, Unprocessable


@pytest.mark.parametrize(
    ("inputs", "wanted"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], "a", [2, 3]], [[1], "a", [2, 3]])],
)
def test_items(inputs: Any, wanted: list[Any]) -> None:
    assert items(inputs) == wanted


def test_no_items() -> None:
    with pytest.raises(Empty, match="at least one input"):
        items([])
    with pytest.raises(Unprocessable, match="a list of numbers and others"):
        items([1, "a"])


def test_prompts(prompted: Engine) -> None:
    assert prompt(prompted, None, [[1]]) == "text: "
    assert prompt(prompted, "query", ["a"]) == "find: "
    with pytest.raises(Unprocessable, match="which are: query, passage; found ''"):
        prompt(prompted, "", ["a"])
    with pytest.raises(Unprocessable, match="not before token ids"):
        prompt(prompted, "query", ["a", [1]])


def test_every_route_gives_the_vectors_of_sentence_transformers(
    folder_of: Callable[..., Path], client_of: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    modules = [Transformer(str(folder_of("DistilBertModel"))), Pooling(48, ("max", "lasttoken")), Dense(96, 20)]
    theirs = SentenceTransformer(modules=modules, device="cpu", prompts={"query": "find: "}, truncate_dim=9,
                                 default_prompt_name="query", similarity_fn_name="dot")  # fmt: skip
    theirs.save(str(tmp_path / "st"))
    texts = ["The cat sat.", "HELLO World", "a"]
    wanted = theirs.encode(texts, normalize_embeddings=True)
    similar = theirs.similarity(theirs.encode(texts[:1]), theirs.encode(texts[1:]))[0].numpy()
    item = {"source_sentence": texts[0], "sentences": texts[1:]}
    with Engine(tmp_path / "st", name="st") as engine:
        client = client_of(engine)

        def ask(path: str, **body: Any) -> Any:
            response = client.post(path, json=body)
            assert response.status_code == 200, response.text
            return response.json()

        for found in (
            ask("/embed", inputs=texts),
            ask("/", inputs=texts),
            [entry["embedding"] for entry in ask("/v1/embeddings", input=texts)["data"]],
        ):
            np.testing.assert_allclose(found, wanted, atol=1e-5)
        raw = ask("/embed", inputs=texts, normalize=False)
        np.testing.assert_allclose(raw, theirs.encode(texts), atol=1e-5)
        for found in (ask("/similarity", inputs=item), ask("/", inputs=item)):
            np.testing.assert_allclose(found, similar, atol=1e-5)
        about = client.get("/info").json()
        assert (about["max_input_length"], about["model_type"]) == (64, {"embedding": {"pooling": "max+lasttoken"}})
