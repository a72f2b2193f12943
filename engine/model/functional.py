"""The encoder in plain NumPy, in float32 or float64: what tests compare with, and what `backend="reference"` runs.

It is written to be read and to be exact, not to be fast. Every operation takes packed rows and computes in the dtype of
its rows; weights of a narrower dtype are widened, which is exact. It knows nothing of padding, heads, threads or files.
Weights have the names of the reference's checkpoint, without the prefix `distilbert.`.

Sources: Sanh et al. 2019 (arXiv:1910.01108) for the model, Vaswani et al. 2017 (arXiv:1706.03762) for attention, and
transformers' DistilBERT for every detail that the papers leave open.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.polynomial.chebyshev import chebval

from distilrt.batch import Batch, IntArray
from distilrt.model.config import ACTIVATIONS, LAYER_NORM_EPS, DistilBertConfig

Array = npt.NDArray[np.floating[Any]]
Rows = Array  # [rows, width]
Weights = Mapping[str, Array]

_ERF_LIMIT = 6.0  # erfc(6) = 2e-17: beyond it erf is 1 in float64
_ERF_LOWEST = 2.0 / (2.0 + _ERF_LIMIT)


def encoder_forward(
    config: DistilBertConfig, weights: Weights, batch: Batch, dtype: npt.DTypeLike = np.float32
) -> Array:
    """Hidden states of the embeddings and of every layer, `[num_layers + 1, total_tokens, hidden_size]`.

    Each sequence is computed by itself, because a BLAS product rounds differently with the number of rows and a result
    must not depend on batch mates.
    """
    states = np.empty((config.num_layers + 1, batch.total_tokens, config.hidden_size), dtype)
    for seq, num_keys in enumerate(batch.key_lengths):
        own = slice(batch.cu_seqlens[seq], batch.cu_seqlens[seq + 1])
        rows = embed(
            weights,
            None if batch.input_ids is None else batch.input_ids[own],
            None if batch.inputs_embeds is None else batch.inputs_embeds[own],
            batch.position_ids[own],
            dtype,
        )
        states[0, own] = rows
        for index in range(config.num_layers):
            rows = layer(config, weights, index, rows, int(num_keys))
            states[index + 1, own] = rows
    return states


def embed(
    weights: Weights,
    input_ids: IntArray | None,
    inputs_embeds: npt.NDArray[np.float32] | None,
    position_ids: IntArray,
    dtype: npt.DTypeLike,
) -> Rows:
    """`LayerNorm(word[input_ids] + position[position_ids])`, `[n, hidden_size]`; `inputs_embeds` replace the words.

    A BERT adds the token types' embeddings, and `position_ids` name the type too (see `Batch`).
    """
    words = weights["embeddings.word_embeddings.weight"][input_ids] if inputs_embeds is None else inputs_embeds
    words = words.astype(dtype)
    positions = weights["embeddings.position_embeddings.weight"]
    types = weights.get("embeddings.token_type_embeddings.weight")
    if types is not None:
        token_types, position_ids = np.divmod(position_ids, len(positions))
        words += types[token_types]
    return layer_norm(words + positions[position_ids], *_pair(weights, "embeddings.LayerNorm"))


def layer(config: DistilBertConfig, weights: Weights, index: int, rows: Rows, num_keys: int) -> Rows:
    """One post-norm transformer layer over the rows of one sequence, `[n, hidden_size]` to the same.

    `a = LayerNorm(x + Out(Attention(Q(x), K(x), V(x))))`, then `LayerNorm(a + Lin2(activation(Lin1(a))))`. The first
    `num_keys` rows are attended to.
    """
    prefix = f"transformer.layer.{index}"
    query, key, value = (linear(rows, *_pair(weights, f"{prefix}.attention.{name}_lin")) for name in "qkv")
    ends, keys = np.array([0, len(rows)], np.int32), np.array([num_keys], np.int32)
    context = attention(query, key, value, ends, keys, config.num_heads)
    context = linear(context, *_pair(weights, f"{prefix}.attention.out_lin"))
    rows = layer_norm(rows + context, *_pair(weights, f"{prefix}.sa_layer_norm"))
    inner = activation(config.activation, linear(rows, *_pair(weights, f"{prefix}.ffn.lin1")))
    inner = linear(inner, *_pair(weights, f"{prefix}.ffn.lin2"))
    return layer_norm(rows + inner, *_pair(weights, f"{prefix}.output_layer_norm"))


def layer_attentions(config: DistilBertConfig, weights: Weights, index: int, rows: Rows, batch: Batch) -> list[Array]:
    """What layer `index` attends to, given its input `rows` `[total_tokens, hidden_size]`.

    Returns:
        Probabilities `[num_heads, rows of the sequence, key_length]` for each sequence.
    """
    prefix = f"transformer.layer.{index}.attention"
    probs = []
    for start, end, num_keys in zip(batch.cu_seqlens[:-1], batch.cu_seqlens[1:], batch.key_lengths, strict=True):
        query = linear(rows[start:end], *_pair(weights, f"{prefix}.q_lin"))
        key = linear(rows[start : start + num_keys], *_pair(weights, f"{prefix}.k_lin"))
        probs.append(attention_probs(query, key, config.num_heads))
    return probs


def attention(query: Rows, key: Rows, value: Rows, cu_seqlens: IntArray, key_lengths: IntArray, num_heads: int) -> Rows:
    """`softmax(Q Kᵀ / sqrt(head_dim)) V` in each head of each sequence.

    Args:
        query, key, value: `[total_tokens, hidden_size]`, heads side by side.
        cu_seqlens: `[num_seqs + 1]`, first row of each sequence, and the end.
        key_lengths: `[num_seqs]`, how many rows of each sequence, from its first, are attended to.
        num_heads: divides hidden_size.

    Returns:
        `[total_tokens, hidden_size]`; zeros where nothing is attended to.
    """
    out = np.empty_like(query)
    for start, end, num_keys in zip(cu_seqlens[:-1], cu_seqlens[1:], key_lengths, strict=True):
        keys = slice(start, start + num_keys)
        probs = attention_probs(query[start:end], key[keys], num_heads)
        context = probs @ _heads(value[keys], num_heads)  # [num_heads, n, head_dim]
        out[start:end] = context.transpose(1, 0, 2).reshape(end - start, -1)
    return out


def attention_probs(query: Rows, key: Rows, num_heads: int) -> Array:
    """`softmax(Q Kᵀ / sqrt(head_dim))`, one sequence: `[n, hidden_size]`, `[m, hidden_size]` to `[num_heads, n, m]`."""
    scale = (query.shape[1] // num_heads) ** -0.5
    return softmax(_heads(query, num_heads) @ _heads(key, num_heads).transpose(0, 2, 1) * scale)


def linear(rows: Rows, weight: Array, bias: Array) -> Rows:
    """`rows @ weight.T + bias`: `[n, in]`, `[out, in]`, `[out]` to `[n, out]`."""
    out: Rows = rows @ weight.T + bias
    return out


def layer_norm(rows: Rows, weight: Array, bias: Array) -> Rows:
    """`(x - mean) / sqrt(variance + 1e-12) * weight + bias` over the last axis (Ba et al. 2016, arXiv:1607.06450)."""
    centred: Rows = rows - rows.mean(axis=-1, keepdims=True)
    deviation: Rows = np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + LAYER_NORM_EPS)
    return centred / deviation * weight + bias


def softmax(scores: Array) -> Array:
    """`exp(x) / sum(exp(x))` over the last axis, shifted by its maximum so that nothing overflows."""
    probs: Array = np.exp(scores - scores.max(axis=-1, keepdims=True, initial=-np.inf))
    probs /= probs.sum(axis=-1, keepdims=True)
    return probs


def activation(name: str, x: Array) -> Array:
    """The activation that a config calls `name`, elementwise (`config.ACTIVATIONS`).

    gelu: `x Φ(x) = x/2 (1 + erf(x/√2))` (Hendrycks & Gimpel 2016, arXiv:1606.08415). gelu_new and gelu_pytorch_tanh:
    the same paper's `x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))`. relu: `max(x, 0)`. silu: `x / (1 + exp(-x))`. tanh.

    Raises:
        ValueError: another name.
    """
    if name == "relu":
        return np.maximum(x, 0)
    if name == "tanh":  # A BERT's pooler has it; no config names it.
        return np.tanh(x)
    gate: Array
    if name == "gelu":
        gate = erf(x * math.sqrt(0.5))
    elif name in ("gelu_new", "gelu_pytorch_tanh"):
        gate = np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x))
    elif name == "silu":
        gate = np.tanh(0.5 * x)  # 1 / (1 + exp(-x)) = (1 + tanh(x/2)) / 2, which never overflows
    else:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, found {name!r}")
    return 0.5 * x * (1.0 + gate)


def erf(x: Array) -> Array:
    """The error function, elementwise, within 2e-15; computed in float64 and rounded to the dtype of `x`.

    `erf(|x|) = 1 - exp(-x²) P(t)` with `t = 2 / (2 + |x|)`, where P is the Chebyshev series of `exp(x²) erfc(x)`, which
    is smooth in t.
    """
    size = np.minimum(np.abs(x, dtype=np.float64), _ERF_LIMIT)
    t = 2.0 / (2.0 + size)
    series = chebval((2.0 * t - 1.0 - _ERF_LOWEST) / (1.0 - _ERF_LOWEST), _scaled_erfc_series())
    result: Array = np.copysign(1.0 - np.exp(-size * size) * series, x)
    return result.astype(x.dtype)


@lru_cache(maxsize=1)
def _scaled_erfc_series() -> npt.NDArray[np.float64]:
    """Chebyshev coefficients of `exp(x²) erfc(x)` in t from `_ERF_LOWEST` to 1, from its values at the 24 nodes."""
    count = 24
    angles = (np.arange(count) + 0.5) * (math.pi / count)
    nodes = 2.0 / ((1.0 + _ERF_LOWEST) / 2 + (1.0 - _ERF_LOWEST) / 2 * np.cos(angles)) - 2.0
    values = np.array([math.exp(x * x) * math.erfc(x) for x in nodes])
    coefficients: npt.NDArray[np.float64] = 2.0 / count * np.cos(np.outer(np.arange(count), angles)) @ values
    coefficients[0] /= 2
    return coefficients


def _heads(rows: Rows, num_heads: int) -> Array:
    """`[n, hidden_size]` as `[num_heads, n, head_dim]`, a view."""
    heads: Array = rows.reshape(len(rows), num_heads, rows.shape[1] // num_heads).transpose(1, 0, 2)
    return heads


def _pair(weights: Weights, name: str) -> tuple[Array, Array]:
    return weights[f"{name}.weight"], weights[f"{name}.bias"]
