"""The parameters of a torch module as an open file of tensors, so that a live model loads like a checkpoint.

float32 parameters on the CPU are not copied: the arrays are views of torch's memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from distilrt.checkpoint.tensor_files import FloatArray, Spec, Stored


class ModuleFile:
    """A module's `state_dict()` as a `distilrt.checkpoint.weights.TensorFile`."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._state = {name: tensor.detach() for name, tensor in module.state_dict().items()}
        self.specs: dict[str, Spec] = {
            name: (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
            for name, tensor in self._state.items()
        }

    def raw(self, name: str) -> npt.NDArray[Any]:
        """A read-only view of the tensor, or of its copy where it is on a device; bfloat16 as uint16."""
        tensor = self._state[name].cpu()
        if tensor.dtype == torch.bfloat16:
            tensor = tensor.view(torch.int16)
        array: npt.NDArray[Any] = tensor.numpy()
        array = array.view(np.uint16) if self.specs[name][0] == "bfloat16" else array
        array.flags.writeable = False
        return array

    def load(self, name: str) -> FloatArray:
        """The numbers as float32; a view where they are float32 on the CPU already."""
        array: FloatArray = self._state[name].to("cpu", torch.float32).contiguous().numpy()
        array.flags.writeable = False
        return array

    def release(self) -> None:
        """Nothing: the memory is the module's."""

    def stored(self) -> dict[str, Stored]:
        """Every tensor by its name."""
        return {name: Stored(self, name, *spec) for name, spec in self.specs.items()}
