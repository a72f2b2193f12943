"""engine/bench/samples.py: texts have the tokens that they should, of every head, and bad files are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from distilrt.bench import samples
from distilrt.text.tokenizer import DistilBertTokenizer


@pytest.mark.parametrize(("workload", "texts", "length", "batch"), [("1x16", 64, 16, 1), ("8x64", 64, 64, 8),
                                                                    ("100x4", 100, 4, 100)])  # fmt: skip
def test_fixed_shapes(classifier: str, workload: str, texts: int, length: int, batch: int) -> None:
    made = samples.make(workload, classifier)
    assert (made.lengths, made.batch, made.padding) == ((length,) * texts, batch, 0)
    tokenizer = DistilBertTokenizer.from_pretrained(classifier)
    assert {len(ids) for ids in tokenizer(list(made.inputs))["input_ids"]} == {length}
    assert len(set(made.inputs)) > 0.9 * texts
    assert made == samples.make(workload, classifier)


def test_mixes(classifier: str) -> None:
    """This checkpoint reads 64 tokens, which cuts the longer ones."""
    made = {name: samples.make(name, classifier) for name in samples.MIXES}
    means = [sum(made[name].lengths) / len(made[name].lengths) for name in ("queries", "mixed", "reviews")]
    assert means == sorted(means)
    mixed = made["mixed"]
    assert (len(mixed.inputs), min(mixed.lengths) >= 4, max(mixed.lengths)) == (256, True, 64)
    facts = mixed.describe()
    assert (facts["workload"], facts["task"], facts["texts"]) == ("mixed", "text-classification", 256)
    assert facts["p5_tokens"] < facts["p50_tokens"] < facts["p95_tokens"]


def test_padding_is_of_batches_in_order() -> None:
    made = samples.Samples("x", "text-classification", {}, ("a",) * 5, (2, 4, 3, 3, 9), 2)
    assert made.padding == pytest.approx(1 - 21 / (8 + 6 + 9))


def test_pooling_is_the_checkpoints(sentence_encoder: Path) -> None:
    assert samples.make("1x8", str(sentence_encoder)).params["pooling"] == "sentence"


def test_multiple_choice_is_not_measured(folder_of: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="no task is benchmarked for a DistilBertForMultipleChoice"):
        samples.make("1x8", str(folder_of("DistilBertForMultipleChoice")))


def test_file(classifier: str, tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("One text.\n\n  \nAnother, naïve 東京\n" + "long " * 500)
    made = samples.make("", classifier, file=file)
    assert made.inputs == ("One text.", "Another, naïve 東京", ("long " * 500).strip())
    assert (made.name, made.batch, made.lengths[2]) == ("texts.txt", 8, 64)


@pytest.mark.parametrize(("content", "words"), [(b"", "has no text"), (b"\n \n", "has no text"),
                                                (b"a\n\xff\n", "must be UTF-8")])  # fmt: skip
def test_bad_files(classifier: str, tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "texts").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        samples.make("", classifier, file=tmp_path / "texts")


@pytest.mark.parametrize(("workload", "words"), [("8", "BATCHxLENGTH"), ("0x8", "BATCHxLENGTH"), ("mix", "queries"),
                                                 ("1x65", "from 4 to 64"), ("1x3", "from 4 to 64")])  # fmt: skip
def test_bad_workloads(classifier: str, workload: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        samples.make(workload, classifier)
