"""What the device itself can do, for the choice of the next design: bandwidths, rates, and what waiting costs.

Copy and L2 bandwidth, matmul rate by dtype, the time of a nearly empty kernel in a captured chain with and without
programmatic dependent launch (NVIDIA's CUDA programming guide), and of a barrier between programs of one kernel, one
on each multiprocessor, in both forms of spinning.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import pytest
import torch

from distilrt.backends.cuda.devices import describe_cuda
from distilrt.bench.clock import Clock, Work
from distilrt.kernels.launch import chip_of, launch_options
from distilrt.kernels.probes import barrier_kernel, read_kernel, touch_kernel

L2_BYTES = 40 << 20  # about the weights of the linear layers of DistilBERT-base in 8 bits; less than the L2 of a Hopper
CHAIN = 200  # kernels of a captured chain
ROUNDS = 1000  # barriers of one kernel
AddRow = Callable[..., None]


def test_facts(clock: Clock, add_row: AddRow) -> None:
    add_row(**describe_cuda())


def test_peaks(add_row: AddRow, peaks: dict[str, float]) -> None:
    for what, rate in peaks.items():
        unit = "TB/s" if what == "copy" else "TFLOP/s"
        add_row(what="copy, read and written" if what == "copy" else f"matmul {what}", value=rate / 1e12, unit=unit)


@pytest.mark.parametrize("pdl", [False, True], ids=["", "dependent launch"])
def test_kernel_in_a_chain(clock: Clock, add_row: AddRow, pdl: bool) -> None:
    if pdl and not (clock.on_gpu and _programs(clock) > 1 and chip_of(_empty(clock)).capability >= 90):
        pytest.skip("dependent launch begins with sm_90")
    numbers, length = _empty(clock, torch.int32).new_zeros(_programs(clock)), CHAIN if clock.on_gpu else 2
    for grid in sorted({1, _programs(clock)}):

        def chain(grid: int = grid) -> None:
            for _ in range(length):
                touch_kernel[(grid,)](numbers, num_warps=4, **launch_options(pdl))

        name = f"kernel in a graph, {grid} programs{', dependent launch' if pdl else ''}"
        add_row(what=name, value=_us(clock, clock.graph(chain)) / length, unit="us")


@pytest.mark.parametrize("by_load", [False, True], ids=["an atomic", "a load"])
def test_barrier(clock: Clock, add_row: AddRow, by_load: bool) -> None:
    if by_load and not clock.on_gpu:
        pytest.skip("the interpreter has no assembly")
    count, rounds = _empty(clock, torch.int32).new_zeros(1), ROUNDS if clock.on_gpu else 2
    options = {"launch_cooperative_grid": True} if clock.on_gpu else {}

    def meet() -> None:
        count.zero_()
        barrier_kernel[(_programs(clock),)](count, rounds, BY_LOAD=by_load, num_warps=4, **options)

    name = f"barrier of {_programs(clock)} programs, spinning on {'a load' if by_load else 'an atomic'}"
    add_row(what=name, value=_us(clock, meet) / rounds, unit="us")


def test_l2(clock: Clock, add_row: AddRow) -> None:
    block, passes = (4096, 20) if clock.on_gpu else (16, 2)
    readers = 4 * _programs(clock)
    steps = L2_BYTES // (4 * block * readers) if clock.on_gpu else 2
    data, sums = (torch.randn(size, device=clock.device) for size in (readers * steps * block, readers))
    us = _us(clock, lambda: read_kernel[(readers,)](sums, data, steps, passes, BLOCK=block, num_warps=8))
    add_row(what=f"L2 read of {data.nbytes / 1e6:.0f} MB", value=passes * data.nbytes / us * 1e-6, unit="TB/s")


def _empty(clock: Clock, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(0, dtype=dtype, device=clock.device)


def _programs(clock: Clock) -> int:
    return chip_of(_empty(clock)).num_sms if clock.on_gpu else 1


def _us(clock: Clock, work: Work) -> float:
    return 1e6 * median(clock.back_to_back(work))
