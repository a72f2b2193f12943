"""Every kernel launched by itself, with the bytes that it must move and the arithmetic that it must do.

Buffers are those of one batch of a model; weights are copied until no L2 holds all of them, and launches take turns
with the copies, as the layers of a model do. What is counted: bytes of inputs and outputs once each, and products with
their sums as two operations (nothing else, as in the floor of `distilrt.bench.gpu.timing`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from distilrt.bench.gpu.timing import Clock
from distilrt.kernels import tiles
from distilrt.kernels.attention import attention
from distilrt.kernels.embedding import embed
from distilrt.kernels.launch import DTYPE_NAMES
from distilrt.kernels.layer_norm import residual_layer_norm
from distilrt.kernels.linear import linear, linear_split
from distilrt.kernels.narrow_linear import norm_linear
from distilrt.kernels.packing import pack, unpack
from distilrt.kernels.pooling import first_rows, gather, mean
from distilrt.kernels.row_attention import row_attention
from distilrt.model.config import LAYER_NORM_EPS, DistilBertConfig

WEIGHT_BYTES = 128 << 20  # of all copies of a weight: more than any L2
NAMES = ("embed", "linear qkv", "linear out_proj", "linear ffn_in", "linear ffn_out", "linear_split", "norm_linear",
         "residual_layer_norm", "attention", "row_attention", "gather", "first_rows", "mean", "pack",
         "unpack")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Op:
    """`launches` launches of one kernel into `out`; bytes and operations of one of them."""

    name: str
    work: Callable[[], None]
    launches: int
    out: torch.Tensor
    nbytes: int
    flops: float = 0.0


def time_op(op: Op, clock: Clock) -> dict[str, Any]:
    """Microseconds of one launch from a captured graph, with GB/s and TFLOP/s."""
    times = clock.back_to_back(clock.graph(op.work))
    us = times.median / op.launches
    return {"op": op.name, "us": us, "low": times.low / op.launches, "high": times.high / op.launches,
            "gb_per_s": op.nbytes / us * 1e-3, "tflop_per_s": op.flops / us * 1e-6}  # fmt: skip


def ops(config: DistilBertConfig, tokens: int, dtype: torch.dtype, device: torch.device, *, tiny: bool = False
        ) -> Iterator[Op]:  # fmt: skip
    """The kernels that a batch of so many tokens, in sequences of 128, runs; of few tokens `norm_linear`, else a split.

    Args:
        config: the model's shape.
        tokens: packed rows.
        dtype: of rows and matrices.
        device: where; the CPU under Triton's interpreter.
        tiny: one copy of each weight.
    """
    width, inner, length = config.hidden_size, config.intermediate_size, min(tokens, 128)
    seqs = tokens // length
    rows_used = seqs * length

    def random(*shape: int, kind: torch.dtype = dtype) -> torch.Tensor:
        return torch.randn(shape, device=device, dtype=kind)

    def whole(*values: int) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    def weights(n: int, k: int) -> torch.Tensor:
        return random(1 if tiny else max(1, WEIGHT_BYTES // (n * k * dtype.itemsize)), n, k).mul_(k**-0.5)

    rows, residual, out = (random(tokens, width) for _ in range(3))
    gamma, beta = (random(width, kind=torch.float32) for _ in range(2))
    ends, lengths = whole(*range(0, rows_used + 1, length)), whole(*[length] * seqs)
    ids = torch.randint(config.vocab_size, (tokens,), dtype=torch.int32, device=device)
    numbers = torch.arange(tokens, dtype=torch.int32, device=device) % config.max_position_embeddings
    words, positions = random(config.vocab_size, width), random(config.max_position_embeddings, width)
    yield Op("embed", lambda: embed(out, ids, numbers, words, positions, gamma, beta, eps=LAYER_NORM_EPS), 1, out,
             _bytes(out, ids, numbers) + 2 * out.nbytes)  # fmt: skip

    for name, n, k, activation in (("qkv", 3 * width, width, ""), ("out_proj", width, width, ""),
                                   ("ffn_in", inner, width, "gelu"), ("ffn_out", width, inner, "")):  # fmt: skip
        x, y, bias, copies = random(tokens, k), random(tokens, n), random(n, kind=torch.float32), weights(n, k)
        work = _each(copies, partial(linear, y, x, bias=bias, activation=activation))
        yield Op(f"linear {name}", work, len(copies), y, _bytes(x, y, copies[0]), 2.0 * tokens * n * k)
    if tiles.is_narrow(tokens, DTYPE_NAMES[dtype]):
        summed, y, normed = random(tokens, width, kind=torch.float32), random(tokens, inner), random(tokens, width)
        bias, copies = random(inner, kind=torch.float32), weights(inner, width)
        yield Op("norm_linear", _each(copies, lambda weight: norm_linear(y, normed, summed, gamma, beta, weight, bias,
                                                                         eps=LAYER_NORM_EPS, activation="gelu")),
                 len(copies), y, _bytes(summed, y, normed, copies[0]), 2.0 * tokens * inner * width)  # fmt: skip
    else:
        x, parts, copies = random(tokens, inner), random(2, tokens, width, kind=torch.float32), weights(width, inner)
        yield Op("linear_split", _each(copies, lambda weight: linear_split(parts, x, weight)), len(copies), parts,
                 _bytes(x, parts, copies[0]), 2.0 * tokens * inner * width)  # fmt: skip
    yield Op("residual_layer_norm", lambda: residual_layer_norm(out, rows, residual, gamma, beta, beta,
                                                                eps=LAYER_NORM_EPS),
             1, out, _bytes(out, rows, residual))  # fmt: skip

    qkv, context = random(rows_used, 3 * width), random(rows_used, width)
    yield Op("attention", lambda: attention(context, qkv, ends, lengths, config.num_heads, max_seqlen=tokens), 1,
             context, _bytes(qkv, context), 4.0 * rows_used * length * width)  # fmt: skip

    firsts, means, index = random(seqs, width), random(seqs, width, kind=torch.float32), ends[:-1].contiguous()
    few, wanted = random(seqs, width), torch.cat([index, whole(seqs)])
    yield Op("row_attention", lambda: row_attention(few, firsts, qkv, context, wanted, ends, lengths, config.num_heads,
                                                    max_seqlen=tokens),
             1, few, _bytes(few, firsts) + qkv.nbytes * 2 // 3, 4.0 * rows_used * width)  # fmt: skip
    yield Op("gather", lambda: gather(firsts, rows, index), 1, firsts, 2 * firsts.nbytes)
    yield Op("first_rows", lambda: first_rows(firsts, rows, ends), 1, firsts, 2 * firsts.nbytes)
    yield Op("mean", lambda: mean(means, rows, ends, lengths), 1, means, rows_used * rows[0].nbytes + means.nbytes)

    grid = (seqs, length)
    padded, mask = ids[:rows_used].long().reshape(grid), torch.ones(grid, dtype=torch.long, device=device)
    packed_ids, packed_positions, places = (torch.arange(tokens, dtype=torch.int32, device=device) for _ in range(3))
    cu_seqlens, keys, first, errors = (whole(*[0] * size) for size in (seqs + 1, seqs, seqs + 1, 1))
    yield Op("pack", lambda: pack(packed_ids, packed_positions, places, cu_seqlens, keys, first, errors,
                                  padded_shape=grid, padded_ids=padded, attention_mask=mask,
                                  vocab_size=config.vocab_size, max_positions=config.max_position_embeddings),
             1, cu_seqlens, _bytes(padded, mask) + 3 * 4 * rows_used)  # fmt: skip
    spread = random(*grid, width)
    yield Op("unpack", lambda: unpack(spread, rows[:rows_used], places[:rows_used]), 1, spread, 3 * spread.nbytes)


def _bytes(*tensors: torch.Tensor) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _each(copies: torch.Tensor, launch: Callable[[torch.Tensor], None]) -> Callable[[], None]:
    def work() -> None:
        for weight in copies:
            launch(weight)

    return work
