"""Accelerated sentence-transformers objects against the originals.

Runs with sentence-transformers 6 and, beside transformers 4.57, 5 (`make test-transformers4`).
"""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_transformers
import torch
import transformers

from distilrt import accelerate

TOLERANCE = 1e-5  # of embeddings of length 1
TEXTS = [
    "The cat sat on the mat.",
    "",
    "A feline rested on a rug. " * 9,
    "Stock prices fell sharply today.",
    "ok",
    " ".join(["word"] * 400),  # more than the model reads
    "Zürich ☃",
]
PAIRS = [("how many people live in Berlin?", "Berlin has 3.5 million inhabitants. " * k) for k in (3, 1, 9, 2)]

Folders = Callable[..., Path]


@pytest.fixture(scope="module")
def original(sentence_encoder: Path) -> Any:
    """A trained sentence encoder."""
    return sentence_transformers.SentenceTransformer(str(sentence_encoder), device="cpu")


@pytest.fixture(scope="module")
def fast(original: Any) -> Any:
    """The same, accelerated."""
    return accelerate(original)


def assert_near(ours: Any, theirs: Any, tolerance: float = TOLERANCE) -> None:
    assert type(ours) is type(theirs)
    if isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_near(one, other, tolerance)
    elif isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for name, value in theirs.items():
            if name == "token_embeddings":  # which are zero here and anything there at masked positions
                kept = theirs["attention_mask"].bool()
                assert_near(ours[name][kept], value[kept], tolerance)
            else:
                assert_near(ours[name], value, tolerance)
    elif isinstance(theirs, torch.Tensor | np.ndarray | np.generic):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        difference = np.abs(np.asarray(ours, np.float64) - np.asarray(theirs, np.float64))
        assert difference.max(initial=0) <= tolerance
    else:
        assert ours == theirs


OPTIONS: list[dict[str, Any]] = [
    {},
    {"batch_size": 1},
    {"batch_size": 3, "show_progress_bar": False},
    {"normalize_embeddings": True},
    {"convert_to_tensor": True},
    {"convert_to_numpy": False},
    {"prompt": "query: "},
    {"prompt_name": "passage"},
    {"truncate_dim": 64},
    {"device": "cpu"},
]
if sentence_transformers.__version__ >= "6":  # which mended it
    OPTIONS.append({"output_value": None})


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_encode(original: Any, fast: Any, options: dict[str, Any]) -> None:
    original.prompts["passage"] = "passage: "  # the two share it
    assert_near(fast.encode(TEXTS, **options), original.encode(TEXTS, **options))


@pytest.mark.parametrize("texts", [TEXTS[0], [], np.array(TEXTS[:2])], ids=["str", "empty", "array"])
@pytest.mark.parametrize("options", [{}, {"convert_to_tensor": True}, {"output_value": None}], ids=str)
def test_encode_of_other_kinds(original: Any, fast: Any, texts: Any, options: dict[str, Any]) -> None:
    assert_near(fast.encode(texts, **options), original.encode(texts, **options))


def test_encode_of_tokens(original: Any, fast: Any) -> None:
    ours, theirs = (model.encode(TEXTS, output_value="token_embeddings") for model in (fast, original))
    # Not of length 1: the bound is of the largest.
    assert_near(ours, theirs, TOLERANCE * max(float(rows.abs().max()) for rows in theirs))


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_encode_in_few_bits(original: Any, fast: Any, precision: str) -> None:
    ours, theirs = (model.encode(TEXTS, precision=precision) for model in (fast, original))
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    if "binary" in precision:
        # A number near 0 may fall to either side.
        sure = np.abs(original.encode(TEXTS)) > TOLERANCE
        offset = 128 if precision == "binary" else 0
        bits = [np.unpackbits((x.astype(int) + offset).astype(np.uint8), axis=1) for x in (ours, theirs)]
        assert np.array_equal(bits[0][sure], bits[1][sure])
    else:
        # One at the border of two steps too.
        assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1


def test_queries_documents_and_similarities(original: Any, fast: Any) -> None:
    ours, theirs = fast.encode_query(TEXTS[:2]), original.encode_query(TEXTS[:2])
    assert_near(ours, theirs)
    documents = fast.encode_document(TEXTS[2:])
    assert_near(documents, original.encode_document(TEXTS[2:]))
    assert_near(fast.similarity(ours, documents), original.similarity(ours, documents))
    [[cosine]] = fast.similarity(*(fast.encode([text]) for text in (TEXTS[0], "A feline rested on a rug."))).tolist()
    assert cosine == pytest.approx(0.5530, abs=1e-4)


def test_the_object_is_as_the_original(original: Any, fast: Any, tmp_path: Path) -> None:
    assert issubclass(type(fast), sentence_transformers.SentenceTransformer)
    assert type(fast).__name__ == "SentenceTransformer"
    assert fast.to_transformers() is original
    assert (fast.device, fast.get_max_seq_length()) == (original.device, original.get_max_seq_length())
    assert fast.tokenizer is original.tokenizer
    assert list(fast.state_dict()) == list(original.state_dict())
    assert type(original[0].auto_model).__module__.startswith("transformers.")
    assert fast[0].auto_model.to_transformers() is original[0].auto_model
    assert fast.eval().to("cpu") is fast
    assert not fast.training
    assert str(type(original))[8:-2] in str(type(fast))
    assert pickle.loads(pickle.dumps(type(fast))) is type(fast)
    fast.prompts = {**original.prompts, "own": "mine: "}
    copied = pickle.loads(pickle.dumps(fast))
    assert "own" in copied.prompts
    assert_near(copied.encode(TEXTS), fast.encode(TEXTS), 0.0)
    fast.save_pretrained(str(tmp_path))
    loaded = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu")
    assert_near(loaded.encode(TEXTS), original.encode(TEXTS), 1e-6)
    features = original.tokenize(TEXTS)
    for call in (lambda: fast.train()(features), fast.half):
        with pytest.raises(TypeError, match=r"\.to_transformers\(\)"):
            call()
    assert_near(fast.encode(TEXTS), original.encode(TEXTS))  # encode calls eval()


def test_other_dtypes_and_heads(original: Any) -> None:
    quantized: Any = accelerate(original, dtype="int8")
    assert quantized[0].auto_model.engine.dtype == "int8"
    cosines = (quantized.encode(TEXTS) * original.encode(TEXTS)).sum(axis=1)
    assert cosines.min() > 0.98  # docs/numerics.md: 0.9967 at worst over 500 sentences
    assert accelerate(quantized).to_transformers() is original


@pytest.mark.parametrize("num_labels", [1, 3])
def test_cross_encoder(folder_of: Folders, num_labels: int) -> None:
    folder = folder_of("DistilBertForSequenceClassification", num_labels=num_labels)
    original = sentence_transformers.CrossEncoder(str(folder), device="cpu")
    fast = accelerate(original)
    assert isinstance(fast, sentence_transformers.CrossEncoder)
    assert fast.to_transformers() is original
    several: list[dict[str, Any]] = [{}, {"batch_size": 2}, {"convert_to_tensor": True}, {"apply_softmax": True},
                                     {"activation_fn": torch.nn.Identity()}]  # fmt: skip
    for options in several:
        theirs = original.predict(PAIRS, **options)
        assert_near(fast.predict(PAIRS, **options), theirs, 1e-4 * max(1.0, float(torch.as_tensor(theirs).abs().max())))
        assert_near(fast.predict(PAIRS[0], **options), original.predict(PAIRS[0], **options), 1e-3)
    if num_labels == 1:
        ours, theirs = (model.rank(PAIRS[0][0], [pair[1] for pair in PAIRS]) for model in (fast, original))
        assert [row["corpus_id"] for row in ours] == [row["corpus_id"] for row in theirs]


def test_sparse_encoder(folder_of: Folders) -> None:
    original: Any = sentence_transformers.SparseEncoder(str(folder_of("DistilBertForMaskedLM")), device="cpu")
    ours, theirs = (model.encode(TEXTS).to_dense() for model in (accelerate(original), original))
    assert_near(ours, theirs, TOLERANCE * float(theirs.max()))


@pytest.mark.skipif(sentence_transformers.__version__ < "6", reason="sentence-transformers 5 has none")
@pytest.mark.parametrize("expansion", [None, {"strategy": "fixed", "length": 24, "attend": False}], ids=str)
def test_multi_vector_encoder(folder_of: Folders, expansion: Any) -> None:
    original: Any = sentence_transformers.MultiVectorEncoder(str(folder_of("DistilBertModel")), device="cpu")
    original[0].query_expansion = expansion
    fast = accelerate(original)
    assert_near(fast.encode_query(TEXTS), original.encode_query(TEXTS))
    assert_near(fast.encode_document(TEXTS), original.encode_document(TEXTS))


@pytest.mark.whole
def test_a_pool_of_processes(original: Any, fast: Any) -> None:
    assert_near(fast.encode(TEXTS, device=["cpu", "cpu"]), original.encode(TEXTS))


def test_what_has_no_such_model_inside() -> None:
    words = sentence_transformers.SentenceTransformer(modules=[torch.nn.Identity()], device="cpu")
    with pytest.raises(TypeError, match="this SentenceTransformer has no transformers model inside to accelerate"):
        accelerate(words)


def test_cross_encoder_of_a_bert(folder_of: Folders, tmp_path: Path) -> None:
    shape = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 32}
    config = transformers.BertConfig(**shape, num_labels=1)  # type: ignore[arg-type, call-arg]
    model: Any = transformers.BertForSequenceClassification(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(tmp_path)
    shutil.copy(folder_of("DistilBertModel") / "vocab.txt", tmp_path)
    original: Any = sentence_transformers.CrossEncoder(str(tmp_path), device="cpu")
    pairs = [(TEXTS[0], text) for text in TEXTS]
    assert_near(accelerate(original).predict(pairs), original.predict(pairs))
    assert not np.allclose(original.predict(pairs), original.predict([(b, a) for a, b in pairs]))
