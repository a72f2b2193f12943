"""LangChain's embeddings: of an accelerated encoder in the process, and of a server by OpenAI's API."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_huggingface import HuggingFaceEmbeddings
from langchain_openai import OpenAIEmbeddings

from distilrt import accelerate
from tests.libraries.conftest import ANSWER, COSINE, QUESTION, SENTENCES


def assert_answers(embeddings: Any) -> None:
    """The store finds the answer to the question."""
    store = InMemoryVectorStore.from_texts(SENTENCES, embeddings)
    [(document, cosine)] = store.similarity_search_with_score(QUESTION, k=1)
    assert document.page_content == ANSWER
    assert cosine == pytest.approx(COSINE, abs=1e-4)


def test_hugging_face(sentence_encoder: Path, only_distilrt: Any, assert_near: Any) -> None:
    embeddings = HuggingFaceEmbeddings(
        model_name=str(sentence_encoder),
        model_kwargs={"device": "cpu"},
        encode_kwargs={"normalize_embeddings": True, "batch_size": 2},
    )
    expected = embeddings.embed_documents(SENTENCES), embeddings.embed_query(QUESTION)
    embeddings._client = accelerate(embeddings._client)
    with only_distilrt():
        assert_near(embeddings.embed_documents(SENTENCES), expected[0])
        assert_near(embeddings.embed_query(QUESTION), expected[1])
        assert_answers(embeddings)


@pytest.mark.parametrize("chunk_size", [1000, 2])
def test_open_ai(url: str, vectors: Any, assert_near: Any, chunk_size: int) -> None:
    embeddings = OpenAIEmbeddings(
        model="org/encoder", base_url=url, api_key="none", check_embedding_ctx_length=False, chunk_size=chunk_size
    )
    assert_near(embeddings.embed_documents(SENTENCES), vectors[0])
    assert_near(embeddings.embed_query(QUESTION), vectors[1])
    assert_near(asyncio.run(embeddings.aembed_documents(SENTENCES)), vectors[0])
    assert_answers(embeddings)


def test_fewer_dimensions(url: str, vectors: Any, assert_near: Any) -> None:
    embeddings = OpenAIEmbeddings(
        model="org/encoder", base_url=url, api_key="none", check_embedding_ctx_length=False, dimensions=64
    )
    expected = vectors[0][:, :64]
    assert_near(embeddings.embed_documents(SENTENCES), expected / np.linalg.norm(expected, axis=1, keepdims=True))
