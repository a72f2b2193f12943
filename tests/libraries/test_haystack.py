"""Haystack's pipelines, whose OpenAI embedders ask a server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from haystack import Document, Pipeline
from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.components.writers import DocumentWriter
from haystack.document_stores.in_memory import InMemoryDocumentStore

from tests.libraries.conftest import ANSWER, COSINE, QUESTION, SENTENCES


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Haystack reads the key from here."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")


def test_index_and_query(url: str, vectors: Any, assert_near: Any) -> None:
    settings: dict[str, Any] = {"model": "org/encoder", "api_base_url": url}
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    index = Pipeline()
    embedder = OpenAIDocumentEmbedder(**settings, batch_size=2, progress_bar=False, raise_on_failure=True)
    index.add_component("embedder", embedder)
    index.add_component("writer", DocumentWriter(store))
    index.connect("embedder", "writer")
    documents = [Document(content=text) for text in SENTENCES]
    done = index.run({"embedder": {"documents": documents}}, include_outputs_from={"embedder"})
    assert done["writer"] == {"documents_written": 5}
    assert done["embedder"]["meta"] == {"model": "org/encoder", "usage": {"prompt_tokens": 47, "total_tokens": 47}}
    assert_near([document.embedding for document in done["embedder"]["documents"]], vectors[0])

    query = Pipeline()
    query.add_component("embedder", OpenAITextEmbedder(**settings))
    query.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=1))
    query.connect("embedder.embedding", "retriever.query_embedding")
    [found] = query.run({"embedder": {"text": QUESTION}})["retriever"]["documents"]
    assert found.content == ANSWER
    assert found.score == pytest.approx(COSINE, abs=1e-4)


def test_asynchronous_embedder(url: str, vectors: Any, assert_near: Any) -> None:
    async def embed() -> Any:
        embedder = OpenAITextEmbedder(model="org/encoder", api_base_url=url)
        try:
            return await embedder.run_async(QUESTION)
        finally:
            await embedder.close_async()

    assert_near(asyncio.run(embed())["embedding"], vectors[1])
