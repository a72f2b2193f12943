"""What the device is and can do at most: its name, bandwidth of a copy and matmul rate by dtype, which the shares of
`bench_gpu_model.py` are of."""

from __future__ import annotations

from collections.abc import Callable

from distilrt.backends.cuda.devices import describe_cuda
from distilrt.bench.clock import Clock


def test_facts(clock: Clock, add_row: Callable[..., None]) -> None:
    add_row(**describe_cuda())


def test_peaks(add_row: Callable[..., None], peaks: dict[str, float]) -> None:
    for what, rate in peaks.items():
        unit = "TB/s" if what == "copy" else "TFLOP/s"
        add_row(what="copy, read and written" if what == "copy" else f"matmul {what}", value=rate / 1e12, unit=unit)
