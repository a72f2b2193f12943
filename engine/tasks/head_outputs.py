"""outputs: the numbers that a head gives, for callers that have post-processing of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from distilrt.tasks.task import ALL, FIRST, Params, Prepared, Rows, Selection, Task
from distilrt.tasks.task_inputs import Text, TokenIds, as_pair
from distilrt.tasks.task_parameters import TOKENIZING, Param, one_of


class HeadOutputs(Task):
    """A text, `{"text", "text_pair"}` or token ids to the head's rows, an array `[rows, width]`.

    An engine of any model has it beside the tasks of its head.
    """

    name = "outputs"
    architecture = ""  # any
    params: ClassVar[Mapping[str, Param]] = {
        "rows": one_of("the rows of all tokens, or of the first, which is what a classifier reads", "all", "first"),
        **TOKENIZING,
    }

    def texts(self, item: Any, params: Params) -> list[Text] | TokenIds:
        """The text, the pair or the token ids."""
        if isinstance(item, list):
            return self.token_ids(item, params)
        return [item if isinstance(item, str) else as_pair(item, "a string, token ids")]

    def select(self, params: Params, ids: list[int]) -> Selection:
        """As `rows` says."""
        return FIRST if params["rows"] == "first" else ALL

    def answer(self, prepared: Prepared, outputs: Sequence[Rows]) -> Rows:
        """The rows."""
        return outputs[0]
