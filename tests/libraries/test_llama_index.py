"""LlamaIndex's embeddings: of an accelerated encoder in the process, and of a server by OpenAI's API."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.node_parser import SemanticSplitterNodeParser
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from llama_index.embeddings.openai_like import OpenAILikeEmbedding

from distilrt import accelerate
from tests.libraries.conftest import ANSWER, COSINE, QUESTION, SENTENCES

STORY = [
    "Cats purr. Kittens play with wool. A cat sleeps all day.",
    "Rockets burn fuel. The rocket left the launch pad.",
]


def assert_answers(embeddings: Any) -> None:
    """The index finds the answer to the question."""
    index = VectorStoreIndex.from_documents([Document(text=text) for text in SENTENCES], embed_model=embeddings)
    [node] = index.as_retriever(similarity_top_k=1).retrieve(QUESTION)
    assert node.text == ANSWER
    assert node.score == pytest.approx(COSINE, abs=1e-4)


def test_open_ai(url: str, vectors: Any, assert_near: Any) -> None:
    embeddings = OpenAILikeEmbedding(model_name="org/encoder", api_base=url, api_key="none", embed_batch_size=2)
    assert_near(embeddings.get_text_embedding_batch(SENTENCES), vectors[0])
    assert_near(embeddings.get_query_embedding(QUESTION), vectors[1])
    assert_near(asyncio.run(embeddings.aget_text_embedding_batch(SENTENCES)), vectors[0])
    assert_answers(embeddings)


def test_hugging_face(sentence_encoder: Path, only_distilrt: Any, assert_near: Any) -> None:
    embeddings = HuggingFaceEmbedding(str(sentence_encoder), device="cpu")
    expected = embeddings.get_text_embedding_batch(SENTENCES), embeddings.get_query_embedding(QUESTION)
    embeddings._model = accelerate(embeddings._model)
    with only_distilrt():
        assert_near(embeddings.get_text_embedding_batch(SENTENCES), expected[0])
        assert_near(embeddings.get_query_embedding(QUESTION), expected[1])
        assert_answers(embeddings)
        splitter = SemanticSplitterNodeParser(embed_model=embeddings, buffer_size=0, breakpoint_percentile_threshold=75)
        parts = splitter.get_nodes_from_documents([Document(text=" ".join(STORY))])
    assert [part.text.strip() for part in parts] == STORY
