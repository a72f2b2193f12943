"""Tokenizer files in all spellings: read as transformers reads them, and written so that it reads the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from distilrt.text.tokenizer import DistilBertTokenizer
from tests.text.tokenizer_pairs import EVERYTHING, TOY, agree, full, loaded, model_folder, same

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


def write(home: Path, files: dict[str, Any]) -> Path:
    home.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        text = value if isinstance(value, str) else json.dumps(value)
        (home / name).write_text(text, encoding="utf-8")
    return home


@pytest.mark.parametrize("style", ["vocab.txt", "tokenizer.json", "disagreeing tokenizer.json"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_files(tmp_path: Path, variant: str, style: str) -> None:
    write(tmp_path, {"vocab.txt": "\n".join(TOY), **VARIANTS[variant]})
    if style != "vocab.txt":
        source = DistilBertTokenizer(TOY)
        source.save_pretrained(tmp_path / "source")
        saved = json.loads((tmp_path / "source" / "tokenizer.json").read_text(encoding="utf-8"))
        if style != "tokenizer.json":
            saved["normalizer"] |= {"lowercase": False, "strip_accents": True, "handle_chinese_chars": False}
            saved["padding"] = {"strategy": {"Fixed": 8}, "direction": "Left", "pad_to_multiple_of": None}
            saved["padding"] |= {"pad_id": 3, "pad_type_id": 0, "pad_token": "[SEP]"}
            saved["truncation"] = {"direction": "Left", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
            saved["added_tokens"].append(
                {**saved["added_tokens"][0], "id": 16, "content": "<new>", "special": False, "normalized": True}
            )
        write(tmp_path, {"tokenizer.json": saved})
    pair = loaded(tmp_path)
    same(pair)
    ours, reference = pair
    assert agree(pair, PROBES, padding=True, **EVERYTHING)
    ids = ours(PROBES[0])["input_ids"]
    assert ours.decode(ids, skip_special_tokens=True) == reference.decode(ids, skip_special_tokens=True)

    ours.save_pretrained(tmp_path / "ours")
    reference.save_pretrained(tmp_path / "theirs")
    for home in ("ours", "theirs"):
        again = loaded(tmp_path / home)
        same(again)
        same((again[0], reference))
        assert agree((again[0], reference), PROBES, padding=True, **EVERYTHING)


def test_real_folder() -> None:
    same(full())


def test_save_and_reload(tmp_path: Path) -> None:
    ours, reference = full()
    home = tmp_path / "new" / "folder"
    paths = ours.save_pretrained(home)
    assert sorted(Path(path).name for path in paths) == ["tokenizer.json", "tokenizer_config.json", "vocab.txt"]
    assert (home / "vocab.txt").read_text("utf-8").split() == (model_folder() / "vocab.txt").read_text("utf-8").split()
    again = loaded(home)
    same(again)
    same((ours, again[1]))
    same((again[0], reference))
    auto = transformers.AutoTokenizer.from_pretrained(home)
    assert type(auto).__name__ == "DistilBertTokenizer"


def test_subfolder(tmp_path: Path) -> None:
    write(tmp_path / "inner", {"vocab.txt": "\n".join(TOY)})
    assert DistilBertTokenizer.from_pretrained(tmp_path, subfolder="inner").vocab_size == len(TOY)


def test_load_errors(tmp_path: Path) -> None:
    load = DistilBertTokenizer.from_pretrained
    with pytest.raises(OSError, match="nowhere"):
        load(str(tmp_path / "nowhere"))
    with pytest.raises(OSError, match=r"neither tokenizer\.json nor vocab\.txt"):
        load(tmp_path)
    with pytest.raises(OSError, match=r"none\.txt"):
        DistilBertTokenizer(tmp_path / "none.txt")
    (tmp_path / "bad.txt").write_bytes(b"a\n\xff\n")
    with pytest.raises(ValueError, match=r"bad\.txt.*UTF-8"):
        DistilBertTokenizer(tmp_path / "bad.txt")
    with pytest.raises(TypeError, match="vocab must be"):
        DistilBertTokenizer(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="lowercase"):
        load(write(tmp_path / "ok", {"vocab.txt": "\n".join(TOY)}), lowercase=True)
    for text in ("{", "[1]", "5"):
        with pytest.raises(ValueError, match=r"tokenizer_config\.json"):
            load(write(tmp_path / "json", {"vocab.txt": "\n".join(TOY), "tokenizer_config.json": text}))
    for model in ({"type": "BPE", "vocab": {}, "merges": []}, {"type": "Unigram", "vocab": []}):
        with pytest.raises(ValueError, match="WordPiece"):
            load(write(tmp_path / "bpe", {"tokenizer.json": {"model": model, "added_tokens": []}}))
