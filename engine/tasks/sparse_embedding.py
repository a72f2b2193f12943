"""sparse-embedding: a text as weights of the words of the vocabulary (SPLADE)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from distilrt.tasks.base import CUT, Param, Params, Prepared, Rows, Text, as_text
from distilrt.tasks.token_ids import TextOrIds


class SparseEmbedding(TextOrIds):
    """A string, or a list of token ids, to a list of `{"index", "value"}`: tokens of the vocabulary by their ids, each
    with a weight above 0.

    The weight is the largest of log(1 + relu(logit)) over all positions, special tokens included, as in "SPLADE v2:
    Sparse Lexical and Expansion Model for Information Retrieval" (Formal et al., 2021).

    `truncation`, `max_length`, `truncation_side`: as in the tokenizer.
    """

    name = "sparse-embedding"
    architecture = "DistilBertForMaskedLM"
    params: ClassVar[Mapping[str, Param]] = {**CUT}

    def texts(self, item: Any, params: Params) -> list[Text]:
        """The text."""
        return [as_text(item)]

    def keep(self, outputs: Rows) -> Rows:
        """The largest logits `[1, vocab_size]`: all of them are as large as a thousand texts."""
        return np.asarray(outputs.max(axis=0, keepdims=True))

    def answer(self, prepared: Prepared, outputs: Sequence[Rows]) -> list[dict[str, Any]]:
        """The tokens with a weight, by rising id."""
        weights = np.log1p(np.maximum(outputs[0].max(axis=0), 0))  # log and relu keep the order
        [indices] = np.nonzero(weights)
        pairs = zip(indices.tolist(), weights[indices].tolist(), strict=True)
        return [{"index": index, "value": value} for index, value in pairs]
