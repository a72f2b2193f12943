"""The tokenizer that a folder names, against `transformers.AutoTokenizer`, which is its specification."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

import distilrt
from distilrt.checkpoint import packed
from distilrt.checkpoint.source import Source
from distilrt.errors import CheckpointError
from distilrt.text.auto_tokenizer import TokenizersBackend, load_tokenizer
from tests.text.tokenizer_pairs import EVERYTHING, FAST, LONG, NAMES, PROBES, TOY, VARIANTS, agree, rust, same, write

TEXTS = ["Hello hello É é a\u0301b", "世界 " + "x" * 150, "[MASK] <new> <s> [CLS]a", "", *PROBES]


def _bare() -> Tokenizer:
    result = Tokenizer(models.WordPiece(LONG, unk_token="[UNK]"))
    result.pre_tokenizer = pre_tokenizers.Whitespace()
    return result


def _padded() -> Tokenizer:
    result = rust()
    result.enable_truncation(4, direction="left")
    result.enable_padding(length=8, direction="left", pad_id=0, pad_token="[PAD]")
    result.add_tokens([AddedToken("<new>", lstrip=True), AddedToken("Hello", normalized=True)])
    return result


BYTE_PAIRS = models.BPE({"h": 0, "e": 1, "he": 2, "<unk>": 3}, [("h", "e")], unk_token="<unk>")
RUST: dict[str, Callable[[], Tokenizer]] = {
    "cased": rust,
    "long words": lambda: rust(models.WordPiece(LONG, unk_token="[UNK]", max_input_chars_per_word=200)),
    "other prefix": lambda: rust(models.WordPiece(LONG, unk_token="[UNK]", continuing_subword_prefix="@@")),
    "NFC": lambda: rust(normalizer=normalizers.NFC(), pre_tokenizer=pre_tokenizers.WhitespaceSplit()),
    "no Chinese": lambda: rust(normalizer=normalizers.BertNormalizer(handle_chinese_chars=False)),
    "nothing around": _bare,
    "padding, truncation, added tokens": _padded,
    "byte pairs": lambda: rust(BYTE_PAIRS),
}
CONFIGS: dict[str, dict[str, Any]] = {
    "PreTrainedTokenizerFast": FAST,
    "TokenizersBackend": {**FAST, "tokenizer_class": "TokenizersBackend", "model_max_length": 9},
    "no names": {"tokenizer_class": "PreTrainedTokenizerFast"},
    "other names": {**FAST, "cls_token": "<s>", "bos_token": "<s>", "eos_token": "[SEP]", "mask_token": "<mask>"},
}


def folder(home: Path, tokenizer: Tokenizer | None, config: dict[str, Any] | None, **model: Any) -> Path:
    write(home, {"config.json": {"model_type": "distilbert", **model}})
    if tokenizer is not None:
        tokenizer.save(str(home / "tokenizer.json"))
    return home if config is None else write(home, {"tokenizer_config.json": config})


def check(home: Path) -> Any:
    """Our tokenizer of a folder, after its comparison with the reference's."""
    pair = load_tokenizer(home), transformers.AutoTokenizer.from_pretrained(home)
    if json.loads((home / "config.json").read_text()).get("model_type") == "bert":
        assert pair[0].model_input_names == pair[1].model_input_names
    # BERT's own class also returns token_type_ids, which a DistilBERT does not take.
    pair[1].model_input_names = pair[0].model_input_names
    same(pair)
    assert agree(pair, TEXTS, TEXTS[::-1], **EVERYTHING)
    assert agree(pair, TEXTS, truncation=True, max_length=5, return_overflowing_tokens=True, **EVERYTHING)
    if pair[0].pad_token is not None:
        assert agree(pair, TEXTS, padding=True, **EVERYTHING)
    ids = pair[0](TEXTS)["input_ids"]
    for skip in (False, True):
        assert pair[0].batch_decode(ids, skip_special_tokens=skip) == pair[1].batch_decode(
            ids, skip_special_tokens=skip
        )
    assert pair[0].special_tokens_map == pair[1].special_tokens_map
    return pair[0]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("source", RUST)
def test_tokenizer_json_as_it_stands(tmp_path: Path, source: str, config: str) -> None:
    ours = check(folder(tmp_path, RUST[source](), CONFIGS[config]))
    assert isinstance(ours, TokenizersBackend)
    ours.save_pretrained(tmp_path / "saved")
    again = check(folder(tmp_path / "saved", None, None))
    for twin in (again, pickle.loads(pickle.dumps(ours))):
        assert twin(TEXTS) == ours(TEXTS)
        assert twin.special_tokens_map == ours.special_tokens_map


@pytest.mark.parametrize("variant", sorted(set(VARIANTS) - {"extra by name"}))
def test_files_beside_tokenizer_json(tmp_path: Path, variant: str) -> None:
    files = dict(VARIANTS[variant])
    config = {**FAST, **files.pop("tokenizer_config.json", {})}
    home = write(folder(tmp_path, rust(models.WordPiece(TOY, unk_token="[UNK]")), config), files)
    pair = load_tokenizer(home), transformers.AutoTokenizer.from_pretrained(home)
    same(pair)
    assert agree(pair, PROBES, padding=True, **EVERYTHING)


@pytest.mark.parametrize(
    ("config", "model"),
    [
        (None, {}),
        (NAMES, {}),
        ({"do_lower_case": False, **NAMES}, {}),
        ({"tokenizer_class": "DistilBertTokenizer"}, {}),
        ({"tokenizer_class": "DistilBertTokenizerFast", "strip_accents": False}, {}),
        ({"tokenizer_class": "BertTokenizer", "tokenize_chinese_chars": False}, {}),
        ({"tokenizer_class": "ElectraTokenizerFast"}, {}),
        ({"tokenizer_class": "BertTokenizerFast"}, {"model_type": "bert"}),
        (NAMES, {"model_type": "bert"}),
        (None, {"model_type": "bert"}),
        ({"tokenizer_class": "DistilBertTokenizer"}, {"model_type": "bert"}),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, {"model_type": "bert"}),
        ({"tokenizer_class": "BertTokenizer", "model_input_names": ["input_ids"]}, {"model_type": "bert"}),
        (NAMES, {"tokenizer_class": "BertTokenizer"}),
        (NAMES, {"tokenizer_class": "PreTrainedTokenizerFast"}),
    ],
)
def test_the_class_that_files_name(tmp_path: Path, config: Any, model: dict[str, Any]) -> None:
    ours = check(folder(tmp_path, rust(), config, **model))
    named = [fields.get("tokenizer_class") for fields in (config or {}, model)]
    assert isinstance(ours, TokenizersBackend) == ("PreTrainedTokenizerFast" in named)


def test_refused_classes(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"RobertaTokenizer.*PreTrainedTokenizerFast"):
        load_tokenizer(folder(tmp_path, rust(), {"tokenizer_class": "RobertaTokenizerFast"}))
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json: tokenizer_class"):
        load_tokenizer(folder(tmp_path, rust(), {"tokenizer_class": [1]}))
    home = write(folder(tmp_path / "text", None, FAST), {"vocab.txt": "\n".join(TOY)})
    with pytest.raises(OSError, match=r"no tokenizer\.json"):
        load_tokenizer(home)
    lost = rust(models.WordPiece({"a": 0}, unk_token="[LOST]"))
    with pytest.raises(CheckpointError, match=r"a character that the vocabulary lacks"):
        load_tokenizer(folder(tmp_path / "lost", lost, FAST))


def test_everything_that_loads_a_model_follows(folder_of: Callable[..., Path], tmp_path: Path) -> None:
    home = tmp_path / "cased"
    shutil.copytree(folder_of("DistilBertForSequenceClassification"), home)
    folder(home, rust(), FAST, **json.loads((home / "config.json").read_text()))
    theirs = transformers.pipeline("text-classification", str(home), device="cpu")(TEXTS[0])[0]
    wanted = transformers.AutoTokenizer.from_pretrained(home)(TEXTS[0])["input_ids"]
    model = distilrt.DistilBertForSequenceClassification.from_pretrained(home)
    packed.write(tmp_path / "packed", packed.of(model), Source(home))
    for source in (home, tmp_path / "packed"):
        with distilrt.Engine(source, num_threads=1) as engine:
            assert engine.tokenizer(TEXTS[0])["input_ids"] == wanted
            ours = engine("text-classification", TEXTS[0])
        assert distilrt.pipeline("text-classification", source).tokenizer(TEXTS[0])["input_ids"] == wanted
        assert ours["label"] == theirs["label"]
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)
    kept = distilrt.DistilBertTokenizer.from_pretrained(home)
    assert kept(TEXTS[0])["input_ids"] == transformers.DistilBertTokenizer.from_pretrained(home)(TEXTS[0])["input_ids"]
    assert kept(TEXTS[0])["input_ids"] != wanted
