"""What a task is: the steps between a caller's input and a JSON-ready answer, and what the tasks share.

A task is stateless and knows texts, token ids and a head's rows. It knows nothing of batches, files or devices: its
sequences may be computed beside those of any other input of the same architecture (see `distilrt.tasks.runner`).
"""

from __future__ import annotations

import reprlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding

from distilrt.errors import InvalidInput, InvalidParameter, TooLarge, TooLong
from distilrt.model.config import DistilBertConfig
from distilrt.model.sentence_encoder import SentenceEncoder
from distilrt.tasks.size import Size, characters, check_windows
from distilrt.tasks.text_start import start_of
from distilrt.text.tokenizer import DistilBertTokenizer

Rows = npt.NDArray[Any]  # floats, [rows, width]
Params = dict[str, Any]
Selection = slice | list[int]  # of the rows of one sequence
Text = str | tuple[str, str] | list[str]  # a text, a pair of texts, or the words of a text

_Made = TypeVar("_Made")

FIRST, ALL = slice(0, 1), slice(None)


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter of a task: its default, which values it accepts, the words for these in an error, and what a task
    reads in place of an accepted value, which is accepted too."""

    default: Any
    allowed: str  # completes "… must be"
    accepts: Callable[[Any], bool]
    read: Callable[[Any], Any] = lambda value: value


def one_of(*values: Any) -> Param:
    """A parameter with these values, the first of which is the default."""
    return Param(values[0], " or ".join(map(repr, values)), lambda value: _among(value, values))


def named(*values: str | None) -> Param:
    """A parameter with these names, in upper case or lower, the first of which is the default."""

    def lower(value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    return Param(values[0], " or ".join(map(repr, values)), lambda value: _among(lower(value), values), lower)


def count(default: Any, *also: Any, least: int = 1) -> Param:
    """A parameter with integers of at least `least`, its default, and `also` these values."""
    others = [value for value in (default, *also) if type(value) is not int]
    return Param(
        default,
        " or ".join([f"an integer of at least {least}", *map(repr, others)]),
        lambda value: (type(value) is int and value >= least) or _among(value, others),
    )


def strings(value: Any) -> list[str]:
    """The strings of a list of nothing else; none where it is no such list."""
    return list(value) if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value) else []


def _among(value: Any, values: Iterable[Any]) -> bool:
    return any(type(value) is type(known) and value == known for known in values)  # 1 is no True


MOST_ENTRIES = 2**15  # of a parameter that is a list of labels or tokens

# How a text is read, for tasks that cut one only when asked.
CUT: Mapping[str, Param] = {
    "truncation": one_of(None, False, True, "longest_first", "only_first", "only_second", "do_not_truncate"),
    "max_length": count(None, least=2),
    "truncation_side": one_of(None, "right", "left"),
    "add_special_tokens": one_of(True, False),
}
PROMPT = Param(None, "a string", lambda value: value is None or isinstance(value, str))
# Accepted for the sake of transformers' callers, and without effect: nothing here is ever padded.
PADDING = one_of(False, True, "longest", "max_length", "do_not_pad")


@dataclass(frozen=True, slots=True)
class Prepared:
    """One input as token ids, with all that its answer needs."""

    source: Any  # the input as the caller gave it
    params: Params
    tokenizer: DistilBertTokenizer
    config: DistilBertConfig
    encodings: list[Encoding]  # of each sequence
    sequences: list[list[int]]  # token ids
    rows: list[Selection]  # of each sequence, those that the head reads


class Task(ABC):
    """Pre- and post-processing of one task. Without state, hence safe to call from many threads.

    A caller takes an input through `prepare`, `head` and `answer`; between the first two it packs `sequences`, its own
    and others', runs the encoder and takes the rows that `rows` names.
    """

    name: ClassVar[str]
    architecture: ClassVar[str]  # the class in `distilrt.model.models`, a key of `distilrt.model.heads.HEADS`
    params: ClassVar[Mapping[str, Param]]

    def settle(self, tokenizer: DistilBertTokenizer, config: DistilBertConfig, params: Mapping[str, Any]) -> Params:
        """All parameters, with defaults for those that are not given or None. Settling twice changes nothing.

        Raises:
            InvalidParameter: no such parameter, a value that is not allowed, or one that this model cannot serve.
        """
        if unknown := [name for name in params if name not in self.params]:
            raise InvalidParameter(f"{self.name} has no parameter {unknown[0]!r:.80}; it has {', '.join(self.params)}")
        settled = {
            name: self._value(name, param, params.get(name, param.default)) for name, param in self.params.items()
        }
        limit = longest(tokenizer, config)
        if (settled.get("max_length") or 0) > limit:
            raise InvalidParameter(
                f"max_length must be at most {limit}, what this model reads, found {settled['max_length']}"
            )
        self.check(tokenizer, config, settled)
        return settled

    def _value(self, name: str, param: Param, value: Any) -> Any:
        value = value.value if isinstance(value, Enum) else value  # transformers' options
        if value is None and not param.accepts(None):
            value = param.default
        if not param.accepts(value):
            raise InvalidParameter(f"{self.name}: {name} must be {param.allowed}, found {reprlib.repr(value)}")
        return param.read(value)

    def size(self, inputs: Sequence[Any], params: Mapping[str, Any]) -> Size:
        """What a tokenizer has to read for these inputs, each repetition counted. It is found without copying a text,
        and says nothing of mistakes: `prepare` refuses those."""
        sizes = [self.size_of(item, params) for item in inputs]
        return Size(sum(size.texts for size in sizes), sum(size.characters for size in sizes))

    def size_of(self, item: Any, params: Mapping[str, Any]) -> Size:
        """`size` of one input; unless overridden, that of one text or pair."""
        return Size(1, characters(item))

    def prepare(
        self,
        tokenizer: DistilBertTokenizer,
        config: DistilBertConfig,
        inputs: Sequence[Any],
        params: Mapping[str, Any],
        max_tokens: int | None = None,
    ) -> list[Prepared]:
        """Check and tokenize inputs, in one call of the tokenizer.

        Args:
            max_tokens: what all sequences may have together; None: no limit.

        Raises:
            InvalidInput: an input that the task cannot answer; the message starts with its index.
            TooLong: one that the model cannot read whole, and cutting was not asked for; likewise.
            TooLarge: more tokens than `max_tokens`; windows are counted before they are made.
            InvalidParameter: a parameter, as in `settle`.
        """
        prepared = []
        for index, item in enumerate(self.prepare_each(tokenizer, config, inputs, params, max_tokens)):
            if isinstance(item, InvalidInput):
                raise numbered(item, index)
            prepared.append(item)
        return prepared

    def prepare_each(
        self,
        tokenizer: DistilBertTokenizer,
        config: DistilBertConfig,
        inputs: Sequence[Any],
        params: Mapping[str, Any],
        max_tokens: int | None = None,
    ) -> list[Prepared | InvalidInput]:
        """`prepare` that puts the error of a bad input, without index, in that input's place."""
        prepared = self._prepare_each(tokenizer, config, inputs, self.settle(tokenizer, config, params), max_tokens)
        good = (item for item in prepared if isinstance(item, Prepared))
        if max_tokens is not None and (tokens := sum(len(ids) for item in good for ids in item.sequences)) > max_tokens:
            raise TooLarge(f"the texts have {tokens} tokens, at most {max_tokens} are allowed; send them in parts")
        return prepared

    def _prepare_each(
        self,
        tokenizer: DistilBertTokenizer,
        config: DistilBertConfig,
        inputs: Sequence[Any],
        params: Params,
        max_tokens: int | None,
    ) -> list[Prepared | InvalidInput]:
        groups = [or_error(self.texts, item, params) for item in inputs]
        good = [group for group in groups if isinstance(group, list)]
        try:
            encoded = iter(self._encode(tokenizer, config, good, params, max_tokens) if good else [])
        except TooLarge:
            raise
        except InvalidInput as error:  # the tokenizer's
            if len(inputs) == 1:
                return [InvalidInput(str(error))]
            return [self._prepare_each(tokenizer, config, [item], params, max_tokens)[0] for item in inputs]
        limit = longest(tokenizer, config)

        def prepared(item: Any, parts: list[tuple[Encoding, list[int]]]) -> Prepared:
            encodings, sequences = [encoding for encoding, _ in parts], [ids for _, ids in parts]
            for ids in sequences:
                check_ids(ids, config, limit)
            rows = [self.select(tokenizer, params, ids) for ids in sequences]
            return Prepared(item, params, tokenizer, config, encodings, sequences, rows)

        return [
            or_error(prepared, item, next(encoded)) if isinstance(group, list) else group
            for item, group in zip(inputs, groups, strict=True)
        ]

    def _encode(
        self,
        tokenizer: DistilBertTokenizer,
        config: DistilBertConfig,
        groups: Sequence[list[Text]],
        params: Params,
        max_tokens: int | None,
    ) -> list[list[tuple[Encoding, list[int]]]]:
        """The encodings of each group's texts, with their token ids, in one call of the tokenizer."""
        limit = longest(tokenizer, config)
        options = self.tokenizing(params, limit)
        texts = [text for group in groups for text in group]
        side = options.get("truncation_side") or tokenizer.truncation_side
        if "stride" not in options and (side == "right" or "truncation" not in options):
            # One token more than the model reads, so that a text too long is still seen to be.
            texts = [_start_of(tokenizer, text, limit + 1) for text in texts]
        if max_tokens is not None and "stride" in options:
            check_windows(tokenizer, texts, options["max_length"], options["stride"], max_tokens)
        encoded = tokenizer(texts, return_attention_mask=False, return_token_type_ids=False, **options)
        assert encoded.encodings is not None
        owners = [owner for owner, group in enumerate(groups) for _ in group]
        parts: list[list[tuple[Encoding, list[int]]]] = [[] for _ in groups]
        samples = encoded.get("overflow_to_sample_mapping", range(len(owners)))
        for encoding, ids, sample in zip(encoded.encodings, encoded["input_ids"], samples, strict=True):
            parts[owners[sample]].append((encoding, ids))
        return parts

    def of(self, encoder: SentenceEncoder | None) -> Task:
        """The task as a checkpoint does it that describes this sentence encoder, or none."""
        return self

    def check(self, tokenizer: DistilBertTokenizer, config: DistilBertConfig, params: Params) -> None:
        """Refuse, with an InvalidParameter, settled parameters that this model cannot serve."""
        return

    @abstractmethod
    def texts(self, item: Any, params: Params) -> list[Text]:
        """The texts and pairs of texts that the model must read for one input.

        Raises:
            InvalidInput: the input is not what the task takes.
        """

    def tokenizing(self, params: Params, limit: int) -> dict[str, Any]:
        """How to call the tokenizer where the model reads `limit` tokens; unless overridden, cutting when asked."""
        cut, special = params["truncation"], {"add_special_tokens": params["add_special_tokens"]}
        if cut in (False, "do_not_truncate") or (cut is None and params["max_length"] is None):
            return special
        return {
            "truncation": cut or True,
            "max_length": min(params["max_length"] or limit, limit),
            "truncation_side": params["truncation_side"],
            **special,
        }

    def select(self, tokenizer: DistilBertTokenizer, params: Params, ids: list[int]) -> Selection:
        """The rows of a sequence that the head reads; unless overridden, all."""
        return ALL

    def keep(self, outputs: Rows) -> Rows:
        """What `answer` needs of the head's rows of one sequence, which is held until all of its input's are computed;
        unless overridden, all."""
        return outputs

    @abstractmethod
    def answer(self, prepared: Prepared, outputs: Sequence[Rows]) -> Any:
        """A JSON-ready answer from what `keep` left of the head's rows `[selected, width]` of each of the input's
        sequences."""


def or_error(step: Callable[..., _Made], *args: Any) -> _Made | InvalidInput:
    """What a step makes of its arguments, or its error, without the frames that hold these."""
    try:
        return step(*args)
    except TooLarge:
        raise
    except InvalidInput as error:
        return type(error)(*error.args)


def longest(tokenizer: DistilBertTokenizer, config: DistilBertConfig) -> int:
    """How many tokens of a text the model reads at most: the one number by which texts are cut and refused."""
    return min(tokenizer.model_max_length, config.max_position_embeddings)


def numbered(error: InvalidInput, index: int) -> InvalidInput:
    """The same error of the input with that index."""
    found = type(error)(*error.args)
    found.index = index
    return found


def as_text(value: Any, name: str = "", *, empty: bool = True) -> str:
    """`value` if it is a string; `name` is its key in the input, if it has one.

    Raises:
        InvalidInput: it is none, or is empty although `empty` is False.
    """
    if not isinstance(value, str):
        expected = f"{name!r} must be a string" if name else "expected a string"
        raise InvalidInput(f"{expected}, found {type(value).__name__}")
    if not value and not empty:
        raise InvalidInput(f"{repr(name) if name else 'the text'} is empty; it needs some text")
    return value


def as_fields(item: Any, *names: str, optional: str = "", instead: str = "") -> list[Any]:
    """The values of an object's keys in this order, and of the optional one, None where it is missing.

    `instead` says what else than an object the caller would have taken.

    Raises:
        InvalidInput: not an object, a missing key, or another key.
    """
    expected = f"expected {instead and f'{instead} or '}an object with {' and '.join(map(repr, names))}"
    expected += optional and f" and perhaps {optional!r}"
    if not isinstance(item, Mapping):
        raise InvalidInput(f"{expected}, found {type(item).__name__}")
    if missing := [name for name in names if name not in item]:
        raise InvalidInput(f"{expected}; {missing[0]!r} is missing")
    known = (*names, optional) if optional else names
    if extra := [name for name in item if name not in known]:
        raise InvalidInput(f"{expected}, found {extra[0]!r}")
    return [item.get(name) for name in known]


def softmax(logits: Rows) -> Rows:
    """Probabilities along the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def _start_of(tokenizer: DistilBertTokenizer, text: Text, tokens: int) -> Text:
    """`start_of` of a text, or of both of a pair: how a pair is cut depends on the first `tokens` of each alone."""
    if isinstance(text, tuple):
        return start_of(tokenizer, text[0], tokens), start_of(tokenizer, text[1], tokens)
    return start_of(tokenizer, text, tokens) if isinstance(text, str) else text


def check_ids(ids: list[int], config: DistilBertConfig, limit: int) -> None:
    """Refuse what `pack` would, but before other inputs share the batch.

    Raises:
        TooLong: more tokens than `limit`, what the model reads.
        InvalidInput: no token, or one that it doesn't know.
    """
    if not ids:
        raise InvalidInput("the text has no tokens; leave add_special_tokens at True, or send some text")
    if len(ids) > limit:
        raise TooLong(f"the text has at least {len(ids)} tokens, this model reads at most {limit}; "
                      "ask for truncation, or split it")  # fmt: skip
    if max(ids) >= config.vocab_size:
        raise InvalidInput(f"the text has token {max(ids)}, this model knows 0 to {config.vocab_size - 1}; "
                           "use the model's own tokenizer")  # fmt: skip
