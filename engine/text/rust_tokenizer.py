"""The Rust tokenizer under a DistilBERT tokenizer, its copies that pad and truncate, and its errors.

The Rust object holds padding and truncation as settings, so each combination gets an object of its own, made on first
use and never changed after. The copies share one vocabulary and cost microseconds to make.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NoReturn

from tokenizers import AddedToken, Encoding, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

from distilrt.errors import InvalidInput
from distilrt.text.padding import Setting


class RustTokenizer:
    """A Rust tokenizer that neither pads nor truncates, `base`, and a copy of it for each setting of calls.

    Any number of threads may share it. `base` must not be changed.
    """

    def __init__(self, base: Tokenizer, pad_token: str | None, pad_id: int | None, split_special_tokens: bool) -> None:
        """Take `base`, which nobody else may change; its copies pad with `pad_token` and `pad_id`."""
        self.base = base
        self._pad_token, self._pad_id = pad_token, pad_id
        self._split_special_tokens = base.encode_special_tokens = split_special_tokens
        self._configured = lru_cache(maxsize=64)(self._configure)

    def __reduce__(self) -> Any:
        # The Rust library pickles a tokenizer without its encode_special_tokens.
        return type(self), (self.base, self._pad_token, self._pad_id, self._split_special_tokens)

    def extended(self, tokens: list[str | AddedToken], special: bool) -> tuple[Tokenizer, int]:
        """A copy of `base` with more tokens, and how many were added."""
        copy = self._copy()
        count = copy.add_special_tokens(tokens) if special else copy.add_tokens(tokens)
        return copy, count

    def encode(
        self, texts: Any, pairs: Any, batched: bool, words: bool, special: bool, setting: Setting
    ) -> list[Encoding]:
        """Encode texts; where nothing is wrong, no text is looked at twice.

        Args:
            texts: one text, or if `batched` a list or tuple of them; with `words`, each is a list of words.
            pairs: the second texts likewise; None where there are none.
            special: whether to add special tokens.
            setting: how to pad and truncate.

        Raises:
            TypeError: a text is not a str; the message names its place.
            ValueError: there are not as many second texts as first ones.
            InvalidInput: the texts cannot be truncated as `setting` says, or cannot be encoded at all.
        """
        if batched and pairs is not None:
            if not isinstance(pairs, list | tuple):
                raise TypeError(f"text is a batch, so text_pair must be a list too, found {type(pairs).__name__}")
            if len(texts) != len(pairs):
                raise ValueError(f"text has {len(texts)} entries but text_pair has {len(pairs)}")
        limit, rust = setting.limit, self.base
        items = [(texts, pairs) if pairs else texts]
        if batched:
            items = texts if pairs is None else list(zip(texts, pairs, strict=True))
        try:
            if setting.stride:
                self._check_stride(items, words, special, setting)
            if setting.padding or setting.truncation or setting.split_special_tokens != self._split_special_tokens:
                rust = self._configured(setting)
            if batched:
                encodings = rust.encode_batch(items, words, special)
            else:
                encodings = [rust.encode(texts, pairs or None, words, special)]
        except TypeError:
            _refuse_types(texts, pairs, batched, words)
        except BaseException as error:
            # The Rust library raises bare Exceptions, and a PanicException where it is at fault itself.
            if type(error) is not Exception and type(error).__name__ != "PanicException":
                raise
            advice = "; raise max_length, shorten a text or choose another truncation" if rust.truncation else ""
            raise InvalidInput(f"the text cannot be encoded: {error}{advice}") from None
        # The Rust library truncates nothing where the special tokens alone exceed the limit.
        too_low = setting.truncation and limit < rust.num_special_tokens_to_add(True)
        if too_low and any(len(encoding) > limit for encoding in encodings):
            raise InvalidInput(f"max_length={limit} has no room for the special tokens alone; raise it")
        return encodings

    def _check_stride(self, items: Any, words: bool, special: bool, setting: Setting) -> None:
        """Refuse a stride that is not less than the tokens kept of a text, at which the Rust library panics."""
        limit, stride, cut = setting.limit, setting.stride, setting.truncation
        single, most = (limit - special * self.base.num_special_tokens_to_add(pair) for pair in (False, True))
        if stride >= single:
            raise InvalidInput(f"stride={stride} must be less than the {single} tokens of text in max_length={limit}")
        pairs = [item for item in items if isinstance(item, list | tuple) and len(item) == 2]
        pairs = [pair for pair in pairs if not words or isinstance(pair[0], list | tuple)]
        plain = self._configured(setting._replace(padding="", truncation="", stride=0))

        def lengths(place: int) -> list[int]:
            return [len(text) for text in plain.encode_batch([pair[place] for pair in pairs], words, False)]

        firsts = lengths(0)
        if cut == "only_second" and most - max(firsts, default=0) > stride:
            return  # The second texts, which may be far longer, are seldom read twice.
        for first, second in zip(firsts, lengths(1), strict=True):
            other = {"only_first": second, "only_second": first}.get(cut, min(first, second, most - most // 2))
            if first + second > most and most - other <= stride:
                raise InvalidInput(
                    f"max_length={limit} leaves {max(0, most - other)} tokens for the text that is cut, of a pair of "
                    f"{first} and {second}, and stride={stride} must be less; raise max_length, lower stride or "
                    "shorten the other text"
                )

    def _configure(self, setting: Setting) -> Tokenizer:
        """A copy of `base` that pads and truncates as `setting` says."""
        copy = self._copy()
        copy.encode_special_tokens = setting.split_special_tokens
        if setting.truncation:
            # The Rust library compares the stride with a limit less special tokens, which not every call adds.
            processor, copy.post_processor = copy.post_processor, None
            copy.enable_truncation(
                setting.limit,
                stride=setting.stride,
                strategy=setting.truncation,
                direction=setting.truncation_side,
            )
            copy.post_processor = processor
        if setting.padding:
            copy.enable_padding(
                direction=setting.padding_side,
                pad_id=self._pad_id,
                pad_token=self._pad_token,
                length=setting.limit if setting.padding == "max_length" else None,
                pad_to_multiple_of=setting.multiple,
            )
        return copy

    def _copy(self) -> Tokenizer:
        """A Rust tokenizer that does what `base` does; the vocabulary is shared."""
        copy = Tokenizer(self.base.model)
        for part in ("normalizer", "pre_tokenizer", "decoder", "post_processor", "encode_special_tokens"):
            setattr(copy, part, getattr(self.base, part))
        copy.add_tokens([token for _, token in sorted(self.base.get_added_tokens_decoder().items())])
        return copy


def is_batch(texts: Any, words: bool) -> bool:
    """Whether these are several texts; with `words`, a text is a list itself."""
    if not words or not isinstance(texts, list | tuple):
        return isinstance(texts, list | tuple)
    return len(texts) > 0 and isinstance(texts[0], list | tuple)


def wordpiece(vocab: dict[str, int], unk_token: str, normalizer: normalizers.Normalizer) -> Tokenizer:
    """BERT's tokenizer of a vocabulary, without special tokens; a ValueError where the Rust library refuses it."""
    with refusing("the vocabulary"):
        base = Tokenizer(WordPiece(vocab, unk_token=unk_token))
    base.normalizer = normalizer
    base.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    base.decoder = decoders.WordPiece(prefix="##")
    return base


def surround(base: Tokenizer, cls: str, sep: str) -> None:
    """Make `base` put the tokens `cls` and `sep` around texts; a ValueError where the Rust library refuses them."""
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


def _refuse_types(texts: Any, pairs: Any, batched: bool, words: bool) -> NoReturn:
    """Raise an error that names the first entry that is not a text; the arguments are those of `encode`."""
    _check_text("text", texts, batched + words + (batched and pairs is None))
    if pairs is not None:
        _check_text("text_pair", pairs, batched + words)
    one = "a list of words" if words else "a str"
    raise TypeError(
        f"with is_split_into_words={words} text and text_pair must each be {one}, or a list of these for a batch"
    )


def _check_text(where: str, value: Any, depth: int) -> None:
    """Check a text, or texts in lists of at most `depth` levels; a message calls `value` by `where`."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(
                f"{where} has half a surrogate pair at character {error.start}; replace it,"
                " for example with text.encode('utf-8', 'replace').decode()"
            ) from None
    elif isinstance(value, list | tuple) and depth > 0:
        for index, item in enumerate(value):
            _check_text(f"{where}[{index}]", item, depth - 1)
    else:
        raise TypeError(f"{where} is of type {type(value).__name__}; every text must be a str, every batch a list")
