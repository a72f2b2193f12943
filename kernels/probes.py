"""Kernels that compute nothing useful and measure the device, for `benches/bench_gpu_device.py`."""

from __future__ import annotations

import triton
import triton.language as tl

from distilrt.kernels.launch import allow_next, await_previous


@triton.jit
def touch_kernel(x_ptr, PDL: tl.constexpr):
    """Add 1 to a number of this program."""
    allow_next(PDL)
    await_previous(PDL)
    own = x_ptr + tl.program_id(0)
    tl.store(own, tl.load(own) + 1)


@triton.jit
def barrier_kernel(count_ptr, rounds, BY_LOAD: tl.constexpr):
    """All programs meet `rounds` times. The count only rises, so nothing has to be reset in between."""
    programs = tl.num_programs(0)
    for i in range(rounds):
        tl.debug_barrier()
        tl.atomic_add(count_ptr, 1, sem="release")
        goal = (i + 1) * programs
        if BY_LOAD:
            seen = _acquire(count_ptr)
            while seen < goal:
                seen = _acquire(count_ptr)
        else:
            seen = tl.atomic_add(count_ptr, 0, sem="acquire")
            while seen < goal:
                seen = tl.atomic_add(count_ptr, 0, sem="acquire")
        tl.debug_barrier()


@triton.jit
def _acquire(pointer):
    return tl.inline_asm_elementwise("ld.acquire.gpu.global.u32 $0, [$1];", "=r,l", [pointer], dtype=tl.int32,
                                     is_pure=False, pack=1)  # fmt: skip


@triton.jit
def read_kernel(out_ptr, x_ptr, steps, passes, BLOCK: tl.constexpr):
    """Sum what lies in `passes` slices of `steps * BLOCK` numbers, another slice in each pass, around L1."""
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    total = tl.zeros((BLOCK,), tl.float32)
    for i in range(passes):
        slice_ptr = x_ptr + ((program + i) % programs).to(tl.int64) * steps * BLOCK
        for step in range(steps):
            total += tl.load(slice_ptr + step * BLOCK + tl.arange(0, BLOCK), cache_modifier=".cg")
    tl.store(out_ptr + program, tl.sum(total))
