"""One allocation, many named views: where each array of a device's workspace lies, and the views over one tensor.

The layout is arithmetic on shapes, so it can be asked how many bytes a batch size takes before anything is allocated.
What the arrays are for, `distilrt.backends.cuda.encoder` knows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

ALIGNMENT = 256  # bytes; what CUDA's own allocator gives, and more than any vector load or bulk copy asks for


@dataclass(frozen=True, slots=True)
class Array:
    """Name, shape and dtype, as torch calls it, of one array."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes without alignment."""
        return math.prod(self.shape) * int(getattr(torch, self.dtype).itemsize)


Place = Array | tuple[Array, ...]  # arrays of a tuple are never in use at the same time and share their bytes


@dataclass(frozen=True, slots=True)
class WorkspaceLayout:
    """Each array behind the byte where it begins, a multiple of 256, and how many bytes all take."""

    arrays: list[tuple[int, Array]]
    nbytes: int


def lay_out(places: Sequence[Place]) -> WorkspaceLayout:
    """Put arrays, whose names differ, behind one another in the order given."""
    arrays = []
    end = 0
    for place in places:
        sharers = place if isinstance(place, tuple) else (place,)
        arrays += [(end, array) for array in sharers]
        end += -(-max(array.nbytes for array in sharers) // ALIGNMENT) * ALIGNMENT
    return WorkspaceLayout(arrays, end)


class Workspace:
    """One tensor on a device, and views of it.

    Args:
        nbytes: its size.
        device: where it lies.

    Raises:
        torch.OutOfMemoryError: the device has not so much free memory.
    """

    def __init__(self, nbytes: int, device: torch.device) -> None:
        self.nbytes = nbytes
        self._block = torch.empty(nbytes, dtype=torch.uint8, device=device)

    def views(self, layout: WorkspaceLayout) -> dict[str, torch.Tensor]:
        """The arrays of a layout of at most this size by name, tensors over the one allocation.

        Views of several layouts overlap: only those of one of them can be in use.
        """
        return {
            array.name: self._block[start:][: array.nbytes].view(getattr(torch, array.dtype)).view(array.shape)
            for start, array in layout.arrays
        }

    def fill(self, byte: int) -> None:
        """Write `byte` everywhere; 255 makes NaN of every float, which shows who reads what nobody wrote."""
        self._block.fill_(byte)
