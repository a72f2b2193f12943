"""text-embeddings-inference's bodies and answers, as the types that they are decoded to and described by."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from distilrt.server.embedding_inputs import Direction, Texts, TokenId


class Cut(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What is done with a text that is too long."""

    truncate: bool | None = None  # None: as the server is set
    truncation_direction: Direction = "Right"

    def params(self) -> dict[str, Any]:
        """As the tasks' parameters."""
        return {"truncation": self.truncate, "truncation_side": self.truncation_direction.lower()}


class Predict(Cut):
    """A text, `[text]`, a pair `[text, text]`, or a batch of such lists."""

    inputs: str | list[str | list[str]]
    raw_scores: bool = False


class EmbedAll(Cut):
    """A text or its token ids, or a list of such."""

    inputs: Texts
    prompt_name: str | None = None


class Embed(EmbedAll):
    """`EmbedAll`, with what is done to the vector of a text."""

    normalize: bool = True
    dimensions: Annotated[int, Meta(ge=1)] | None = None


class Rerank(Cut):
    """A query and the texts to be sorted."""

    query: str
    texts: list[str]
    raw_scores: bool = False
    return_text: bool = False


class Sentences(msgspec.Struct, forbid_unknown_fields=True):
    """What is compared, with what."""

    source_sentence: str
    sentences: list[str]


class SimilarityParameters(Cut):
    """How to read the sentences."""

    prompt_name: str | None = None


class Similarity(msgspec.Struct, forbid_unknown_fields=True):
    """Sentences, and how to read them."""

    inputs: Sentences
    parameters: SimilarityParameters | None = None


class Tokenize(msgspec.Struct, forbid_unknown_fields=True):
    """A text or texts."""

    inputs: str | list[str]
    add_special_tokens: bool = True
    prompt_name: str | None = None


class Decode(msgspec.Struct, forbid_unknown_fields=True):
    """The token ids of a text or of several."""

    ids: list[TokenId | list[TokenId]]
    skip_special_tokens: bool = True


class Score(msgspec.Struct):
    """A label's score."""

    score: float
    label: str


class Rank(msgspec.Struct):
    """A text's score."""

    index: int
    score: float
    text: str | msgspec.UnsetType = msgspec.UNSET


class Weight(msgspec.Struct):
    """A token's weight."""

    index: int
    value: float


class Token(msgspec.Struct):
    """A token and the characters that it stands for."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class TeiError(msgspec.Struct):
    """An error."""

    error: str
    error_type: Literal["Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"]
