"""What a sentence encoder does behind the transformer: from the rows of a text's tokens to its vector.

It is one value, read from a sentence-transformers folder by `distilrt.checkpoint.sentence_files` when the model is
loaded. The numbers are those of sentence-transformers in float32; nothing here reads files or knows batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from distilrt.errors import CheckpointError
from distilrt.model.functional import activation

Rows = npt.NDArray[Any]  # floats, [rows, width]
Vector = npt.NDArray[Any]  # floats, [width]

# From the pooled rows of a text, and how many of its tokens lie before them, to one vector.
POOLING: Mapping[str, Callable[[Rows, int], Vector]] = {
    "mean": lambda rows, before: rows.mean(axis=0),
    "cls": lambda rows, before: rows[0],
    "max": lambda rows, before: rows.max(axis=0),
    "mean_sqrt_len_tokens": lambda rows, before: rows.sum(axis=0) / np.sqrt(np.float32(len(rows))),
    "weightedmean": lambda rows, before: _weighted(rows, np.arange(before + 1, before + len(rows) + 1)),
    "lasttoken": lambda rows, before: rows[-1],
}
# How similar vectors of two arrays `[…, width]`, which may broadcast, are to each other, `[…]`.
PAIRWISE: Mapping[str, Callable[[Rows, Rows], Rows]] = {
    "cosine": lambda a, b: (unit(a) * unit(b)).sum(axis=-1),
    "dot": lambda a, b: (a * b).sum(axis=-1),
    "euclidean": lambda a, b: -np.linalg.norm(a - b, axis=-1),
    "manhattan": lambda a, b: -np.abs(a - b).sum(axis=-1),
}
# How similar each of `[m, width]` is to each of `[n, width]`: `[m, n]`.
SIMILARITY: Mapping[str, Callable[[Rows, Rows], Rows]] = {
    "cosine": lambda a, b: unit(a) @ unit(b).T,
    "dot": lambda a, b: a @ b.T,
    "euclidean": lambda a, b: _by_rows(PAIRWISE["euclidean"], a, b),
    "manhattan": lambda a, b: _by_rows(PAIRWISE["manhattan"], a, b),
}
ACTIVATIONS: Mapping[str, Callable[[Vector], Vector]] = {  # by the names of torch's classes
    "Identity": lambda x: x,
    "Tanh": np.tanh,
    "Sigmoid": lambda x: 0.5 + 0.5 * np.tanh(0.5 * x),  # 1 / (1 + exp(-x)) without an overflow
    "ReLU": lambda x: activation("relu", x),
    "GELU": lambda x: activation("gelu", x),
    "SiLU": lambda x: activation("silu", x),
}


@dataclass(frozen=True, eq=False, slots=True)
class Dense:
    """A linear layer and its activation. With `residual` the input is added, through `projection` if there is one."""

    name: str
    weight: Rows  # [out, in]
    bias: Vector | None
    activation: str
    residual: bool = False
    projection: Rows | None = None  # [out, in]

    def __call__(self, vector: Vector) -> Vector:
        """A vector `[in]` to one `[out]`."""
        out = self.weight @ vector
        out = ACTIVATIONS[self.activation](out if self.bias is None else out + self.bias)
        if self.residual:
            out = out + (vector if self.projection is None else self.projection @ vector)
        return out


@dataclass(frozen=True, eq=False, slots=True)
class LayerNorm:
    """torch's layer norm, with its epsilon of 1e-5."""

    name: str
    weight: Vector
    bias: Vector

    def __call__(self, vector: Vector) -> Vector:
        """A vector of the weight's width to another."""
        centred = vector - vector.mean()
        return np.asarray(centred / np.sqrt(np.square(centred).mean() + 1e-5) * self.weight + self.bias)


@dataclass(frozen=True, slots=True)
class Normalize:
    """A vector of length 1."""

    name: str

    def __call__(self, vector: Vector) -> Vector:
        """A vector to another of the same direction."""
        return unit(vector)


@dataclass(frozen=True, slots=True)
class Splade:
    """From a language model's logits to weights of the words of the vocabulary."""

    total: bool = False  # whether a word's weights at all positions are added; else the largest counts
    twice: bool = False  # whether the logarithm is taken twice ("log1p_relu")
    most: int | None = None  # how many words keep their weight; None: all

    def keep(self, logits: Rows) -> Rows:
        """What `weights` needs of logits `[positions, vocabulary]`, in one row."""
        kept = self._squashed(logits).sum(axis=0, keepdims=True) if self.total else logits.max(axis=0, keepdims=True)
        return np.asarray(kept)

    def merged(self, kept: Sequence[Rows]) -> Rows:
        """What `keep` would leave of all positions, from what it left of some and of others."""
        return np.asarray((np.sum if self.total else np.max)(np.stack(kept), axis=0))

    def weights(self, kept: Rows) -> Vector:
        """The weights `[vocabulary]`, none below 0, from what `keep` left."""
        weights: Vector = kept[0] if self.total else self._squashed(kept[0])  # squashing keeps the order
        if self.most is not None and self.most < len(weights):
            chosen = np.argpartition(-weights, self.most - 1)[: self.most]
            weights, whole = np.zeros_like(weights), weights
            weights[chosen] = whole[chosen]
        return weights

    def _squashed(self, logits: Rows) -> Rows:
        squashed = np.log1p(np.maximum(logits, 0))
        return np.log1p(squashed) if self.twice else squashed


@dataclass(frozen=True, eq=False, slots=True)
class SentenceVectors:
    """How a checkpoint makes one vector of a text; by default the mean of all tokens.

    Attributes:
        architecture: of the transformer, a key of `distilrt.model.heads.HEADS`.
        folder: where its files lie within the checkpoint's folder.
        max_length: how many tokens it reads of a text; None: what tokenizer and positions allow.
        lower_case: whether texts are put in lower case before the tokenizer does anything to them.
        pooling: keys of POOLING, whose vectors follow each other.
        include_prompt: whether the prompt's tokens, and the one that starts the text, are pooled too.
        layers: what is done to the pooled vector, in order.
        splade: how a masked language model makes sparse vectors.
        prompts: texts to put before others, by name; "": before those whose caller names none.
        default_prompt_name: the name of that one; None: nothing is put before those.
        truncate_dim: how many numbers of a vector are kept unless a caller says; None: all.
        similarity: a key of SIMILARITY.
    """

    architecture: str = "DistilBertModel"
    folder: str = ""
    max_length: int | None = None
    lower_case: bool = False
    pooling: tuple[str, ...] = ("mean",)
    include_prompt: bool = True
    layers: tuple[Dense | LayerNorm | Normalize, ...] = ()
    splade: Splade = Splade()
    prompts: Mapping[str, str] = field(default_factory=lambda: {"": ""})
    default_prompt_name: str | None = None
    truncate_dim: int | None = None
    similarity: str = "cosine"

    def vector(self, rows: Rows, before: int = 0, dimensions: int | None = None, normalize: bool = False) -> Vector:
        """The vector of a text from the rows `[tokens, hidden_size]` to pool, with `before` tokens of it before them.

        The first `dimensions` numbers are kept, None: as the checkpoint says, and with `normalize` scaled to length 1.
        """
        pooled = [POOLING[mode](rows, before) for mode in self.pooling]
        vector = pooled[0] if len(pooled) == 1 else np.concatenate(pooled)
        for layer in self.layers:
            vector = layer(vector)
        whole = len(vector)
        vector = vector[: dimensions or self.truncate_dim]
        if normalize and not (self._ends_in_unit and len(vector) == whole):
            vector = unit(vector)
        return vector

    def mean(self, vectors: Sequence[Vector], tokens: Sequence[int], normalize: bool = False) -> Vector:
        """The vector of a text from those that `vector` made of its windows, each weighted by its number of tokens.

        It has length 1 where theirs have.
        """
        if len(vectors) == 1:
            return vectors[0]
        mean: Vector = np.average(vectors, axis=0, weights=tokens).astype(vectors[0].dtype)
        return np.asarray(unit(mean) if normalize or self._ends_in_unit else mean)

    @property
    def _ends_in_unit(self) -> bool:
        return bool(self.layers) and isinstance(self.layers[-1], Normalize)

    def width(self, hidden_size: int) -> int:
        """How many numbers a vector has before any are left out.

        Raises:
            CheckpointError: a layer's weights are for vectors of another width than those that come to it.
        """
        width = len(self.pooling) * hidden_size
        for layer in self.layers:
            if isinstance(layer, Normalize):
                continue
            if layer.weight.shape[-1] != width:
                raise CheckpointError(
                    f"modules.json: module {layer.name} takes vectors of {layer.weight.shape[-1]} numbers, and those "
                    f"that come to it have {width}; the files don't belong together"
                )
            width = layer.weight.shape[0]
        return width


def unit(vectors: Rows) -> Rows:
    """Vectors, along the last axis, scaled to length 1; zeros stay."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12))


def _by_rows(pairwise: Callable[[Rows, Rows], Rows], a: Rows, b: Rows) -> Rows:
    """The matrix of a function of pairs, a row at a time, so that no more differences than `b` has are in memory."""
    matrix = np.empty((len(a), len(b)), np.result_type(a, b))
    for row, vector in zip(matrix, a, strict=True):
        row[:] = pairwise(vector, b)
    return matrix


def _weighted(rows: Rows, positions: npt.NDArray[np.int64]) -> Vector:
    weights = positions.astype(np.float32)
    return np.asarray(weights @ rows / weights.sum())
