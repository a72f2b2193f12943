"""The parameters of a torch module as an open file of tensors, so that a live model loads like a checkpoint.

float32 parameters on the CPU are not copied: the arrays are views of torch's memory.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch

from distilrt.checkpoint.pickle_file import stored_numbers
from distilrt.checkpoint.tensor_files import FloatArray, TensorFile


class ModuleFile(TensorFile):
    """A module's `state_dict()`."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._state = {name: tensor.detach() for name, tensor in module.state_dict().items()}
        self.specs = {
            name: (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
            for name, tensor in self._state.items()
        }

    def raw(self, name: str) -> npt.NDArray[Any]:
        """A read-only view of the tensor, or of its copy where it is on a device; bfloat16 as uint16."""
        return stored_numbers(self._state[name].cpu())

    def load(self, name: str) -> FloatArray:
        """The numbers as float32, read-only."""
        array = super().load(name)
        array.flags.writeable = False
        return array
