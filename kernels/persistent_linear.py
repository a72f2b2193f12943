"""`linear` with a program a multiprocessor that takes blocks in turns, by tensor descriptors.

Loads of a program's next block are on their way while it still finishes the block before, in two halves, and stores
end while it goes on. Where blocks do not make whole waves, two programs share a block: the one begins the sums over its
depth, and the next goes on with them. So each sum is the same chain of additions wherever it is cut, and results
depend neither on the number of programs nor on a row's place in the batch. A program waits for the one before it alone,
for what that does first of all: nothing waits in a circle, and hardly anything waits at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from distilrt.kernels.launch import check, chip_of, count_rows, dot, launch_options, rounded
from distilrt.kernels.product import Product, finished, start
from distilrt.kernels.tiles import LinearTile


@dataclass(frozen=True, slots=True)
class Relay:
    """Where programs leave sums that the next program goes on with. Launches that may run at once need one each.

    A launch finds `begun` as zeros and leaves it so; what is in `sums` does not matter.
    """

    begun: torch.Tensor  # [programs] int32: 1 from when sums are there until they are fetched
    sums: torch.Tensor  # [programs * block_m * block_n] float32, at least; of int8 their bytes hold int32


@triton.jit
def _place(unit, BLOCKS_N: tl.constexpr, SEGMENTS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """First row and column of a unit of work, which is one segment of the depth of one block, and the segment."""
    return (
        unit // (BLOCKS_N * SEGMENTS) * BLOCK_M,
        unit % BLOCKS_N * BLOCK_N,
        unit // BLOCKS_N % SEGMENTS,
    )


@triton.jit
def _multiply(acc, x_desc, weight_desc, row, col, step, BLOCK_K: tl.constexpr):
    """`acc` and one step more of the product."""
    x = x_desc.load([row, step * BLOCK_K])
    weight = weight_desc.load([col, step * BLOCK_K])
    return dot(x, tl.trans(weight), acc, "ieee")


@triton.jit
def _finish_half(
    acc, out_desc, out_ptr, row_scales_ptr, column_scales_ptr, bias_ptr, residual_ptr, row, col, segment,
    num_tokens, max_tokens, N: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    BLOCK_M: tl.constexpr = acc.shape[0]
    rows = row + tl.arange(0, BLOCK_M)
    cols = col + tl.arange(0, acc.shape[1])
    where = rows.to(tl.int64)[:, None] * N + cols[None, :]
    inside = (rows < num_tokens)[:, None] & (cols < N)[None, :]
    acc = finished(acc, row_scales_ptr, column_scales_ptr, bias_ptr, residual_ptr, rows, cols, where, inside,
                   num_tokens, N, ACTIVATION)  # fmt: skip
    out = rounded(acc, out_desc.dtype)
    if row + BLOCK_M <= num_tokens:
        out_desc.store([segment * max_tokens + row, col], out)
    else:  # A descriptor would write the rows that are not real, too.
        tl.store(out_ptr + segment.to(tl.int64) * max_tokens * N + where, out, inside)


@triton.jit
def _finish(
    acc, out_desc, out_ptr, row_scales_ptr, column_scales_ptr, bias_ptr, residual_ptr, row, col, segment,
    num_tokens, max_tokens, N: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """Bias, activation and residual of a block, and its store: half of the columns at a time, for registers."""
    HALF: tl.constexpr = acc.shape[1] // 2
    left, right = tl.split(tl.permute(tl.reshape(acc, (acc.shape[0], 2, HALF)), (0, 2, 1)))
    _finish_half(left, out_desc, out_ptr, row_scales_ptr, column_scales_ptr, bias_ptr, residual_ptr, row, col,
                 segment, num_tokens, max_tokens, N, ACTIVATION)  # fmt: skip
    _finish_half(right, out_desc, out_ptr, row_scales_ptr, column_scales_ptr, bias_ptr, residual_ptr, row, col + HALF,
                 segment, num_tokens, max_tokens, N, ACTIVATION)  # fmt: skip


@triton.jit
def _relayed(program, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Where the sums lie that a program hands over."""
    within = tl.arange(0, BLOCK_M)[:, None] * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    return program.to(tl.int64) * (BLOCK_M * BLOCK_N) + within


@triton.jit(do_not_specialize=["num_tokens_ptr", "max_tokens"])
def _persistent_linear_kernel(
    out_desc,  # [SEGMENTS * max_tokens, N]
    x_desc,  # [max_tokens, K]
    weight_desc,  # [N, K]
    out_ptr,
    weight_ptr,
    row_scales_ptr,  # [max_tokens] or None
    column_scales_ptr,  # [N] or None
    bias_ptr,  # [N] or None
    residual_ptr,  # [max_tokens, N] or None
    num_tokens_ptr,  # [1] or None
    begun_ptr,  # of Relay; None: programs share no blocks
    sums_ptr,
    max_tokens,
    N: tl.constexpr,
    K: tl.constexpr,
    SEGMENTS: tl.constexpr,
    STEPS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    NUM_STAGES: tl.constexpr,
    SHARE: tl.constexpr,  # rows of the weight that a program asks for before its turn
    PDL: tl.constexpr,
):
    SUM: tl.constexpr = tl.int32 if x_desc.dtype == tl.int8 else tl.float32
    program = tl.program_id(0)
    start(weight_ptr, program * SHARE, N, K, SHARE, True, PDL)
    num_tokens = count_rows(num_tokens_ptr, max_tokens)
    BLOCKS_N: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    units = tl.cdiv(num_tokens, BLOCK_M) * (BLOCKS_N * SEGMENTS)
    programs = tl.minimum(tl.num_programs(0), units)  # so that each has the steps of one whole unit or more
    if program >= programs:
        return
    GRAIN: tl.constexpr = 1 if begun_ptr is not None else STEPS  # steps that stay together
    grains = units * (STEPS // GRAIN)
    begin = (program * (grains // programs) + tl.minimum(program, grains % programs)) * GRAIN
    end = begin + (grains // programs + (program < grains % programs).to(tl.int32)) * GRAIN
    first, last = tl.cdiv(begin, STEPS), end // STEPS  # units that this program does whole

    if begun_ptr is not None:  # noqa: SIM102, the outer condition is of compile time
        if end > last * STEPS:  # First of all, begin the unit that the next program goes on with.
            row, col, segment = _place(last, BLOCKS_N, SEGMENTS, BLOCK_M, BLOCK_N)
            acc = tl.zeros((BLOCK_M, BLOCK_N), SUM)
            for step in tl.range(0, end - last * STEPS, num_stages=NUM_STAGES):
                acc = _multiply(acc, x_desc, weight_desc, row, col, segment * STEPS + step, BLOCK_K)
            tl.store(sums_ptr + _relayed(program, BLOCK_M, BLOCK_N), acc)
            tl.debug_barrier()
            tl.atomic_xchg(begun_ptr + program, 1, sem="release")

    acc = tl.zeros((BLOCK_M, BLOCK_N), SUM)
    for i in tl.range(0, (last - first) * STEPS, num_stages=NUM_STAGES):  # one loop, so that loads run ahead
        row, col, segment = _place(first + i // STEPS, BLOCKS_N, SEGMENTS, BLOCK_M, BLOCK_N)
        acc = _multiply(acc, x_desc, weight_desc, row, col, segment * STEPS + i % STEPS, BLOCK_K)
        if i % STEPS == STEPS - 1:
            _finish(acc, out_desc, out_ptr, row_scales_ptr, column_scales_ptr, bias_ptr, residual_ptr, row, col,
                    segment, num_tokens, max_tokens, N, ACTIVATION)  # fmt: skip
            acc = tl.zeros((BLOCK_M, BLOCK_N), SUM)

    if begun_ptr is not None:  # noqa: SIM102
        if begin < first * STEPS:  # Last of all, go on with the unit that the program before has begun.
            while tl.atomic_cas(begun_ptr + program - 1, 1, 0, sem="acquire") != 1:
                pass
            tl.debug_barrier()
            row, col, segment = _place(first - 1, BLOCKS_N, SEGMENTS, BLOCK_M, BLOCK_N)
            acc = tl.load(sums_ptr + _relayed(program - 1, BLOCK_M, BLOCK_N), cache_modifier=".cg")
            for step in tl.range(STEPS - (first * STEPS - begin), STEPS, num_stages=NUM_STAGES):
                acc = _multiply(acc, x_desc, weight_desc, row, col, segment * STEPS + step, BLOCK_K)
            _finish(acc, out_desc, out_ptr, row_scales_ptr, column_scales_ptr, bias_ptr, residual_ptr, row, col,
                    segment, num_tokens, max_tokens, N, ACTIVATION)  # fmt: skip


def launch_persistent(tile: LinearTile, p: Product, relay: Relay) -> None:
    """What `linear` launches with a tile of these forms.

    Raises:
        ValueError: a relay that is too small.
    """
    (max_tokens, k), n = p.x.shape, len(p.weight)
    programs = min(tile.units(max_tokens, n, p.segments), chip_of(p.x).num_sms)
    begun = sums = None
    if tile.form == "stream":
        _check_relay(relay, programs, programs * tile.block_m * tile.block_n)
        begun, sums = relay.begun, relay.sums.view(torch.int32) if p.x.dtype == torch.int8 else relay.sums
    _persistent_linear_kernel[(programs,)](
        _described(p.out.view(-1, n), tile.block_m, tile.block_n // 2),
        _described(p.x, tile.block_m, tile.block_k), _described(p.weight, tile.block_n, tile.block_k),
        p.out, p.weight, *p.scales, p.bias, p.residual, p.num_tokens, begun, sums, max_tokens,
        N=n, K=k, SEGMENTS=p.segments, STEPS=triton.cdiv(k, p.segments * tile.block_k), ACTIVATION=p.activation,
        BLOCK_M=tile.block_m, BLOCK_N=tile.block_n, BLOCK_K=tile.block_k, NUM_STAGES=tile.num_stages,
        SHARE=triton.cdiv(n, programs), num_warps=tile.num_warps,
        maxnreg=255,  # a program is alone; untold, the assembler may spill to fit more
        **launch_options(p.pdl),
    )  # fmt: skip


def _described(tensor: torch.Tensor, rows: int, columns: int) -> TensorDescriptor:
    return TensorDescriptor(tensor, list(tensor.shape), list(tensor.stride()), [rows, columns])


def _check_relay(relay: Relay, programs: int, numbers: int) -> None:
    check("relay.begun", relay.begun, [None], [torch.int32])
    check("relay.sums", relay.sums, [None], [torch.float32])
    if len(relay.begun) < programs or len(relay.sums) < numbers:
        raise ValueError(
            f"relay must hold {programs} programs and {numbers} sums, found {len(relay.begun)} and {len(relay.sums)}; "
            "make it as large as tiles.relayed says"
        )
