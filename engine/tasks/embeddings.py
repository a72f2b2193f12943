"""feature-extraction, sentence-similarity, sparse-embedding: vectors of tokens and texts, and how similar they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from tokenizers import Tokenizer

from distilrt.errors import InvalidParameter
from distilrt.model.sentence_vectors import POOLING, SIMILARITY, SentenceVectors, Vector, unit
from distilrt.tasks.size import Size, characters
from distilrt.tasks.task import ALL, FIRST, Params, Prepared, Rows, Selection, Task, check_most
from distilrt.tasks.task_inputs import Text, TokenIds, as_fields, as_text, as_texts
from distilrt.tasks.task_parameters import PROMPT, TOKENIZING, WINDOWED, WINDOWS, Param, count, one_of
from distilrt.text.tokenizer import DistilBertTokenizer

SENTENCE = "sentence"  # the pooling that stands for all that the checkpoint's sentence encoder does
_PLAIN = {mode: SentenceVectors(pooling=(mode,)) for mode in POOLING}
_ROWS: Mapping[tuple[str, ...], Selection] = {("cls",): FIRST, ("lasttoken",): slice(-1, None)}
_POOLING = (
    "how a text's vector is made: 'sentence', as the checkpoint's sentence-transformers files say, with all of their "
    "modules, or else the mean; or one mode by itself ('cls' is the first token)"
)


class _Embedding(Task):
    """A task that puts a prompt before each text."""

    def settle(self, params: Mapping[str, Any]) -> Params:
        """As the base class, with the prompt: the checkpoint's default one where its encoder is asked for."""
        settled = super().settle(params)
        if settled["prompt"] is None:
            settled["prompt"] = self.encoder.prompts[""] if settled.get("pooling", SENTENCE) == SENTENCE else ""
            self.check(settled)
        return settled

    def repeated(self, params: Params) -> list[int]:
        """The prompt's, without special tokens."""
        return _prompt_ids(self.tokenizer, self.tokenizer.backend_tokenizer, params["prompt"] or "", False)

    def texts(self, item: Any, params: Params) -> list[Text] | TokenIds:
        """The text behind the prompt, or the token ids."""
        return self.token_ids(item, params) if isinstance(item, list) else [params["prompt"] + as_text(item)]


class _DenseEmbedding(_Embedding):
    """A task that pools the rows of an encoder."""

    architecture = "DistilBertModel"

    def chosen(self, params: Params) -> SentenceVectors | None:
        """The encoder that the pooling names; None where each token keeps its own vector."""
        pooling = params["pooling"]
        return self.encoder if pooling == SENTENCE else _PLAIN.get(pooling)

    def select(self, params: Params, ids: list[int]) -> Selection:
        """The rows that are pooled: all, or the one that is looked at, without the prompt's where it isn't included."""
        encoder = self.chosen(params)
        if encoder is None:
            return ALL
        if encoder.include_prompt or not params["prompt"] or isinstance(ids, TokenIds):
            return _ROWS.get(encoder.pooling, ALL)
        # The last token is always pooled: words that meet at the prompt's end may become fewer tokens than it has.
        start = min(_prompt_tokens(self.tokenizer, params), len(ids) - 1)
        return slice(start, start + 1) if encoder.pooling == ("cls",) else slice(start, None)

    def vectors(self, prepared: Prepared, outputs: Sequence[Rows], **options: Any) -> list[Vector]:
        """The vector of each of an input's sequences from its selected rows; `options` of `SentenceVectors.vector`."""
        encoder = self.chosen(prepared.params)
        assert encoder is not None
        return [
            encoder.vector(rows, len(ids) - len(rows), **options)
            for ids, rows in zip(prepared.sequences, outputs, strict=True)
        ]


class FeatureExtraction(_DenseEmbedding):
    """A text, or a list of token ids, to the tokens' vectors `[1, tokens, hidden_size]`, or with `pooling` to one
    vector `[width]`, which of a text in windows is the mean of theirs, each weighted by its tokens."""

    name = "feature-extraction"
    params: ClassVar[Mapping[str, Param]] = {
        "pooling": one_of(f"{_POOLING}; None: a vector of each token", None, SENTENCE, *POOLING),
        "dimensions": count(
            "how many numbers of each vector are kept, the first (Matryoshka embeddings); None: all, or as the "
            "checkpoint's files say",
            None,
        ),
        "normalize": one_of("whether to scale each vector to length 1", False, True),
        "prompt": PROMPT,
        **WINDOWED,
    }

    def width(self, params: Params) -> int:
        """How many numbers a vector has by settled parameters."""
        encoder = self.chosen(params) or SentenceVectors()
        whole = encoder.width(self.config.hidden_size)
        return min(whole, params["dimensions"] or encoder.truncate_dim or whole)

    def check(self, params: Params) -> None:
        """There must be as many dimensions, and one vector of a text that is read in windows."""
        super().check(params)
        if params["truncation"] == WINDOWS and params["pooling"] is None:
            raise InvalidParameter(f"truncation {WINDOWS!r} needs a pooling: a token in two windows has two vectors")
        encoder = self.chosen(params) or SentenceVectors()
        check_most("dimensions", params["dimensions"], encoder.width(self.config.hidden_size), "those of this model")

    def answer(self, prepared: Prepared, outputs: Sequence[Rows]) -> Any:
        """Vectors as nested lists."""
        return self.array(prepared, outputs).tolist()

    def array(self, prepared: Prepared, outputs: Sequence[Rows]) -> Rows:
        """Vectors as an array."""
        dimensions, normalize = prepared.params["dimensions"], prepared.params["normalize"]
        if encoder := self.chosen(prepared.params):
            vectors = self.vectors(prepared, outputs, dimensions=dimensions, normalize=normalize)
            weights = [len(ids) for ids in prepared.sequences]
            return encoder.mean(vectors, weights, normalize)
        rows = outputs[0][None, :, :dimensions]
        return unit(rows) if normalize else rows


class SentenceSimilarity(_DenseEmbedding):
    """`{"source_sentence", "sentences"}` to a list of how similar the first is to each of the others.

    It is the cosine, or what the checkpoint's sentence-transformers files say: "dot", or "euclidean" or "manhattan"
    distances below 0.
    """

    name = "sentence-similarity"
    params: ClassVar[Mapping[str, Param]] = {
        "pooling": one_of(_POOLING, SENTENCE, *POOLING),
        "prompt": PROMPT,
        **TOKENIZING,
    }

    def size(self, item: Any, params: Params) -> Size:
        """The size of all sentences, each behind the prompt."""
        sentences = item.get("sentences") if isinstance(item, Mapping) else ()
        texts = 1 + (len(sentences) if isinstance(sentences, list | tuple) else 0)
        return Size(texts, texts * len(params["prompt"]) + characters(item))

    def texts(self, item: Any, params: Params) -> list[Text]:
        """All sentences, the source first."""
        source, sentences = as_fields(item, "source_sentence", "sentences")
        others = as_texts(sentences, "sentences")
        return [params["prompt"] + text for text in (as_text(source, "source_sentence"), *others)]

    def answer(self, prepared: Prepared, outputs: Sequence[Rows]) -> list[float]:
        """The numbers in the order of the sentences."""
        source, *others = self.vectors(prepared, outputs)
        [similarities] = SIMILARITY[self.encoder.similarity](source[None], np.stack(others))
        return [float(value) for value in similarities]


class SparseEmbedding(_Embedding):
    """A text, or a list of token ids, to a list of `{"index", "value"}`: the vocabulary's tokens with a weight above 0.

    The weight is the largest of log(1 + relu(logit)) over all positions, special tokens included, as in "SPLADE v2:
    Sparse Lexical and Expansion Model for Information Retrieval" (Formal et al., 2021), unless the checkpoint's
    SpladePooling says otherwise: their sum, or the logarithm taken twice. The positions are those of all windows.
    """

    name = "sparse-embedding"
    architecture = "DistilBertForMaskedLM"
    params: ClassVar[Mapping[str, Param]] = {"prompt": PROMPT, **WINDOWED}

    def keep(self, outputs: Rows) -> Rows:
        """One row `[1, vocab_size]`: all logits are as large as a thousand texts."""
        return self.encoder.splade.keep(outputs)

    def answer(self, prepared: Prepared, outputs: Sequence[Rows]) -> list[dict[str, Any]]:
        """The tokens with a weight, by rising id."""
        weights = self.encoder.splade.weights(self.encoder.splade.merged(outputs))
        [indices] = np.nonzero(weights)
        pairs = zip(indices.tolist(), weights[indices].tolist(), strict=True)
        return [{"index": index, "value": value} for index, value in pairs]


def _prompt_tokens(tokenizer: DistilBertTokenizer, params: Params) -> int:
    """How many tokens a text starts with that are a prompt's: the one that starts every text too, none that ends it."""
    ids = _prompt_ids(tokenizer, tokenizer.backend_tokenizer, params["prompt"], params["add_special_tokens"])
    return len(ids) - any(token in tokenizer.all_special_ids for token in ids[-1:])


@lru_cache(maxsize=16)
def _prompt_ids(tokenizer: DistilBertTokenizer, rust: Tokenizer, prompt: str, special: bool) -> list[int]:
    """The token ids of a prompt; `rust` is the tokenizer's own, another one as soon as tokens are added to it."""
    ids: list[int] = tokenizer(prompt, add_special_tokens=special)["input_ids"]
    return ids
