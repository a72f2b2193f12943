"""The weights of a model in memory: float32 arrays by canonical name, read from their files at each access."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from distilrt.checkpoint.tensor_files import FLOAT_DTYPES, FloatArray, Stored, TensorsInMemory
from distilrt.errors import CheckpointError


class Weights(Mapping[str, FloatArray]):
    """Named float32 arrays, read from their files at each access.

    A float32 tensor of a file is a read-only view of its memory map; one of another dtype is converted anew at every
    access and not kept, so a loop over all never holds more than one. Arrays from memory are returned as they are.
    The first access to a tensor checks that all of its numbers are finite, while its pages are in the cache anyway, and
    raises `CheckpointError` otherwise. Pickling takes the numbers along, in the dtype they are stored in.

    Args:
        entries: canonical name to tensor of a file, or float32 array.
        source: where they come from, for messages.

    Attributes:
        dtype: "float32", "float16", "bfloat16" or "float64": what most of the numbers in the files are.
        source: path of the weights file or of its index of shards; "memory" for arrays from memory.
    """

    def __init__(self, entries: Mapping[str, Stored | FloatArray], source: str = "memory") -> None:
        self._entries = dict(entries)
        self._finite: set[str] = set()
        self.source = source
        sizes = dict.fromkeys(FLOAT_DTYPES, 0)
        for name, entry in self._entries.items():
            if isinstance(entry, Stored):
                sizes[entry.dtype] += math.prod(entry.shape)
            elif entry.dtype != np.float32:
                raise TypeError(f"weights from memory must be float32, found {entry.dtype} for {name}")
        self.dtype = max(FLOAT_DTYPES, key=lambda dtype: sizes[dtype])

    def __getitem__(self, name: str) -> FloatArray:
        entry = self._entries[name]
        array = entry.load() if isinstance(entry, Stored) else entry
        if name not in self._finite:
            if not _is_finite(array):
                raise CheckpointError(
                    f"tensor {name} of {self.source} holds NaN or infinity: its training diverged or the file is "
                    "damaged; use another checkpoint"
                )
            self._finite.add(name)
        return array

    def __reduce__(self) -> tuple[Any, ...]:
        raws: dict[int, tuple[str, npt.NDArray[Any]]] = {}  # by tensor, for tied ones are one
        for name, entry in self._entries.items():
            raws.setdefault(id(entry), self.raw(name))
        file = TensorsInMemory({name: raws[id(entry)] for name, entry in self._entries.items()})
        return Weights, (file.tensors(), self.source)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def raw(self, name: str) -> tuple[str, npt.NDArray[Any]]:
        """The dtype that a tensor is stored in, and its numbers as stored; bfloat16 ones as uint16."""
        entry = self._entries[name]
        return (entry.dtype, entry.raw()) if isinstance(entry, Stored) else ("float32", entry)

    def release(self) -> None:
        """Give the files' mapped pages back to the operating system; the next access just reads them again."""
        for file in {entry.file for entry in self._entries.values() if isinstance(entry, Stored)}:
            file.release()


def _is_finite(array: FloatArray) -> bool:
    with np.errstate(over="ignore", invalid="ignore"):
        # A sum is finite only where all numbers are, and takes a fraction of the time of looking at each.
        return bool(np.isfinite(array.sum()) or np.isfinite(array).all())
