"""What the device itself can do, for the choice of the next design: bandwidths, rates, and what waiting costs.

Copy and L2 bandwidth, matmul rate by dtype, the time of a nearly empty kernel in a captured chain with and without
programmatic dependent launch (NVIDIA's CUDA programming guide), and of a barrier between programs of one kernel, one
on each multiprocessor, in both forms of spinning.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from distilrt.bench.gpu.timing import Clock, Times, ceilings
from distilrt.kernels.launch import chip_of, launch_options
from distilrt.kernels.probes import barrier_kernel, read_kernel, touch_kernel

L2_BYTES = 40 << 20  # about the weights of the linear layers of DistilBERT-base in 8 bits; less than the L2 of a Hopper
CHAIN = 200  # kernels of a captured chain
ROUNDS = 1000  # barriers of one kernel


def measure(device: torch.device, *, tiny: bool = False) -> Iterator[dict[str, Any]]:
    """A row for each figure: what, value, unit, and for times the quartiles.

    Args:
        device: from `distilrt.backends.cuda.devices.cuda_device`.
        tiny: as little work as shows that it runs.
    """
    clock = Clock(device, 1.0)
    most = ceilings(clock, tiny=tiny)
    yield {"what": "copy, bytes read and written", "value": most.copy / 1e12, "unit": "TB/s"}
    for dtype, rate in most.matmul.items():
        yield {"what": f"matmul {dtype}", "value": rate / 1e12, "unit": "TFLOP/s"}
    chip = chip_of(torch.empty(0, device=device))
    programs = 1 if tiny else chip.num_sms
    numbers = torch.zeros(programs, dtype=torch.int32, device=device)
    length = 2 if tiny else CHAIN
    for grid in sorted({1, programs}):
        for pdl in (False, True)[: 2 if clock.on_gpu and chip.capability >= 90 else 1]:
            work = clock.graph(partial(_chain, numbers, grid, length, pdl=pdl))
            name = f"kernel in a graph, {grid} programs{', dependent launch' if pdl else ''}"
            yield _row(name, clock.back_to_back(work), 1 / length)
    rounds = 2 if tiny else ROUNDS
    for by_load in (False, True)[: 2 if clock.on_gpu else 1]:
        work = partial(_barrier, numbers[:1], programs, rounds, by_load, cooperative=clock.on_gpu)
        name = f"barrier of {programs} programs, spinning on {'a load' if by_load else 'an atomic'}"
        yield _row(name, clock.back_to_back(work), 1 / rounds)
    block, passes = (16, 2) if tiny else (4096, 20)
    readers = 1 if tiny else 4 * programs
    steps = 2 if tiny else L2_BYTES // (4 * block * readers)
    data = torch.randn(readers * steps * block, device=device)
    sums = torch.empty(readers, device=device)
    times = clock.back_to_back(lambda: read_kernel[(readers,)](sums, data, steps, passes, BLOCK=block, num_warps=8))
    rate = passes * data.nbytes / (times.median * 1e-6)
    yield {"what": f"L2 read of {data.nbytes / 1e6:.0f} MB", "value": rate / 1e12, "unit": "TB/s"}


def _chain(numbers: torch.Tensor, grid: int, length: int, *, pdl: bool) -> None:
    for _ in range(length):
        touch_kernel[(grid,)](numbers, num_warps=4, **launch_options(pdl))


def _barrier(count: torch.Tensor, programs: int, rounds: int, by_load: bool, *, cooperative: bool) -> None:
    count.zero_()
    options = {"launch_cooperative_grid": True} if cooperative else {}
    barrier_kernel[(programs,)](count, rounds, BY_LOAD=by_load, num_warps=4, **options)


def _row(what: str, times: Times, share: float) -> dict[str, Any]:
    return {"what": what, "value": times.median * share, "unit": "us", "low": times.low * share,
            "high": times.high * share}  # fmt: skip
