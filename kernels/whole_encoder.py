"""The whole encoder over few rows in one kernel, whose programs meet at a barrier where else a kernel would end.

All programs are resident, walk through the layers together and deal out the blocks of each phase: the sum of word and
position, then for each layer the QKV product with the layer norm before it, attention, the output projection, the two
products of the FFN, and at the end the last layer norm. These are the launches of `narrow_linear` and `attention` one
by one, with the same sums in the same order. While a program waits at a barrier, its part of the weight that comes
after the next phase is on its way to L2. Bytes moved: all weights once. Reference: `distilrt.model.functional`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import triton
import triton.language as tl

from distilrt.kernels import tiles
from distilrt.kernels.activation import check_activation, plain_activation
from distilrt.kernels.attention import BLOCK_FIELDS, attend, constants, plain_attention, query_blocks, width_of_head
from distilrt.kernels.barrier import arrive, await_all
from distilrt.kernels.embedding import added
from distilrt.kernels.launch import (
    DTYPE_NAMES,
    FLOATS,
    HALVES,
    INTERPRETED,
    allow_next,
    check,
    check_count,
    check_given,
    chip_of,
    count_rows,
    launch_options,
    prefetch_rows,
    rounded,
)
from distilrt.kernels.layer_norm import normalise, plain_norm
from distilrt.kernels.narrow_linear import narrow_multiply, statistics
from distilrt.kernels.op import Arguments, Arrays, Entries, Example, Op, OpOutput, Sizes, double, given, nbytes
from distilrt.model.config import LAYER_NORM_EPS, DistilBertConfig

Pair = tuple[torch.Tensor, torch.Tensor]

# Addresses of a layer: of gain and bias of the layer norm before it (0, 1), weight and bias of the QKV product (2, 3)
# and of the output projection (4, 5), gain and bias of its first layer norm (6, 7), and both FFN layers (8 to 11).
FIELDS = 12
_FIELDS = tl.constexpr(FIELDS)


@triton.jit
def _address(layer_ptr, FIELD: tl.constexpr, dtype: tl.constexpr):
    return tl.multiple_of(tl.load(layer_ptr + FIELD).to(tl.pointer_type(dtype)), 16)


@triton.jit
def _ask_for(weight_ptr, N: tl.constexpr, K: tl.constexpr, BLOCK_N: tl.constexpr):
    """Ask for this program's blocks of a weight in L2."""
    if not INTERPRETED:
        for block in range(tl.program_id(0), (N + BLOCK_N - 1) // BLOCK_N, tl.num_programs(0)):
            prefetch_rows(weight_ptr, block * BLOCK_N, N, K, BLOCK_N, True)


@triton.jit
def _multiply(
    out_ptr, normed_ptr, x_ptr, gamma_ptr, beta_ptr, weight_ptr, bias_ptr, residual_ptr, rows, num_rows,
    N: tl.constexpr, K: tl.constexpr, EPS: tl.constexpr, ACTIVATION: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr, SLICES: tl.constexpr, WIDTH: tl.constexpr = 256,
):  # fmt: skip
    """All columns of a product, which programs take in turns; see `narrow_multiply`."""
    mean, scale = None, None
    if gamma_ptr is not None:
        mean, scale = statistics(x_ptr, rows, K, EPS, WIDTH)
    for block in range(tl.program_id(0), (N + BLOCK_N - 1) // BLOCK_N, tl.num_programs(0)):
        narrow_multiply(out_ptr, normed_ptr, x_ptr, gamma_ptr, beta_ptr, weight_ptr, bias_ptr, residual_ptr, mean,
                        scale, rows, num_rows, block * BLOCK_N, N, K, ACTIVATION, BLOCK_N, BLOCK_K,
                        SLICES)  # fmt: skip


@triton.jit(do_not_specialize=["num_tokens_ptr", "wanted_ptr", "max_wanted"])
def _whole_encoder_kernel(
    out_ptr,  # [ROWS, WIDTH], or [max_wanted, WIDTH]
    hidden_ptr,  # [ROWS, WIDTH]
    qkv_ptr,  # [ROWS, 3 * WIDTH]
    context_ptr,  # [ROWS, WIDTH]
    sums_ptr,  # [ROWS, WIDTH] float32
    ffn_ptr,  # [ROWS, INNER]
    barrier_ptr,  # [1]
    table_ptr,  # [LAYERS + 1, FIELDS] addresses
    input_ids_ptr,  # [ROWS], or None where words_ptr is rows of the batch
    position_ids_ptr,  # [ROWS]
    words_ptr,  # [vocabulary, WIDTH], or [ROWS, WIDTH]
    positions_ptr,  # [positions, WIDTH]
    blocks_ptr,  # as `attention` reads them
    num_tokens_ptr,  # [1] or None
    wanted_ptr,  # [max_wanted + 1]: rows, and how many; None: all rows
    max_wanted,
    LAYERS: tl.constexpr,
    INNER: tl.constexpr,
    EPS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ROWS: tl.constexpr,
    WIDE: tl.constexpr,  # columns of a block of the QKV product and of the first FFN layer
    NARROW: tl.constexpr,  # of the others
    STEP: tl.constexpr,
    SLICES: tl.constexpr,
    SCALE: tl.constexpr,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    DEPTH: tl.constexpr,
    ONE_BLOCK: tl.constexpr,
    MANY_BLOCKS: tl.constexpr,
    PRECISION: tl.constexpr,
    PDL: tl.constexpr,
):
    WIDTH: tl.constexpr = HEADS * HEAD_DIM
    BY_LOAD: tl.constexpr = not INTERPRETED
    dtype: tl.constexpr = hidden_ptr.dtype.element_ty
    allow_next(PDL)
    _ask_for(_address(table_ptr, 2, dtype), 3 * WIDTH, WIDTH, WIDE)
    num_tokens = count_rows(num_tokens_ptr, ROWS)
    cols = tl.arange(0, triton.next_power_of_2(WIDTH))
    inside = cols < WIDTH
    for row in range(tl.program_id(0), num_tokens, tl.num_programs(0)):
        x = added(input_ids_ptr, position_ids_ptr, words_ptr, positions_ptr, row, cols, WIDTH)
        tl.store(sums_ptr + row * WIDTH + cols, x, inside)
    await_all(barrier_ptr, arrive(barrier_ptr), BY_LOAD)

    own = tl.arange(0, ROWS)
    rows, num_rows = own, num_tokens  # of the last layer, behind its attention
    if wanted_ptr is not None:
        num_rows = tl.load(wanted_ptr + max_wanted)
        rows = tl.load(wanted_ptr + own, own < num_rows, other=0)
    for layer in range(LAYERS):
        layer_ptr = table_ptr + layer * _FIELDS
        out_proj_ptr = _address(layer_ptr, 4, dtype)
        ffn_in_ptr = _address(layer_ptr, 8, dtype)
        ffn_out_ptr = _address(layer_ptr, 10, dtype)
        _multiply(qkv_ptr, hidden_ptr, sums_ptr, _address(layer_ptr, 0, tl.float32), _address(layer_ptr, 1, tl.float32),
                  _address(layer_ptr, 2, dtype), _address(layer_ptr, 3, tl.float32), None, own, num_tokens,
                  3 * WIDTH, WIDTH, EPS, "", WIDE, STEP, SLICES)  # fmt: skip
        before = arrive(barrier_ptr)
        _ask_for(out_proj_ptr, WIDTH, WIDTH, NARROW)
        await_all(barrier_ptr, before, BY_LOAD)

        attend(context_ptr, qkv_ptr, blocks_ptr, SCALE, HEADS, HEAD_DIM, BLOCK_D, BLOCK_M, BLOCK_N, DEPTH, ONE_BLOCK,
               MANY_BLOCKS, PRECISION)  # fmt: skip
        before = arrive(barrier_ptr)
        _ask_for(ffn_in_ptr, INNER, WIDTH, WIDE)
        await_all(barrier_ptr, before, BY_LOAD)

        last = layer == LAYERS - 1
        here = tl.where(last, num_rows, num_tokens)
        _multiply(sums_ptr, None, context_ptr, None, None, out_proj_ptr, _address(layer_ptr, 5, tl.float32), hidden_ptr,
                  tl.where(last, rows, own), here, WIDTH, WIDTH, EPS, "", NARROW, STEP, SLICES)  # fmt: skip
        before = arrive(barrier_ptr)
        _ask_for(ffn_out_ptr, WIDTH, INNER, NARROW)
        await_all(barrier_ptr, before, BY_LOAD)

        _multiply(ffn_ptr, hidden_ptr, sums_ptr, _address(layer_ptr, 6, tl.float32), _address(layer_ptr, 7, tl.float32),
                  ffn_in_ptr, _address(layer_ptr, 9, tl.float32), None, own, here, INNER, WIDTH, EPS, ACTIVATION, WIDE,
                  STEP, SLICES)  # fmt: skip
        before = arrive(barrier_ptr)
        if not last:
            _ask_for(_address(layer_ptr + _FIELDS, 2, dtype), 3 * WIDTH, WIDTH, WIDE)
        await_all(barrier_ptr, before, BY_LOAD)

        _multiply(sums_ptr, None, ffn_ptr, None, None, ffn_out_ptr, _address(layer_ptr, 11, tl.float32), hidden_ptr,
                  own, here, WIDTH, INNER, EPS, "", NARROW, STEP, SLICES)  # fmt: skip
        await_all(barrier_ptr, arrive(barrier_ptr), BY_LOAD)

    layer_ptr = table_ptr + LAYERS * _FIELDS
    gamma = tl.load(_address(layer_ptr, 0, tl.float32) + cols, inside, other=0.0)
    beta = tl.load(_address(layer_ptr, 1, tl.float32) + cols, inside, other=0.0)
    for row in range(tl.program_id(0), num_rows, tl.num_programs(0)):
        x = tl.load(sums_ptr + row * WIDTH + cols, inside, other=0.0)
        y = normalise(x, gamma, beta, inside, WIDTH, EPS)
        tl.store(out_ptr + row * WIDTH + cols, rounded(y, dtype), inside)


@dataclass(frozen=True, slots=True)
class Scratch:
    """What the phases of `whole_encoder` leave for one another; all but `barrier` may hold anything before."""

    hidden: torch.Tensor  # [T, H] float16 or bfloat16, where T is 16 or 32
    qkv: torch.Tensor  # [T, 3 * H]
    context: torch.Tensor  # [T, H]
    sums: torch.Tensor  # [T, H] float32
    ffn: torch.Tensor  # [T, I]; may share memory with qkv
    barrier: torch.Tensor  # [1] int32: 0 at first; launches that may run at once need one each


def table(norm: Pair, layers: Sequence[Sequence[Pair]]) -> torch.Tensor:
    """The addresses of all layers' tensors, `[layers + 1, 12]` int64, on their device.

    Args:
        norm: gain and bias of the layer norm before the first layer.
        layers: of each layer weight and bias of the QKV product and of the output projection, gain and bias of its
            first layer norm, weight and bias of both FFN layers, gain and bias of its second layer norm. Vectors are
            float32. They must stay where they are as long as the table is in use.

    Raises:
        ValueError: a tensor that does not begin at a multiple of 16 bytes.
    """
    norms = [norm, *(layer[-1] for layer in layers)]
    rows = [(before, *layer[:-1]) for before, layer in zip(norms, layers, strict=False)]
    addresses = [[tensor.data_ptr() for pair in row for tensor in pair] for row in (*rows, norms[-1:])]
    if any(address % 16 for row in addresses for address in row):
        raise ValueError("every tensor must begin at a multiple of 16 bytes")
    addresses[-1] += [0] * (FIELDS - 2)
    return torch.tensor(addresses, dtype=torch.int64, device=norm[0].device)


def whole_encoder(
    out: torch.Tensor,
    scratch: Scratch,
    layers: torch.Tensor,
    tokens: torch.Tensor,
    position_ids: torch.Tensor,
    words: torch.Tensor,
    positions: torch.Tensor,
    blocks: torch.Tensor,
    num_heads: int,
    *,
    tile: tiles.EncoderTile,
    activation: str,
    eps: float,
    num_tokens: torch.Tensor | None = None,
    wanted: torch.Tensor | None = None,
    pdl: bool = False,
) -> None:
    """`out` = the last layer's hidden states of the batch, or of the rows `wanted`; rows beyond are left as they are.

    Args:
        out: `[T, H]`, or with `wanted` `[n, H]`; may be `scratch.hidden` or the first rows of it.
        scratch: memory; all of it but the sums is of the dtype of out.
        layers: the `table` of the layers; matrices are of the dtype of out.
        tokens, position_ids, words, positions: as in `embedding.embed`.
        blocks: as in `attention.attention`; of sequences of up to T rows.
        num_heads: divides H; H / num_heads is at most 128.
        tile: how the kernel is compiled, and its programs.
        activation: one of `activation.ACTIVATIONS`.
        eps: added to the variance in layer norms.
        num_tokens: `[1]` int32 on the device; None: all T rows.
        wanted: `[n + 1]` int32, rows of the batch and at last how many of them, at most T.
        pdl: let the next kernel start early. This one, the first of a forward, follows a copy and never does.

    Raises:
        ValueError: a shape, dtype or activation that does not fit, or another number of rows.
    """
    check("scratch.hidden", scratch.hidden, [None, None], HALVES)
    (max_tokens, width), kind = scratch.hidden.shape, scratch.hidden.dtype
    if max_tokens not in (16, 32):
        raise ValueError(f"there must be room for 16 or 32 rows, found {max_tokens}")
    check_activation(activation)
    check("out", out, [max_tokens if wanted is None else None, width], [kind])
    check("scratch.qkv", scratch.qkv, [max_tokens, 3 * width], [kind])
    check("scratch.context", scratch.context, [max_tokens, width], [kind])
    check("scratch.sums", scratch.sums, [max_tokens, width], [torch.float32])
    check("scratch.ffn", scratch.ffn, [max_tokens, None], [kind])
    check("scratch.barrier", scratch.barrier, [1], [torch.int32])
    check("layers", layers, [None, FIELDS], [torch.int64])
    by_id = tokens.dim() == 1
    check("tokens", tokens, [max_tokens] if by_id else [max_tokens, width], [torch.int32] if by_id else FLOATS)
    check("position_ids", position_ids, [max_tokens], [torch.int32])
    check("words", words, [None, width], FLOATS)
    check("positions", positions, [None, width], FLOATS)
    check("blocks", blocks, [None, BLOCK_FIELDS], [torch.int32])
    check_count(num_tokens)
    check_given("wanted", wanted, [out.shape[0] + 1], [torch.int32])
    head_dim = width_of_head(width, num_heads)
    name, chip = DTYPE_NAMES[kind], chip_of(out)
    _whole_encoder_kernel[(1 if INTERPRETED else chip.num_sms,)](
        out, scratch.hidden, scratch.qkv, scratch.context, scratch.sums, scratch.ffn, scratch.barrier, layers,
        tokens if by_id else None, position_ids, words if by_id else tokens, positions, blocks, num_tokens, wanted,
        out.shape[0],
        LAYERS=layers.shape[0] - 1, INNER=scratch.ffn.shape[1], EPS=eps, ACTIVATION=activation,
        ROWS=max_tokens, WIDE=tile.wide, NARROW=tile.narrow, STEP=tile.block_k, SLICES=tile.num_warps,
        **constants(max_tokens, num_heads, head_dim, name, tiles.attention_tile(max_tokens, head_dim, name, chip)),
        num_warps=tile.num_warps, num_stages=tile.num_stages, maxnreg=255,  # a program is alone
        launch_cooperative_grid=True, **launch_options(pdl, early=False),
    )  # fmt: skip


class _Model:
    """Random weights, as `whole_encoder` takes them, and what torch computes with them."""

    def __init__(self, a: Arrays, width: int, inner: int, num_heads: int, layers: int, activation: str) -> None:
        self.num_heads, self.activation = num_heads, activation
        self.words, self.positions = a.random(50, width), a.random(40, width)
        shapes = ((3 * width, width), (width, width), (), (inner, width), (width, inner), ())
        self.norm = a.vector(width), a.vector(width)
        self.layers = [
            [(a.weights(*shape)[0], a.vector(shape[0])) if shape else (a.vector(width), a.vector(width))
             for shape in shapes] for _ in range(layers)
        ]  # fmt: skip
        self.table = table(self.norm, self.layers)

    def forward(self, ids: torch.Tensor, numbers: torch.Tensor, ends: Sequence[int], keys: Sequence[int],
                dtype: torch.dtype) -> torch.Tensor:  # fmt: skip
        """Hidden states of the last layer, computed in a dtype."""

        def linear(x: torch.Tensor, pair: Sequence[torch.Tensor]) -> torch.Tensor:
            return torch.nn.functional.linear(x, *(each.to(dtype) for each in pair))

        x = self.words[ids.long()].to(dtype) + self.positions[numbers.long()].to(dtype)
        x = plain_norm(x, *self.norm)
        for qkv, out_proj, first_norm, ffn_in, ffn_out, second_norm in self.layers:
            context = plain_attention(linear(x, qkv), ends, keys, self.num_heads)
            x = plain_norm(x + linear(context, out_proj), *first_norm)
            inner = plain_activation(self.activation, linear(x, ffn_in))
            x = plain_norm(x + linear(inner, ffn_out), *second_norm)
        return x


def _example(
    a: Arrays,
    lengths: Sequence[int],
    width: int,
    inner: int,
    num_heads: int,
    layers: int,
    activation: str = "gelu",
    few: bool = False,
) -> Example:
    """Sequences of which all but the first row of those of more than two are keys; `few`: their first rows alone."""
    tokens, ends = sum(lengths), [0, *itertools.accumulate(lengths)]
    keys = [length - (length > 2) for length in lengths]
    spare = -tokens % 16
    most, model = tokens + spare, _Model(a, width, inner, num_heads, layers, activation)
    ids, numbers = a.below(50, most), a.below(40, most)
    out = a.empty(len(lengths) + spare if few else most, width)
    wanted = a.ints(*ends[:-1], *[-77] * spare, len(lengths)) if few else None
    sums = a.empty(most, width, dtype=torch.float32)
    scratch = Scratch(a.empty(most, width), a.empty(most, 3 * width), a.empty(most, width), sums, a.empty(most, inner),
                      a.ints(0))  # fmt: skip
    chip, name = chip_of(out), DTYPE_NAMES[a.dtype]
    tile = tiles.encoder_tile(most, width, inner, name, chip) or tiles.encoder_tiles(most)[0]
    block_m = tiles.attention_tile(most, width // num_heads, name, chip).block_m
    blocks = query_blocks(np.array(ends, np.int32), np.array(keys, np.int32), block_m)
    arrays = (out, scratch, model.table, ids, numbers, model.words, model.positions)
    count, listed = a.ints(tokens), a.ints(*blocks.ravel().tolist()).view(-1, BLOCK_FIELDS)
    rows = slice(0, tokens)

    def launch() -> None:
        whole_encoder(*arrays, listed, num_heads, tile=tile, activation=activation, eps=LAYER_NORM_EPS,
                      num_tokens=count, wanted=wanted, pdl=a.pdl)  # fmt: skip

    def computed(dtype: torch.dtype) -> torch.Tensor:
        found = model.forward(ids[rows], numbers[rows], ends, keys, dtype)
        return found[ends[:-1]] if few else found

    held = [each for layer in model.layers for pair in layer for each in pair]
    products = 2.0 * tokens * sum(each.numel() for each in held if each.dim() == 2)
    return Example(
        f"whole_encoder {tokens}x{width}x{inner}, {layers} layers" + (", few rows" if few else ""),
        launch,
        {"out": OpOutput(out, lambda: double(computed(torch.float64)), lambda: computed(a.dtype))},
        nbytes(*held, out),
        products + layers * 4.0 * sum(length * count for length, count in zip(lengths, keys, strict=True)) * width,
    )


def _in_model(config: DistilBertConfig, tokens: int, dtype: str) -> list[Arguments]:
    if not tiles.is_narrow(tokens, dtype):
        return []
    sizes = given(width=config.hidden_size, inner=config.intermediate_size, num_heads=config.num_heads,
                  layers=config.num_layers, activation=config.activation)  # fmt: skip
    return [given(lengths=[tokens], few=few, **sizes) for few in (False, True)]


def _odd(sizes: Sizes, dtype: str) -> list[Arguments]:
    batches = ([1], [5, 1, 2], [7, 9], [17], [3, 20, 1, 8]) if tiles.is_narrow(1, dtype) else ()
    shapes = ((sizes.width, sizes.inner, sizes.width // 16), (36, 50, 2))
    return [
        given(lengths=lengths, width=width, inner=inner, num_heads=heads, layers=2, few=len(lengths) % 2 == 1)
        for (width, inner, heads), lengths in itertools.product(shapes, batches)
    ]


def _variants(config: DistilBertConfig, dtype: str, chip: tiles.Chip) -> Iterator[tuple[Arguments, Entries]]:
    """Every tile."""
    key = ("encoder", chip.capability, dtype, config.hidden_size, config.intermediate_size)
    for tokens in (16, 32):
        for arguments in _in_model(config, tokens, dtype)[1:]:
            for tile in tiles.encoder_tiles(tokens):
                yield arguments, {key: {tokens: tile}}


OPS = (Op("whole_encoder", _example, _in_model, _odd, _variants),)
