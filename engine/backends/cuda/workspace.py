"""One allocation, many named views: where each array of a device's workspace lies, and the views over one tensor.

The layout is arithmetic on shapes and needs no torch, so it can be asked how many bytes a batch size takes before
anything is allocated. What the arrays are for, the backends know.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

ALIGNMENT = 256  # bytes; what CUDA's own allocator gives, and more than any vector load or bulk copy asks for

_SIZES = {"float32": 4, "float16": 2, "bfloat16": 2, "int32": 4}


@dataclass(frozen=True, slots=True)
class Array:
    """Name, shape and dtype ("float32", "float16", "bfloat16" or "int32") of one array."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes without alignment."""
        return math.prod(self.shape) * _SIZES[self.dtype]


Place = Array | tuple[Array, ...]  # arrays of a tuple are never in use at the same time and share their bytes


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each array begins, in bytes, and how many bytes all take; every beginning is a multiple of 256."""

    offsets: dict[str, int]
    arrays: dict[str, Array]
    nbytes: int


def lay_out(places: Sequence[Place]) -> Layout:
    """Put arrays behind one another in the order given.

    Raises:
        ValueError: two arrays have one name, or a dtype is unknown.
    """
    offsets: dict[str, int] = {}
    arrays: dict[str, Array] = {}
    end = 0
    for place in places:
        sharers = place if isinstance(place, tuple) else (place,)
        for array in sharers:
            if array.name in arrays:
                raise ValueError(f"two arrays of a workspace are called {array.name!r}")
            if array.dtype not in _SIZES:
                raise ValueError(f"a workspace has dtypes {', '.join(_SIZES)}, found {array.dtype!r}")
            offsets[array.name], arrays[array.name] = end, array
        size = max((array.nbytes for array in sharers), default=0)
        end += -(-size // ALIGNMENT) * ALIGNMENT
    return Layout(offsets, arrays, end)


class Workspace:
    """One tensor on a device, and views of it.

    Args:
        nbytes: its size.
        device: a torch device.

    Raises:
        torch.OutOfMemoryError: the device has not so much free memory.
    """

    def __init__(self, nbytes: int, device: Any) -> None:
        import torch

        self._block = torch.empty(nbytes, dtype=torch.uint8, device=device)

    def views(self, layout: Layout) -> dict[str, Any]:
        """The arrays of a layout of at most this size by name, torch tensors over the one allocation.

        Views of several layouts overlap: only those of one of them can be in use.
        """
        import torch

        views = {}
        for name, array in layout.arrays.items():
            part = self._block[layout.offsets[name] :][: array.nbytes]
            views[name] = part.view(getattr(torch, array.dtype)).view(array.shape)
        return views

    @property
    def nbytes(self) -> int:
        """Size of the allocation."""
        return int(self._block.numel())

    def fill(self, byte: int) -> None:
        """Write `byte` everywhere; 255 makes NaN of every float, which shows who reads what nobody wrote."""
        self._block.fill_(byte)
