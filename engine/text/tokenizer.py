"""The DistilBERT tokenizer: text to WordPiece ids and back, over the Rust library `tokenizers`.

It takes the decisions that `transformers.DistilBertTokenizer` takes about special tokens and about what a call takes
and returns, and knows nothing of models or devices. A tokenizer can be shared by any number of threads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy.typing as npt
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import BertNormalizer

from distilrt.checkpoint.source import Source
from distilrt.checkpoint.upload import upload
from distilrt.errors import CheckpointError, InvalidInput
from distilrt.text.encoding import BatchEncoding, array_kind, as_lists, as_tensors, check_tensor_type, columns
from distilrt.text.padding import UNLIMITED, check_side, padded, settle
from distilrt.text.rust_tokenizer import is_batch, refusing, surround, wordpiece
from distilrt.text.tokenizer_config import NORMALIZATION, OPTIONS, read, read_vocab, write
from distilrt.text.vocabulary import SPECIAL_NAMES, Token, Vocabulary, as_token

Texts = str | Sequence[Any] | npt.NDArray[Any]

_CLEAN_UP = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")  # applied in this order
_UNKNOWN = "\u1699"  # a letter of Ogham, which hardly any vocabulary has


class DistilBertTokenizer(Vocabulary):
    """Tokenizer of the DistilBERT family, with the results of `transformers.DistilBertTokenizer`.

    `model_max_length`, `padding_side`, `truncation_side`, `clean_up_tokenization_spaces` and `split_special_tokens` are
    defaults of calls that may be assigned.
    """

    _as_it_stands = False  # whether tokenizer.json decides how texts are treated, or this class

    def __init__(
        self,
        vocab: str | PathLike[str] | Mapping[str, int] | Tokenizer,
        *,
        do_lower_case: bool = True,
        bos_token: Token | None = None,
        eos_token: Token | None = None,
        unk_token: Token = "[UNK]",
        sep_token: Token = "[SEP]",
        pad_token: Token | None = "[PAD]",
        cls_token: Token = "[CLS]",
        mask_token: Token | None = "[MASK]",
        extra_special_tokens: Iterable[Token] | Mapping[str, Token] | None = None,
        additional_special_tokens: Iterable[Token] | None = None,
        added_tokens_decoder: Mapping[int, AddedToken] | None = None,
        tokenize_chinese_chars: bool = True,
        strip_accents: bool | None = None,
        split_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool = False,
        model_max_length: int | None = None,
        model_input_names: Sequence[str] = ("input_ids", "attention_mask"),
        padding_side: str = "right",
        truncation_side: str = "right",
        name_or_path: str = "",
    ) -> None:
        """Build a tokenizer from a vocabulary.

        Args:
            vocab: path of a `vocab.txt` (one token per line), or a mapping from token to id; for `TokenizersBackend` a
                Rust tokenizer, which nobody else may use and which `do_lower_case` and the like do not change.
            do_lower_case: lowercase the text first.
            bos_token, eos_token, unk_token, sep_token, pad_token, cls_token, mask_token: the special tokens; one that
                `vocab` lacks gets a new id at its end.
            extra_special_tokens: further tokens that are never split.
            additional_special_tokens: the same by the name that transformers 4 had for it.
            added_tokens_decoder: tokens added to the vocabulary before any other, in the order of their ids.
            tokenize_chinese_chars: make a word of each Chinese character.
            strip_accents: remove accents; None follows `do_lower_case`.
            split_special_tokens: treat special tokens that stand in a text as plain text.
            clean_up_tokenization_spaces: the default of `decode`.
            model_max_length: the default limit of truncation and padding; None for no limit.
            model_input_names: what a call returns unless told otherwise.
            padding_side, truncation_side: "right" or "left".
            name_or_path: where the tokenizer comes from; kept as an attribute.

        Raises:
            OSError: there is no such vocabulary file.
            ValueError, TypeError: the vocabulary or an option is not as described.
        """
        check_side("padding_side", padding_side)
        check_side("truncation_side", truncation_side)
        names = (bos_token, eos_token, unk_token, sep_token, pad_token, cls_token, mask_token)
        named = {name: as_token(token) for name, token in zip(SPECIAL_NAMES, names, strict=True) if token is not None}
        tokens = extra_special_tokens or additional_special_tokens or ()
        extra = [as_token(token) for token in (tokens.values() if isinstance(tokens, Mapping) else tokens)]
        if isinstance(vocab, Tokenizer):
            base = vocab
        else:
            if missing := [name for name in ("unk_token", "sep_token", "cls_token") if name not in named]:
                raise TypeError(f"{', '.join(missing)} must be a str or AddedToken, found None")
            self.do_lower_case = do_lower_case
            self.tokenize_chinese_chars = tokenize_chinese_chars
            self.strip_accents = strip_accents
            normalizer = BertNormalizer(True, tokenize_chinese_chars, strip_accents, do_lower_case)
            base = wordpiece(read_vocab(vocab), str(named["unk_token"]), normalizer)
        self.split_special_tokens = base.encode_special_tokens = split_special_tokens
        self.clean_up_tokenization_spaces = clean_up_tokenization_spaces
        self.model_max_length = UNLIMITED if model_max_length is None else model_max_length
        self.model_input_names = list(model_input_names)
        self.padding_side = padding_side
        self.truncation_side = truncation_side
        self.name_or_path = name_or_path
        self._register(base, named, extra, added_tokens_decoder or {})
        if base is not vocab:
            surround(base, str(self.cls_token), str(self.sep_token))

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path | Source,
        *,
        revision: str | None = None,
        subfolder: str = "",
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        use_fast: bool = True,
        trust_remote_code: bool = False,
        **options: Any,
    ) -> DistilBertTokenizer:
        """Load the tokenizer of a checkpoint.

        The vocabulary and added tokens come from `tokenizer.json`, or else from `vocab.txt`. Normalization follows
        `tokenizer_config.json` and the defaults of this class even where `tokenizer.json` says otherwise, and of the
        padding and truncation in `tokenizer.json` only the sides are kept, as in the reference. The tokenizer that
        follows `tokenizer.json` as it stands is `distilrt.text.auto_tokenizer.TokenizersBackend`.

        Args:
            name_or_folder: a folder, or the name of a repository.
            revision, subfolder, token, cache_dir, local_files_only: where to look for it.
            use_fast, trust_remote_code: accepted because transformers accepts them, and without effect there too.
            options: keywords of the constructor, which overrule the files.

        Raises:
            OSError: no such folder or repository, or it has neither `tokenizer.json` nor `vocab.txt`.
            CheckpointError: a file is not what its name says; the message names the file and the field.
            TypeError, ValueError: a keyword of `options` is not as described.
        """
        source = Source.of(name_or_folder, revision, subfolder, token, cache_dir, local_files_only)
        vocabulary, saved = read(source, cls._as_it_stands)
        try:
            tokenizer = cls(vocabulary, **{"name_or_path": str(source.model), **saved, **options})
            with refusing("a character that the vocabulary lacks"):
                for pair in (None, _UNKNOWN):
                    tokenizer.backend_tokenizer.encode(_UNKNOWN, pair)
        except ValueError as error:
            if not options:
                raise CheckpointError(f"the tokenizer in {source} can't be used: {error}") from None
            cls.from_pretrained(source)  # raises where the files alone are at fault
            raise
        return tokenizer

    def save_pretrained(self, folder: str | PathLike[str]) -> tuple[str, ...]:
        """Write `tokenizer.json`, `tokenizer_config.json` and `vocab.txt`, which transformers reads too.

        The folder is made where it does not exist.

        Returns:
            The paths written.
        """
        options = {key: getattr(self, key) for key in (*OPTIONS, *NORMALIZATION)}
        return write(folder, "DistilBertTokenizer", options, self.backend_tokenizer)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload what `save_pretrained` writes; see `distilrt.checkpoint.upload.upload`."""
        return upload(self.save_pretrained, repo_id, **options)

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
        truncation_side: str | None = None,
        split_special_tokens: bool | None = None,
        return_tensors: str | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        verbose: bool = True,
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
            truncation_side: the same for the side that is cut.
            split_special_tokens: treat special tokens in the texts as plain text; None for the tokenizer's own.
            return_tensors: "np" or "pt" for arrays of shape [texts, length]; None for lists (flat for a single text).
            return_token_type_ids, return_attention_mask: None follows `model_input_names`.
            return_overflowing_tokens: return what was cut off as further sequences, with
                `overflow_to_sample_mapping` naming the text of each.
            return_special_tokens_mask, return_offsets_mapping, return_length: add `special_tokens_mask`,
                `offset_mapping` (characters of each token), `length`.
            verbose: accepted because transformers accepts it, and without effect.

        Raises:
            TypeError: a text is not a str; the message names its place.
            ValueError: an option has no such value, or (InvalidInput) the texts cannot be cut to `max_length`.
        """
        check_tensor_type("return_tensors", return_tensors)
        setting = settle(
            self,
            padding,
            truncation,
            max_length,
            stride=stride,
            multiple=pad_to_multiple_of,
            padding_side=padding_side,
            truncation_side=truncation_side,
            split_special_tokens=split_special_tokens,
        )
        texts, pairs = as_lists(text), as_lists(text_pair)
        batched = is_batch(texts, is_split_into_words)
        encodings = self._rust.encode(texts, pairs, batched, is_split_into_words, add_special_tokens, setting)
        if return_overflowing_tokens:
            parts = [[encoding, *encoding.overflowing] for encoding in encodings]
            samples = [index for index, group in enumerate(parts) for _ in group]
            encodings = [part for group in parts for part in group]
        asked = {
            "input_ids": True,
            "token_type_ids": return_token_type_ids,
            "attention_mask": return_attention_mask,
            "special_tokens_mask": return_special_tokens_mask,
            "offset_mapping": return_offsets_mapping,
        }
        wanted = [name for name, flag in asked.items() if (name in self.model_input_names if flag is None else flag)]
        data = columns(encodings, wanted)
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
            token_ids: one id, a sequence of ids, a batch of sequences (lists, arrays or tensors), or an encoding.
            skip_special_tokens: leave special tokens out.
            clean_up_tokenization_spaces: remove spaces before punctuation and contractions, which byte-pair tokenizers
                never do; None for this tokenizer's default.

        Returns:
            A str, or a list of them for a batch. Ids outside the vocabulary leave no text.

        Raises:
            InvalidInput: an id is negative or not an integer.
        """
        ids = as_lists(token_ids["input_ids"] if isinstance(token_ids, Mapping) else token_ids)
        if isinstance(ids, list | tuple) and len(ids) > 0 and isinstance(ids[0], list | tuple):
            return [self.decode(row, skip_special_tokens, clean_up_tokenization_spaces) for row in ids]
        try:
            text = self.backend_tokenizer.decode(
                [ids] if isinstance(ids, int) else ids, skip_special_tokens=skip_special_tokens
            )
        except (OverflowError, TypeError) as error:
            raise InvalidInput(f"decode needs token ids, integers of 0 or more: {error}") from None
        clean = clean_up_tokenization_spaces
        clean = self.clean_up_tokenization_spaces if clean is None else clean
        if clean and not isinstance(self.backend_tokenizer.model, BPE):
            for pattern in _CLEAN_UP:
                text = text.replace(pattern, pattern.strip())
        return text

    def batch_decode(
        self, sequences: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> list[str]:
        """`decode` of a batch; always a list."""
        texts = self.decode(sequences, skip_special_tokens, clean_up_tokenization_spaces)
        return [texts] if isinstance(texts, str) else texts

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Join tokens into text."""
        return " ".join(tokens) if self.decoder is None else str(self.decoder.decode(tokens))

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
        verbose: bool = True,
    ) -> BatchEncoding:
        """Pad sequences that are encoded already.

        Args:
            encoded_inputs: one encoding, a batch of them as one mapping of lists, or a list of encodings. It is left
                as it is. Keys other than the tokenizer's own pass through unpadded.
            padding, max_length, pad_to_multiple_of, padding_side, return_attention_mask, verbose: as in a call.
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
        single = len(data["input_ids"]) > 0 and not isinstance(data["input_ids"][0], list | tuple)
        if single:
            data = {key: [value] for key, value in data.items()}
        fill = {"input_ids": self.pad_token_id, "token_type_ids": 0, "special_tokens_mask": 1}
        if "attention_mask" in self.model_input_names if return_attention_mask is None else return_attention_mask:
            fill["attention_mask"] = 0
            data.setdefault("attention_mask", [[1] * len(row) for row in data["input_ids"]])
        setting = settle(self, padding, False, max_length, multiple=pad_to_multiple_of, padding_side=padding_side)
        data = padded(data, fill, setting)
        if single:
            data = {key: rows[0] for key, rows in data.items()}
        return BatchEncoding(data if return_tensors is None else as_tensors(data, return_tensors))

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(vocab_size={self.vocab_size}, model_max_length={self.model_max_length},"
            f" padding_side={self.padding_side!r}, truncation_side={self.truncation_side!r})"
        )
