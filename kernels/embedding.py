"""`LayerNorm(words[input_ids] + positions[position_ids])`: the first op of the encoder.

Bytes moved: one row of each table in and one row out for each token. Reference: `distilrt.model.functional.embed`.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import triton
import triton.language as tl

from distilrt.kernels import tiles
from distilrt.kernels.launch import FLOATS, begin, check, check_count, chip_of, count_rows, launch_options, rounded
from distilrt.kernels.layer_norm import normalise, plain_norm
from distilrt.kernels.op import Arguments, Arrays, Example, Op, OpOutput, Sizes, double, given, nbytes
from distilrt.kernels.quantize import Quantized, coded, empty_codes, pointers, store_codes
from distilrt.model import functional
from distilrt.model.config import LAYER_NORM_EPS, DistilBertConfig


@triton.jit
def added(input_ids_ptr, position_ids_ptr, words_ptr, positions_ptr, row, cols, WIDTH: tl.constexpr):
    """Word and position of a row of the batch in float32, zero beyond its width; pointers as in the kernel below."""
    if input_ids_ptr is None:
        word = row
    else:
        word = tl.load(input_ids_ptr + row)
    position = tl.load(position_ids_ptr + row)
    x = tl.load(words_ptr + tl.cast(word, tl.int64) * WIDTH + cols, cols < WIDTH, other=0.0).to(tl.float32)
    return x + tl.load(positions_ptr + position.to(tl.int64) * WIDTH + cols, cols < WIDTH, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["num_tokens_ptr", "max_tokens"])
def _embed_kernel(
    out_ptr,  # [max_tokens, WIDTH]
    codes_ptr,  # [max_tokens, WIDTH] or None
    scales_ptr,  # [max_tokens] or None
    input_scales_ptr,  # [WIDTH] or None
    input_ids_ptr,  # [max_tokens], or None where words_ptr is rows of the batch
    position_ids_ptr,  # [max_tokens]
    words_ptr,  # [vocabulary, WIDTH], or [max_tokens, WIDTH]
    positions_ptr,  # [positions, WIDTH]
    gamma_ptr,  # [WIDTH]
    beta_ptr,  # [WIDTH]
    num_tokens_ptr,  # [1] or None
    max_tokens,
    WIDTH: tl.constexpr,
    EPS: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    cols = tl.arange(0, BLOCK)
    inside = cols < WIDTH
    gamma = tl.load(gamma_ptr + cols, inside, other=0.0).to(tl.float32)
    beta = tl.load(beta_ptr + cols, inside, other=0.0).to(tl.float32)
    begin(PDL)
    num_tokens = count_rows(num_tokens_ptr, max_tokens)
    for row in range(tl.program_id(0), num_tokens, tl.num_programs(0)):
        x = added(input_ids_ptr, position_ids_ptr, words_ptr, positions_ptr, row, cols, WIDTH)
        y = normalise(x, gamma, beta, inside, WIDTH, EPS)
        tl.store(out_ptr + tl.cast(row, tl.int64) * WIDTH + cols, rounded(y, out_ptr.dtype.element_ty), inside)
        store_codes(codes_ptr, scales_ptr, input_scales_ptr, y, row, cols, inside, WIDTH)


def embed(
    out: torch.Tensor,
    tokens: torch.Tensor,
    position_ids: torch.Tensor,
    words: torch.Tensor,
    positions: torch.Tensor,
    gamma: torch.Tensor,
    beta: torch.Tensor,
    *,
    eps: float,
    codes: Quantized | None = None,
    num_tokens: torch.Tensor | None = None,
    pdl: bool = False,
) -> None:
    """`out = LayerNorm(word + position)` in the first `num_tokens` rows; others are left as they are.

    Args:
        out: `[T, H]` float32, float16 or bfloat16.
        tokens: input ids `[T]` int32, each below V; or embeddings of the words `[T, H]`, then `words` is not read.
        position_ids: `[T]` int32, each below P. Neither ids nor positions are checked here.
        words: `[V, H]`.
        positions: `[P, H]`.
        gamma, beta: `[H]`.
        eps: added to the variance.
        codes: as in `layer_norm.layer_norm`.
        num_tokens: `[1]` int32 on the device; None: all T rows.
        pdl: let the next kernel start early. This one, the first of a forward, follows a copy and never does.

    Raises:
        ValueError: a shape or dtype that does not fit.
    """
    check("out", out, [None, None], FLOATS)
    max_tokens, width = out.shape
    by_id = tokens.dim() == 1
    if by_id:
        check("tokens", tokens, [max_tokens], [torch.int32])
        check("words", words, [None, width], FLOATS)
    else:
        check("tokens", tokens, [max_tokens, width], FLOATS)
    check("position_ids", position_ids, [max_tokens], [torch.int32])
    check("positions", positions, [None, width], FLOATS)
    check("gamma", gamma, [width], FLOATS)
    check("beta", beta, [width], FLOATS)
    if codes is not None:
        codes.check("codes", max_tokens, width)
    check_count(num_tokens)
    if not max_tokens:
        return
    tile = tiles.row_tile(max_tokens, width, chip_of(out))
    _embed_kernel[(tile.programs,)](
        out, *pointers(codes), tokens if by_id else None, position_ids, words if by_id else tokens, positions,
        gamma, beta, num_tokens, max_tokens,
        WIDTH=width, EPS=eps, BLOCK=triton.next_power_of_2(width), num_warps=tile.num_warps,
        maxnreg=tiles.ROW_REGISTERS, **launch_options(pdl, early=False),
    )  # fmt: skip


def _example(
    a: Arrays, tokens: int, width: int, vocabulary: int = 50, positions: int = 40, by_id: bool = True, spare: int = 0
) -> Example:
    table, places = a.random(vocabulary, width), a.random(positions, width)
    ids, numbers = a.below(vocabulary, tokens + spare), a.below(positions, tokens + spare)
    gamma, beta, count = a.vector(width), a.vector(width), a.ints(tokens)
    out, given_words = a.empty(tokens + spare, width), ids if by_id else a.random(tokens + spare, width)
    codes = empty_codes(a, tokens + spare, width)

    def words() -> torch.Tensor:
        return table[ids[:tokens].long()] if by_id else given_words[:tokens]

    def numbered() -> torch.Tensor:
        return places[numbers[:tokens].long()]

    def exact() -> Any:
        return functional.layer_norm(double(words()) + double(numbered()), double(gamma), double(beta))

    arrays = (out, given_words, numbers, table, places, gamma, beta)
    return Example(
        f"embed {tokens}x{width}" + ("" if by_id else " of embeddings"),
        lambda: embed(*arrays, eps=LAYER_NORM_EPS, codes=codes, num_tokens=count, pdl=a.pdl),
        {"out": OpOutput(out, exact, lambda: plain_norm(words() + numbered(), gamma, beta)), **coded(codes, exact)},
        nbytes(out, ids, numbers) + 2 * out.nbytes,
    )


def _in_model(config: DistilBertConfig, tokens: int, dtype: str) -> list[Arguments]:
    sizes = given(width=config.hidden_size, vocabulary=config.vocab_size, positions=config.max_position_embeddings)
    return [given(tokens=tokens, by_id=by_id, **sizes) for by_id in (True, False)]


def _odd(sizes: Sizes, dtype: str) -> list[Arguments]:
    shapes = itertools.product(sizes.tokens, (sizes.width, 36))
    return [given(tokens=tokens, width=width, spare=2) for tokens, width in shapes]


OPS = (Op("embed", _example, _in_model, _odd, has_codes=True),)
