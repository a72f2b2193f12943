"""sparse-embedding: a text as weights of the words of the vocabulary (SPLADE)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from distilrt.model.config import DistilBertConfig
from distilrt.model.sentence_encoder import SentenceEncoder
from distilrt.tasks.base import CUT, PROMPT, Param, Params, Prepared, Rows, Text, as_text
from distilrt.tasks.size import Size, characters
from distilrt.tasks.token_ids import TextOrIds
from distilrt.text.tokenizer import DistilBertTokenizer


class SparseEmbedding(TextOrIds):
    """A string, or a list of token ids, to a list of `{"index", "value"}`: tokens of the vocabulary by their ids, each
    with a weight above 0.

    The weight is the largest of log(1 + relu(logit)) over all positions, special tokens included, as in "SPLADE v2:
    Sparse Lexical and Expansion Model for Information Retrieval" (Formal et al., 2021), unless the checkpoint's
    SpladePooling says otherwise: their sum, or the logarithm taken twice.

    `prompt`: put it before a text; None: that which the checkpoint makes the default, or none. `truncation`,
    `max_length`, `truncation_side`, `add_special_tokens`: as in the tokenizer.
    """

    name = "sparse-embedding"
    architecture = "DistilBertForMaskedLM"
    params: ClassVar[Mapping[str, Param]] = {"prompt": PROMPT, **CUT}

    def __init__(self, encoder: SentenceEncoder | None = None) -> None:
        self._encoder = encoder or SentenceEncoder()

    def of(self, encoder: SentenceEncoder | None) -> SparseEmbedding:
        """The task with this encoder's SPLADE pooling and default prompt."""
        return SparseEmbedding(encoder if encoder and encoder.architecture == self.architecture else None)

    def settle(self, tokenizer: DistilBertTokenizer, config: DistilBertConfig, params: Mapping[str, Any]) -> Params:
        """As the base class, with the default prompt."""
        settled = super().settle(tokenizer, config, params)
        return settled | {"prompt": self._prompt(settled)}

    def size_of(self, item: Any, params: Mapping[str, Any]) -> Size:
        """That of the text behind the prompt."""
        return Size(1, characters(self._prompt(params)) + characters(item))

    def texts(self, item: Any, params: Params) -> list[Text]:
        """The text."""
        return [params["prompt"] + as_text(item)]

    def keep(self, outputs: Rows) -> Rows:
        """One row `[1, vocab_size]`: all logits are as large as a thousand texts."""
        return self._encoder.splade.keep(outputs)

    def answer(self, prepared: Prepared, outputs: Sequence[Rows]) -> list[dict[str, Any]]:
        """The tokens with a weight, by rising id."""
        weights = self._encoder.splade.weights(outputs[0])
        [indices] = np.nonzero(weights)
        pairs = zip(indices.tolist(), weights[indices].tolist(), strict=True)
        return [{"index": index, "value": value} for index, value in pairs]

    def _prompt(self, params: Mapping[str, Any]) -> Any:
        return self._encoder.prompts[""] if params.get("prompt") is None else params["prompt"]
