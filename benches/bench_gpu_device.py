"""What the device is and can do at most: its name, bandwidth of a copy and matmul rate by dtype, which the shares of
`bench_gpu_model.py` are of; and the time of a barrier between programs, one a multiprocessor, of which the encoder in
one kernel has five a layer."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import torch

from distilrt.backends.cuda.devices import describe_cuda
from distilrt.bench.clock import Clock
from distilrt.kernels.barrier import meet_kernel
from distilrt.kernels.launch import chip_of


def test_facts(clock: Clock, add_row: Callable[..., None]) -> None:
    add_row(**describe_cuda())


def test_peaks(add_row: Callable[..., None], peaks: dict[str, float]) -> None:
    for what, rate in peaks.items():
        unit = "TB/s" if what == "copy" else "TFLOP/s"
        add_row(what="copy, read and written" if what == "copy" else f"matmul {what}", value=rate / 1e12, unit=unit)


def test_barrier(clock: Clock, add_row: Callable[..., None]) -> None:
    barrier = torch.zeros(1, dtype=torch.int32, device=clock.device)
    programs, rounds = (chip_of(barrier).num_sms, 1000) if clock.on_gpu else (1, 2)

    def meet() -> None:
        meet_kernel[(programs,)](barrier, rounds, BY_LOAD=clock.on_gpu, num_warps=8, launch_cooperative_grid=True)

    us = 1e6 * median(clock.back_to_back(meet)) / rounds
    add_row(what=f"barrier of {programs} programs", value=us, unit="us")
