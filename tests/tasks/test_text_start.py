"""engine/tasks/text_start.py: the start of a long text answers as the whole text."""

from __future__ import annotations

from pathlib import Path

import pytest

from distilrt.tasks.text_start import start_of
from distilrt.text.auto_tokenizer import load_tokenizer
from distilrt.text.tokenizer import DistilBertTokenizer

WORDS = "A word, then unaffable naïve 東京 🎉 [MASK] don't ́́ antidisestablishmentarianism! "
TEXTS = {
    "prose": WORDS * 400,
    "punctuation": "!" * 20_000,
    "spaces": " " * 20_000 + WORDS * 200,
    "one word": "x" * 20_000 + " " + WORDS * 200,
    "accents": "e" + "́" * 20_000 + WORDS * 200,
    "masks": "[MASK]" * 4_000,
    "characters of no word": "東" * 20_000,
}


@pytest.fixture(scope="module")
def tokenizer(sentence_encoder: Path) -> DistilBertTokenizer:
    return load_tokenizer(sentence_encoder)


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("tokens", [1, 17, 65])
def test_the_first_tokens_are_those_of_the_text(tokenizer: DistilBertTokenizer, name: str, tokens: int) -> None:
    text = TEXTS[name]
    for shift in range(0, 24, 5):  # so that the cut falls on every part of a word
        shifted = "z" * shift + " " + text
        start = start_of(tokenizer, shifted, tokens)
        assert shifted.startswith(start)
        short = tokenizer(start, truncation=True, max_length=tokens + 2)
        assert short.input_ids == tokenizer(shifted, truncation=True, max_length=tokens + 2).input_ids


def test_little_of_a_long_text_is_read(tokenizer: DistilBertTokenizer) -> None:
    assert len(start_of(tokenizer, "!" * 1_000_000, 513)) < 10_000
    assert len(start_of(tokenizer, WORDS * 20_000, 513)) < 20_000
    assert start_of(tokenizer, WORDS, 513) == WORDS


@pytest.mark.parametrize("cut", ["longest_first", "only_first", "only_second"])
def test_pairs_are_cut_alike(tokenizer: DistilBertTokenizer, cut: str) -> None:
    for first, second in (("short", "prose"), ("prose", "punctuation"), ("masks", "short")):
        texts = [TEXTS.get(name, "a few words")[:6000] for name in (first, second)]  # longer ones take minutes to cut
        if (cut, first) == ("only_first", "short") or (cut, second) == ("only_second", "short"):
            continue  # there is nothing to cut
        if cut != "longest_first":
            texts = [
                text if len(text) < 20 or (cut == "only_first") == (i == 0) else "a few words"
                for i, text in enumerate(texts)
            ]
        starts = [start_of(tokenizer, text, 65) for text in texts]
        found, exact = (tokenizer(*pair, truncation=cut, max_length=64) for pair in (starts, texts))
        assert found.input_ids == exact.input_ids
