"""Clocks of a device, what it can do at most, and what a model needs at least.

Timing is on random data, warmed up; medians with quartiles. Source of the method: torch's own `torch.cuda.Event` and
CUDA graph documentation.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

Work = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Times:
    """Microseconds of one call: median, and the quartiles of the samples."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What one run measured on the device: bytes a second of a copy, read and written; multiply-adds counted twice."""

    copy: float
    matmul: dict[str, float]  # operations a second by dtype


class Clock:
    """Times work on one device; on a CPU, in self-tests, by the wall alone.

    Args:
        device: where the work runs.
        seconds: how long to measure one thing, at most, warm-up aside.
    """

    def __init__(self, device: torch.device, seconds: float) -> None:
        self.device, self._seconds = device, seconds
        self.on_gpu = device.type == "cuda"

    def wait(self) -> None:
        """Until the device is idle."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def back_to_back(self, work: Work) -> Times:
        """Time of one call among many that are enqueued without waiting: GPU time, where the host keeps ahead.

        Events enclose as many calls as take about 5 ms, since one graph alone would count its own launch.
        """
        once = self._warm(work)
        calls = max(1, min(200, round(5e-3 / once))) if self.on_gpu else 1

        def sample() -> float:
            if not self.on_gpu:
                return self._wall(lambda: [work() for _ in range(calls)]) / calls
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            start.record()
            for _ in range(calls):
                work()
            end.record()
            self.wait()
            return float(start.elapsed_time(end)) * 1e-3 / calls

        return self._times(sample, once * calls)

    def one_by_one(self, work: Work) -> Times:
        """Time by the wall from a call to its result on an idle device."""
        once = self._warm(work)
        return self._times(lambda: self._wall(work), once)

    def graph(self, work: Work) -> Work:
        """`work` captured once; what is returned replays it. It must enqueue the same each time."""
        if not self.on_gpu:
            return work
        side = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            for _ in range(3):
                work()
        torch.cuda.current_stream(self.device).wait_stream(side)
        self.wait()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        replay: Work = graph.replay
        return replay

    def _warm(self, work: Work) -> float:
        for _ in range(3 if self.on_gpu else 1):
            seconds = self._wall(work)
        return max(seconds, 1e-7)

    def _wall(self, work: Work) -> float:
        self.wait()
        start = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - start

    def _times(self, sample: Callable[[], float], expected: float) -> Times:
        count = max(3, min(100, int(self._seconds / expected))) if self.on_gpu else 2
        samples = [sample() * 1e6 for _ in range(count)]
        low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
        return Times(median, low, high)


def ceilings(clock: Clock, *, tiny: bool = False) -> Ceilings:
    """Copy a gigabyte and multiply large random matrices: what no kernel of this run can beat by much."""
    size = 1 << (16 if tiny else 30)
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=clock.device)
    target = torch.empty_like(source)
    copy = 2 * size / (clock.back_to_back(lambda: target.copy_(source)).median * 1e-6)
    rates = {}
    for dtype in ("bfloat16", "float16", "float32"):
        n = 64 if tiny else 4096 if dtype == "float32" else 8192
        a, b = (torch.randn(n, n, device=clock.device, dtype=getattr(torch, dtype)) for _ in range(2))
        rates[dtype] = 2 * n**3 / (clock.back_to_back(lambda a=a, b=b: a @ b).median * 1e-6)  # type: ignore[misc]
    return Ceilings(copy, rates)


def floor_us(flops: float, weight_bytes: int, dtype: str, most: Ceilings) -> float:
    """Microseconds that no version can beat: all arithmetic at the matmul rate, or all weights at the copy's rate."""
    return max(flops / most.matmul[dtype], weight_bytes / most.copy) * 1e6
