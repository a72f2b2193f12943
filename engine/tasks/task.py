"""What a task is: the steps between a caller's input and a JSON-ready answer, and what the tasks share.

A task belongs to one model and knows its tokenizer and config. It knows nothing of batches, files or devices: its
sequences may be computed beside those of other inputs and other tasks (see `distilrt.tasks.runner`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding

from distilrt.batch import TypedIds, type_rows
from distilrt.errors import InvalidInput, InvalidParameter, TooLarge, TooLong
from distilrt.model.config import DistilBertConfig
from distilrt.model.heads import HEADS
from distilrt.model.sentence_vectors import SentenceVectors
from distilrt.tasks.size import Size, characters, check_windows
from distilrt.tasks.task_inputs import Text, TokenIds
from distilrt.tasks.task_parameters import WINDOWS, Param
from distilrt.tasks.text_start import start_of
from distilrt.text.tokenizer import DistilBertTokenizer

Rows = npt.NDArray[Any]  # floats, [rows, width]
Params = dict[str, Any]  # a value for each parameter of a task, as `Task.settle` makes them
Selection = slice | list[int]  # of the rows of one sequence
Encoded = tuple[list[Encoding], list[list[int]]]  # The texts of one input have encodings and token ids.

_Made = TypeVar("_Made")

FIRST, ALL = slice(0, 1), slice(None)


@dataclass(frozen=True, slots=True)
class Prepared:
    """One input as token ids, with all that its answer needs."""

    source: Any  # the input as the caller gave it
    params: Params
    encodings: list[Encoding]  # of each sequence; none of token ids
    sequences: list[list[int]]  # token ids
    rows: list[Selection]  # of each sequence, those that the head reads


class Task(ABC):
    """Pre- and post-processing of one task for one model. It has no state, so many threads may use it.

    A caller settles the parameters once, and takes inputs through `size`, `prepare`, the model and `answer`. For the
    model it packs the `sequences` of any inputs, and takes the rows of the head's output that `rows` names.

    Attributes:
        name: what callers ask for.
        architecture: the class in `distilrt.model.models` that computes it, a key of `distilrt.model.heads.HEADS`.
        params: its parameters by name.
        called: what its callers call things that the tokenizer's errors name.
        tokenizer, config: the model's.
        encoder: what the checkpoint's sentence-transformers files say of this architecture, if they do.
    """

    name: ClassVar[str]
    architecture: ClassVar[str]
    params: ClassVar[Mapping[str, Param]]
    called: ClassVar[Mapping[str, str]] = {"text[0][0]": "text", "text[0][1]": "text_pair", "text[0]": "the text"}

    def __init__(
        self, tokenizer: DistilBertTokenizer, config: DistilBertConfig, encoder: SentenceVectors | None = None
    ) -> None:
        self.tokenizer, self.config = tokenizer, config
        if encoder is None or encoder.architecture != self.architecture:
            encoder = SentenceVectors()
        self.encoder = encoder
        # Most requests give few parameters, so the values of the others are made once.
        self._defaults = {
            name: param.read(param.default) for name, param in self.params.items() if param.accepts(param.default)
        }
        self._required = dict.fromkeys(self.params.keys() - self._defaults.keys())

    @property
    def limit(self) -> int:
        """How many tokens of a text the model reads at most."""
        return longest(self.tokenizer, self.config)

    @classmethod
    def check_names(cls, names: Iterable[str]) -> None:
        """Refuse, with an InvalidParameter, what is no parameter's name."""
        for name in names:
            if name not in cls.params:
                raise InvalidParameter(f"{cls.name} has no parameter {name!r:.80}; it has {', '.join(cls.params)}")

    def settle(self, params: Mapping[str, Any]) -> Params:
        """A value for each parameter: the given one, or the default where that is missing or None.

        Raises:
            InvalidParameter: there is no such parameter, its value is not allowed, or this model cannot serve it.
        """
        self.check_names(params)
        asked = {**self._required, **params}
        values = {name: self.params[name].value(f"{self.name}: {name}", value) for name, value in asked.items()}
        settled = self._defaults | values
        self.check(settled)
        return settled

    def check(self, params: Params) -> None:
        """Refuse, with an InvalidParameter, settled parameters that this model cannot serve."""
        check_most("max_length", params.get("max_length"), self.limit, "what this model reads")
        if params.get("truncation") == WINDOWS:
            room = self.room(params)
            if room < 1:
                raise InvalidParameter("a window has no room for text; raise max_length, or shorten the prompt")
            check_most("stride", params["stride"], room - 1, f"less than the {room} tokens of text in a window")

    def room(self, params: Params) -> int:
        """How many tokens of a text without a pair fit into one window."""
        special = self.tokenizer.num_special_tokens_to_add() if params["add_special_tokens"] else 0
        return (params["max_length"] or self.limit) - special - len(self.repeated(params))

    def repeated(self, params: Params) -> list[int]:
        """The token ids that begin each window of a text, which is where the text itself begins with them."""
        return []

    def size(self, item: Any, params: Params) -> Size:
        """What a tokenizer has to read for an input, each repetition counted.

        It is found without copying a text, and says nothing of mistakes: `prepare` refuses those.
        """
        return Size(1, len(params.get("prompt") or "") + characters(item))

    def prepare(
        self, inputs: Sequence[Any], params: Params, max_tokens: int | None = None
    ) -> list[Prepared | InvalidInput]:
        """Check and tokenize inputs, in one call of the tokenizer. In the place of a bad input is its error.

        Raises:
            TooLarge: the windows of all texts would have more than `max_tokens`, which is known before they are made.
        """
        texts = [attempt(self.texts, item, params) for item in inputs]
        groups = [found for found in texts if isinstance(found, list) and not isinstance(found, TokenIds)]
        try:
            encoded = self._encode_all(groups, params, max_tokens)
        except TooLarge:
            raise
        except InvalidInput as error:  # of one of the texts
            if len(inputs) == 1:
                return [error.naming(self.called)]
            return [self.prepare([item], params, max_tokens)[0] for item in inputs]
        prepared: list[Prepared | InvalidInput] = []
        for item, found in zip(inputs, texts, strict=True):
            if isinstance(found, InvalidInput):
                prepared.append(found)
                continue
            parts = ([], [found]) if isinstance(found, TokenIds) else next(encoded)
            prepared.append(attempt(self._prepared, item, params, *parts))
        return prepared

    @abstractmethod
    def texts(self, item: Any, params: Params) -> list[Text] | TokenIds:
        """The texts and pairs of texts that the model must read for one input, or the token ids that it is.

        Raises:
            InvalidInput: the input is not what the task takes.
        """

    def token_ids(self, ids: list[Any], params: Params) -> TokenIds:
        """An input that is token ids, with nothing added. Where texts would be cut, it is cut at the same end.

        Raises:
            InvalidInput: it holds something else, or nothing.
        """
        if set(map(type, ids)) != {int} or min(ids) < 0:  # quick even for a million, as anybody may send
            raise InvalidInput("token ids must be a list of at least one integer, none below 0")
        options = self.tokenizing(params)
        most = options.get("max_length", len(ids))
        types = ids.token_types if isinstance(ids, TypedIds) else None
        if len(ids) > most:
            if "stride" in options:
                raise TooLong(
                    f"the input has {len(ids)} token ids, a window at most {most}; divide it, or send the text"
                )
            side = options["truncation_side"] or self.tokenizer.truncation_side
            part = slice(-most, None) if side == "left" else slice(most)
            ids, types = ids[part], types and types[part]
        return TokenIds(ids, types)

    def tokenizing(self, params: Params) -> dict[str, Any]:
        """How to call the tokenizer; unless overridden, cutting texts or dividing them into windows when asked."""
        cut, special = params["truncation"], {"add_special_tokens": params["add_special_tokens"]}
        if cut in (False, "do_not_truncate") or (cut is None and params["max_length"] is None):
            return special
        most = min(params["max_length"] or self.limit, self.limit)
        if cut == WINDOWS:
            return {"max_length": most, "stride": params["stride"], "return_overflowing_tokens": True,
                    "truncation": True, "truncation_side": "right", **special}  # fmt: skip
        return {
            "truncation": cut or True,
            "max_length": most,
            "truncation_side": params["truncation_side"],
            **special,
        }

    def select(self, params: Params, ids: list[int]) -> Selection:
        """The rows of a sequence that the task reads; unless overridden, those that the head reads."""
        return FIRST if HEADS[self.architecture].reads == "first" else ALL

    def keep(self, outputs: Rows) -> Rows:
        """What `answer` needs of the head's rows of one sequence; unless overridden, all.

        It is held until all sequences of the input are computed.
        """
        return outputs

    @abstractmethod
    def answer(self, prepared: Prepared, outputs: Sequence[Rows]) -> Any:
        """A JSON-ready answer from what `keep` left of the head's rows `[selected, width]` of each sequence."""

    def _encode_all(self, groups: Sequence[list[Text]], params: Params, max_tokens: int | None) -> Iterator[Encoded]:
        """The encodings of each group's texts, and their token ids. Texts and pairs are divided in different ways."""
        pairs = [any(isinstance(text, tuple) for text in group) for group in groups]
        made = {}
        for pair in set(pairs):
            alike = [group for group, found in zip(groups, pairs, strict=True) if found == pair]
            made[pair] = iter(self._encode(alike, params, max_tokens))
        return (next(made[pair]) for pair in pairs)

    def _encode(self, groups: Sequence[list[Text]], params: Params, max_tokens: int | None) -> list[Encoded]:
        """The same of groups that are alike. A text that does not fit behind its prompt is divided without it."""
        options = self.tokenizing(params)
        repeated = self.repeated(params) if "stride" in options else []
        if not repeated:
            return self._tokenized(groups, options, max_tokens, [])
        most, prompt = options["max_length"], len(params["prompt"])
        parts = self._tokenized(groups, {"add_special_tokens": params["add_special_tokens"]}, None, [])
        long = [place for place, (_, found) in enumerate(parts) if any(len(ids) > most for ids in found)]
        if long:
            options["max_length"] -= len(repeated)
            bare: list[list[Any]] = [[text[prompt:] for text in groups[place]] for place in long]
            for place, part in zip(long, self._tokenized(bare, options, max_tokens, repeated), strict=True):
                parts[place] = part
        return parts

    def _tokenized(
        self, groups: Sequence[list[Text]], options: dict[str, Any], max_tokens: int | None, repeated: list[int]
    ) -> list[Encoded]:
        """The same in one call of the tokenizer, with the token ids `repeated` before the text in each sequence."""
        texts = [text for group in groups for text in group]
        side = options.get("truncation_side") or self.tokenizer.truncation_side
        if "stride" in options:
            most = options["max_length"]
            if isinstance(texts[0], tuple):
                options["truncation"] = "only_second"
                if most <= options.get("add_special_tokens", True) * self.tokenizer.num_special_tokens_to_add(True):
                    raise InvalidInput(f"max_length={most} has no room for a pair; raise it")
            if max_tokens is not None:
                check_windows(self.tokenizer, texts, most, options["stride"], max_tokens, len(repeated))
        elif side == "right" or "truncation" not in options:
            # One token more than the model reads, so that a text too long is still seen to be.
            texts = [_start(self.tokenizer, text, self.limit + 1) for text in texts]
        encoded = self.tokenizer(texts, return_attention_mask=False, return_token_type_ids=False, **options)
        assert encoded.encodings is not None
        owners = [owner for owner, group in enumerate(groups) for _ in group]
        parts: list[Encoded] = [([], []) for _ in groups]
        has_types = self.config.is_bert and "token_type_ids" in self.tokenizer.model_input_names
        samples = encoded.get("overflow_to_sample_mapping", range(len(owners)))
        for encoding, ids, sample in zip(encoded.encodings, encoded["input_ids"], samples, strict=True):
            encodings, sequences = parts[owners[sample]]
            types = encoding.type_ids if has_types else []
            if repeated:
                start = encoding.special_tokens_mask[0]
                ids = [*ids[:start], *repeated, *ids[start:]]
                types = [*types[:start], *types[start : start + 1] * len(repeated), *types[start:]]
            encodings.append(encoding)
            sequences.append(TypedIds(ids, types) if any(types) else ids)
        return parts

    def _prepared(self, item: Any, params: Params, encodings: list[Encoding], sequences: list[list[int]]) -> Prepared:
        """The input, after the checks that `pack` makes, which come here before other inputs share the batch."""
        limit, vocab_size = self.limit, self.config.vocab_size
        for ids in sequences:
            if not ids:
                raise InvalidInput("the text has no tokens; leave add_special_tokens at True, or send some text")
            if len(ids) > limit:
                raise TooLong(
                    f"the text has at least {len(ids)} tokens, this model reads at most {limit}; "
                    "ask for truncation, or split it"
                )
            if max(ids) >= vocab_size:
                raise InvalidInput(
                    f"the text has token {max(ids)}, this model knows 0 to {vocab_size - 1}; "
                    "use the model's own tokenizer"
                )
            if self.config.is_bert and isinstance(ids, TypedIds) and ids.token_types:
                if encodings and max(ids.token_types) >= (known := self.config.type_vocab_size):
                    raise InvalidInput(f"this model takes no pairs: config.type_vocab_size is {known}; send one text")
                type_rows(self.config, np.array(ids.token_types))  # It refuses types that the model does not have.
        return Prepared(item, params, encodings, sequences, [self.select(params, ids) for ids in sequences])


def longest(tokenizer: DistilBertTokenizer, config: DistilBertConfig) -> int:
    """How many tokens of a text the model reads at most: the one number by which texts are cut and refused."""
    return min(tokenizer.model_max_length, config.max_position_embeddings)


def attempt(step: Callable[..., _Made], *args: Any) -> _Made | InvalidInput:
    """What a step makes of its arguments, or the error of a bad input, without the frames that hold these."""
    try:
        return step(*args)
    except InvalidInput as error:
        return error.at(None)


def check_most(name: str, value: int | None, most: int, what: str) -> None:
    """Refuse a parameter of more than this model allows.

    Raises:
        InvalidParameter: it is more than `most`, which is `what`.
    """
    if value is not None and value > most:
        raise InvalidParameter(f"{name} must be at most {most}, {what}, found {value}")


def _start(tokenizer: DistilBertTokenizer, text: Text, tokens: int) -> Text:
    """`start_of` of a text, or of both of a pair: how a pair is cut depends on the first `tokens` of each alone."""
    if isinstance(text, tuple):
        return start_of(tokenizer, text[0], tokens), start_of(tokenizer, text[1], tokens)
    return start_of(tokenizer, text, tokens) if isinstance(text, str) else text
