"""Batches of rows, in plain loops and in a real Ray, against distilrt.pipeline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import distilrt
from distilrt.scale.ray_data import Predictor

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "ran",
    "slept",
    "quickly",
    "in",
    "under",
    "red",
    "blue",
    "house",
    "and",
    "but",
    "while",
    "it",
    "rained",
]
CLASSIFIER = "DistilBertForSequenceClassification"


def texts(rng: np.random.Generator, number: int) -> list[str]:
    return [" ".join(rng.choice(WORDS, rng.integers(1, 30))) for _ in range(number)]


def column(values: list[Any]) -> np.ndarray:
    """As Ray has texts and what is not of one type."""
    array = np.empty(len(values), object)
    array[:] = values
    return array


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_labels(backend: str, folder_of: Callable[..., Path], rng: np.random.Generator) -> None:
    folder, rows = folder_of(CLASSIFIER), texts(rng, 100)
    expected = distilrt.pipeline("text-classification", folder, backend=backend)(rows)
    predict = Predictor("text-classification", str(folder), backend=backend)
    found = predict({"text": column(rows), "id": np.arange(100)})
    assert list(found) == ["text", "id", "label", "score", "error"]
    assert found["label"].tolist() == [answer["label"] for answer in expected]
    assert found["score"].tolist() == [answer["score"] for answer in expected]
    assert found["id"].tolist() == list(range(100))
    assert set(found["error"].tolist()) == {""}


def test_bad_rows(folder_of: Callable[..., Path]) -> None:
    predict = Predictor("text-classification", folder_of(CLASSIFIER))
    found = predict({"text": column(["good", None, "long " * 100, "fine"])})
    assert [bool(error) for error in found["error"]] == [False, True, True, False]
    assert "string" in found["error"][1]
    assert found["label"].tolist()[1:3] == ["", ""]
    assert np.isnan(found["score"]).tolist() == [False, True, True, False]
    alone = predict({"text": column([None])})
    assert {name: values.dtype.kind for name, values in alone.items()} == {
        "text": "O", "label": "U", "score": "f", "error": "U"
    }  # fmt: skip
    assert {name: len(values) for name, values in predict({"text": []}).items()} == dict.fromkeys(alone, 0)


def test_vectors(sentence_encoder: Path, folder_of: Callable[..., Path], rng: np.random.Generator) -> None:
    rows = texts(rng, 20)
    expected = distilrt.pipeline("feature-extraction", sentence_encoder)(rows, pooling="mean", normalize=True)
    found = Predictor("feature-extraction", sentence_encoder)({"text": [*rows, None]})
    assert found["embedding"].shape == (21, 384)
    assert found["embedding"].dtype == np.float32
    np.testing.assert_array_equal(found["embedding"][:20], np.array(expected, np.float32))
    assert np.isnan(found["embedding"][20]).all()
    plain = folder_of("DistilBertModel")  # without sentence-transformers files
    for params, pooling in (({}, "mean"), ({"pooling": "cls"}, "cls")):
        expected = distilrt.pipeline("feature-extraction", plain)(rows, pooling=pooling)
        found = Predictor("feature-extraction", plain, params=params)({"text": rows})
        np.testing.assert_array_equal(found["embedding"], np.array(expected, np.float32))
    with pytest.raises(ValueError, match="one vector of each text"):
        Predictor("feature-extraction", plain, params={"pooling": None})


def test_several_columns(folder_of: Callable[..., Path]) -> None:
    folder = folder_of("DistilBertForQuestionAnswering")
    questions, contexts = ["Who ran?", "Where?", "What?"], ["The cat ran.", "In the red house.", ""]
    answer = distilrt.pipeline("question-answering", folder)
    columns = ("question", "context")
    found = Predictor("question-answering", folder, column=columns)({"question": questions, "context": contexts})
    for i in range(2):
        expected = answer(question=questions[i], context=contexts[i])
        assert {name: found[name][i] for name in expected} == expected
    assert found["error"][2]
    assert (found["start"][2], found["end"][2]) == (-1, -1)
    listed = Predictor("question-answering", folder, column=columns, params={"top_k": 2})
    assert listed({"question": questions[:1], "context": contexts[:1]})["answer"].tolist() == [
        answer(question=questions[0], context=contexts[0], top_k=2)
    ]
    similar = Predictor("sentence-similarity", folder_of("DistilBertModel"), column=("source_sentence", "sentences"))
    sentences = column([np.array(["a cat", "a dog"], object)])  # as Ray has lists
    assert len(similar({"source_sentence": ["a cat"], "sentences": sentences})["answer"][0]) == 2


def test_answers_of_other_forms(folder_of: Callable[..., Path]) -> None:
    folder = folder_of("DistilBertForTokenClassification")
    rows = ["The cat ran.", "In Paris."]
    found = Predictor("token-classification", folder)({"text": column([*rows, None])})
    assert found["answer"].tolist() == [*distilrt.pipeline("token-classification", folder)(rows), None]
    best = Predictor("text-classification", folder_of(CLASSIFIER), params={"top_k": 1})
    assert isinstance(best({"text": ["a"]})["answer"][0], list)


def test_what_is_not_allowed(folder_of: Callable[..., Path]) -> None:
    folder = folder_of(CLASSIFIER)
    with pytest.raises(ValueError, match=r"no column 'text'; there are body; choose with column="):
        Predictor("text-classification", folder)({"body": ["a"]})
    with pytest.raises(ValueError, match="nonsense"):
        Predictor("text-classification", folder, params={"nonsense": 1})
    with pytest.raises(ValueError, match="task must be one of"):
        Predictor("nonsense", folder)
    model = distilrt.DistilBertForSequenceClassification.from_pretrained(folder)
    with pytest.raises(TypeError, match="tokenizer"):
        Predictor("text-classification", model)


def test_a_dataset(cluster: str, sentence_encoder: Path, folder_of: Callable[..., Path], tmp_path: Path) -> None:
    """2,000 rows, of which some are bad, by two actors; and what they wrote can be read."""
    import ray

    ray.data.DataContext.get_current().enable_progress_bars = False
    rng = np.random.default_rng(1)
    rows: list[Any] = texts(rng, 2000)
    bad = sorted(rng.choice(2000, 20, replace=False).tolist())
    for i in bad:
        rows[i] = "long " * 100
    good = [i for i in range(2000) if i not in bad]
    dataset = ray.data.from_items([{"id": i, "text": text} for i, text in enumerate(rows)])

    def mapped(name: str, task: str, model: Path) -> Any:
        found = dataset.map_batches(
            Predictor, fn_constructor_kwargs={"task": task, "model": str(model)}, batch_size=128, concurrency=2,
            num_cpus=1,
        )  # fmt: skip
        found.write_parquet(str(tmp_path / name))
        return ray.data.read_parquet(str(tmp_path / name)).sort("id")

    folder = folder_of(CLASSIFIER)
    expected = distilrt.pipeline("text-classification", folder, num_threads=1)([rows[i] for i in good])
    found = mapped("labels", "text-classification", folder).take_all()
    assert [row["id"] for row in found] == list(range(2000))
    assert [i for i, row in enumerate(found) if row["error"]] == bad
    assert [{name: found[i][name] for name in ("label", "score")} for i in good] == expected

    folder = folder_of("DistilBertModel")
    vectors = distilrt.pipeline("feature-extraction", folder, num_threads=1)([rows[i] for i in good], pooling="mean")
    found = mapped("vectors", "feature-extraction", folder)
    assert "shape=(48,)" in str(found.schema().types)
    embeddings = np.stack([row["embedding"] for row in found.take_all()])
    np.testing.assert_array_equal(embeddings[good], np.array(vectors, np.float32))
    assert np.isnan(embeddings[bad]).all()
