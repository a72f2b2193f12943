"""A barrier between all programs of one kernel, which must all be resident (`launch_cooperative_grid=True`).

It is one int32 of global memory that starts as 0 and needs no reset, neither between barriers nor between launches:
each program adds 1, and the first of P adds 2^31 - (P - 1), so all of them together flip the sign and leave the other
bits as they were. A program waits until the sign is no longer what it was at its own arrival. The next flip needs that
program again, so it cannot miss one. This is how NVIDIA's cooperative groups synchronise a grid.
"""

from __future__ import annotations

import triton
import triton.language as tl

_SIGN = tl.constexpr(-(2**31))
# One thread looks until the sign has changed; the others would only be in its way.
_AWAIT = tl.constexpr("""{
    .reg .pred again;
    .reg .b32 now;
    mov.u32 now, %tid.x;
    setp.ne.u32 again, now, 0;
    @again bra done;
look:
    ld.acquire.gpu.global.u32 now, [$1];
    xor.b32 now, now, $2;
    setp.ge.s32 again, now, 0;
    @again bra look;
done:
    mov.u32 $0, 0;
}""")


@triton.jit
def arrive(barrier_ptr):
    """Say that this program is here, and `await_all` what it found; what it wrote, all can see behind the barrier."""
    tl.debug_barrier()  # until all of its threads are
    own = tl.where(tl.program_id(0) == 0, (1 - tl.num_programs(0)) ^ _SIGN, 1)
    return tl.atomic_add(barrier_ptr, own, sem="acq_rel")


@triton.jit
def await_all(barrier_ptr, before, BY_LOAD: tl.constexpr):
    """Wait until all programs have arrived. `BY_LOAD` looks by loads, which the interpreter can't, else by atomics."""
    if BY_LOAD:
        tl.inline_asm_elementwise(_AWAIT, "=r,l,r", [barrier_ptr, before], dtype=tl.int32, is_pure=False, pack=1)
    else:
        while (tl.atomic_add(barrier_ptr, 0, sem="acquire") ^ before) >= 0:
            pass
    tl.debug_barrier()


@triton.jit
def meet_kernel(barrier_ptr, rounds, BY_LOAD: tl.constexpr):
    """Meet so many times and do nothing else, to be timed."""
    for _ in range(rounds):
        await_all(barrier_ptr, arrive(barrier_ptr), BY_LOAD)
