"""The inputs of a request on their way to token ids, part by part, and from the head's rows to the answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import islice, pairwise
from typing import Any, Generic, NamedTuple, TypeVar

from distilrt import tasks
from distilrt.errors import InvalidInput, TooLarge

PART = 16384  # characters that are tokenized at a time, in some 10 ms
EACH = 16  # characters that tokenize in the time that a text takes beside its own

Ids = list[list[int]]  # the token ids of some sequences
_Input = TypeVar("_Input", str, list[int])


class Limits(NamedTuple):
    """What one request may have in all, everything that is read repeatedly counted each time."""

    texts: int
    characters: int
    tokens: int

    def check(self, texts: int = 0, characters: int = 0, tokens: int = 0) -> None:
        """Raise TooLarge where there are more; tokens may be those of some of the texts."""
        if texts > self.texts:
            raise TooLarge(f"the request has {texts} texts, at most {self.texts} are allowed; send them in parts")
        if characters > self.characters:
            raise TooLarge(
                f"the request has {characters} characters to read, those read repeatedly counted each time; "
                f"at most {self.characters} are allowed; send it in parts"
            )
        if tokens > self.tokens:
            raise TooLarge(
                f"the texts have at least {tokens} tokens, at most {self.tokens} are allowed; send them in parts"
            )


class Reading(ABC):
    """The inputs of a request. It has no thread and no lock: parts may be tokenized in any threads at once.

    Args:
        costs: of each input, the characters that tokenize in the same time.
        limits: what the request may have; None: anything.

    Attributes:
        task: the name of the task, for the counters; empty where the request is not counted.
        cost: the sum of the costs.
    """

    task = ""

    def __init__(self, costs: Sequence[int] = (), limits: Limits | None = None) -> None:
        self.costs, self.cost, self.limits = costs, sum(costs), limits
        self._parts: dict[int, list[Any]] = {}  # what the tokenized parts gave, by their first input
        self._counts: list[int] = []  # tokens of these parts

    def parts(self) -> list[range]:
        """Neighbours among the inputs that cost about `PART` together."""
        starts, size = [0], 0
        for index, cost in enumerate(self.costs):
            if size and size + cost > PART:
                starts.append(index)
                size = 0
            size += cost
        return [range(*ends) for ends in pairwise([*starts, len(self.costs)])] if self.costs else []

    def tokenize(self, part: range) -> None:
        """Tokenize some neighbours among the inputs; each input once.

        Raises:
            InvalidInput: an input or parameter that the task does not take; the message names the input of a list.
            TooLarge: more tokens than the limits allow.
        """
        found, tokens = self.tokens_of(part)
        self._counts.append(tokens)
        if self.limits is not None:
            self.limits.check(tokens=sum(self._counts))
        self._parts[part.start] = found

    @property
    def tokenized(self) -> list[Any]:
        """What all inputs gave, in their order."""
        return [found for start in sorted(self._parts) for found in self._parts[start]]

    def tokens_of(self, part: range) -> tuple[list[Any], int]:
        """What each input of a part gives, and the number of tokens of all; unless overridden, nothing."""
        return [], 0

    def sequences(self) -> tuple[Ids, list[Any]]:
        """The sequences to compute, and the rows of each that the head reads; unless overridden, none."""
        return [], []

    def keep(self, rows: Any) -> Any:
        """What the answer needs of the head's rows of one sequence; unless overridden, all."""
        return rows

    @abstractmethod
    def answer(self, outputs: list[Any]) -> Any:
        """The answer, from what is kept of the head's rows of each sequence."""


class TaskReading(Reading):
    """The inputs of a task, for an answer or a list of answers.

    Args:
        task: what they are for.
        inputs: one input, or a list of them.
        params: the task's parameters.
        limits: what the request may have; None: anything.

    Raises:
        InvalidParameter: a parameter that the task does not have or allow.
        TooLarge: more texts or characters than `limits` allow.
    """

    def __init__(self, task: tasks.Task, inputs: Any, params: Mapping[str, Any], limits: Limits | None) -> None:
        self._task, self._params = task, task.settle(params)
        self._listed = isinstance(inputs, list | tuple)
        if self._listed and self._params.get("is_split_into_words"):
            self._listed = all(isinstance(item, list | tuple) for item in inputs)
        self._items: Sequence[Any] = inputs if self._listed else [inputs]
        sizes = [task.size(item, self._params) for item in self._items]
        if limits is not None:
            limits.check(sum(size.texts for size in sizes), sum(size.characters for size in sizes))
        super().__init__([size.characters + EACH * size.texts for size in sizes], limits)
        self.task = task.name

    def tokens_of(self, part: range) -> tuple[list[Any], int]:
        """The inputs prepared."""
        most = None if self.limits is None else self.limits.tokens
        items = self._items[part.start : part.stop]
        found = self._task.prepare(items, self._params, most)
        for index, item in zip(part, found, strict=True):
            if isinstance(item, InvalidInput):  # raised anew: the variables here would hold an error that holds them
                raise item.at(index if self._listed else None)
        prepared = [item for item in found if isinstance(item, tasks.Prepared)]
        return prepared, sum(len(ids) for item in prepared for ids in item.sequences)

    def sequences(self) -> tuple[Ids, list[Any]]:
        """Those of all inputs."""
        prepared = self.tokenized
        sequences = [ids for item in prepared for ids in item.sequences]
        return sequences, [rows for item in prepared for rows in item.rows]

    def keep(self, rows: Any) -> Any:
        """As the task says."""
        return self._task.keep(rows)

    def answer(self, outputs: list[Any]) -> Any:
        """The answer of the one input, or the list of all answers."""
        rows = iter(outputs)
        answers = [self._task.answer(item, list(islice(rows, len(item.sequences)))) for item in self.tokenized]
        return answers if self._listed else answers[0]


class TextReading(Reading, Generic[_Input]):
    """Texts for their tokens' sake, or token ids for their texts' sake: nothing is computed.

    Args:
        inputs: texts, or lists of token ids.
        tokenize: from some of them to a list for each; called from any thread.
        limits: what the request may have; None: anything.

    Raises:
        TooLarge: more texts or characters than `limits` allow.
    """

    def __init__(
        self,
        inputs: Sequence[_Input],
        tokenize: Callable[[Sequence[_Input]], list[list[Any]]],
        limits: Limits | None,
    ) -> None:
        self._inputs: Sequence[_Input] = inputs
        self._tokenize: Callable[[Sequence[_Input]], list[list[Any]]] = tokenize
        if limits is not None:
            limits.check(len(inputs), sum(map(len, inputs)))
        super().__init__([len(item) + EACH for item in inputs], limits)

    def tokens_of(self, part: range) -> tuple[list[Any], int]:
        """The lists."""
        found = self._tokenize(self._inputs[part.start : part.stop])
        return found, sum(map(len, found))

    def answer(self, outputs: list[Any]) -> list[list[Any]]:
        """The list of all lists."""
        return self.tokenized


class TrialReading(Reading):
    """Sequences of the engine's own, whose answer is None: to warm up, or to see whether computing works."""

    def __init__(self, lengths: Sequence[int]) -> None:
        super().__init__()
        self._lengths = lengths

    def sequences(self) -> tuple[Ids, list[Any]]:
        """Sequences of these lengths."""
        return [[0] * length for length in self._lengths], [tasks.FIRST] * len(self._lengths)

    def answer(self, outputs: list[Any]) -> None:
        """Nothing."""
