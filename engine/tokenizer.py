"""The DistilBERT tokenizer: text to WordPiece ids and back, over the Rust library `tokenizers`.

It takes the decisions that `transformers.DistilBertTokenizer` takes about vocabulary files, special tokens, padding
and truncation, and knows nothing of models, devices or where files lie (`distilrt.checkpoint` finds those).

A tokenizer can be shared by any number of threads. The Rust object holds padding and truncation as settings, so each
combination gets an object of its own, set up before its first use and never changed after; they share one vocabulary
and cost microseconds to make.
"""

from __future__ import annotations

import json
import operator
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy.typing as npt
from tokenizers import AddedToken, Encoding, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

from distilrt.encoding import BatchEncoding, array_kind, as_lists, as_tensors, check_texts

Texts = str | Sequence[Any] | npt.NDArray[Any]
Token = str | AddedToken

_UNLIMITED = int(1e30)
_LARGEST_LIMIT = int(1e20)  # a model_max_length above this means no limit
_MAX_BACKENDS = 64
_PADDING: dict[Any, str] = {False: "", "do_not_pad": "", True: "longest"} | {s: s for s in ("longest", "max_length")}
_TRUNCATION: dict[Any, str] = {None: "", False: "", "do_not_truncate": "", True: "longest_first"} | {
    s: s for s in ("longest_first", "only_first", "only_second")
}
_SPECIAL_NAMES = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_OPTIONS = (
    *("do_lower_case", "tokenize_chinese_chars", "strip_accents", "split_special_tokens", "extra_special_tokens"),
    *("clean_up_tokenization_spaces", "model_max_length", "model_input_names", "padding_side", "truncation_side"),
)
_CLEAN_UP = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")  # applied in this order


class DistilBertTokenizer:
    """Tokenizer of the DistilBERT family, with the results of `transformers.DistilBertTokenizer`.

    `model_max_length`, `padding_side`, `truncation_side` and `clean_up_tokenization_spaces` are defaults that may be
    assigned; all else, the special tokens included, is fixed once built.
    """

    cls_token: str
    cls_token_id: int
    sep_token: str
    sep_token_id: int
    unk_token: str
    unk_token_id: int
    pad_token: str | None
    pad_token_id: int | None
    mask_token: str | None
    mask_token_id: int | None

    def __init__(
        self,
        vocab: str | PathLike[str] | Mapping[str, int],
        *,
        do_lower_case: bool = True,
        unk_token: Token = "[UNK]",
        sep_token: Token = "[SEP]",
        pad_token: Token | None = "[PAD]",
        cls_token: Token = "[CLS]",
        mask_token: Token | None = "[MASK]",
        extra_special_tokens: Iterable[Token] | None = None,
        added_tokens_decoder: Mapping[int, AddedToken] | None = None,
        tokenize_chinese_chars: bool = True,
        strip_accents: bool | None = None,
        split_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool = False,
        model_max_length: int | None = None,
        model_input_names: Sequence[str] = ("input_ids", "attention_mask"),
        padding_side: str = "right",
        truncation_side: str = "right",
    ) -> None:
        """Build a tokenizer from a vocabulary.

        Args:
            vocab: path of a `vocab.txt` (one token per line), or a mapping from token to id.
            do_lower_case: lowercase the text first.
            unk_token, sep_token, pad_token, cls_token, mask_token: the special tokens; one that is not in `vocab` gets
                a new id at its end.
            extra_special_tokens: further tokens that are never split.
            added_tokens_decoder: tokens added to the vocabulary before any other, in the order of their ids.
            tokenize_chinese_chars: make a word of each Chinese character.
            strip_accents: remove accents; None follows `do_lower_case`.
            split_special_tokens: treat special tokens that stand in a text as plain text.
            clean_up_tokenization_spaces: the default of `decode`.
            model_max_length: the default limit of truncation and padding; None for no limit.
            model_input_names: what a call returns unless told otherwise.
            padding_side, truncation_side: "right" or "left".

        Raises:
            OSError: there is no such vocabulary file.
            ValueError, TypeError: the vocabulary or an option is not as described.
        """
        for option, side in (("padding_side", padding_side), ("truncation_side", truncation_side)):
            if side not in ("right", "left"):
                raise ValueError(f"{option} must be 'right' or 'left', found {side!r}")
        self.do_lower_case = do_lower_case
        self.tokenize_chinese_chars = tokenize_chinese_chars
        self.strip_accents = strip_accents
        self.split_special_tokens = split_special_tokens
        self.clean_up_tokenization_spaces = clean_up_tokenization_spaces
        self.model_max_length = _UNLIMITED if model_max_length is None else model_max_length
        self.model_input_names = list(model_input_names)
        self.padding_side = padding_side
        self.truncation_side = truncation_side

        given = (unk_token, sep_token, pad_token, cls_token, mask_token)
        named = {name: _token(value) for name, value in zip(_SPECIAL_NAMES, given, strict=True) if value is not None}
        if missing := {"unk_token", "sep_token", "cls_token"} - named.keys():
            raise TypeError(f"{', '.join(sorted(missing))} must be a str or AddedToken, found None")
        self.special_tokens_map = {name: str(value) for name, value in named.items()}
        extra = [_token(value) for value in extra_special_tokens or ()]
        self.extra_special_tokens = [str(value) for value in extra]
        self.all_special_tokens = list(dict.fromkeys([*self.special_tokens_map.values(), *self.extra_special_tokens]))

        added = {str(value): value for _, value in sorted((added_tokens_decoder or {}).items())}
        for value in (*named.values(), *extra):
            added.setdefault(str(value), value)
        for value in named.values():
            added[str(value)].special = True
        self._added = list(added.values())

        self._base = Tokenizer(WordPiece(_read_vocab(vocab), unk_token=str(unk_token)))
        self._base.normalizer = normalizers.BertNormalizer(
            clean_text=True,
            handle_chinese_chars=tokenize_chinese_chars,
            strip_accents=strip_accents,
            lowercase=do_lower_case,
        )
        self._base.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        self._base.decoder = decoders.WordPiece(prefix="##")
        self._base.add_tokens(self._added)
        self._base.encode_special_tokens = split_special_tokens
        for name in _SPECIAL_NAMES:
            text = self.special_tokens_map.get(name)
            setattr(self, name, text)
            setattr(self, f"{name}_id", None if text is None else self._base.token_to_id(text))
        cls, sep = self.cls_token, self.sep_token
        self._base.post_processor = processors.TemplateProcessing(
            single=f"{cls}:0 $A:0 {sep}:0",
            pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
            special_tokens=[(cls, self.cls_token_id), (sep, self.sep_token_id)],
        )
        self.all_special_ids = [self._base.token_to_id(text) for text in self.all_special_tokens]
        self._backends: dict[tuple[Any, ...], Tokenizer] = {}

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        *,
        revision: str | None = None,
        subfolder: str = "",
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        **options: Any,
    ) -> DistilBertTokenizer:
        """Load the tokenizer of a checkpoint.

        The vocabulary and added tokens come from `tokenizer.json`, or else from `vocab.txt`. Normalization follows
        `tokenizer_config.json` and the defaults of this class even where `tokenizer.json` says otherwise, and of the
        padding and truncation in `tokenizer.json` only the sides are kept, as in the reference.

        Args:
            name_or_folder: a folder, or the name of a repository.
            revision, subfolder, token, cache_dir, local_files_only: where to look for it.
            options: keywords of the constructor, which overrule the files.

        Raises:
            OSError: no such folder or repository, or it has neither `tokenizer.json` nor `vocab.txt`.
            ValueError: a file is not what its name says.
        """
        from distilrt.checkpoint import resolve_file

        resolve = partial(resolve_file, name_or_folder, revision=revision, subfolder=subfolder, token=token)
        resolve = partial(resolve, cache_dir=cache_dir, local_files_only=local_files_only)
        names = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt")
        paths = {name: resolve(name) for name in names}
        saved, config, tokens_map, legacy = (_read_json(paths[name]) for name in names[:4])

        vocab: Any = paths["vocab.txt"]
        if paths["tokenizer.json"] is not None:
            vocab = saved.get("model", {}).get("vocab")
            if not isinstance(vocab, dict) or saved["model"].get("type", "WordPiece") != "WordPiece":
                raise ValueError(f"{paths['tokenizer.json']} holds no WordPiece vocabulary: not a DistilBERT tokenizer")
            for part in ("padding", "truncation"):
                if saved.get(part):
                    config.setdefault(f"{part}_side", saved[part].get("direction", "Right").lower())
        elif vocab is None:
            raise OSError(
                f"{str(name_or_folder)!r} has neither tokenizer.json nor vocab.txt; save its tokenizer there first"
            )

        extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
        extra = [_token(value) for value in (extra.values() if isinstance(extra, dict) else extra)]
        added: dict[int, AddedToken] = {}
        if "added_tokens_decoder" in config:
            added = {int(index): _token(value) for index, value in config["added_tokens_decoder"].items()}
        else:
            config.update(tokens_map | {"extra_special_tokens": None})
            more = tokens_map.get("extra_special_tokens")
            if not more and not extra:
                more = tokens_map.get("additional_special_tokens")
            extra += [_token(value, special=True) for value in more or []]
            special = {str(_token(config[name])) for name in _SPECIAL_NAMES if config.get(name)} | set(map(str, extra))
            for text, index in legacy.items():
                added[index] = AddedToken(text, normalized=text not in special, special=text in special)
            added |= {value["id"]: _token(value) for value in saved.get("added_tokens", [])}
        # Keys such as image_token name special tokens that only some models have.
        own = [value for key, value in config.items() if key.endswith("_token") and key not in _SPECIAL_NAMES]
        config |= {
            "extra_special_tokens": [value for value in own if isinstance(value, str | dict)] + extra,
            "model_max_length": config.get("model_max_length", config.get("max_len")),
        }
        kept = {key: config[key] for key in (*_SPECIAL_NAMES, *_OPTIONS) if key in config}
        return cls(vocab, **{"added_tokens_decoder": added, **kept, **options})

    def save_pretrained(self, folder: str | PathLike[str]) -> tuple[str, ...]:
        """Write `tokenizer.json`, `tokenizer_config.json` and `vocab.txt`, which transformers reads too.

        Args:
            folder: made where it does not exist.

        Returns:
            The paths written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "tokenizer_class": "DistilBertTokenizer",
            **{name: self.special_tokens_map.get(name) for name in _SPECIAL_NAMES},
            **{key: getattr(self, key) for key in _OPTIONS},
        }
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
        self._base.save(str(folder / "tokenizer.json"))
        self._base.model.save(str(folder))
        return tuple(str(folder / name) for name in ("tokenizer_config.json", "tokenizer.json", "vocab.txt"))

    def __call__(
        self,
        text: Texts,
        text_pair: Texts | None = None,
        *,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
    ) -> BatchEncoding:
        """Turn texts into model inputs.

        Args:
            text: one text or a list of texts; a list of (first, second) tuples is a batch of pairs.
            text_pair: the second text of each pair; an empty one counts as none where `text` is a single text.
            add_special_tokens: put `[CLS]` and `[SEP]` around the texts.
            padding: True or "longest" pads to the longest sequence of the call, "max_length" to `max_length`.
            truncation: True or "longest_first" cuts the longer of two texts first, "only_first" and "only_second" cut
                one of them. Unset means cutting where `max_length` is given without `padding`.
            max_length: limit in tokens, special tokens included; None for `model_max_length`.
            stride: tokens that overflowing sequences repeat.
            is_split_into_words: each text is a list of words.
            pad_to_multiple_of: round padded lengths up to a multiple of this.
            padding_side: "right" or "left"; None for this tokenizer's `padding_side`.
            return_tensors: "np" or "pt" for arrays of shape [texts, length]; None for lists (flat for a single text).
            return_token_type_ids, return_attention_mask: None follows `model_input_names`.
            return_overflowing_tokens: return what was cut off as further sequences, with
                `overflow_to_sample_mapping` naming the text of each.
            return_special_tokens_mask, return_offsets_mapping, return_length: add `special_tokens_mask`,
                `offset_mapping` (characters of each token), `length`.

        Raises:
            TypeError: a text is not a str; the message names its place.
            ValueError: an option has no such value, or the texts cannot be cut to `max_length`.
        """
        texts, pairs = as_lists(text), as_lists(text_pair)
        if return_tensors not in (None, "np", "pt"):
            raise ValueError(f"return_tensors must be 'np', 'pt' or None, found {return_tensors!r}")
        batched = isinstance(texts, list | tuple)
        if batched and is_split_into_words:
            batched = len(texts) > 0 and isinstance(texts[0], list | tuple)
        if batched and pairs is not None:
            if not isinstance(pairs, list | tuple):
                raise TypeError(f"text is a batch, so text_pair must be a list too, found {type(pairs).__name__}")
            if len(texts) != len(pairs):
                raise ValueError(f"text has {len(texts)} entries but text_pair has {len(pairs)}")

        pad, cut, limit = self._strategies(padding, truncation, max_length, pad_to_multiple_of)
        backend = self._base
        if pad or cut:
            backend = self._configured(pad, cut, limit, stride, pad_to_multiple_of, padding_side or self.padding_side)
            room = limit - add_special_tokens * self.num_special_tokens_to_add()
            if cut and stride and stride >= room:
                raise ValueError(f"stride={stride} must be less than the {room} tokens of text in max_length={limit}")
        encodings = _encode(backend, texts, pairs, batched, is_split_into_words, add_special_tokens)
        # The Rust library truncates nothing where the special tokens alone exceed the limit.
        if cut and limit < self.num_special_tokens_to_add(pair=True) and any(len(one) > limit for one in encodings):
            raise ValueError(f"max_length={limit} has no room for the special tokens alone; raise it")

        samples: list[int] = []
        if return_overflowing_tokens:
            samples = [index for index, encoding in enumerate(encodings) for _ in range(len(encoding.overflowing) + 1)]
            encodings = [part for encoding in encodings for part in (encoding, *encoding.overflowing)]
        columns = {
            "input_ids": ("ids", True),
            "token_type_ids": ("type_ids", return_token_type_ids),
            "attention_mask": ("attention_mask", return_attention_mask),
            "special_tokens_mask": ("special_tokens_mask", return_special_tokens_mask),
            "offset_mapping": ("offsets", return_offsets_mapping),
        }
        data: dict[str, Any] = {
            name: [getattr(encoding, column) for encoding in encodings]
            for name, (column, asked) in columns.items()
            if self._wanted(name, asked)
        }
        if not batched and return_tensors is None and not return_overflowing_tokens:
            data = {key: rows[0] for key, rows in data.items()}
        if return_length:
            data["length"] = [len(encoding) for encoding in encodings]
        if return_overflowing_tokens:
            data["overflow_to_sample_mapping"] = samples
        return BatchEncoding(data if return_tensors is None else as_tensors(data, return_tensors), encodings)

    def encode(self, text: Texts, text_pair: Texts | None = None, **options: Any) -> Any:
        """The `input_ids` of a call with the same arguments."""
        return self(text, text_pair, **options)["input_ids"]

    def tokenize(
        self, text: str, pair: str | None = None, add_special_tokens: bool = False, **options: Any
    ) -> list[str]:
        """The tokens of one text or pair; `options` are those of a call."""
        return self(text, pair, add_special_tokens=add_special_tokens, **options).tokens()

    def decode(
        self, token_ids: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> Any:
        """Turn ids back into text.

        Args:
            token_ids: one id, a sequence of ids, or a batch of sequences; lists, arrays or tensors.
            skip_special_tokens: leave special tokens out.
            clean_up_tokenization_spaces: remove spaces before punctuation and contractions; None for this tokenizer's
                default.

        Returns:
            A str, or a list of them for a batch. Ids outside the vocabulary leave no text.

        Raises:
            ValueError: an id is negative or no integer.
        """
        ids = as_lists(token_ids)
        if isinstance(ids, list | tuple) and len(ids) > 0 and isinstance(ids[0], list | tuple):
            return [self.decode(row, skip_special_tokens, clean_up_tokenization_spaces) for row in ids]
        try:
            text = self._base.decode([ids] if isinstance(ids, int) else ids, skip_special_tokens=skip_special_tokens)
        except (OverflowError, TypeError) as error:
            raise ValueError(f"decode needs token ids, integers of 0 or more: {error}") from None
        if self.clean_up_tokenization_spaces if clean_up_tokenization_spaces is None else clean_up_tokenization_spaces:
            for pattern in _CLEAN_UP:
                text = text.replace(pattern, pattern.strip())
        return text

    def batch_decode(
        self, sequences: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> list[str]:
        """`decode` of a batch; always a list."""
        texts = self.decode(sequences, skip_special_tokens, clean_up_tokenization_spaces)
        return [texts] if isinstance(texts, str) else texts

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """The id of a token, or the ids of a list of tokens; unknown ones get that of `unk_token`."""
        if isinstance(tokens, str):
            index = self._base.token_to_id(tokens)
            return self.unk_token_id if index is None else index
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """The token of an id, or the tokens of a sequence of ids; None for an id outside the vocabulary."""
        ids = as_lists(ids)
        if isinstance(ids, int):
            return self._base.id_to_token(ids)
        skipped = set(self.all_special_ids) if skip_special_tokens else set()
        return [self._base.id_to_token(index) for index in map(int, ids) if index not in skipped]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Join tokens into text."""
        return str(self._base.decoder.decode(tokens))

    def pad(
        self,
        encoded_inputs: Any,
        padding: bool | str = True,
        max_length: int | None = None,
        *,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
    ) -> BatchEncoding:
        """Pad sequences that are encoded already.

        Args:
            encoded_inputs: one encoding, a batch of them as one mapping of lists, or a list of encodings. It is left
                as it is. Keys other than the tokenizer's own pass through unpadded.
            padding, max_length, pad_to_multiple_of, padding_side, return_attention_mask: as in a call.
            return_tensors: "np" or "pt"; None keeps lists as lists, arrays as arrays and tensors as tensors.

        Raises:
            ValueError: there are no `input_ids`, or the values differ in batch size.
        """
        if not isinstance(encoded_inputs, Mapping):
            encoded_inputs = {key: [one[key] for one in encoded_inputs] for key in (encoded_inputs or [{}])[0]}
        if "input_ids" not in encoded_inputs:
            raise ValueError(f"pad needs input_ids; the encoding has only {list(encoded_inputs)}")
        if return_tensors is None:
            return_tensors = array_kind(encoded_inputs["input_ids"])
        data = {key: as_lists(value) for key, value in encoded_inputs.items()}
        wants_mask = self._wanted("attention_mask", return_attention_mask)
        single = len(data["input_ids"]) > 0 and not isinstance(data["input_ids"][0], list | tuple)
        if single:
            data = {key: [value] for key, value in data.items()}
        lengths = [len(row) for row in data["input_ids"]]
        if wants_mask and "attention_mask" not in data:
            data["attention_mask"] = [[1] * length for length in lengths]
        if any(len(rows) != len(lengths) for rows in data.values()):
            raise ValueError(f"batch sizes differ: { ({key: len(rows) for key, rows in data.items()}) }")

        pad, _, limit = self._strategies(padding, False, max_length, pad_to_multiple_of)
        side = padding_side or self.padding_side
        if side not in ("right", "left"):
            raise ValueError(f"padding_side must be 'right' or 'left', found {side!r}")
        if pad:
            target = limit if pad == "max_length" else max(lengths, default=0)
            target = -(-target // (pad_to_multiple_of or 1)) * (pad_to_multiple_of or 1)
            fill = {"input_ids": self.pad_token_id, "token_type_ids": 0, "special_tokens_mask": 1}
            if wants_mask:
                fill["attention_mask"] = 0
            for key in fill.keys() & data.keys():
                blanks = [[fill[key]] * (target - length) for length in lengths]
                rows = zip(data[key], blanks, strict=True)
                data[key] = [[*row, *blank] if side == "right" else [*blank, *row] for row, blank in rows]
        if single:
            data = {key: rows[0] for key, rows in data.items()}
        return BatchEncoding(data if return_tensors is None else as_tensors(data, return_tensors))

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary without added tokens."""
        return self._base.get_vocab_size(with_added_tokens=False)

    def __len__(self) -> int:
        return self._base.get_vocab_size(with_added_tokens=True)

    def get_vocab(self) -> dict[str, int]:
        """The ids of all tokens, added ones included."""
        return self._base.get_vocab(with_added_tokens=True)

    @property
    def vocab(self) -> dict[str, int]:
        """What `get_vocab` returns."""
        return self.get_vocab()

    @property
    def backend_tokenizer(self) -> Tokenizer:
        """The Rust tokenizer without padding and truncation; changing it breaks this one."""
        return self._base

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many special tokens a call adds to one text or to a pair."""
        return self._base.num_special_tokens_to_add(pair)

    def __repr__(self) -> str:
        return (
            f"DistilBertTokenizer(vocab_size={self.vocab_size}, model_max_length={self.model_max_length},"
            f" padding_side={self.padding_side!r}, truncation_side={self.truncation_side!r})"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_backends": {}}

    def _wanted(self, name: str, asked: bool | None) -> bool:
        return name in self.model_input_names if asked is None else asked

    def _strategies(
        self, padding: bool | str, truncation: bool | str | None, max_length: int | None, multiple: int | None
    ) -> tuple[str, str, int]:
        """The padding and the truncation to apply ("" for none) and the length limit of both."""
        if padding not in _PADDING:
            raise ValueError(f"padding must be one of {list(_PADDING)}, found {padding!r}")
        if truncation not in _TRUNCATION:
            raise ValueError(f"truncation must be one of {list(_TRUNCATION)}, found {truncation!r}")
        pad, cut = _PADDING[padding], _TRUNCATION[truncation]
        limit = 0
        if max_length is not None:
            limit = _integer("max_length", max_length, 0)
            if padding is False and truncation is None:
                cut = "longest_first"
            elif padding is True and not cut:
                text = "max_length is ignored without truncation; padding='max_length' pads to it"
                warnings.warn(text, stacklevel=3)
        elif self.model_max_length > _LARGEST_LIMIT:
            pad, cut = pad.replace("max_length", ""), ""
        elif cut or pad == "max_length":
            limit = _integer("model_max_length", self.model_max_length, 0)
        if pad and self.pad_token is None:
            raise ValueError("this tokenizer has no pad_token, so it cannot pad; build it with one")
        if multiple is not None and _integer("pad_to_multiple_of", multiple, 1) and pad and cut and limit % multiple:
            raise ValueError(f"max_length={limit} is not a multiple of pad_to_multiple_of={multiple}; make it one")
        return pad, cut, limit

    def _configured(self, pad: str, cut: str, limit: int, stride: int, multiple: int | None, side: str) -> Tokenizer:
        """The backend that pads and truncates as told; made on first use, then only read."""
        key = (pad, cut, limit, _integer("stride", stride, 0), multiple, side, self.truncation_side)
        backend = self._backends.get(key)
        if backend is None:
            base = self._base
            backend = Tokenizer(base.model)
            backend.normalizer, backend.pre_tokenizer = base.normalizer, base.pre_tokenizer
            backend.decoder, backend.post_processor = base.decoder, base.post_processor
            backend.add_tokens(self._added)
            backend.encode_special_tokens = self.split_special_tokens
            if cut:
                backend.enable_truncation(limit, stride=stride, strategy=cut, direction=self.truncation_side)
            if pad:
                backend.enable_padding(
                    direction=side,
                    pad_id=self.pad_token_id,
                    pad_token=self.pad_token,
                    length=limit if pad == "max_length" else None,
                    pad_to_multiple_of=multiple,
                )
            if len(self._backends) >= _MAX_BACKENDS:
                self._backends.clear()
            self._backends[key] = backend
        return backend


def _encode(backend: Tokenizer, texts: Any, pairs: Any, batched: bool, words: bool, special: bool) -> list[Encoding]:
    """Encode with errors that name the text at fault; where nothing is wrong, no text is looked at twice."""
    try:
        if not batched:
            return [backend.encode(texts, pairs or None, words, special)]
        return backend.encode_batch(texts if pairs is None else list(zip(texts, pairs, strict=True)), words, special)
    except TypeError:
        check_texts("text", texts, batched + words + (batched and pairs is None))
        if pairs is not None:
            check_texts("text_pair", pairs, batched + words)
        one = "a list of words" if words else "a str"
        raise TypeError(
            f"with is_split_into_words={words} text and text_pair must each be {one}, or a list of these for a batch"
        ) from None
    except BaseException as error:
        # The Rust library raises bare Exceptions, and a PanicException where a stride does not fit.
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        advice = "; raise max_length, lower stride or choose another truncation" if backend.truncation else ""
        raise ValueError(f"the text cannot be encoded: {error}{advice}") from None


def _token(value: Any, **override: bool) -> AddedToken:
    """A token that is given as text (special then), as an object or as the dict of a JSON file."""
    if isinstance(value, AddedToken):
        return value
    if isinstance(value, str):
        return AddedToken(value, special=True)
    if not isinstance(value, dict) or not isinstance(value.get("content"), str):
        raise TypeError(f"a special token must be a str or AddedToken, found {value!r}")
    flags = {key: value[key] for key in ("single_word", "lstrip", "rstrip", "normalized", "special") if key in value}
    return AddedToken(value["content"], **flags | override)


def _read_vocab(vocab: str | PathLike[str] | Mapping[str, int]) -> dict[str, int]:
    if isinstance(vocab, Mapping):
        return dict(vocab)
    if not isinstance(vocab, str | PathLike):
        raise TypeError(f"vocab must be the path of a vocab.txt or a dict of ids, found {type(vocab).__name__}")
    try:
        Path(vocab).read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(vocab)!r} is not a vocabulary, one UTF-8 token per line: {error}") from None
    return WordPiece.read_file(str(vocab))


def _read_json(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return {**json.loads(path.read_text(encoding="utf-8"))}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} must hold a JSON object: {error}") from None


def _integer(name: str, value: Any, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, found {value!r}") from None
    if not least <= number < 2**31:
        raise ValueError(f"{name} must be between {least} and {2**31 - 1}, found {number}")
    return number
