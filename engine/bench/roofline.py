"""Peaks of this machine, measured in the same run as the engines: multiply-add rates by dtype and memory reads; and
the arithmetic and the bytes that a model needs at least.

The loops are in roofline.c, compiled with the system's C compiler on first use. They know FMA, AVX512_BF16, AMX's
tiles, 8-bit products of AVX512_VNNI and AVX-VNNI, and those of AVX2 that the engine adds exactly in 16 bits.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from distilrt.model.config import DistilBertConfig

TRIES = 9
SECONDS = 3.0  # Measuring takes about so many.
BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}  # A weight takes so many.


@dataclass(frozen=True, slots=True)
class Roofline:
    """Operations per second of the dtypes, and bytes per second read; of what is not measurable here, none and 0."""

    flops: dict[str, float]
    read_bandwidth: float

    def better(self, other: Roofline) -> Roofline:
        """The higher of each of two measurements: noise only ever lowers one."""
        flops = {dtype: max(rate, other.flops.get(dtype, 0.0)) for dtype, rate in self.flops.items()}
        return Roofline(flops, max(self.read_bandwidth, other.read_bandwidth))


def measure(num_threads: int, cache: Path) -> Roofline:
    """Best of several short runs on `num_threads` threads; the compiled loops are kept in `cache`.

    Without a C compiler (`CC`, otherwise gcc) nothing is measurable.
    """
    try:
        library = ctypes.CDLL(str(_compiled(cache)))
    except (OSError, subprocess.CalledProcessError):
        return Roofline({}, 0.0)

    def peak(name: str) -> float:
        function = getattr(library, name)
        function.restype = ctypes.c_double
        return max(float(function(num_threads, TRIES)), 0.0)

    found = {dtype: peak(f"peak_{dtype}") for dtype in BYTES}
    return Roofline({dtype: rate for dtype, rate in found.items() if rate}, peak("read_bandwidth"))


def encoder_weights(config: DistilBertConfig) -> int:
    """Weights of the layers' linear maps, each read once a forward."""
    return config.num_layers * config.hidden_size * (4 * config.hidden_size + 2 * config.intermediate_size)


def flops(config: DistilBertConfig, lengths: Iterable[int], *, last_layer_rows: int | None = None) -> float:
    """Multiplications and additions for texts of so many tokens: linear layers and attention, without the head.

    With `last_layer_rows`, the last layer computes only so many rows of each sequence, and keys and values of all.
    """
    hidden, layers = config.hidden_size, config.num_layers
    of_all, of_each = 4 * hidden**2, 2 * encoder_weights(config) // layers  # keys and values; the whole layer
    total = 0
    for n in lengths:
        rows = n if last_layer_rows is None else min(n, last_layer_rows)
        total += (layers - 1) * (n * of_each + 4 * n * n * hidden)
        total += n * of_all + rows * (of_each - of_all) + 4 * rows * n * hidden
    return float(total)


def _compiled(cache: Path) -> Path:
    source = Path(__file__).with_name("roofline.c")
    target = cache / f"roofline-{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}.so"
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_suffix(f".{os.getpid()}")
        command = [
            os.environ.get("CC", "gcc"),
            "-O2",
            "-shared",
            "-fPIC",
            "-fopenmp",
            "-o",
            str(unfinished),
            str(source),
        ]
        subprocess.run(command, check=True, capture_output=True)
        unfinished.rename(target)
    return target
