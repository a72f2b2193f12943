"""The first call of a fresh process beside the next ones. `distilrt bench compare --peers distilrt --workloads
1x64,16x64,256x64` shows whether time is in proportion to tokens."""

from __future__ import annotations

import statistics
import subprocess
import sys
import timeit
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from distilrt import _C, DistilBertConfig
from distilrt.backends.cpu import CpuBackend
from distilrt.batch import pack
from distilrt.checkpoint.weights import random_weights


@pytest.mark.parametrize("dtype", _C.dtypes())
@pytest.mark.parametrize("shape", ["1x128", "8x128"])
def test_first_call(add_row: Callable[..., None], dtype: str, shape: str) -> None:
    """The first forward after loading beside twenty more."""
    ratios = []
    for _ in range(3):
        done = subprocess.run([sys.executable, __file__, dtype, *shape.split("x")],
                              capture_output=True, text=True, check=True)  # fmt: skip
        first, *rest = map(float, done.stdout.split())
        ratios.append(first / statistics.median(rest))
    add_row(test="first call", dtype=dtype, shape=shape, ratio=round(statistics.median(ratios), 2))


if __name__ == "__main__":
    config = DistilBertConfig()
    backend = CpuBackend(config, random_weights(config, "DistilBertModel"), dtype=sys.argv[1])
    batch = pack(config, [np.full(int(sys.argv[3]), 100) for _ in range(int(sys.argv[2]))])
    print(*timeit.repeat(partial(backend.forward, batch), number=1, repeat=21))
