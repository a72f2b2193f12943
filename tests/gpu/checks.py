"""What a kernel computes on the device against float64.

The bound is twice the error of plain torch in the same dtype on the same device, and a rounding of the largest output
(float32, where sums matter more: eight), for torch can be right by luck where numbers are few. Outputs hold NaN before,
and each kernel runs three times: an error that moves between runs is a race. What is checked, the records of
`distilrt.kernels.op` say.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from distilrt.bench import peer
from distilrt.kernels.op import Example, OpOutput, Sizes

Check = dict[str, Any]  # name, error, bound, ok

SIZES = Sizes(
    768, 3072, (1, 2, 16, 17, 63, 64, 65, 127, 511, 512), (1, 2, 63, 64, 65, 127, 511, 512),
    (16, 18, 32, 64, 80, 100, 128),
)  # fmt: skip
TINY = Sizes(32, 64, (1, 5), (1, 2, 6), (16,))


def checked(example: Example, runs: int = 3) -> dict[str, Check]:
    """Launch so many times and compare each output, by name."""
    results: list[dict[str, torch.Tensor]] = []
    for _ in range(runs):
        for output in example.outputs.values():
            output.tensor.fill_(torch.nan if output.tensor.is_floating_point() else -77)
        example.launch()
        results.append({name: _widened(output.tensor) for name, output in example.outputs.items()})
    return {name: _compared(output, [result[name] for result in results]) for name, output in example.outputs.items()}


def _widened(tensor: torch.Tensor) -> torch.Tensor:
    """A copy, of float8 in float32: torch can do little with that."""
    return tensor.float() if tensor.dtype == torch.float8_e4m3fn else tensor.clone()


def _compared(output: OpOutput, runs: list[torch.Tensor]) -> Check:
    exact = torch.as_tensor(np.asarray(output.exact(), np.float64), device=runs[0].device)
    first, rest = runs[0][: len(exact)].double(), runs[0][len(exact) :]
    error = float((first - exact).abs().max())
    if output.bound is not None:
        bound = output.bound()
    elif output.plain is not None:
        roundings = 8 if runs[0].dtype == torch.float32 else 1
        floor = roundings * torch.finfo(runs[0].dtype).eps * float(exact.abs().max())
        bound = 2 * float((output.plain().double() - exact).abs().max()) + floor
    else:
        bound = 0.0
    steady = all(torch.equal(run.nan_to_num(), runs[0].nan_to_num()) for run in runs)
    untouched = bool((rest.isnan() if rest.is_floating_point() else rest == -77).all())
    return {
        "error": error,
        "bound": bound,
        "steady": steady,
        "untouched": untouched,
        "ok": error <= bound and steady and untouched,
    }


def padded(model: Any, lengths: Sequence[int], device: torch.device) -> list[torch.Tensor]:
    """Random ids of these lengths and their mask, on the device."""
    rng = np.random.default_rng(1)
    sequences = [rng.integers(0, model.config.vocab_size, length) for length in lengths]
    return [torch.from_numpy(array).to(device) for array in peer.padded(sequences)]


@contextmanager
def short_ladder(mib: int) -> Iterator[None]:
    """Within, models have so much workspace: each bucket of a new shape takes seconds to compile."""
    before = os.environ.get("DISTILRT_GPU_MEMORY")
    os.environ["DISTILRT_GPU_MEMORY"] = str(mib)
    try:
        yield
    finally:
        del os.environ["DISTILRT_GPU_MEMORY"]
        if before is not None:
            os.environ["DISTILRT_GPU_MEMORY"] = before
