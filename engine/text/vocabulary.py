"""The tokens of a tokenizer and their ids: the vocabulary, the tokens added to it, and the special ones by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import Decoder

from distilrt.text.encoding import as_lists
from distilrt.text.rust_tokenizer import RustTokenizer, refusing

Token = str | AddedToken

SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
TOKEN_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")  # of an AddedToken


class Vocabulary:
    """What a tokenizer knows of tokens and ids, with the names of `transformers`.

    The special tokens, their ids and `extra_special_tokens` may be assigned. As in the reference, a name for a token
    that the vocabulary lacks has the id of `unk_token`, and what a call puts around a text stays the same. Tokens are
    added to a copy of the Rust tokenizer, so calls of other threads finish with the one that they began with; only one
    thread at a time may change a tokenizer.
    """

    model_max_length: int
    special_tokens_map: dict[str, str]
    extra_special_tokens: list[str]
    extra_special_tokens_ids: list[int | None]
    all_special_tokens: list[str]
    all_special_ids: list[int | None]
    bos_token: str | None
    bos_token_id: int | None
    eos_token: str | None
    eos_token_id: int | None
    unk_token: str | None
    unk_token_id: int | None
    sep_token: str | None
    sep_token_id: int | None
    pad_token: str | None
    pad_token_id: int | None
    cls_token: str | None
    cls_token_id: int | None
    mask_token: str | None
    mask_token_id: int | None

    backend = "tokenizers"
    is_fast = True
    pad_token_type_id = 0

    _rust: RustTokenizer
    _named: dict[str, str]  # special tokens by their names, in the order of SPECIAL_NAMES
    _extra: list[str]  # special tokens without a name

    def _register(
        self,
        base: Tokenizer,
        named: Mapping[str, AddedToken],
        extra: Sequence[AddedToken],
        added: Mapping[int, AddedToken],
    ) -> None:
        """Add the tokens that `base` lacks, and take it; of the ids in `added` only the order counts."""
        there = {str(token): repr(token) for token in base.get_added_tokens_decoder().values()}
        fresh = {str(token): token for _, token in sorted(added.items()) if there.get(str(token)) != repr(token)}
        for token in (*named.values(), *extra):
            if str(token) not in there:
                fresh.setdefault(str(token), token)
        for token in named.values():
            if str(token) in fresh:
                fresh[str(token)].special = True
        with refusing("the special tokens"):
            base.add_tokens(list(fresh.values()))
        self._take(base, {name: str(token) for name, token in named.items()}, map(str, extra))

    def _take(self, base: Tokenizer, named: Mapping[str, str], extra: Iterable[str]) -> None:
        """Take a Rust tokenizer and special tokens, and look up their ids once, so that calls need not."""
        self._named = {name: named[name] for name in SPECIAL_NAMES if name in named}
        self._extra = list(extra)
        unknown = base.token_to_id(named.get("unk_token", ""))
        ids = {text: base.token_to_id(text) for text in (*self._named.values(), *self._extra)}
        ids = {text: unknown if index is None else index for text, index in ids.items()}
        known = vars(self)  # because assigning one of these attributes calls this method
        for name in SPECIAL_NAMES:
            known[name] = named.get(name)
            known[f"{name}_id"] = ids.get(named.get(name, ""))
        known["extra_special_tokens"] = list(self._extra)
        known["extra_special_tokens_ids"] = [ids[text] for text in self._extra]
        self.special_tokens_map = dict(self._named)
        self.all_special_tokens, self.all_special_ids = list(ids), list(ids.values())
        self._rust = RustTokenizer(base, self.pad_token, self.pad_token_id, base.encode_special_tokens)

    def __setattr__(self, name: str, value: Any) -> None:
        key = name.removesuffix("_ids").removesuffix("_id")
        if key not in (*SPECIAL_NAMES, "extra_special_tokens"):
            super().__setattr__(name, value)
            return
        if name != key and value is not None:
            value = self.convert_ids_to_tokens(value)
        named, extra = dict(self._named), self._extra
        if key == "extra_special_tokens":
            extra = [str(as_token(token)) for token in value or ()]
        elif text := "" if value is None else str(as_token(value)):
            named[key] = text
        else:
            named.pop(key, None)
        self._take(self.backend_tokenizer, named, extra)

    if not TYPE_CHECKING:  # a type checker would take every name

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(
                f"distilrt's {type(self).__name__} has no {name!r}; a tokenizer of transformers may have it, and "
                "distilrt's models take its encodings too"
            )

    def add_tokens(self, new_tokens: Token | Sequence[Token], special_tokens: bool = False) -> int:
        """Add tokens to the end of the vocabulary, and return how many; a model needs an embedding for each.

        Args:
            new_tokens: one token or several; those that are there already stay.
            special_tokens: whether they are never normalized and are left out by `decode(skip_special_tokens=True)`.

        Raises:
            TypeError: a token is neither a str nor an AddedToken.
        """
        tokens: list[Any] = list(new_tokens) if isinstance(new_tokens, list | tuple) else [new_tokens]
        for token in tokens:
            if not isinstance(token, str | AddedToken):
                raise TypeError(f"a new token must be a str or AddedToken, found {token!r}")
        base, count = self._rust.extended(tokens, special_tokens)
        self._take(base, self._named, self._extra)
        return count

    def add_special_tokens(
        self, special_tokens_dict: Mapping[str, Any], replace_extra_special_tokens: bool = True
    ) -> int:
        """Name special tokens, add those that the vocabulary lacks, and return how many that were.

        Args:
            special_tokens_dict: a token for each of `cls_token` and the other names, a list for `extra_special_tokens`
                (or `additional_special_tokens`, which is the same).
            replace_extra_special_tokens: whether such a list takes the place of the former one, or is added to it.

        Raises:
            ValueError: a key is not the name of a special token.
            TypeError: a token is neither a str nor an AddedToken.
        """
        named, extra = dict(self._named), list(self._extra)
        tokens: list[str | AddedToken] = []
        for key, value in special_tokens_dict.items():
            if key in ("extra_special_tokens", "additional_special_tokens"):
                fresh = [as_token(token) for token in value]
                if replace_extra_special_tokens and fresh:
                    extra = list(map(str, fresh))
                else:
                    fresh = [token for token in fresh if str(token) not in extra]
                    extra += map(str, fresh)
                tokens += fresh
            elif key in SPECIAL_NAMES:
                tokens.append(as_token(value))
                named[key] = str(tokens[-1])
            else:
                allowed = ", ".join((*SPECIAL_NAMES, "extra_special_tokens"))
                raise ValueError(f"{key!r} is not the name of a special token; allowed are {allowed}")
        base, count = self._rust.extended(tokens, special=True)
        self._take(base, named, extra)
        return count

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """The id of a token, or the ids of a list of tokens; unknown ones get that of `unk_token`."""
        if isinstance(tokens, str):
            index = self.backend_tokenizer.token_to_id(tokens)
            return self.unk_token_id if index is None else index
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """The token of an id, or the tokens of a sequence of ids; None for an id outside the vocabulary."""
        ids = as_lists(ids)
        if isinstance(ids, int):
            return self.backend_tokenizer.id_to_token(ids)
        skipped = set(self.all_special_ids) if skip_special_tokens else set()
        return [self.backend_tokenizer.id_to_token(index) for index in map(int, ids) if index not in skipped]

    def get_special_tokens_mask(
        self, token_ids_0: Any, token_ids_1: Any = None, already_has_special_tokens: bool = False
    ) -> list[int]:
        """For each id of a sequence 1 where it is a special token's, else 0.

        Raises:
            ValueError: the sequence has no special tokens yet; a call with `return_special_tokens_mask=True` tells
                where they will be.
        """
        if not already_has_special_tokens or token_ids_1 is not None:
            raise ValueError(
                "get_special_tokens_mask needs one sequence with already_has_special_tokens=True; for texts call the"
                " tokenizer with return_special_tokens_mask=True"
            )
        special = set(self.all_special_ids)
        return [int(index in special) for index in as_lists(token_ids_0)]

    @property
    def backend_tokenizer(self) -> Tokenizer:
        """The Rust tokenizer without padding and truncation; changing it breaks this one."""
        return self._rust.base

    @property
    def decoder(self) -> Decoder | None:
        """The Rust decoder, which joins tokens into text."""
        found: Decoder | None = self.backend_tokenizer.decoder
        return found

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """The tokens that are found before a text is split, by their ids."""
        return self.backend_tokenizer.get_added_tokens_decoder()

    def get_added_vocab(self) -> dict[str, int]:
        """The ids of the tokens of `added_tokens_decoder`, in ascending order."""
        return {str(token): index for index, token in sorted(self.added_tokens_decoder.items())}

    def get_vocab(self) -> dict[str, int]:
        """The ids of all tokens, added ones included."""
        return self.backend_tokenizer.get_vocab(with_added_tokens=True)

    added_tokens_encoder = property(get_added_vocab)
    vocab = property(get_vocab)

    @property
    def additional_special_tokens(self) -> list[str]:
        """The name that transformers 4 had for `extra_special_tokens`."""
        return self.extra_special_tokens

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary without added tokens."""
        return self.backend_tokenizer.get_vocab_size(with_added_tokens=False)

    def __len__(self) -> int:
        return self.backend_tokenizer.get_vocab_size(with_added_tokens=True)

    def __bool__(self) -> bool:
        return True

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many special tokens a call adds to one text or to a pair."""
        return self.backend_tokenizer.num_special_tokens_to_add(pair)

    @property
    def max_len_single_sentence(self) -> int:
        """How many tokens of one text fit into `model_max_length`."""
        return self.model_max_length - self.num_special_tokens_to_add(False)

    @property
    def max_len_sentences_pair(self) -> int:
        """How many tokens of both texts of a pair fit into `model_max_length`."""
        return self.model_max_length - self.num_special_tokens_to_add(True)


def as_token(value: Any, **override: bool) -> AddedToken:
    """A token that is given as a str (special then), as an object or as the dict of a JSON file, with flags that win.

    Raises:
        TypeError: it is none of these.
    """
    if isinstance(value, AddedToken):
        return value
    if isinstance(value, str):
        return AddedToken(value, special=True)
    if not isinstance(value, dict) or not isinstance(value.get("content"), str):
        raise TypeError(f"a special token must be a str or AddedToken, found {value!r}")
    flags = {key: value[key] for key in TOKEN_FLAGS if key in value}
    return AddedToken(value["content"], **flags | override)
