"""The numbers that a head gives, for callers that have post-processing of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from distilrt.tasks.base import (
    ALL,
    CUT,
    FIRST,
    Param,
    Params,
    Prepared,
    Rows,
    Selection,
    Text,
    as_fields,
    as_text,
    one_of,
)
from distilrt.tasks.token_ids import TextOrIds
from distilrt.text.tokenizer import DistilBertTokenizer


class Outputs(TextOrIds):
    """A string, `{"text", "text_pair"}` or token ids to the head's rows, an array `[rows, width]`.

    For an engine of any model, whose own task computes the head; `run` has no use for it.

    `rows`: "all" tokens', or the "first" token's, which is the one that a sequence classifier reads. `truncation`,
    `max_length`, `truncation_side`, `add_special_tokens`: as in the tokenizer.
    """

    name = "outputs"
    architecture = ""  # any
    params: ClassVar[Mapping[str, Param]] = {"rows": one_of("all", "first"), **CUT}

    def texts(self, item: Any, params: Params) -> list[Text]:
        """The text or the pair."""
        if isinstance(item, str):
            return [item]
        text, pair = as_fields(item, "text", optional="text_pair", instead="a string, token ids")
        text = as_text(text, "text")
        return [text if pair is None else (text, as_text(pair, "text_pair"))]

    def select(self, tokenizer: DistilBertTokenizer, params: Params, ids: list[int]) -> Selection:
        """As `rows` says."""
        return FIRST if params["rows"] == "first" else ALL

    def answer(self, prepared: Prepared, outputs: Sequence[Rows]) -> Rows:
        """The rows."""
        return outputs[0]
