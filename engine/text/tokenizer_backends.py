"""The Rust tokenizers under a DistilBERT tokenizer: one as built, its copies that pad and cut, and their errors.

The Rust object holds padding and truncation as settings, so each combination gets an object of its own, set up before
its first use and never changed after; they share one vocabulary and cost microseconds to make.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from tokenizers import AddedToken, Encoding, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

from distilrt.errors import InvalidInput
from distilrt.text.encoding import check_texts
from distilrt.text.tokenizer_lengths import integer

_MOST = 64  # settings that are kept


class Setting(NamedTuple):
    """What a call asks of the Rust tokenizer.

    The first three as `distilrt.text.tokenizer_lengths.settle` gives them.
    """

    padding: str
    truncation: str
    limit: int
    stride: int
    multiple: int | None
    padding_side: str
    truncation_side: str
    split_special_tokens: bool


class TokenizerBackends:
    """A Rust tokenizer that neither pads nor cuts, `base`, and a copy of it for each setting.

    Any number of threads may share it. `base` must not be changed.
    """

    base: Tokenizer

    def __init__(self, base: Tokenizer, pad_token: str | None, pad_id: int | None) -> None:
        """Take `base`, which nobody else may change; `pad_token` and `pad_id` are what its copies pad with."""
        self.base = base
        self._split_special_tokens = base.encode_special_tokens
        self._pad_token, self._pad_id = pad_token or "", pad_id
        self._copies: dict[Setting, Tokenizer] = {}

    def extended(self, tokens: list[str | AddedToken], special: bool) -> tuple[Tokenizer, int]:
        """A copy of `base` with more tokens, and how many they are."""
        copy = self._copy()
        count = copy.add_special_tokens(tokens) if special else copy.add_tokens(tokens)
        return copy, count

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_copies": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.base.encode_special_tokens = self._split_special_tokens  # the Rust library pickles without it

    def encode(
        self, texts: Any, pairs: Any, batched: bool, words: bool, special: bool, setting: Setting
    ) -> list[Encoding]:
        """Encode texts; where nothing is wrong, no text is looked at twice.

        Args:
            texts: one text, or a list or tuple of them.
            pairs: the second texts likewise; None where there are none.
            batched: whether there are several texts.
            words: whether each text is a list of words.
            special: whether to add special tokens.
            setting: how to pad and cut.

        Raises:
            TypeError: a text is not a str; the message names its place.
            InvalidInput: the texts cannot be cut as `setting` says, or not encoded at all.
        """
        limit = setting.limit
        backend = self.base
        if setting.padding or setting.truncation or setting.split_special_tokens != self._split_special_tokens:
            backend = self._configured(setting)
            room = limit - special * backend.num_special_tokens_to_add(False)
            if setting.truncation and setting.stride and setting.stride >= room:
                raise InvalidInput(
                    f"stride={setting.stride} must be less than the {room} tokens of text in max_length={limit}"
                )
        encodings = _encode(backend, texts, pairs, batched, words, special)
        # The Rust library truncates nothing where the special tokens alone exceed the limit.
        too_low = setting.truncation and limit < backend.num_special_tokens_to_add(True)
        if too_low and any(len(one) > limit for one in encodings):
            raise InvalidInput(f"max_length={limit} has no room for the special tokens alone; raise it")
        return encodings

    def _configured(self, setting: Setting) -> Tokenizer:
        """The copy that does as told; made on first use, then only read."""
        integer("stride", setting.stride, 0)
        copy = self._copies.get(setting)
        if copy is None:
            copy = self._copy()
            copy.encode_special_tokens = setting.split_special_tokens
            if setting.truncation:
                copy.enable_truncation(
                    setting.limit,
                    stride=setting.stride,
                    strategy=setting.truncation,
                    direction=setting.truncation_side,
                )
            if setting.padding:
                copy.enable_padding(
                    direction=setting.padding_side,
                    pad_id=self._pad_id,
                    pad_token=self._pad_token,
                    length=setting.limit if setting.padding == "max_length" else None,
                    pad_to_multiple_of=setting.multiple,
                )
            if len(self._copies) >= _MOST:
                self._copies.clear()
            self._copies[setting] = copy
        return copy

    def _copy(self) -> Tokenizer:
        """A Rust tokenizer that does what `base` does; the vocabulary is shared."""
        base = self.base
        copy = Tokenizer(base.model)
        for part in ("normalizer", "pre_tokenizer", "decoder", "post_processor", "encode_special_tokens"):
            setattr(copy, part, getattr(base, part))
        copy.add_tokens([token for _, token in sorted(base.get_added_tokens_decoder().items())])
        return copy


def wordpiece(
    vocab: dict[str, int],
    unk_token: str,
    *,
    do_lower_case: bool,
    tokenize_chinese_chars: bool,
    strip_accents: bool | None,
) -> Tokenizer:
    """BERT's tokenizer of a vocabulary, without special tokens; the arguments are as in `DistilBertTokenizer`.

    Raises:
        ValueError: the Rust library takes no such vocabulary.
    """
    with refusing("the vocabulary"):
        base = Tokenizer(WordPiece(vocab, unk_token=unk_token))
    base.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=tokenize_chinese_chars,
        strip_accents=strip_accents,
        lowercase=do_lower_case,
    )
    base.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    base.decoder = decoders.WordPiece(prefix="##")
    return base


def surround(base: Tokenizer, cls: str, sep: str) -> None:
    """Make `base` put the tokens `cls` and `sep` around texts.

    Raises:
        ValueError: the Rust library takes no such tokens.
    """
    with refusing(f"cls_token {cls!r} and sep_token {sep!r}"):
        base.post_processor = processors.TemplateProcessing(
            single=f"{cls}:0 $A:0 {sep}:0",
            pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
            special_tokens=[(token, base.token_to_id(token)) for token in (cls, sep)],
        )


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turn whatever the Rust library raises into a ValueError that begins with `what`."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"{what} cannot be used: {error}") from None


def _encode(backend: Tokenizer, texts: Any, pairs: Any, batched: bool, words: bool, special: bool) -> list[Encoding]:
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
        raise InvalidInput(f"the text cannot be encoded: {error}{advice}") from None
