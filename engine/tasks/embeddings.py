"""feature-extraction and sentence-similarity: the vectors of tokens and texts, and how similar they are."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from tokenizers import Tokenizer

from distilrt.errors import InvalidInput, InvalidParameter
from distilrt.model.config import DistilBertConfig
from distilrt.model.sentence_encoder import POOLING, SIMILARITY, SentenceEncoder, Vector, unit
from distilrt.tasks.base import (
    ALL,
    CUT,
    FIRST,
    PROMPT,
    Param,
    Params,
    Prepared,
    Rows,
    Selection,
    Task,
    Text,
    as_fields,
    as_text,
    count,
    one_of,
)
from distilrt.tasks.size import Size, characters
from distilrt.tasks.token_ids import TextOrIds
from distilrt.text.tokenizer import DistilBertTokenizer

SENTENCE = "sentence"  # the pooling that stands for all that the checkpoint's sentence encoder does
_PLAIN = {mode: SentenceEncoder(pooling=(mode,)) for mode in POOLING}
_ROWS: Mapping[tuple[str, ...], Selection] = {("cls",): FIRST, ("lasttoken",): slice(-1, None)}


class _Embedding(Task):
    """A task that pools. Its object belongs to a checkpoint, whose sentence encoder it has.

    Attributes:
        encoder: what the pooling "sentence" does; the mean of all tokens where the checkpoint says nothing.
    """

    architecture = "DistilBertModel"

    def __init__(self, encoder: SentenceEncoder | None = None) -> None:
        self.encoder = encoder or SentenceEncoder()

    def of(self, encoder: SentenceEncoder | None) -> Task:
        """The task with this encoder, if it is one of dense vectors."""
        return type(self)(encoder if encoder and encoder.architecture == self.architecture else None)

    def settle(self, tokenizer: DistilBertTokenizer, config: DistilBertConfig, params: Mapping[str, Any]) -> Params:
        """As the base class, with the prompt: the checkpoint's default one where its encoder is asked for."""
        settled = super().settle(tokenizer, config, params)
        return settled | {"prompt": self.prompt(settled)}

    def prompt(self, params: Mapping[str, Any]) -> Any:
        """What parameters, settled or not, put before a text."""
        pooling = params.get("pooling") or self.params["pooling"].default
        default = self.encoder.prompts[""] if pooling == SENTENCE else ""
        return default if params.get("prompt") is None else params["prompt"]

    def select(self, tokenizer: DistilBertTokenizer, params: Params, ids: list[int]) -> Selection:
        """The rows that are pooled: all, or the one that is looked at, without the prompt's where it isn't included."""
        encoder = self._chosen(params)
        if encoder is None:
            return ALL
        if encoder.include_prompt or not params["prompt"]:
            return _ROWS.get(encoder.pooling, ALL)
        # The last token is always pooled: words that meet at the prompt's end may become fewer tokens than it has.
        start = min(_prompt_tokens(tokenizer, params), len(ids) - 1)
        return slice(start, start + 1) if encoder.pooling == ("cls",) else slice(start, None)

    def vector(self, prepared: Prepared, number: int, rows: Rows, **options: Any) -> Vector:
        """The vector of one of an input's sequences from its selected rows; `options` of `SentenceEncoder.vector`."""
        encoder = self._chosen(prepared.params)
        assert encoder is not None
        return encoder.vector(rows, len(prepared.sequences[number]) - len(rows), **options)

    def _chosen(self, params: Params) -> SentenceEncoder | None:
        """The encoder that a pooling names; None for None."""
        pooling = params["pooling"]
        return self.encoder if pooling == SENTENCE else _PLAIN.get(pooling)


class FeatureExtraction(TextOrIds, _Embedding):
    """A string, or a list of token ids, to the tokens' vectors `[1, tokens, hidden_size]`, or with `pooling` to one
    vector `[width]`.

    `pooling`: "sentence", what the checkpoint's sentence-transformers files say, with all of their modules, or else the
    mean; or by itself "mean", "cls" (the first token), "max", "mean_sqrt_len_tokens", "weightedmean" or "lasttoken".
    `dimensions`: keep so many numbers of each vector, the first (Matryoshka embeddings); None: all, or as the files
    say. `normalize`: scale each vector to length 1. `prompt`: put it before a text; None: with "sentence" that which
    the files make the default. `truncation`, `max_length`, `truncation_side`, `add_special_tokens`: as in the
    tokenizer.
    """

    name = "feature-extraction"
    params: ClassVar[Mapping[str, Param]] = {
        "pooling": one_of(None, SENTENCE, *POOLING),
        "dimensions": count(None),
        "normalize": one_of(False, True),
        "prompt": PROMPT,
        **CUT,
    }

    def width(self, config: DistilBertConfig, params: Params) -> int:
        """How many numbers a vector has by settled parameters."""
        encoder = self._chosen(params) or SentenceEncoder()
        whole = encoder.width(config.hidden_size)
        return min(whole, params["dimensions"] or encoder.truncate_dim or whole)

    def check(self, tokenizer: DistilBertTokenizer, config: DistilBertConfig, params: Params) -> None:
        """There must be as many dimensions."""
        width = (self._chosen(params) or SentenceEncoder()).width(config.hidden_size)
        if (params["dimensions"] or 0) > width:
            raise InvalidParameter(
                f"dimensions must be at most {width}, those of this model, found {params['dimensions']}"
            )

    def size_of(self, item: Any, params: Mapping[str, Any]) -> Size:
        """That of the text behind the prompt."""
        return Size(1, characters(self.prompt(params)) + characters(item))

    def texts(self, item: Any, params: Params) -> list[Text]:
        """The text."""
        return [params["prompt"] + as_text(item)]

    def answer(self, prepared: Prepared, outputs: Sequence[Rows]) -> list[Any]:
        """Vectors as nested lists."""
        dimensions, normalize = prepared.params["dimensions"], prepared.params["normalize"]
        if prepared.params["pooling"]:
            vector = self.vector(prepared, 0, outputs[0], dimensions=dimensions, normalize=normalize)
            return list(vector.tolist())
        vectors = outputs[0][None, :, :dimensions]
        return list((unit(vectors) if normalize else vectors).tolist())


class SentenceSimilarity(_Embedding):
    """`{"source_sentence", "sentences"}` to a list of how similar the first is to each of the others: the cosine, or
    what the checkpoint's sentence-transformers files say ("dot", "euclidean", "manhattan", the last two below 0).

    `pooling`: "sentence", as these files say, or else the mean; or a mode as in feature-extraction. `prompt`: put it
    before each text; None: with "sentence" that which the files make the default. `truncation`, `max_length`,
    `truncation_side`, `add_special_tokens`: as in the tokenizer.
    """

    name = "sentence-similarity"
    params: ClassVar[Mapping[str, Param]] = {"pooling": one_of(SENTENCE, *POOLING), "prompt": PROMPT, **CUT}

    def size_of(self, item: Any, params: Mapping[str, Any]) -> Size:
        """That of all sentences, each behind the prompt."""
        sentences = item.get("sentences") if isinstance(item, Mapping) else ()
        texts = 1 + (len(sentences) if isinstance(sentences, list | tuple) else 0)
        return Size(texts, texts * characters(self.prompt(params)) + characters(item))

    def texts(self, item: Any, params: Params) -> list[Text]:
        """All sentences, the source first."""
        source, sentences = as_fields(item, "source_sentence", "sentences")
        if not isinstance(sentences, list | tuple) or not sentences:
            raise InvalidInput(f"'sentences' must be a list of at least one string, found {reprlib.repr(sentences)}")
        named = [as_text(sentence, f"sentences[{i}]") for i, sentence in enumerate(sentences)]
        return [params["prompt"] + text for text in (as_text(source, "source_sentence"), *named)]

    def answer(self, prepared: Prepared, outputs: Sequence[Rows]) -> list[float]:
        """The numbers in the order of the sentences."""
        source, *others = (self.vector(prepared, number, rows) for number, rows in enumerate(outputs))
        return [float(value) for value in SIMILARITY[self.encoder.similarity](source, np.stack(others))]


def _prompt_tokens(tokenizer: DistilBertTokenizer, params: Params) -> int:
    """How many tokens a text starts with that are a prompt's: the one that starts every text too, none that ends it."""
    ids = _prompt_ids(tokenizer, tokenizer.backend_tokenizer, params["prompt"], params["add_special_tokens"])
    return len(ids) - any(token in tokenizer.all_special_ids for token in ids[-1:])


@lru_cache(maxsize=16)
def _prompt_ids(tokenizer: DistilBertTokenizer, rust: Tokenizer, prompt: str, special: bool) -> list[int]:
    """The token ids of a prompt; `rust` is the tokenizer's own, another one as soon as tokens are added to it."""
    ids: list[int] = tokenizer(prompt, add_special_tokens=special)["input_ids"]
    return ids
