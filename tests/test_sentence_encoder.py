"""`distilrt.SentenceEncoder` against sentence-transformers' class: a real model, others, every option."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.sparse_encoder.modules import SpladePooling

import distilrt
from distilrt.errors import CheckpointError, InvalidInput, InvalidParameter
from distilrt.sentence_encoder import SentenceEncoder

Pair = tuple[SentenceEncoder, Any]
TEXTS = ["The cat sat on the mat.", "", "A feline rested on a rug. " * 9, "ok", " ".join(["word"] * 400), "Zürich ☃"]
PROMPTS = {"query": "find me: ", "passage": "it says: "}
FOLDERS = ["all-MiniLM-L6-v2", "plain", "BERT", "Dense", "cls, prompt left out"]


@pytest.fixture(scope="module", params=FOLDERS)
def pair(
    request: pytest.FixtureRequest,
    sentence_encoder: Path,
    folder_of: Callable[..., Path],
    bert_of: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Pair:
    """An encoder of a folder, and sentence-transformers' own."""
    plain = {"all-MiniLM-L6-v2": sentence_encoder, "BERT": bert_of("BertModel")}
    folder = plain.get(request.param, folder_of("DistilBertModel"))
    if request.param in FOLDERS[3:]:
        torch.manual_seed(0)
        modules: list[Any] = [Transformer(str(folder))]
        if request.param == "Dense":
            modules += [Pooling(48, ("max", "mean")), Dense(96, 20), Normalize()]
            options: dict[str, Any] = {"truncate_dim": 12, "similarity_fn_name": "dot"}
        else:
            modules.append(Pooling(48, "cls", include_prompt=False))
            options = {"default_prompt_name": "query", "similarity_fn_name": "manhattan"}
        folder = tmp_path_factory.mktemp("st")
        SentenceTransformer(modules=modules, device="cpu", prompts=PROMPTS, **options).save(str(folder))
    return SentenceEncoder(folder), SentenceTransformer(str(folder), device="cpu")


def assert_near(ours: Any, theirs: Any, tolerance: float = 1e-5) -> None:
    """Equal kinds and shapes, and numbers that differ by so much of the largest."""
    if isinstance(theirs, list):
        assert isinstance(ours, list)
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_near(one, other, tolerance)
        return
    assert type(ours) is type(theirs)
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert np.abs(a - b).max(initial=0) <= tolerance * max(1, np.abs(b).max(initial=0))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_size": 1},
        {"show_progress_bar": True, "batch_size": 4},
        {"normalize_embeddings": True},
        {"normalize_embeddings": np.True_},
        {"convert_to_tensor": True},
        {"convert_to_numpy": False},
        {"prompt": "query: "},
        {"prompt_name": "query"},
        {"truncate_dim": 7, "normalize_embeddings": True},
        {"truncate_dim": 1000},
        {"device": "cpu"},
        {"output_value": "token_embeddings", "convert_to_numpy": False},
        {"output_value": "token_embeddings", "convert_to_tensor": True, "prompt_name": "query"},
    ],
    ids=str,
)
def test_encode(pair: Pair, options: dict[str, Any]) -> None:
    ours, theirs = pair
    for texts in (TEXTS, tuple(TEXTS[:2]), TEXTS[0]):
        assert_near(ours.encode(texts, **options), theirs.encode(texts, **options))


def test_queries_documents_and_similarities(pair: Pair) -> None:
    ours, theirs = pair
    queries, documents = ours.encode_query(TEXTS[:3]), ours.encode_document(TEXTS[3:])
    assert_near(queries, theirs.encode_query(TEXTS[:3]))
    assert_near(documents, theirs.encode_document(TEXTS[3:]))
    assert ours.similarity_fn_name == theirs.similarity_fn_name
    for name in ("cosine", "dot", "euclidean", "manhattan", theirs.similarity_fn_name):
        ours.similarity_fn_name = theirs.similarity_fn_name = name
        for method in ("similarity", "similarity_pairwise"):
            wanted = getattr(theirs, method)(queries, documents)
            assert_near(getattr(ours, method)(queries, documents), wanted.numpy())
            assert_near(getattr(ours, method)(torch.tensor(queries), list(documents)), wanted)
        assert_near(ours.similarity(queries[0], documents), theirs.similarity(queries[0], documents).numpy())


def test_precisions(pair: Pair) -> None:
    ours, theirs = pair
    whole = theirs.encode(TEXTS)
    sure = np.abs(whole) > 1e-5 * np.abs(whole).max()  # a number near 0 may fall to either side
    for precision in ("float32", "int8", "uint8", "binary", "ubinary"):
        found, wanted = (model.encode(TEXTS, precision=precision) for model in pair)
        assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
        if precision == "float32":
            assert_near(found, wanted)
        elif "binary" in precision:
            offset = 128 if precision == "binary" else 0
            bits = [np.unpackbits((x.astype(int) + offset).astype(np.uint8), axis=1)[:, : whole.shape[1]]
                    for x in (found, wanted)]  # fmt: skip
            assert np.array_equal(bits[0][sure], bits[1][sure])
        else:
            assert np.abs(found.astype(int) - wanted.astype(int)).max() <= 1  # at the border of two steps
    rows = ours.encode(TEXTS[:2], prompt="", output_value="token_embeddings", precision="uint8")
    assert [len(each) for each in rows] == [len(ours.tokenizer(text)["input_ids"]) for text in TEXTS[:2]]
    assert {each.dtype for each in rows} == {np.dtype(np.uint8)}
    assert (min(each.min() for each in rows), max(each.max() for each in rows)) == (0, 255)
    assert ours.encode(TEXTS[0], precision="binary").dtype == np.int8
    with pytest.raises(InvalidParameter, match="one alone has no range"):
        ours.encode(TEXTS[:1], precision="int8")


def test_what_it_is(pair: Pair) -> None:
    ours, theirs = pair
    assert ours.max_seq_length == theirs.max_seq_length
    assert ours.get_embedding_dimension() == theirs.get_embedding_dimension()
    assert ours.get_sentence_embedding_dimension() == ours.encode(["a"]).shape[1]
    assert (ours.prompts, ours.default_prompt_name) == (theirs.prompts, theirs.default_prompt_name)
    assert ours.truncate_dim == theirs.truncate_dim
    assert ours.device == theirs.device
    assert ours.to("cpu").eval() is ours
    text = "Hello, World"
    assert ours.tokenizer(text)["input_ids"] == theirs.tokenizer(text)["input_ids"]
    copied = pickle.loads(pickle.dumps(ours))
    assert np.array_equal(copied.encode(TEXTS), ours.encode(TEXTS))


def test_other_ways_to_give_nothing_and_texts(pair: Pair) -> None:
    ours, theirs = pair
    assert ours.encode([]).shape == theirs.encode([]).shape
    assert ours.encode([], convert_to_tensor=True).shape == theirs.encode([], convert_to_tensor=True).shape
    assert ours.encode([], output_value="token_embeddings") == []
    assert np.array_equal(ours.encode(np.array(TEXTS)), ours.encode(text for text in TEXTS))
    for method in ("encode", "encode_query", "encode_document"):
        named = getattr(ours, method)(inputs=TEXTS)
        assert np.array_equal(named, getattr(ours, method)(sentences=TEXTS))
        assert_near(named, getattr(theirs, method)(inputs=TEXTS))


def test_options_in_place_of_the_folder_s(sentence_encoder: Path) -> None:
    options: dict[str, Any] = {"prompts": {"query": "Q: ", "mine": "M: "}, "default_prompt_name": "mine",
                               "truncate_dim": 32, "similarity_fn_name": "euclidean"}  # fmt: skip
    ours = SentenceEncoder(sentence_encoder, device="cpu", **options)
    theirs = SentenceTransformer(str(sentence_encoder), device="cpu", **options)
    ours.max_seq_length = theirs.max_seq_length = 9
    for method in ("encode", "encode_query", "encode_document"):
        assert_near(getattr(ours, method)(TEXTS), getattr(theirs, method)(TEXTS))
    vectors = ours.encode(TEXTS)
    assert_near(ours.similarity(vectors, vectors), theirs.similarity(vectors, vectors).numpy(), 1e-3)
    halves = vectors.astype(np.float16)
    assert_near(ours.similarity(halves, halves), theirs.similarity(halves, halves).numpy(), 1e-3)
    ours.prompts["mine"] = theirs.prompts["mine"] = "other: "
    ours.truncate_dim = theirs.truncate_dim = None
    assert_near(ours.encode(TEXTS), theirs.encode(TEXTS))


def test_narrow_dtypes_and_the_packed_folder(sentence_encoder: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from distilrt.cli import app

    packed = ["pack", str(sentence_encoder), str(tmp_path / "packed"), "--dtype", "int8"]
    assert CliRunner().invoke(app(), packed).exit_code == 0
    exact = SentenceEncoder(sentence_encoder).encode(TEXTS)
    for ours in (SentenceEncoder(sentence_encoder, dtype="int8"), SentenceEncoder(tmp_path / "packed")):
        assert (ours.dtype, ours.max_seq_length) == ("int8", 256)
        assert ours.similarity_pairwise(ours.encode(TEXTS), exact).min() > 0.98


def test_neither_torch_nor_transformers_is_imported(sentence_encoder: Path) -> None:
    code = (
        "import sys, distilrt; model = distilrt.SentenceEncoder(sys.argv[1]); a = model.encode(['a', 'b c'])\n"
        "model.encode_query('a', output_value='token_embeddings', normalize_embeddings=True)\n"
        "model.similarity(a, model.encode_document(['c']))\n"
        "model.encode(['a', 'b'], precision='int8', show_progress_bar=False)\n"
        "print({'torch', 'transformers', 'sentence_transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, sentence_encoder], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_value": None}, "output_value must be one of sentence_embedding, token_embeddings, found None"),
        ({"precision": "float16"}, "precision must be one of float32, int8, uint8, binary, ubinary, found 'float16'"),
        ({"device": ["cpu", "cpu"]}, "encode computes in this process"),
        ({"pool": {}}, "encode computes in this process"),
        ({"chunk_size": 9}, "encode computes in this process"),
        ({"device": "cuda:3"}, "can't be moved to 'cuda:3'"),
        ({"prompt_name": "nowhere"}, "there is no prompt 'nowhere'; there are query, document"),
        ({"prompt": 1}, "prompt must be a string, found 1"),
        ({"batch_size": 0}, "batch_size must be None or an integer of at least 1, found 0"),
        ({"truncate_dim": 0}, "truncate_dim must be None or an integer of at least 1, found 0"),
    ],
    ids=str,
)
def test_options_that_are_refused(sentence_encoder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SentenceEncoder(sentence_encoder).encode(TEXTS, **options)


def test_other_refusals(sentence_encoder: Path, folder_of: Callable[..., Path], tmp_path: Path) -> None:
    ours = SentenceEncoder(sentence_encoder)
    for inputs, message in [(None, "found NoneType"), ({"text": "a"}, "found dict"), (["a", 3], "found int"),
                            ([("a", "b")], "found tuple"), ([[1, 2]], "found list"), (b"a", "found bytes"),
                            ("\ud800", "the text has half a surrogate pair at character 0")]:  # fmt: skip
        with pytest.raises(InvalidInput, match=message):
            ours.encode(inputs)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=r"one width, found shapes \[2, 384\] and \[1, 3\]"):
        ours.similarity(ours.encode(["a", "b"]), np.zeros((1, 3)))
    with pytest.raises(InvalidInput, match=r"as many in both, found shapes \[2, 384\] and \[3, 384\]"):
        ours.similarity_pairwise(ours.encode(["a", "b"]), ours.encode(["a", "b", "c"]))
    with pytest.raises(InvalidInput, match=r"must be vectors, as encode makes them of texts, found \['a', 'b'\]"):
        ours.similarity(["a", "b"], ours.encode(["a"]))
    for length in (1, 513, "9"):
        with pytest.raises(InvalidParameter, match="max_seq_length must be an integer of 2 to 512"):
            ours.max_seq_length = length  # type: ignore[assignment]
    bad: list[tuple[dict[str, Any], str]] = [
        ({"similarity_fn_name": "maxsim"}, "similarity_fn_name must be one of cosine, dot"),
        ({"default_prompt_name": "nowhere"}, "there is no prompt 'nowhere'"),
        ({"truncate_dim": "9"}, "truncate_dim must be None or an integer"),
        ({"device": "mps"}, "device must be 'cpu', -1, 'cuda' or the number of a CUDA device, found 'mps'"),
    ]
    for options, message in bad:
        with pytest.raises(InvalidParameter, match=message):
            SentenceEncoder(sentence_encoder, **options)
    with pytest.raises(TypeError, match="model_name_or_path must be a folder or a hub id, found DistilBertModel"):
        SentenceEncoder(distilrt.DistilBertModel.from_pretrained(sentence_encoder))  # type: ignore[arg-type]
    transformer = Transformer(str(folder_of("DistilBertForMaskedLM")), transformer_task="fill-mask")
    SparseEncoder(modules=[transformer, SpladePooling()], device="cpu").save(str(tmp_path))
    with pytest.raises(CheckpointError, match=r"makes no dense vectors: .* as DistilBertForMaskedLM; give it to"):
        SentenceEncoder(tmp_path)
    (tmp_path / "modules.json").write_text(json.dumps([{"path": "", "type": "sentence_transformers.models.Router"}]))
    with pytest.raises(CheckpointError, match="which is not supported"):
        SentenceEncoder(tmp_path)
