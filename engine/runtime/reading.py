"""One request's inputs on their way to token ids, at once or in parts, and from the head's rows to answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from distilrt import tasks
from distilrt.errors import InvalidInput, TooLarge
from distilrt.runtime.queues import PART
from distilrt.runtime.request import Part, Parts

EACH = 16  # characters that tokenize in the time that a text takes beside its own


class Limits(NamedTuple):
    """What one request may have in all, everything that is read repeatedly counted each time."""

    texts: int
    characters: int
    tokens: int

    def check(self, texts: int, characters: int) -> None:
        """Raise TooLarge where there are more."""
        if texts > self.texts:
            raise TooLarge(f"the request has {texts} texts, at most {self.texts} are allowed; send them in parts")
        if characters > self.characters:
            raise TooLarge(f"the request has {characters} characters to read, those read repeatedly counted each time; "
                           f"at most {self.characters} are allowed; send it in parts")  # fmt: skip

    def check_tokens(self, counts: Sequence[int]) -> None:
        """Raise TooLarge where the parts that are tokenized have more."""
        if (tokens := sum(counts)) > self.tokens:
            raise TooLarge(f"the texts have at least {tokens} tokens, at most {self.tokens} are allowed; "
                           "send them in parts")  # fmt: skip


class Reading:
    """The inputs of one request.

    Args:
        task: what they are for.
        inputs: one input, or a list of them.
        params: the task's parameters.
        limits: what the request may have; None: anything.

    Attributes:
        cost: characters that tokenize in the time that all of it takes.

    Raises:
        InvalidParameter: a parameter that the task does not have or allow.
        TooLarge: more texts or characters than `limits` allow.
    """

    def __init__(
        self,
        task: tasks.Task,
        inputs: Any,
        params: Mapping[str, Any],
        limits: Limits | None,
    ) -> None:
        self._task, self._params, self._limits = task, task.settle(params), limits
        self._listed = isinstance(inputs, list | tuple)
        if self._listed and self._params.get("is_split_into_words"):
            self._listed = all(isinstance(item, list | tuple) for item in inputs)
        self._items: Sequence[Any] = inputs if self._listed else [inputs]
        sizes = [task.size(item, self._params) for item in self._items]
        if limits is not None:
            limits.check(sum(size.texts for size in sizes), sum(size.characters for size in sizes))
        self._costs = [size.characters + EACH * size.texts for size in sizes]
        self.cost = sum(self._costs)
        self._counts: list[int] = []  # tokens of the parts that are tokenized
        self._prepared: list[tasks.Prepared] = []

    def all(self) -> tuple[list[list[int]], list[Any]]:
        """Tokenize everything: token ids of all sequences, and the rows of each that the head reads.

        Raises:
            InvalidInput, TooLong: an input that the task can't answer; of a list, the message starts with its index.
            TooLarge: more tokens than the limits allow.
        """
        return self._join([self._prepare(0, len(self._items))])

    def parts(self) -> Parts:
        """The same in parts, which any threads may tokenize; they raise as `all`."""
        return Parts(
            [Part(cost, partial(self._prepare, start, stop)) for start, stop, cost in cut(self._costs)], self._join
        )

    def answer(self, outputs: list[Any]) -> Any:
        """The answer, or the list of answers, from what is kept of the head's rows of each sequence."""
        rows = iter(outputs)
        answers = [self._task.answer(item, list(islice(rows, len(item.sequences)))) for item in self._prepared]
        return answers if self._listed else answers[0]

    def _prepare(self, start: int, stop: int) -> list[tasks.Prepared]:
        most = None if self._limits is None else self._limits.tokens
        found = self._task.prepare(self._items[start:stop], self._params, most)
        prepared = []
        for index, item in enumerate(found, start):
            if isinstance(item, InvalidInput):
                # Raised anew: this function's variables would hold an error that holds them.
                raise item.at(index if self._listed else None)
            prepared.append(item)
        self._counts.append(sum(len(ids) for item in prepared for ids in item.sequences))
        if self._limits is not None:
            self._limits.check_tokens(self._counts)
        return prepared

    def _join(self, parts: list[list[tasks.Prepared]]) -> tuple[list[list[int]], list[Any]]:
        self._prepared = [item for part in parts for item in part]
        return ([ids for item in self._prepared for ids in item.sequences],
                [rows for item in self._prepared for rows in item.rows])  # fmt: skip


def cut(costs: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Neighbours of about `PART` together: where they start and stop, and their cost."""
    start = size = 0
    for index, cost in enumerate(costs):
        if size and size + cost > PART:
            yield start, index, size
            start, size = index, 0
        size += cost
    if costs:
        yield start, len(costs), size
