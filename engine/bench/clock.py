"""The clock of a device, and work that is captured once and replayed.

GPU time is that between two CUDA events around many calls, before which the host does not wait: a single call would
count its own launch. In Triton's interpreter all is wall time, which shows that it works and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

Work = Callable[[], object]
ENCLOSED = 5e-3  # seconds of calls between two events


class Clock:
    """Times work on one device.

    Args:
        device: where the work runs.
        seconds: how long to measure one thing, warm-up aside.
    """

    def __init__(self, device: torch.device, seconds: float) -> None:
        self.device, self._seconds = device, seconds
        self.on_gpu = device.type == "cuda"

    def wait(self) -> None:
        """Until the device is idle."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def back_to_back(self, work: Work) -> list[float]:
        """Samples in seconds of one call among many that are enqueued without waiting: GPU time."""
        once = self._warm(work)
        if not self.on_gpu:
            return [self._wall(work) for _ in range(2)]
        calls = max(1, min(200, round(ENCLOSED / once)))
        return [self._between_events(work, calls) for _ in range(self._count(once * calls))]

    def one_by_one(self, work: Work) -> list[float]:
        """Samples in seconds of wall time from a call to its result, on a device that was idle."""
        return [self._wall(work) for _ in range(self._count(self._warm(work)))]

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
        return [max(self._wall(work), 1e-7) for _ in range(3 if self.on_gpu else 1)][-1]

    def _count(self, seconds: float) -> int:
        return max(3, min(100, int(self._seconds / seconds))) if self.on_gpu else 2

    def _wall(self, work: Work) -> float:
        self.wait()
        start = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - start

    def _between_events(self, work: Work, calls: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        for _ in range(calls):
            work()
        end.record()
        self.wait()
        return float(start.elapsed_time(end)) * 1e-3 / calls
