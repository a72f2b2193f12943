"""The tokens of a tokenizer and their ids: the vocabulary, the tokens added to it, and the special ones by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import Decoder

from distilrt.text.encoding import as_lists
from distilrt.text.tokenizer_backends import TokenizerBackends, refusing
from distilrt.text.tokenizer_files import SPECIAL_NAMES, as_token

Token = str | AddedToken


class TokenizerVocabulary:
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

    _backends: TokenizerBackends
    _named: dict[str, str]
    _extra: list[str]

    def _register(
        self,
        base: Tokenizer,
        named: Mapping[str, AddedToken],
        extra: Iterable[AddedToken],
        added: Mapping[int, AddedToken],
    ) -> None:
        """Add the tokens that `base` lacks, and take it.

        Args:
            base: a Rust tokenizer that nobody else uses.
            named: special tokens by their names.
            extra: special tokens without a name.
            added: tokens by their ids, of which only the order counts.
        """
        extra = list(extra)
        known = [repr(token) for token in base.get_added_tokens_decoder().values()]
        fresh = {str(token): token for _, token in sorted(added.items()) if repr(token) not in known}
        there = {str(token) for token in base.get_added_tokens_decoder().values()}
        for token in (*named.values(), *extra):
            if str(token) not in there:
                fresh.setdefault(str(token), token)
        for token in named.values():
            if str(token) in fresh:
                fresh[str(token)].special = True
        with refusing("the special tokens"):
            base.add_tokens(list(fresh.values()))
        self._named = {name: str(named[name]) for name in SPECIAL_NAMES if name in named}
        self._extra = list(map(str, extra))
        self._refresh(base)

    def _refresh(self, base: Tokenizer) -> None:
        """Take `base`, and look up what follows from it and the names, so that calls need not."""
        unknown = base.token_to_id(self._named.get("unk_token", ""))
        ids = {text: base.token_to_id(text) for text in (*self._named.values(), *self._extra)}
        ids = {text: unknown if index is None else index for text, index in ids.items()}
        known = vars(self)
        for name in SPECIAL_NAMES:
            known[name] = self._named.get(name)
            known[f"{name}_id"] = ids.get(self._named.get(name, ""))
        self._backends = TokenizerBackends(base, self.pad_token, self.pad_token_id)
        self.special_tokens_map = dict(self._named)
        self.all_special_tokens, self.all_special_ids = list(ids), list(ids.values())
        known["extra_special_tokens"] = list(self._extra)
        known["extra_special_tokens_ids"] = [ids[text] for text in self._extra]

    def __setattr__(self, name: str, value: Any) -> None:
        key = name.removesuffix("_ids").removesuffix("_id")
        if key not in (*SPECIAL_NAMES, "extra_special_tokens"):
            super().__setattr__(name, value)
            return
        if name != key and value is not None:
            value = self.convert_ids_to_tokens(value)
        if key == "extra_special_tokens":
            self._extra = [str(as_token(token)) for token in value or ()]
        else:
            named = {**self._named, key: "" if value is None else str(as_token(value))}
            self._named = {name: named[name] for name in SPECIAL_NAMES if named.get(name)}
        self._refresh(self.backend_tokenizer)

    if not TYPE_CHECKING:  # a type checker would take every name

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(
                f"distilrt's {type(self).__name__} has no {name!r}; a tokenizer of transformers may have it, and "
                "distilrt's models take its encodings too"
            )

    def add_tokens(self, new_tokens: Token | Sequence[Token], special_tokens: bool = False) -> int:
        """Add tokens to the end of the vocabulary; a model needs an embedding for each.

        Args:
            new_tokens: one token or several; those that are there already stay.
            special_tokens: whether they are never normalized and are left out by `decode(skip_special_tokens=True)`.

        Returns:
            How many were added.

        Raises:
            TypeError: a token is neither a str nor an AddedToken.
        """
        tokens: list[Any] = list(new_tokens) if isinstance(new_tokens, list | tuple) else [new_tokens]
        for token in tokens:
            if not isinstance(token, str | AddedToken):
                raise TypeError(f"a new token must be a str or AddedToken, found {token!r}")
        base, count = self._backends.extended(tokens, special_tokens)
        self._refresh(base)
        return count

    def add_special_tokens(
        self, special_tokens_dict: Mapping[str, Any], replace_extra_special_tokens: bool = True
    ) -> int:
        """Name special tokens, and add those that the vocabulary lacks.

        Args:
            special_tokens_dict: a token for each of `cls_token` and the other names, a list for `extra_special_tokens`
                (or `additional_special_tokens`, which is the same).
            replace_extra_special_tokens: whether such a list takes the place of the former one, or is added to it.

        Returns:
            How many tokens were added to the vocabulary.

        Raises:
            ValueError: a key is no name of a special token.
            TypeError: a token is neither a str nor an AddedToken.
        """
        named, extra = dict(self._named), list(self._extra)
        tokens: list[AddedToken] = []
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
                raise ValueError(f"{key!r} is no special token; allowed are {', '.join(SPECIAL_NAMES)} and "
                                 "extra_special_tokens")  # fmt: skip
        self._named = {name: named[name] for name in SPECIAL_NAMES if name in named}
        self._extra = extra
        return self.add_tokens(tokens, special_tokens=True)

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
            raise ValueError("get_special_tokens_mask needs one sequence with already_has_special_tokens=True; for "
                             "texts call the tokenizer with return_special_tokens_mask=True")  # fmt: skip
        special = set(self.all_special_ids)
        return [int(index in special) for index in as_lists(token_ids_0)]

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """The tokens that are found before a text is split, by their ids."""
        return self.backend_tokenizer.get_added_tokens_decoder()

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """The ids of the tokens of `added_tokens_decoder`, in ascending order."""
        return {str(token): index for index, token in sorted(self.added_tokens_decoder.items())}

    def get_added_vocab(self) -> dict[str, int]:
        """What `added_tokens_encoder` is."""
        return self.added_tokens_encoder

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

    def get_vocab(self) -> dict[str, int]:
        """The ids of all tokens, added ones included."""
        return self.backend_tokenizer.get_vocab(with_added_tokens=True)

    @property
    def vocab(self) -> dict[str, int]:
        """What `get_vocab` returns."""
        return self.get_vocab()

    @property
    def backend_tokenizer(self) -> Tokenizer:
        """The Rust tokenizer without padding and truncation; changing it breaks this one."""
        return self._backends.base

    @property
    def decoder(self) -> Decoder | None:
        """The Rust decoder, which joins tokens into text."""
        found: Decoder | None = self.backend_tokenizer.decoder
        return found

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
